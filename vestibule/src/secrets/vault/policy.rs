//! Policies of Vault and OpenBao: the paths that this client asks for, with their capabilities.

use super::path::{VaultEngine, VaultPath};
use crate::{
    config::settings::vault::{VaultAuth, VaultConfig},
    secrets::rights::{Policy, Rights},
};
use std::collections::BTreeMap;

/// Returns the statement of a policy that gives one capability.
pub(super) fn statement(path: &str, capability: &str) -> String {
    format!("path \"{path}\" {{ capabilities = [\"{capability}\"] }}")
}

/// Returns the policy for these rights, sorted by path. A login needs none, and neither does the question if a certificate
/// was revoked: servers answer both without a token.
pub(crate) fn policy(rights: &Rights<'_>, config: &VaultConfig) -> Policy {
    let statements: Vec<_> =
        capabilities(rights, config).iter().map(|(path, capability)| statement(path, capability)).collect();
    let mut remarks = Vec::new();
    if !config.namespace.is_empty() && !statements.is_empty() {
        remarks.push(format!("write this policy in the namespace {}: its paths begin there", config.namespace));
    }
    Policy { document: statements.join("\n"), remarks }
}

/// Returns each path that is asked for, with the capability that the call needs.
fn capabilities(rights: &Rights<'_>, config: &VaultConfig) -> BTreeMap<String, &'static str> {
    let values = rights.values.iter().filter_map(VaultPath::parse);
    let mut needed: BTreeMap<_, _> = values.clone().map(|path| (path.of_value(), path.engine.capability())).collect();
    // Each process has a value of its own, which is compared with nothing.
    let compared = rights.versions.iter().filter_map(VaultPath::parse).filter(|path| !path.engine.makes_values());
    needed.extend(compared.map(|path| (path.of_metadata(), "read")));
    if needed.is_empty() {
        return needed;
    }
    let is_agents_token = config.auth == VaultAuth::TokenFile;
    if is_agents_token {
        needed.insert("auth/token/lookup-self".into(), "read");
    } else {
        needed.insert("auth/token/revoke-self".into(), "update");
    }
    let has_leases = values.clone().any(|path| path.engine == VaultEngine::Creds);
    if has_leases {
        needed.insert("sys/leases/revoke".into(), "update");
        // A migration may take longer than its lease, so `migrate` renews too.
        needed.insert("sys/leases/renew".into(), "update");
        if !is_agents_token {
            needed.insert("auth/token/renew-self".into(), "update");
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::id::SecretId;
    use std::collections::BTreeSet;

    fn ids(ids: &[&str]) -> BTreeSet<SecretId> {
        ids.iter().map(|id| SecretId::parse(id).unwrap()).collect()
    }

    fn printed(rights: Rights<'_>, auth: VaultAuth) -> String {
        policy(&rights, &VaultConfig { auth, ..VaultConfig::default() }).document
    }

    #[test]
    fn a_policy_has_what_each_engine_and_each_login_is_asked_for() {
        let all = ["kv/data/pay/signing", "database/creds/pay", "database/static-creds/pay", "pki/issue/pay"];
        let (signing, lease) = (&all[..1], &all[1..2]);
        let serve = "path \"auth/token/renew-self\" { capabilities = [\"update\"] }\n\
                     path \"auth/token/revoke-self\" { capabilities = [\"update\"] }\n\
                     path \"database/creds/pay\" { capabilities = [\"read\"] }\n\
                     path \"database/static-creds/pay\" { capabilities = [\"read\"] }\n\
                     path \"kv/data/pay/signing\" { capabilities = [\"read\"] }\n\
                     path \"pki/issue/pay\" { capabilities = [\"update\"] }\n\
                     path \"sys/leases/renew\" { capabilities = [\"update\"] }\n\
                     path \"sys/leases/revoke\" { capabilities = [\"update\"] }";
        let rights = Rights { values: ids(&all), ..Rights::default() };
        assert_eq!(printed(rights, VaultAuth::AppRole), serve);
        let audit = "path \"auth/token/lookup-self\" { capabilities = [\"read\"] }\n\
                     path \"database/static-roles/pay\" { capabilities = [\"read\"] }\n\
                     path \"kv/metadata/pay/signing\" { capabilities = [\"read\"] }";
        let rights = Rights { versions: ids(&all), ..Rights::default() };
        assert_eq!(printed(rights, VaultAuth::TokenFile), audit);
        let migrate = "path \"auth/token/renew-self\" { capabilities = [\"update\"] }\n\
                       path \"auth/token/revoke-self\" { capabilities = [\"update\"] }\n\
                       path \"database/creds/pay\" { capabilities = [\"read\"] }\n\
                       path \"sys/leases/renew\" { capabilities = [\"update\"] }\n\
                       path \"sys/leases/revoke\" { capabilities = [\"update\"] }";
        let rights = Rights { values: ids(lease), ..Rights::default() };
        assert_eq!(printed(rights, VaultAuth::Jwt), migrate);
        let reload = "path \"auth/token/revoke-self\" { capabilities = [\"update\"] }\n\
                      path \"database/static-roles/pay\" { capabilities = [\"read\"] }\n\
                      path \"kv/data/pay/signing\" { capabilities = [\"read\"] }\n\
                      path \"kv/metadata/pay/signing\" { capabilities = [\"read\"] }";
        let rights = Rights { values: ids(signing), versions: ids(&all), ..Rights::default() };
        assert_eq!(printed(rights, VaultAuth::Jwt), reload);
        let rights = Rights { versions: ids(lease), ..Rights::default() };
        assert_eq!(printed(rights, VaultAuth::Jwt), "", "an audit asks for nothing");
    }
}
