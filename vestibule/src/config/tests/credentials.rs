//! Tests of values that are, or look like, credentials.

use super::*;

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
fn a_key_that_looks_like_a_credential_may_be_named_as_harmless() {
    let folder = ConfigFolder::new("[service]\nlabel = \"0123456789abcdef0123456789abcdef\"\n");
    assert!(folder.mistakes(&[])[0].1.contains("looks like a key or a token"));
    folder.load(&[("APP_SECRETS__NOT_CREDENTIALS", "service.label")]).unwrap();
}
