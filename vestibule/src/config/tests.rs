use super::*;
use crate::{
    credentials::login::Login,
    exit::Exit,
    secrets::{id::VersionId, kind::Kind, version::Stage},
};
use std::{
    ffi::OsString,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct TestSettings {
    page: usize,
    label: String,
    tags: Vec<String>,
    webhook: Option<String>,
}

const SPECS: [CredentialSpec; 2] = [
    CredentialSpec { name: "database", kind: Login::NAME, stages: &[Stage::Current], optional: false },
    CredentialSpec { name: "webhook", kind: "api_key", stages: &[Stage::Current], optional: true },
];

/// A configuration folder of one test.
struct ConfigFolder(PathBuf);

impl ConfigFolder {
    fn new(default: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("vestibule-config-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        std::fs::write(dir.join("default.toml"), default).expect("a file");
        Self(dir)
    }

    fn with(self, file: &str, text: &str) -> Self {
        std::fs::write(self.0.join(file), text).expect("a file");
        self
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Config<TestSettings>, ConfigError> {
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Config::load(&Sources::new(self.0.clone(), variables), "svc", &SPECS)
    }

    /// Subjects without the folder, and problems.
    fn mistakes(&self, variables: &[(&str, &str)]) -> Vec<(String, String)> {
        let report = self.load(variables).expect_err("there are mistakes").report;
        assert_eq!(report.exit(), Exit::Config);
        let folder = format!("{}/", self.0.display());
        report.faults().iter().map(|fault| (fault.subject.replace(&folder, ""), fault.problem.clone())).collect()
    }
}

impl Drop for ConfigFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    let config = ConfigFolder::new("").load(&[]).unwrap();
    assert_eq!(config.server, ServerConfig::default());
    assert_eq!(config.secrets.prefix, "svc");
    assert_eq!(config.database.name, "svc");
    assert_eq!(config.id(&SPECS[0]).unwrap().as_str(), "svc/database");
    assert_eq!(config.id(&SPECS[1]), None);
}

#[test]
fn ids_that_begin_with_prefix_in_braces_follow_the_prefix_or_the_service_s_name() {
    let folder = ConfigFolder::new(
        "[server]\ntls = true\nclient_ca = \"{prefix}/authorities\"\n[secrets.ids]\nwebhook = \"{prefix}/hooks/key\"\n",
    )
    .with("staging.toml", "[secrets]\nprefix = \"staging/svc\"\n");
    let slashes = folder.load(&[("APP_SECRETS__PREFIX", "/prod/svc/")]).unwrap();
    assert_eq!(slashes.id(&SPECS[1]).unwrap().as_str(), "/prod/svc/hooks/key");
    for (variables, prefix) in [
        (&[][..], "svc"),
        (&[("APP_PROFILE", "staging")], "staging/svc"),
        (&[("APP_PROFILE", "staging"), ("APP_SECRETS__PREFIX", "t1")], "t1"),
        (&[("APP_SECRETS__PREFIX", "7")], "7"),
        (&[("APP_PROFILE", "staging"), ("APP_SECRETS__PREFIX", "")], "svc"),
    ] {
        let config = folder.load(variables).unwrap();
        assert_eq!(config.id(&SPECS[1]).unwrap().as_str(), format!("{prefix}/hooks/key"));
        assert_eq!(config.server.client_ca.unwrap().as_str(), format!("{prefix}/authorities"));
    }
    let config = folder.load(&[("APP_SECRETS__IDS__WEBHOOK", "{prefix}/x")]).unwrap();
    assert_eq!(config.id(&SPECS[1]).unwrap().as_str(), "svc/x");
}

#[test]
fn braces_elsewhere_in_an_id_are_refused_with_the_allowed_form() {
    for id in
        ["{prefix}", "{prefix}webhook", "a/{prefix}/b", "{Prefix}/a", "{name}/a", "{prefix}/{prefix}/a", "{prefix}/"]
    {
        let folder = ConfigFolder::new(&format!("[server]\nclient_ca = \"{id}\"\n[secrets.ids]\nwebhook = \"{id}\"\n"));
        let mistakes = folder.mistakes(&[]);
        let places = ["default.toml:4 (secrets.ids.webhook)", "default.toml:2 (server.client_ca)"];
        assert!(mistakes.iter().all(|(_, problem)| problem.contains("`{prefix}/` at its very start")), "{mistakes:#?}");
        assert!(mistakes.iter().map(|(place, _)| place.as_str()).eq(places), "{id}: {mistakes:#?}");
    }
}

#[test]
fn an_invalid_prefix_is_one_mistake() {
    let ids = "[secrets.ids]\nwebhook = \"{prefix}/a\"\ndatabase = \"{prefix}/b\"\n";
    for prefix in ["a b", "{prefix}", "{prefix}/a"] {
        let mistakes = ConfigFolder::new(&format!("[secrets]\nprefix = \"{prefix}\"\n{ids}")).mistakes(&[]);
        let [(place, problem)] = &mistakes[..] else { panic!("{prefix}: {mistakes:#?}") };
        assert!(
            place == "default.toml:2 (secrets.prefix)" && problem.contains("the start of a secret's id"),
            "{problem}"
        );
    }
}

#[test]
fn variables_win_over_the_profile_and_the_profile_over_the_default() {
    let folder = ConfigFolder::new("[server]\nlisten = \"127.0.0.1:1\"\ndrain = \"1s\"\nrequest_timeout = \"1s\"\n")
        .with("staging.toml", "[server]\ndrain = \"2s\"\nrequest_timeout = \"2s\"\n");
    let config = folder.load(&[("APP_PROFILE", "staging"), ("APP_SERVER__REQUEST_TIMEOUT", "3s")]).unwrap();
    assert_eq!(config.server.listen.port(), 1);
    assert_eq!(config.server.drain, Duration::from_secs(2));
    assert_eq!(config.server.request_timeout, Duration::from_secs(3));
}

#[test]
fn a_variable_that_looks_like_a_number_stays_text_if_text_is_expected() {
    let config = ConfigFolder::new("")
        .load(&[
            ("APP_SERVICE__LABEL", "007"),
            ("APP_SERVICE__PAGE", "7"),
            ("APP_SERVICE__TAGS", "a, 1,b"),
            ("APP_SECRETS__AWS__ALLOW_STATIC_KEYS", "true"),
            ("APP_SECRETS__REVOKED", "7, v1"),
            ("APP_DATABASE__HOST", "[::1]"),
            ("APP_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ])
        .unwrap();
    assert_eq!(config.service.label, "007");
    assert_eq!(config.service.page, 7);
    assert_eq!(config.service.tags, ["a", "1", "b"]);
    assert!(config.secrets.aws.allow_static_keys);
    assert_eq!(config.secrets.revoked, ["7", "v1"].map(VersionId::new).into());
    assert_eq!(config.database.host, "[::1]");
}

#[test]
fn a_named_database_has_the_defaults_of_the_first_one_and_the_name_of_its_section() {
    let folder = ConfigFolder::new("[secrets.ids]\nmigrator_reports = \"{prefix}/migrator\"\n");
    let config = folder.load(&[("APP_DATABASES__REPORTS__HOST", "db.example")]).unwrap();
    let expected = DatabaseConfig { host: "db.example".into(), name: "reports".into(), ..DatabaseConfig::default() };
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

#[test]
fn every_mistake_is_reported_with_its_place_and_what_is_expected() {
    let folder = ConfigFolder::new(
        "[server]\nlisten = \"nowhere\"\nlissten = \"x\"\n\n[secrets]\ndeadline = 30\nmax_stale = \"0s\"\nrevoked = [\"v1\", \"a b\"]\n\n\
         [secrets.ids]\ndatabase = \"a b\"\ndatabsae = \"x\"\n\n[secrets.aws]\nregions = [1]\n\n\
         [database]\nport = 70000\ntls = \"maybe\"\n",
    );
    let mistakes = folder.mistakes(&[("APP_SERVICE__PAGE", "many"), ("APP_TELEMETRY__FILTER", "=,=")]);
    let expected = [
        ("default.toml:2 (server.listen)", "an address and a port"),
        ("default.toml:3 (server.lissten)", "not known"),
        ("default.toml:6 (secrets.deadline)", "a duration"),
        ("default.toml:7 (secrets.max_stale)", "longer than zero"),
        ("default.toml:8 (secrets.revoked.1)", "the id of a version"),
        ("default.toml:11 (secrets.ids.database)", "the id of a secret"),
        ("default.toml:12 (secrets.ids.databsae)", "no credential"),
        ("default.toml:15 (secrets.aws.regions.0)", "expected"),
        ("default.toml:18 (database.port)", "expected"),
        ("default.toml:19 (database.tls)", "verify-full"),
        ("variable APP_SERVICE__PAGE (service.page)", "expected"),
        ("variable APP_TELEMETRY__FILTER (telemetry.filter)", "log directives"),
    ];
    for (subject, problem) in expected {
        assert!(
            mistakes.iter().any(|(s, p)| s == subject && p.contains(problem)),
            "{subject}: {problem} is missing in {mistakes:#?}"
        );
    }
    assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
}

#[test]
fn a_value_is_never_quoted() {
    const SENTINEL: &str = "hunter2sentinel";
    let text = [
        format!("[server]\nlisten = \"{SENTINEL}\"\n[service]\npassword = \"{SENTINEL}\"\npage = \"{SENTINEL}\"\n"),
        format!("[service]\nlabel = {SENTINEL}\n"),
        format!("[service]\nlabel = \"{SENTINEL}\nx = 1"),
        SENTINEL.to_owned(),
        format!("[service]\nlabel = \"postgres://app:{SENTINEL}@db/svc\"\n"),
        format!("[telemetry]\nformat = \"{SENTINEL}\"\n[database]\ntls = \"{SENTINEL}\"\n"),
    ];
    for text in text {
        let error = ConfigFolder::new(&text).load(&[]).expect_err("it is wrong");
        assert!(!format!("{error} {error:?}").contains(SENTINEL), "{text}");
    }
    let error = ConfigFolder::new("").load(&[("APP_DATABASE__PASSWORD", SENTINEL)]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SENTINEL));
}

#[test]
fn a_setting_that_looks_like_a_credential_is_refused_with_an_explanation() {
    let folder = ConfigFolder::new("[service]\nlabel = \"https://u:p@host/\"\n[service.db]\napi_key = \"x\"\n");
    let mistakes = folder.mistakes(&[("APP_DATABASE__PASSWORD", "x")]);
    for subject in [
        "default.toml:2 (service.label)",
        "default.toml:4 (service.db.api_key)",
        "variable APP_DATABASE__PASSWORD (database.password)",
    ] {
        assert!(
            mistakes.iter().any(|(s, p)| s == subject && p.contains("never holds one")),
            "{subject} is missing in {mistakes:#?}"
        );
    }
}

#[test]
fn a_file_that_is_not_toml_is_reported_with_its_line() {
    let mistakes = ConfigFolder::new("[server]\nlisten = 127.0.0.1\n").mistakes(&[]);
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert_eq!(mistakes[0].0, "default.toml:2");
}

#[test]
fn a_folder_or_a_profile_that_does_not_exist_is_a_mistake() {
    let missing = Sources::new("/nonexistent/config".into(), []);
    let error = Config::<TestSettings>::load(&missing, "svc", &SPECS).unwrap_err();
    assert!(error.to_string().contains("no such folder"), "{error}");
    let mistakes = ConfigFolder::new("").mistakes(&[("APP_PROFILE", "prodution")]);
    assert_eq!(mistakes[0].0, "prodution.toml");
    let mistakes = ConfigFolder::new("").mistakes(&[("APP_PROFILE", "../x")]);
    assert_eq!(mistakes[0].0, "variable APP_PROFILE");
}

#[test]
fn the_effective_configuration_names_the_source_of_each_value() {
    let folder = ConfigFolder::new(
        "[server]\ndrain = \"1s\"\nbody_limit = \"1100 KiB\"\n[secrets]\nrevoked = [\"v2\", \"v1\"]\n\
         [secrets.ids]\nwebhook = \"{prefix}/webhook\"\n",
    );
    let sources = Sources::new(folder.0.clone(), [("APP_SERVICE__PAGE".into(), "7".into())]);
    let config = Config::<TestSettings>::load(&sources, "svc", &SPECS).unwrap();
    let text = explain(&config, &sources);
    assert!(text.contains("page = 7  # variable APP_SERVICE__PAGE"), "{text}");
    assert!(text.contains("default.toml:2"), "{text}");
    assert!(text.contains("max_connections = 10  # default"), "{text}");
    assert!(text.contains("# webhook is not set"), "{text}");
    assert!(text.contains("provider = \"aws\"  # default"), "{text}");
    assert!(text.contains("body_limit = \"1100 KiB\""), "{text}");
    assert!(text.contains("revoked = [\"v1\", \"v2\"]"), "{text}");
    let id = text.lines().find(|line| line.starts_with("webhook = \"svc/webhook\"")).expect("the id that counts");
    assert!(id.ends_with("default.toml:7"), "{id}");
    let printed: toml_edit::ImDocument<String> = text.parse().expect("it is TOML");
    assert_eq!(printed["server"]["drain"].as_str(), Some("1s"));
}
