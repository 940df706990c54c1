//! The database and the credentials of the service that `cargo dev` runs.

use std::collections::HashSet;
use std::time::Duration;

use crate::dev::error::DevError;
use crate::dev::service_description::ServiceDescription;
use crate::dev::service_program::ServiceProgram;
use crate::stack::Stack;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::openbao::OpenBaoServer;
use crate::stack::openbao::access::OpenBaoAccess;
use crate::stack::openbao::leased_logins::LeaseTimes;
use crate::stack::polling::Polling;
use crate::stack::tenant::Tenant;

/// The wait for a secret that the user creates. It has no limit, because the user may need any time.
const WAIT_FOR_USER: Polling = Polling { interval: Duration::from_millis(500), limit: Duration::MAX };

/// The secrets manager that gets the credentials.
pub(crate) enum TenantManager<'a> {
    /// The emulator of AWS Secrets Manager.
    Emulator,
    /// OpenBao. A login that it makes ends after `ttl`. Without one, it is renewed each hour for a day.
    OpenBao { server: &'a OpenBaoServer, access: OpenBaoAccess, ttl: Option<Duration> },
}

/// Creates the database and every credential, points the service to them, and migrates.
pub(crate) async fn prepare_tenant(
    stack: &Stack,
    program: &mut ServiceProgram,
    description: &ServiceDescription,
    manager: TenantManager<'_>,
    progress: &impl Fn(&str),
) -> Result<Tenant, DevError> {
    if let TenantManager::OpenBao { ttl: Some(_), .. } = &manager {
        check_leases(&description.credentials)?;
    }
    progress("creating the database, its roles and the credentials");
    let ids = description.credentials.iter().map(|credential| (credential.name.clone(), credential.id.clone()));
    let mut tenant = stack.empty_tenant(&description.settings.databases.default.name, ids).await?;
    if let TenantManager::OpenBao { access, .. } = &manager {
        tenant = tenant.at_openbao(access.clone());
    }
    let leases = match &manager {
        TenantManager::OpenBao { server, ttl, .. } => Some((server, *ttl)),
        TenantManager::Emulator => None,
    };
    let mut leased = Vec::new();
    for credential in with_own_secret(&description.credentials) {
        match leases {
            Some((server, ttl)) if is_made_at_each_read(&credential.id) => {
                leased.push((server, ttl, credential, lease_role(credential)?));
            }
            _ => put_credential(&tenant, credential).await?,
        }
    }
    tenant.add_databases(&description.settings.databases, &description.credentials, |_, name| name.to_owned()).await?;
    // OpenBao logs in at the database before it makes a login there.
    for (server, ttl, credential, role) in leased {
        lease_login(server, &tenant, credential, role, ttl).await?;
        progress(&format!("OpenBao makes the login `{}`", credential.name));
    }
    program.use_tenant(&tenant);
    if description.credentials.iter().any(DeclaredCredential::is_migrator) {
        progress("migrating");
        program.migrate().await?;
    }
    Ok(tenant)
}

/// Returns the first credential of each secret. Several may have one: one role can own several databases.
fn with_own_secret(credentials: &[DeclaredCredential]) -> impl Iterator<Item = &DeclaredCredential> {
    let mut ids = HashSet::new();
    credentials.iter().filter(move |credential| ids.insert(&credential.id))
}

/// Checks that `--ttl` has an effect: OpenBao makes a login.
fn check_leases(credentials: &[DeclaredCredential]) -> Result<(), DevError> {
    if credentials.iter().any(|credential| credential.id.starts_with("database/creds/")) {
        return Ok(());
    }
    let problem = match credentials.iter().find(|credential| credential.name == "database") {
        Some(DeclaredCredential { id, .. }) => format!(
            "the login `database` is at {id}: unset APP_SECRETS__IDS__DATABASE, or set it to database/creds/ROLE"
        ),
        None => "the service has no login `database`".into(),
    };
    Err(DevError::new(format!("with --ttl, OpenBao makes the login of the database, but {problem}")))
}

/// Says if OpenBao makes what is read at this id, so that nobody can put it there.
fn is_made_at_each_read(id: &str) -> bool {
    ["/creds/", "/static-creds/", "/issue/"].iter().any(|engine| id.contains(engine)) && !id.contains("/data/")
}

/// Returns the role of OpenBao that makes a login.
fn lease_role(credential: &DeclaredCredential) -> Result<&str, DevError> {
    let DeclaredCredential { name, id, kind } = credential;
    match id.strip_prefix("database/creds/") {
        Some(role) if kind == "login" && !credential.is_migrator() => Ok(role),
        _ => Err(DevError::new(format!(
            "cargo dev has no {id}: it makes logins at database/creds/ROLE, for services and not for migrations; give \
             `{name}` another id in [secrets.ids] of config/dev.toml"
        ))),
    }
}

/// Lets OpenBao make the logins of a database.
async fn lease_login(
    server: &OpenBaoServer,
    tenant: &Tenant,
    credential: &DeclaredCredential,
    role: &str,
    ttl: Option<Duration>,
) -> Result<(), DevError> {
    let ttl_text = ttl.map(|ttl| humantime::format_duration(ttl).to_string().replace(' ', ""));
    let times = match &ttl_text {
        Some(ttl) => LeaseTimes { ttl, max_ttl: ttl },
        None => LeaseTimes { ttl: "1h", max_ttl: "24h" },
    };
    server.lease_logins_as(tenant, role, tenant.database_of_section(&credential.name), times).await?;
    Ok(())
}

/// Gives a credential a random value. If its kind is unknown, waits until the user has created the secret.
async fn put_credential(tenant: &Tenant, credential: &DeclaredCredential) -> Result<(), DevError> {
    let DeclaredCredential { name, id, kind } = credential;
    if tenant.put_random(name, kind).await?.is_some() {
        return Ok(());
    }
    let command = match tenant.openbao() {
        Some(access) => access.command_to_put(id),
        None => format!(
            "AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=eu-west-1 \\\n  \
             aws secretsmanager create-secret --endpoint-url {} --name {id} --secret-string file://…",
            tenant.emulator().endpoint
        ),
    };
    eprintln!(
        "\ncargo dev cannot invent the credential `{name}`: it is of the kind `{kind}`. Waiting until you put it \
         there:\n\n  {command}\n"
    );
    let created = WAIT_FOR_USER.until_async(async || tenant.version(name, "AWSCURRENT").await.ok().flatten());
    created.await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_leases_needs_a_login_that_openbao_makes() {
        let login = |id: &str| DeclaredCredential { name: "database".into(), id: id.into(), kind: "login".into() };
        assert!(check_leases(&[login("database/creds/service")]).is_ok());
        let elsewhere = check_leases(&[login("kv/data/pay/database")]).unwrap_err().to_string();
        assert!(elsewhere.contains("kv/data/pay/database: unset APP_SECRETS__IDS__DATABASE"), "{elsewhere}");
        assert!(check_leases(&[]).unwrap_err().to_string().contains("has no login"));
    }
}
