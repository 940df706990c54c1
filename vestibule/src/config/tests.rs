use super::*;
use crate::{
    credentials::login::{Host, Login, PostgresName},
    exit::Exit,
    secrets::{id::VersionId, kind::Kind, version::Stage},
};
use std::{
    ffi::OsString,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

#[derive(Debug, Serialize, Deserialize, vestibule_derive::ConfigSection)]
#[serde(default)]
struct TestSettings {
    /// The items on a page.
    #[setting(min = 1, max = 100, zero)]
    page: usize,
    /// A label.
    label: String,
    /// Some tags.
    tags: Vec<String>,
    /// The name of a webhook.
    webhook: Option<String>,
    /// The most items that are kept.
    #[setting(min = 1, max = 100)]
    keep: Option<u32>,
    /// Some places.
    #[setting(section)]
    places: BTreeMap<String, TestPlace>,
}

#[derive(Debug, Default, Serialize, Deserialize, vestibule_derive::ConfigSection)]
#[serde(default)]
struct TestPlace {
    /// A URL.
    url: Option<BaseUrl>,
    /// A port.
    #[setting(min = 1, max = 65535)]
    port: Option<u32>,
}

impl Default for TestSettings {
    fn default() -> Self {
        let (label, tags, places) = Default::default();
        Self { page: 0, label, tags, webhook: None, keep: Some(10), places }
    }
}

const SPECS: [CredentialSpec; 3] = [
    CredentialSpec { name: "database", kind: Login::NAME, stages: &[Stage::Current], optional: false },
    CredentialSpec { name: "webhook", kind: "api_key", stages: &[Stage::Current], optional: true },
    CredentialSpec { name: "reload", kind: SigningKeys::NAME, stages: &[Stage::Current], optional: false },
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
    assert_eq!(config.database.name(), "svc");
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
        (&[("APP_PROFILE", "staging"), ("APP_SECRETS__PREFIX", "\"\"")], "svc"),
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
    assert_eq!(&*config.database.host, "::1");
}

#[test]
fn a_variable_gives_a_certificate_that_vault_issues_its_lists() {
    let mut variables = vec![
        ("APP_SECRETS__PROVIDER", "vault"),
        ("APP_SECRETS__VAULT__ADDRESSES", "https://one.internal:8200, https://two.internal:8200"),
        ("APP_SECRETS__VAULT__ROLE", "pay"),
        ("APP_SECRETS__IDS__WEBHOOK", "pki/issue/pay"),
        ("APP_SECRETS__VAULT__ISSUE__WEBHOOK__COMMON_NAME", "pay, or not"),
    ];
    let folder = ConfigFolder::new("");
    let issue = |variables: &[_]| folder.load(variables).unwrap().secrets.vault.issue["webhook"].clone();
    assert_eq!(issue(&variables).ip_sans, [""; 0]);
    variables.push(("APP_SECRETS__VAULT__ISSUE__WEBHOOK__IP_SANS", "10.0.0.7, 10.0.0.8"));
    let issued = issue(&variables);
    assert_eq!((&*issued.common_name, issued.ip_sans), ("pay, or not", vec!["10.0.0.7".into(), "10.0.0.8".into()]));
}

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
        ("default.toml:7 (secrets.max_stale)", "a duration from 1s to 365d"),
        ("default.toml:8 (secrets.revoked.1)", "the id of a version"),
        ("default.toml:11 (secrets.ids.database)", "the id of a secret"),
        ("default.toml:12 (secrets.ids.databsae)", "no credential"),
        ("default.toml:15 (secrets.aws.regions.0)", "expected"),
        ("default.toml:18 (database.port)", "a number from 1 to 65535"),
        ("default.toml:19 (database.tls)", "verify-full"),
        ("variable APP_SERVICE__PAGE (service.page)", "a number from 1 to 100, or 0"),
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
fn a_section_and_a_switch_are_no_credentials_whatever_their_names() {
    let vault = format!("{VAULT}[secrets.vault.issue.client_key]\ncommon_name = \"pay\"\nttl = \"30d\"\n");
    for text in [
        &vault.replace("hook\"", "hook\"\nclient_key = \"pki/issue/pay\""),
        "[service.cookie]\nname = \"a\"\n",
        "[service]\nverify_token = true\n",
        "[service.places.token]\nurl = \"https://a.example\"\n",
    ] {
        let error = ConfigFolder::new(text).load(&[]).err();
        assert!(error.is_none_or(|error| !error.to_string().contains("never holds one")), "{text}");
    }
    assert!(ConfigFolder::new("[service.places.token]\nport = 1\n").load(&[]).is_ok());
    let found = |text: &str, variables: &[_]| {
        let mistakes = ConfigFolder::new(text).mistakes(variables);
        mistakes.iter().filter(|(_, problem)| problem.contains("never holds one")).count()
    };
    assert_eq!(found("", &[("APP_SERVICE__VERIFY_TOKEN", "true")]), 0, "a variable has a switch as text");
    assert_eq!(found("", &[("APP_SERVICE__VERIFY_TOKEN", "abc")]), 1);
    for value in ["\"abc\"", "7", "[\"abc\"]"] {
        assert_eq!(found(&format!("[service]\nverify_token = {value}\n"), &[]), 1, "{value}");
    }
    assert_eq!(found("[service.cookie]\npassword = \"abc\"\n", &[]), 1, "its values are visited");
}

#[test]
fn the_random_id_of_an_issuer_is_no_credential_but_a_password_in_its_url_is() {
    for issuer in [
        concat!("https://oidc.eks.eu-west-1.amazonaws.com/id/D539D463", "3E53DE1B71B4B3D4C1A2B3C4"),
        concat!("https://acme.okta.com/oauth2/aus9o8", "wvmd1Bz0cHn1d7"),
    ] {
        let folder = ConfigFolder::new(&format!("[auth]\nissuer = \"{issuer}\"\naudience = \"a\"\n"));
        let jwks = [("APP_AUTH__JWKS_URL", issuer)];
        assert_eq!(folder.load(&jwks).map(|config| config.auth.issuer).ok().as_deref(), Some(issuer));
    }
    let folder = ConfigFolder::new("[auth]\nissuer = \"https://u:p@host/\"\naudience = \"a\"\n");
    assert!(folder.mistakes(&[]).iter().any(|(_, problem)| problem.contains("never holds one")));
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
    let text = effective(&config, &sources);
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

#[test]
fn every_number_size_and_duration_has_bounds_and_its_default_is_within_them() {
    let mut config = Config::<TestSettings>::default();
    config.databases.insert("reports".into(), DatabaseConfig::default());
    let settings = config.settings();
    assert!(settings.iter().all(Setting::is_within_bounds));
    // Every value of the tree has a setting, and every setting a value.
    let mut keys = Vec::new();
    let tree = Value::serialize(&config).unwrap();
    leaves(&tree, "", &mut keys);
    keys.retain(|key| !key.starts_with("secrets.ids."));
    let mut described: Vec<_> = settings.iter().map(|setting| setting.key().to_owned()).collect();
    described.retain(|key| key != "secrets.ids");
    described.sort();
    keys.sort();
    assert_eq!(described, keys);
}

fn leaves(value: &Value, path: &str, keys: &mut Vec<String>) {
    let Value::Dict(_, dict) = value else {
        keys.push(path.into());
        return;
    };
    for (key, child) in dict {
        leaves(child, format!("{path}.{key}").trim_start_matches('.'), keys);
    }
}

#[test]
fn a_value_outside_of_its_bounds_is_a_mistake_that_names_them() {
    let folder = ConfigFolder::new("");
    for (variable, value, bounds) in [
        ("APP_DATABASE__MAX_CONNECTIONS", "4000000000", "a number from 1 to 10000"),
        ("APP_DATABASE__MAX_CONNECTIONS", "99999999999", "a number from 1 to 10000"),
        ("APP_DATABASE__ACQUIRE_TIMEOUT", "1ns", "a duration from 10ms to 10m"),
        ("APP_DATABASES__REPORTS__ACQUIRE_TIMEOUT", "1ns", "a duration from 10ms to 10m"),
        ("APP_SERVER__LINGER", "90y", "a duration from 0s to 10m"),
        ("APP_SECRETS__REFRESH_EVERY", "1ms", "a duration from 1s to 1d, or 0"),
        ("APP_SECRETS__MAX_STALE", "5M", "a duration from 1s to 365d"),
        ("APP_SERVER__BODY_LIMIT", "2 GiB", "a size from 0 B to 1 GiB"),
        ("APP_SERVICE__PAGE", "101", "a number from 1 to 100, or 0"),
    ] {
        let mistakes = folder.mistakes(&[(variable, value)]);
        let [(place, problem)] = &mistakes[..] else { panic!("{variable}: {mistakes:#?}") };
        assert!(place.starts_with(&format!("variable {variable} (")), "{place}");
        assert_eq!(problem, &format!("expected {bounds}"), "{variable}");
    }
    let config = folder.load(&[("APP_SECRETS__REFRESH_EVERY", "0s"), ("APP_SERVICE__PAGE", "100")]).unwrap();
    assert!(config.secrets.refresh_every.is_zero() && config.service.page == 100);
}

#[test]
fn an_empty_variable_is_an_unset_one_and_blanks_around_a_value_are_left_out() {
    let folder = ConfigFolder::new("[service]\nlabel = \"file\"\nwebhook = \" a \"\n[server]\ndrain = \"3s\\r\"\n");
    let config = folder
        .load(&[
            ("APP_PROFILE", " \r"),
            ("APP_SERVICE__LABEL", " \r\n"),
            ("APP_SERVICE__WEBHOOK", ""),
            ("APP_SERVICE__PAGE", ""),
            ("APP_DATABASE__HOST", "db.example\r"),
            ("APP_DATABASE__PORT", "5433\n"),
        ])
        .unwrap();
    assert_eq!(config.service.label, "file");
    assert_eq!(config.service.webhook.as_deref(), Some("a"));
    assert_eq!((&*config.database.host, config.database.port.get()), ("db.example", 5433));
    assert_eq!(config.server.drain, Duration::from_secs(3));
}

#[test]
fn a_variable_in_quotes_is_a_mistake() {
    let folder = ConfigFolder::new("");
    for text in ["\"sentinel\"", "'sentinel'", " \"sentinel\" "] {
        let mistakes = folder.mistakes(&[("APP_AUTH__AUDIENCE", text)]);
        let [(subject, problem)] = &mistakes[..] else { panic!("{text}: {mistakes:?}") };
        assert!(subject.contains("APP_AUTH__AUDIENCE") && problem.contains("in quotes"), "{mistakes:?}");
        assert!(!problem.contains("sentinel"));
    }
}

#[test]
fn a_later_layer_turns_an_optional_setting_or_credential_off() {
    let folder = ConfigFolder::new(
        "[service]\nwebhook = \"a\"\ntags = [\"a\"]\n[server]\nclient_ca = \"x\"\ntls = true\n[secrets.ids]\nwebhook = \"x\"\n\
         [database]\naccess_role = \"x\"\n[databases.reports]\naccess_role = \"x\"\n",
    )
    .with(
        "off.toml",
        "[service]\nwebhook = \"\"\ntags = []\n[server]\nclient_ca = \"\"\n[secrets.ids]\nwebhook = \"\"\n\
         [database]\naccess_role = \"\"\n[databases.reports]\naccess_role = \"\"\n",
    );
    let on = folder.load(&[]).unwrap();
    assert!(on.service.webhook.is_some() && on.server.client_ca.is_some() && on.id(&SPECS[1]).is_some());
    let variables = [
        ("APP_SERVICE__WEBHOOK", "\"\""),
        ("APP_SERVICE__TAGS", "\"\""),
        ("APP_SERVER__CLIENT_CA", "\"\""),
        ("APP_SECRETS__IDS__WEBHOOK", "\"\""),
        ("APP_DATABASE__ACCESS_ROLE", "\"\""),
        ("APP_DATABASES__REPORTS__ACCESS_ROLE", "\"\""),
    ];
    for off in [folder.load(&[("APP_PROFILE", "off")]).unwrap(), folder.load(&variables).unwrap()] {
        assert!(off.service.webhook.is_none() && off.service.tags.is_empty());
        assert!(off.server.client_ca.is_none() && off.id(&SPECS[1]).is_none());
        assert!(off.database.access_role.is_none() && off.databases["reports"].access_role.is_none());
    }
}

/// Nothing but their types says that these are optional.
#[test]
fn an_empty_text_turns_a_setting_off_that_is_on_by_default_or_in_a_section_with_a_name() {
    let folder = ConfigFolder::new("[service]\nkeep = \"\"\n[service.places.a]\nurl = \"https://a.example\"\n");
    let config = folder.load(&[("APP_SERVICE__PLACES__A__URL", "\"\"")]).unwrap();
    assert!(config.service.keep.is_none() && config.service.places["a"].url.is_none());
    let mistakes = ConfigFolder::new("[service]\npage = \"\"\n[database]\ntls = \"\"\n").mistakes(&[]);
    let is_reported = |expected| mistakes.iter().any(|(_, problem)| problem.contains(expected));
    assert!(is_reported("a number from 1 to 100, or 0") && is_reported("verify-full"), "{mistakes:?}");
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
}

#[test]
fn variables_that_kubernetes_injects_are_ignored() {
    let injected = [
        ("APP_PORT", "tcp://10.0.0.1:80"),
        ("APP_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("APP_SERVICE_HOST", "10.0.0.1"),
        ("APP_SERVER__LISTEN_SERVICE_HOST", "10.0.0.1"),
        ("APP_SERVER__LISTEN_SERVICE_PORT_HTTP", "80"),
        ("APP_SERVER__LISTEN_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("APP_X__Y_PORT", "tcp://10.0.0.1:80"),
    ];
    let folder = ConfigFolder::new("");
    assert_eq!(folder.load(&injected).unwrap().server, ServerConfig::default());
    assert_eq!(folder.load(&[("APP_DATABASE__PORT", "1")]).unwrap().database.port.get(), 1);
    assert_eq!(folder.mistakes(&[("APP_SERVER__LISSTEN", "x")]).len(), 1, "any other unknown key is a mistake");
}

/// Authentication would be off without a word.
#[test]
fn a_variable_with_one_underscore_between_section_and_key_is_a_mistake() {
    let folder = ConfigFolder::new("");
    for (variable, value, right) in [
        ("APP_AUTH_ISSUER", "https://idp.example", "APP_AUTH__ISSUER"),
        ("APP_ADMIN_TLS", "true", "APP_ADMIN__TLS"),
        ("APP_SECRETS_REVOKED", "v1", "APP_SECRETS__REVOKED"),
        ("APP_DATABASE_PORT", "6432", "APP_DATABASE__PORT"),
        ("APP_DATABASE_TLS_ROOT_CERT", "/ca.pem", "APP_DATABASE__TLS_ROOT_CERT"),
        ("APP_SECRETS_VAULT_ADDRESSES", "https://vault.internal", "APP_SECRETS__VAULT__ADDRESSES"),
        ("APP_SECRETS_IDS_WEBHOOK", "a/b", "APP_SECRETS__IDS__WEBHOOK"),
    ] {
        let report = folder.load(&[(variable, value)]).expect_err(variable).report;
        let [fault] = report.faults() else { panic!("{variable}: {report}") };
        assert_eq!(fault.subject, format!("variable {variable}"));
        assert!(fault.problem.contains("no effect"), "{variable}: {}", fault.problem);
        assert_eq!(fault.remedy, format!("rename it {right}"));
    }
    for (variable, value) in [
        ("APP_AUTH_ISSUER", ""),
        ("APP_DATABASE_PORT", "tcp://10.0.0.1:5432"),
        ("APP_DATABASE_SERVICE_HOST", "10.0.0.1"),
        ("APP_SERVICE_LABEL", "a"),
        ("APP_CONFIG_DIR", "config"),
        ("APP_VERSION", "7"),
        ("APP_PORT", "8080"),
        ("APP_ENV", "prod"),
        ("APP_DATABASE", "a"),
        ("APP_DATABASE_URL", "a"),
    ] {
        assert!(folder.load(&[(variable, value)]).is_ok(), "{variable}");
    }
}

#[test]
fn a_variable_that_ends_as_those_of_kubernetes_counts_unless_its_value_is_a_url() {
    let folder = ConfigFolder::new("");
    let config = folder.load(&[("APP_SERVICE__PLACES__A__PORT", "587")]).unwrap();
    assert_eq!(config.service.places["a"].port, Some(587));
    let mistakes = folder.mistakes(&[("APP_STORE__PORT", "6432")]);
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(folder.load(&[("APP_STORE__PORT", "tcp://10.0.0.1:5432")]).is_ok());
}

/// An image's health check ends a container whose service goes on serving.
#[test]
fn the_admin_listener_is_known_beside_a_file_that_cannot_be_read() {
    let folder = ConfigFolder::new("[server\n");
    let error = folder.load(&[("APP_ADMIN__LISTEN", "127.0.0.1:7")]).unwrap_err();
    assert_eq!(error.admin.map(|admin| admin.listen.port()), Some(7));
    assert!(!error.all_read && error.secrets.is_none());
    assert!(folder.load(&[("APP_ADMIN__LISTEN", "nowhere")]).unwrap_err().admin.is_none());
    let half_edited = ConfigFolder::new("[server]\ndrain = \"soon\"\n").load(&[]).unwrap_err();
    assert!(half_edited.all_read && half_edited.admin.is_some());
}

/// The fuzz target `settings` found it.
#[test]
fn a_log_filter_that_is_not_ascii_is_a_mistake_and_no_panic() {
    let mistakes = ConfigFolder::new("").mistakes(&[("APP_TELEMETRY__FILTER", "info,\u{85}3=")]);
    assert!(mistakes[0].1.contains("log directives"), "{mistakes:?}");
}

/// The fuzz target `settings` found a value of a field that took seconds, as a regular expression.
#[test]
fn the_value_of_a_field_in_a_log_filter_is_a_text() {
    let filter = "info,a[span{b=(}]=debug";
    assert_eq!(ConfigFolder::new("").load(&[("APP_TELEMETRY__FILTER", filter)]).unwrap().telemetry.filter, filter);
}

#[test]
fn a_misspelt_level_does_not_turn_the_log_off() {
    let load = |filter| ConfigFolder::new("").load(&[("APP_TELEMETRY__FILTER", filter)]);
    for filter in ["inof", "info,sqlx", "warning", "info, dbg"] {
        assert!(load(filter).unwrap_err().to_string().contains("log directives"), "{filter}");
    }
    for filter in ["INFO", "off", "3", "info,sqlx=warn", "my_service::outbox=debug", "[span]=debug"] {
        assert!(load(filter).is_ok(), "{filter}");
    }
}

/// Ids are made for checks that follow. A prefix that makes none ended the process with 70.
#[test]
fn a_prefix_that_makes_no_ids_is_a_mistake() {
    let (longest, longer) = ("a".repeat(300), "a".repeat(301));
    for prefix in ["{prefix}", "a b", &longer] {
        let mistakes = ConfigFolder::new("").mistakes(&[("APP_SECRETS__PREFIX", prefix)]);
        let [(place, problem)] = &mistakes[..] else { panic!("{prefix}: {mistakes:#?}") };
        assert!(place.contains("APP_SECRETS__PREFIX") && problem.contains("at most 300"), "{place}: {problem}");
    }
    for prefix in ["/", &longest] {
        let config = ConfigFolder::new("").load(&[("APP_SECRETS__PREFIX", prefix)]).unwrap();
        assert!(config.id(&SPECS[0]).unwrap().as_str().ends_with("/database"));
    }
}

/// Vault, and an id below the prefix.
const VAULT: &str = "[secrets]\nprovider = \"vault\"\n[secrets.vault]\naddresses = [\"https://vault.internal\"]\n\
    role = \"pay\"\n[secrets.ids]\nwebhook = \"{prefix}/hook\"\n";

/// The id of a signing key is made before the mount is checked. A mount that makes none ended the process with 70.
#[test]
fn a_mount_of_vault_that_makes_no_ids_is_a_mistake() {
    let folder = ConfigFolder::new(VAULT);
    for mount in ["team kv", "kv:1", "k\u{200b}v", "kv/../x", ".", &"a".repeat(600)] {
        let mistakes = folder.mistakes(&[("APP_SECRETS__VAULT__MOUNT", mount)]);
        let [(place, problem)] = &mistakes[..] else { panic!("{mount}: {mistakes:#?}") };
        assert!(place.contains("APP_SECRETS__VAULT__MOUNT") && problem.contains("the path of a mount"), "{problem}");
    }
    let config = folder.load(&[("APP_SECRETS__VAULT__MOUNT", "/team/kv/")]).unwrap();
    assert_eq!(config.id(&SPECS[2]).unwrap().as_str(), "team/kv/data/svc/reload");
}

#[test]
fn a_prefix_that_makes_no_path_of_vault_is_one_mistake() {
    let folder = ConfigFolder::new(VAULT);
    for prefix in ["/prod/svc", "prod//svc", "prod/./svc", "../svc", "prod/+/svc", "/"] {
        let mistakes = folder.mistakes(&[("APP_SECRETS__PREFIX", prefix)]);
        let [(place, problem)] = &mistakes[..] else { panic!("{prefix}: {mistakes:#?}") };
        assert!(place.contains("APP_SECRETS__PREFIX") && problem.contains("no part between slashes"), "{problem}");
    }
    let config = folder.load(&[("APP_SECRETS__PREFIX", "prod/svc/")]).unwrap();
    assert_eq!(config.id(&SPECS[2]).unwrap().as_str(), "kv/data/prod/svc/reload");
}

#[test]
fn a_mistake_names_a_key_as_it_is_written_and_no_variable_that_nobody_has_set() {
    let variables = [("APP_SERVER__LISTEN", "127.0.0.1:1"), ("APP_AUTH__ISSUER", "https://issuer.example")];
    let folder = ConfigFolder::new("\"server.drain\" = \"1s\"\n[service]\ntags = [\"a\"]\n");
    let mistakes = folder.mistakes(&[variables[0]]);
    assert_eq!(mistakes, [("default.toml:1 (server.drain)".to_owned(), "this key is not known".to_owned())]);
    let mistakes = ConfigFolder::new("").mistakes(&[variables[1]]);
    assert_eq!(mistakes[0].0, "auth.audience");
    let mistakes = ConfigFolder::new("[auth]\n").mistakes(&[variables[1]]);
    assert_eq!(mistakes[0].0, "auth.audience");
    let mistakes = ConfigFolder::new("").mistakes(&[("APP_DATABASES__X", "x")]);
    assert_eq!(mistakes[0].1, "expected a section with keys");
}

#[test]
fn an_env_file_is_refused_by_name() {
    for dir in ["/nonexistent/.env", "/nonexistent/.env.local", "/nonexistent/prod.env"] {
        let error = Config::<TestSettings>::load(&Sources::new(dir.into(), []), "svc", &SPECS).unwrap_err();
        assert!(error.to_string().contains("names a .env file"), "{error}");
    }
    let mistakes = ConfigFolder::new("").mistakes(&[("APP_PROFILE", ".env")]);
    assert!(mistakes[0].1.contains("names a .env file"), "{mistakes:?}");
}

#[test]
fn a_setting_that_weakens_the_service_needs_the_dev_profile_or_a_permission() {
    let weak =
        "[admin]\nlisten = \"[::]:9090\"\n[database]\ntls = \"require\"\n[databases.reports]\ntls = \"prefer\"\n";
    let folder = ConfigFolder::new(weak).with("dev.toml", "").with("prod.toml", "");
    let places =
        ["default.toml:2 (admin.listen)", "default.toml:4 (database.tls)", "default.toml:6 (databases.reports.tls)"];
    for profile in ["", "prod"] {
        let mistakes = folder.mistakes(&[("APP_PROFILE", profile)]);
        assert!(mistakes.iter().map(|(place, _)| place.as_str()).eq(places), "{mistakes:#?}");
    }
    folder.load(&[("APP_PROFILE", "dev")]).unwrap();
    let allowed = [
        ("APP_ADMIN__ALLOW_ALL_ADDRESSES", "true"),
        ("APP_DATABASE__ALLOW_UNVERIFIED_TLS", "true"),
        ("APP_DATABASES__REPORTS__ALLOW_UNVERIFIED_TLS", "true"),
    ];
    folder.load(&allowed).unwrap();
    for (section, key, value) in [
        ("admin", "listen", "\"0.0.0.0:9090\""),
        ("admin", "listen", "\"[::ffff:0.0.0.0]:9090\""),
        ("server", "trusted_proxies", "[\"10.0.0.0/8\", \"0.0.0.0/0\"]"),
        ("server", "trusted_proxies", "[\"::/0\"]"),
        ("server", "trusted_proxies", "[\"::ffff:0:0/96\"]"),
    ] {
        let folder = ConfigFolder::new(&format!("[{section}]\n{key} = {value}\n")).with("dev.toml", "");
        let place = format!("default.toml:2 ({section}.{key})");
        assert_eq!(folder.mistakes(&[]).iter().map(|(place, _)| place).collect::<Vec<_>>(), [&place]);
        folder.load(&[("APP_PROFILE", "dev")]).unwrap();
    }
}

#[test]
fn settings_that_cannot_work_together_are_mistakes() {
    for (text, place) in [
        ("[server]\nlisten = \"0.0.0.0:9090\"\n", "admin.listen"),
        ("[server]\nlisten = \"[::ffff:127.0.0.1]:9090\"\n", "admin.listen"),
        ("[server]\ntls_names = [\"https://a.example\"]\n", "default.toml:2 (server.tls_names.0)"),
        ("[database]\nusername = \"my,app\"\n", "default.toml:2 (database.username)"),
        ("[secrets]\nmax_stale = \"5m\"\n", "default.toml:2 (secrets.max_stale)"),
        ("[secrets.aws]\nregions = [\"eu-west-1\", \"eu-west-1\"]\n", "default.toml:2 (secrets.aws.regions)"),
        ("[secrets.aws]\nregions = [\"EU West\"]\n", "default.toml:2 (secrets.aws.regions)"),
        ("[secrets.aws]\nregions = [\"eu-west-1a\"]\n", "default.toml:2 (secrets.aws.regions)"),
        ("[secrets.aws]\nregions = [\"eu-west-\"]\n", "default.toml:2 (secrets.aws.regions)"),
        (
            "[secrets.aws]\nregions = [\"eu-west-1\"]\n[secrets.ids]\n\
             webhook = \"arn:aws:secretsmanager:eu-west-2:123456789012:secret:a-AbCdEf\"\n",
            "default.toml:4 (secrets.ids.webhook)",
        ),
        (
            "[server]\ntls = true\nclient_ca = \"arn:aws:secretsmanager:eu-west-2:123456789012:secret:a-AbCdEf\"\n\
             [secrets.aws]\nregions = [\"eu-west-1\"]\n",
            "default.toml:3 (server.client_ca)",
        ),
    ] {
        let mistakes = ConfigFolder::new(text).mistakes(&[]);
        let [(subject, _)] = &mistakes[..] else { panic!("{text}: {mistakes:#?}") };
        assert_eq!(subject, place, "{text}");
    }
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

#[test]
fn a_key_that_looks_like_a_credential_may_be_named_as_harmless() {
    let folder = ConfigFolder::new("[service]\nlabel = \"0123456789abcdef0123456789abcdef\"\n");
    assert!(folder.mistakes(&[])[0].1.contains("looks like a key or a token"));
    folder.load(&[("APP_SECRETS__NOT_CREDENTIALS", "service.label")]).unwrap();
}

#[test]
fn only_some_settings_need_a_restart() {
    let load = |text: &str| ConfigFolder::new(text).load(&[]).unwrap();
    let changed = load(
        "[server]\nlisten = \"127.0.0.1:1\"\ndrain = \"1s\"\n[secrets.aws]\nregions = [\"eu-west-1\"]\n[telemetry]\nformat = \"pretty\"\n",
    );
    assert_eq!(changed.needs_restart(&load("")), ["server.listen", "telemetry.format", "secrets.aws.regions"]);
}

#[test]
fn the_document_has_every_setting_of_the_framework() {
    let table = settings_table::<()>();
    let document = include_str!("../../CONFIGURATION.md");
    if !document.contains(&table) {
        let path = std::env::temp_dir().join("CONFIGURATION.md");
        let (head, _) = document.split_once("\n## [").unwrap_or((document, ""));
        std::fs::write(&path, format!("{}\n\n{table}\n", head.trim())).expect("a file");
        panic!("vestibule/CONFIGURATION.md is not what the settings say: replace it by {}", path.display());
    }
}

#[test]
fn an_endpoint_for_traces_is_refused_by_a_program_without_them() {
    let folder = ConfigFolder::new("");
    let variables = [("APP_TRACES__ENDPOINT".into(), "https://collector.example/v1/traces".into())];
    let (layers, _) = Layers::read(&Sources::new(folder.0.clone(), variables), defaults::<TestSettings>());
    let (config, _) = extract::extract::<Config<TestSettings>>(&layers);
    let faults = |can_send| check::traces(&config.traces, &config.secrets, can_send, &layers);
    assert!(faults(true).is_empty());
    let [fault] = faults(false).try_into().expect("one mistake");
    assert_eq!(fault.subject, "variable APP_TRACES__ENDPOINT (traces.endpoint)");
    assert_eq!(fault.problem, "this program was built without traces");
}
