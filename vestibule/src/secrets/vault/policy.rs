//! Policies of Vault and OpenBao: the paths that this client asks for, with their capabilities.

use super::path::{VaultEngine, VaultPath};
use crate::{
    config::settings::vault::{VaultAuth, VaultConfig},
    secrets::rights::{Policy, Rights, RightsHolder},
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
    let mut needed = BTreeMap::new();
    let paths = rights.secrets.iter().filter_map(VaultPath::parse);
    match rights.holder {
        RightsHolder::Serve | RightsHolder::Migrate => {
            needed.extend(paths.clone().map(|path| (path.of_value(), path.engine.capability())));
        }
        RightsHolder::Audit => {
            // Each process has a value of its own, which is compared with nothing.
            let compared = paths.clone().filter(|path| !path.engine.makes_values());
            needed.extend(compared.map(|path| (path.of_metadata(), "read")));
        }
    }
    if needed.is_empty() {
        return needed;
    }
    let is_agents_token = config.auth == VaultAuth::TokenFile;
    if is_agents_token {
        needed.insert("auth/token/lookup-self".into(), "read");
    } else {
        needed.insert("auth/token/revoke-self".into(), "update");
    }
    let has_leases =
        rights.holder != RightsHolder::Audit && paths.clone().any(|path| path.engine == VaultEngine::Creds);
    if has_leases {
        needed.insert("sys/leases/revoke".into(), "update");
    }
    // `migrate` ends before its lease does.
    if has_leases && rights.holder == RightsHolder::Serve {
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

    fn printed(holder: RightsHolder, auth: VaultAuth, ids: &[&str]) -> String {
        let secrets = ids.iter().map(|id| SecretId::parse(id).unwrap()).collect();
        let rights = Rights { holder, secrets, token_log_ins: Vec::new() };
        policy(&rights, &VaultConfig { auth, ..VaultConfig::default() }).document
    }

    #[test]
    fn a_policy_has_what_each_engine_and_each_login_is_asked_for() {
        let ids = ["kv/data/pay/signing", "database/creds/pay", "database/static-creds/pay", "pki/issue/pay"];
        let serve = "path \"auth/token/renew-self\" { capabilities = [\"update\"] }\n\
                     path \"auth/token/revoke-self\" { capabilities = [\"update\"] }\n\
                     path \"database/creds/pay\" { capabilities = [\"read\"] }\n\
                     path \"database/static-creds/pay\" { capabilities = [\"read\"] }\n\
                     path \"kv/data/pay/signing\" { capabilities = [\"read\"] }\n\
                     path \"pki/issue/pay\" { capabilities = [\"update\"] }\n\
                     path \"sys/leases/renew\" { capabilities = [\"update\"] }\n\
                     path \"sys/leases/revoke\" { capabilities = [\"update\"] }";
        assert_eq!(printed(RightsHolder::Serve, VaultAuth::AppRole, &ids), serve);
        let audit = "path \"auth/token/lookup-self\" { capabilities = [\"read\"] }\n\
                     path \"database/static-roles/pay\" { capabilities = [\"read\"] }\n\
                     path \"kv/metadata/pay/signing\" { capabilities = [\"read\"] }";
        assert_eq!(printed(RightsHolder::Audit, VaultAuth::TokenFile, &ids), audit);
        let migrate = "path \"auth/token/revoke-self\" { capabilities = [\"update\"] }\n\
                       path \"database/creds/pay\" { capabilities = [\"read\"] }\n\
                       path \"sys/leases/revoke\" { capabilities = [\"update\"] }";
        assert_eq!(printed(RightsHolder::Migrate, VaultAuth::Jwt, &ids[1..2]), migrate);
        assert_eq!(printed(RightsHolder::Audit, VaultAuth::Jwt, &ids[1..2]), "", "an audit asks for nothing");
    }
}
