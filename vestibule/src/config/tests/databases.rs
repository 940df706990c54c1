//! Tests of the sections of databases.

use super::*;
use crate::credentials::login::Host;

#[test]
fn a_named_database_has_the_defaults_of_the_first_one_and_the_name_of_its_section() {
    let folder = ConfigFolder::new("[secrets.ids]\nmigrator_reports = \"{prefix}/migrator\"\n");
    let config = folder.load(&[("APP_DATABASES__REPORTS__HOST", "db.example")]).unwrap();
    let host = Host::parse("db.example").unwrap();
    let expected = DatabaseConfig { host, name: PostgresName::parse("reports"), ..DatabaseConfig::default() };
    assert_eq!(config.databases["reports"], expected);
    let subjects: Vec<_> = folder.mistakes(&[]).into_iter().map(|(subject, _)| subject).collect();
    assert_eq!(subjects, ["default.toml:2 (secrets.ids.migrator_reports)"], "without the section there is no migrator");
}

#[test]
fn a_mistake_in_a_named_database_is_reported_with_its_place() {
    let folder = ConfigFolder::new("[databases.reports]\nport = 70000\nhots = \"x\"\n[databases.Old-One]\n");
    let subjects: Vec<_> = folder.mistakes(&[]).into_iter().map(|(subject, _)| subject).collect();
    assert_eq!(
        subjects,
        [
            "default.toml:2 (databases.reports.port)",
            "default.toml:3 (databases.reports.hots)",
            "default.toml:4 (databases.Old-One)",
        ]
    );
}

/// A section with everything that a log-in with IAM needs.
const IAM: &str = "[database]\nauth = \"iam\"\nusername = \"app\"\nhost = \"db.a.eu-west-1.rds.amazonaws.com\"\n";

#[test]
fn a_database_with_iam_needs_no_secret_for_its_login() {
    let migrator = CredentialSpec { name: "migrator", ..SPECS[0] };
    let config = ConfigFolder::new(IAM).load(&[]).unwrap();
    assert_eq!(config.id(&SPECS[0]), None);
    assert_eq!(config.id(&migrator).unwrap().as_str(), "svc/migrator", "it has a login of its own");
    let config = ConfigFolder::new(&format!("{IAM}migrator_username = \"owner\"\n")).load(&[]).unwrap();
    assert_eq!(config.id(&migrator), None);
}

#[test]
fn a_log_in_with_iam_that_cannot_work_is_a_mistake() {
    let iam = |key: &str, value: &str| {
        let lines = IAM.lines().filter(|line| !line.starts_with(key)).collect::<Vec<_>>().join("\n");
        if value.is_empty() { lines } else { format!("{lines}\n{key} = \"{value}\"\n") }
    };
    let vault = "[secrets]\nprovider = \"vault\"\n[secrets.vault]\naddresses = [\"https://v\"]\nrole = \"r\"\n";
    for (text, key, problem) in [
        (iam("auth", "aws"), "database.auth", "expected one of: password, iam"),
        (iam("username", ""), "database.username", "a token is for one user"),
        (iam("host", ""), "database.host", "the host name of the database's endpoint"),
        (iam("host", "/run/postgresql"), "database.host", "the host name of the database's endpoint"),
        (iam("tls", "verify-ca"), "database.tls", "does not verify who gets it"),
        (iam("region", "EU West"), "database.region", "expected a Region"),
        (format!("{IAM}{vault}"), "database.region", "the secrets do not come from AWS"),
        (format!("{IAM}[secrets.ids]\ndatabase = \"a\"\n"), "secrets.ids.database", "nothing needs this secret"),
        (
            format!("{IAM}migrator_username = \"owner\"\n[secrets.ids]\nmigrator = \"a\"\n"),
            "secrets.ids.migrator",
            "nothing needs this secret",
        ),
        (IAM.replace("[database]", "[databases.reports]"), "databases.reports.auth", "no login of this service has"),
        (IAM.replace("[database]", "[databases.webhook]"), "databases.webhook.auth", "no login of this service has"),
    ] {
        let mistakes = ConfigFolder::new(&text).mistakes(&[]);
        let [(subject, seen)] = &mistakes[..] else { panic!("{text}: {mistakes:#?}") };
        assert!(subject.contains(key) && seen.contains(problem), "{text}: {subject}: {seen}");
    }
    // No setting of the profile allows it.
    let weak = iam("tls", "require") + "allow_unverified_tls = true\n";
    assert_eq!(ConfigFolder::new(&weak).with("dev.toml", "").mistakes(&[("APP_PROFILE", "dev")]).len(), 1);
}
