//! The checks of a database with `auth = "iam"`.

use super::{is_region, path};
use crate::{
    config::{
        iam_database::IamDatabase,
        layers::Layers,
        settings::{SecretsConfig, SecretsProvider, TlsMode},
    },
    credentials::login::Login,
    exit::Fault,
    secrets::{kind::Kind, spec::CredentialSpec},
};
use std::net::IpAddr;

/// Checks a database whose log-ins need no secret, and returns every mistake.
pub(in crate::config) fn iam(
    database: &IamDatabase<'_>,
    secrets: &SecretsConfig,
    specs: &[CredentialSpec],
    layers: &Layers,
) -> Vec<Fault> {
    let (config, credential) = (database.config, database.credential());
    let mut faults = Vec::new();
    let mut add = |key: &str, problem: &str, remedy: &str| {
        faults.push(layers.fault(&database.path(key), problem, remedy));
    };
    let stands_for_it = |spec: &&CredentialSpec| spec.name == credential && spec.kind == Login::NAME;
    match specs.iter().find(stands_for_it) {
        Some(spec) if spec.optional => add(
            "auth",
            &format!("the credential `{credential}` is on only if its id is configured, and `iam` needs none"),
            &format!("make the field `{credential}: Credential<Login>` in the service's Secrets"),
        ),
        Some(_) => (),
        None => add(
            "auth",
            &format!("no login of this service has the name `{credential}`, so it would be fetched all the same"),
            &format!("give the login of this database the name `{credential}` in the service's Secrets"),
        ),
    }
    if config.username.is_none() {
        add("username", "a token is for one user, and none is named", "set it to the user that was granted rds_iam");
    }
    let is_address = config.host.parse::<IpAddr>().is_ok();
    if is_address || config.host.starts_with('/') {
        let problem = "a token is for the host name of the database's endpoint";
        add("host", problem, "set it to the endpoint as RDS shows it, such as \"db.abc.eu-west-1.rds.amazonaws.com\"");
    }
    if config.tls != TlsMode::VerifyFull {
        let problem = "whoever gets the token can log in with it, and this mode does not verify who gets it";
        add("tls", problem, "set it to \"verify-full\", and tls_root_cert to the file of RDS's authorities");
    }
    match config.region.as_deref() {
        Some(region) if !is_region(region) => {
            add("region", "expected a Region such as \"eu-west-1\"", "correct the value");
        }
        None if secrets.provider == SecretsProvider::Vault && secrets.aws.regions.is_empty() => {
            add(
                "region",
                "the secrets do not come from AWS, so nothing else names the Region",
                "set it to the database's",
            );
        }
        _ => (),
    }
    let unneeded = [Some(credential.to_owned()), database.migrator()];
    for name in unneeded.iter().flatten().filter(|name| secrets.ids.contains_key(*name)) {
        faults.push(layers.fault(
            &path(&["secrets", "ids", name]),
            "its database logs in with IAM, so nothing needs this secret",
            "remove it; or log in with it, with auth = \"password\" or without migrator_username",
        ));
    }
    faults
}
