//! Tests of mistakes, and of how they are reported.

use super::*;
use serde::{Serializer, ser::Error as _};

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

/// Settings whose label can be read, and not be written if it is long.
#[derive(Debug, Default, Serialize, Deserialize, vestibule_derive::ConfigSection)]
#[serde(default)]
struct UnwritableSettings {
    /// A label.
    #[serde(serialize_with = "write_short")]
    label: String,
}

fn write_short<S: Serializer>(label: &str, serializer: S) -> Result<S::Ok, S::Error> {
    if label.len() > 5 {
        return Err(S::Error::custom(format!("{label} is too long")));
    }
    serializer.serialize_str(label)
}

#[test]
fn settings_that_cannot_be_written_are_a_mistake_of_the_code() {
    for (label, exit) in [("short", None), ("sentinel", Some(Exit::Bug))] {
        let folder = ConfigFolder::new(&format!("[service]\nlabel = \"{label}\""));
        let read = Config::<UnwritableSettings>::load(&Sources::new(folder.0.clone(), []), "svc", &SPECS);
        let report = read.err().map(|error| error.report);
        assert_eq!(report.as_ref().map(Report::exit), exit);
        assert!(!format!("{report:?}").contains("sentinel"));
    }
}

/// Commands that need nothing but `[secrets]` send credentials to where it says.
#[test]
fn a_section_of_secrets_that_a_start_refuses_is_right_for_no_command() {
    let folder = ConfigFolder::new(VAULT);
    let secrets = |variable| folder.load(&[variable]).expect_err("there are mistakes").secrets;
    assert!(secrets(("APP_SERVER__DRAIN", "soon")).is_some());
    for mistake in [
        ("APP_SECRETS__VAULT__ADDRESSES", "http://127.0.0.1:8200"),
        ("APP_SECRETS__VAULT__NAMESPACE", "a\u{1}b"),
        ("APP_SECRETS__IDS__NOBODY", "svc/nobody"),
        ("APP_SECRETS__PREFIX", "with a blank"),
    ] {
        assert!(secrets(mistake).is_none(), "{mistake:?}");
    }
}
