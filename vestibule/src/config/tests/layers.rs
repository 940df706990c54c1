//! Tests of the files and the variables, and of which of them wins.

use super::*;
use crate::secrets::id::VersionId;
use std::time::Duration;

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
