//! Tests of the ids of secrets, and of the prefix and the mount that they are made from.

use super::*;

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
fn an_arn_must_be_of_the_only_region_that_is_asked() {
    let arn = SecretId::parse("arn:aws:secretsmanager:eu-west-1:1:secret:n-AbCdEf");
    let secrets = |regions: &[&str], provider| SecretsConfig {
        aws: AwsConfig { regions: regions.iter().map(|&region| region.into()).collect(), ..AwsConfig::default() },
        provider,
        ..SecretsConfig::default()
    };
    let (layers, _) = Layers::read(&Sources::new("/dev/null".into(), []), defaults::<TestSettings>());
    for (regions, of_environment, provider, origin) in [
        (&["eu-west-1"][..], "eu-north-1", SecretsProvider::Aws, None),
        (&["eu-north-1"], "eu-west-1", SecretsProvider::Aws, Some("secrets.aws.regions")),
        (&["eu-north-1", "us-east-1"], "eu-north-1", SecretsProvider::Aws, None),
        (&[], "eu-west-1", SecretsProvider::Aws, None),
        (&[], "eu-north-1", SecretsProvider::Aws, Some("AWS_REGION")),
        (&[], "eu-north-1", SecretsProvider::Vault, None),
    ] {
        let faults =
            check::secrets(&secrets(regions, provider), arn.as_ref(), Some(of_environment.to_owned()), &layers);
        assert_eq!(faults.len(), origin.iter().len(), "{regions:?} {of_environment}: {faults:?}");
        assert!(faults.iter().all(|fault| origin.is_some_and(|origin| fault.problem.contains(origin))), "{faults:?}");
    }
}
