//! The policies of Vault and OpenBao: each command runs with exactly the policy that is printed for it.

use super::print_policy;
use crate::{SERVICE, note_client::NoteClient, support::database::run_as_superuser};
use devstack::{DEFAULT_TIMEOUT, Launch, OpenBaoServer, RunningService, Signal, Tenant, eventually};
use serde_json::json;
use std::collections::BTreeSet;

/// A path, and a capability there.
type Right = (String, String);

/// A tenant with a role for each command, whose tokens have exactly the policy that is printed for the command.
struct Roles {
    tenant: Tenant,
    server: &'static OpenBaoServer,
    token_ttl: &'static str,
}

impl Roles {
    async fn new(label: &str) -> Self {
        let tenant = SERVICE.migrated_at_openbao(label).await;
        Self { tenant, server: OpenBaoServer::shared().await, token_ttl: "1h" }
    }

    fn name(&self, command: &str) -> String {
        format!("{}-{command}", self.tenant.name())
    }

    /// Makes the role of a command. Returns the launch as this role, and the rights that its policy gives.
    async fn make(&self, command: &str, configure: impl Fn(Launch) -> Launch) -> (Launch, BTreeSet<Right>) {
        let launch = || configure(SERVICE.launch(&self.tenant));
        let printed = print_policy(launch(), command, &[]).stdout;
        let (name, api) = (self.name(command), self.server.api());
        api.post(&format!("sys/policies/acl/{name}"), json!({ "policy": printed })).await.expect("a policy");
        let role = json!({
            "role_type": "jwt",
            "bound_audiences": ["local"],
            "bound_subject": self.tenant.name(),
            "user_claim": "sub",
            "token_policies": [name],
            "token_no_default_policy": true,
            "token_ttl": self.token_ttl,
        });
        api.post(&format!("auth/jwt/role/{name}"), role).await.expect("a role");
        let rights = printed.lines().map(|line| {
            let parts: Vec<_> = line.split('"').collect();
            let ["path ", path, " { capabilities = [", capability, "] }"] = parts[..] else { panic!("{line}") };
            (path.to_owned(), capability.to_owned())
        });
        (launch().env("APP_SECRETS__VAULT__ROLE", &name), rights.collect())
    }

    /// Checks that a command has used each of its rights, and that it was denied nothing.
    #[track_caller]
    fn assert_used(&self, command: &str, rights: &BTreeSet<Right>) {
        let mut used = BTreeSet::new();
        for request in self.server.requests_with(&self.name(command)) {
            assert!(request.is_allowed, "{command} may not {} {}", request.operation, request.path);
            used.insert((request.path, request.operation));
        }
        assert_eq!(&used, rights, "{command}");
    }
}

fn run(launch: Launch, arguments: &[&str]) {
    let exited = launch.args(arguments.iter().copied()).run();
    assert_eq!(exited.code, Some(0), "{}{}", exited.stdout, exited.stderr);
    assert!(!exited.stdout.contains("WARN"), "{}", exited.stdout);
}

async fn stop(mut running: RunningService<'_>) {
    running.process.signal(Signal::TERM);
    let exited = running.process.exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    assert!(!exited.stdout.contains("WARN"), "{}", exited.stdout);
}

#[tokio::test]
async fn each_command_works_with_its_policy_and_uses_all_of_it() {
    let roles = Roles::new("policy_kv").await;
    let (launch, rights) = roles.make("serve", |launch| launch.env("APP_ADMIN__RELOAD", "signed")).await;
    let mut running = RunningService::start(launch, &roles.tenant).await;
    roles.tenant.rotate("database").await.expect("a rotation");
    assert_eq!(running.reload().await["outcome"], "published");
    running.create_note("with the printed policy").await;

    let (audit, rights_of_audit) = roles.make("audit", |launch| launch).await;
    run(audit, &["audit", &running.at.admin]);
    roles.assert_used("audit", &rights_of_audit);
    let (reload, rights_of_reload) = roles.make("reload", |launch| launch).await;
    run(reload, &["reload", "--fleet", &running.at.admin]);
    roles.assert_used("reload", &rights_of_reload);
    let (migrate, rights_of_migrate) = roles.make("migrate", |launch| launch).await;
    run(migrate, &["migrate"]);
    roles.assert_used("migrate", &rights_of_migrate);
    stop(running).await;
    roles.assert_used("serve", &rights);
    assert!(rights.is_disjoint(&rights_of_audit.iter().filter(|(path, _)| path.starts_with("kv/")).cloned().collect()));
}

#[tokio::test]
async fn a_policy_lets_leases_be_made_renewed_and_given_back_and_certificates_be_issued() {
    // Shorter than a lease, so that the token must be renewed with it.
    let roles = Roles { token_ttl: "12s", ..Roles::new("policy_leases").await };
    let (tenant, api) = (&roles.tenant, roles.server.api());
    let login = roles.server.lease_logins(tenant, "20s", "1h").await.expect("a role");
    let pki = format!("pki-{}", tenant.name());
    api.post(&format!("sys/mounts/{pki}"), json!({ "type": "pki" })).await.expect("an engine");
    let root = json!({ "common_name": "Internal CA" });
    api.post(&format!("{pki}/root/generate/internal"), root).await.expect("an authority");
    let issues = json!({ "allowed_domains": "internal", "allow_subdomains": true, "key_type": "ec", "key_bits": 256 });
    api.post(&format!("{pki}/roles/notes"), issues).await.expect("a role");
    let configure = |launch: Launch| {
        launch
            .env("APP_SECRETS__IDS__DATABASE", &login)
            .env("APP_SECRETS__IDS__SERVER_TLS", format!("{pki}/issue/notes"))
            .env("APP_SECRETS__VAULT__ISSUE__SERVER_TLS__COMMON_NAME", "notes.internal")
            .env("APP_SECRETS__VAULT__ISSUE__SERVER_TLS__TTL", "1h")
            .env("APP_SERVER__TLS", "true")
            // The example starts with TLS for its clients only.
            .env("APP_ADMIN__TLS", "false")
    };
    let (launch, rights) = roles.make("serve", configure).await;
    let running = RunningService::start(launch, tenant).await;
    eventually("a renewal", async || {
        let renewals = running.metric("vestibule_lease_renewals_total{name=\"database\",outcome=\"renewed\"}").await;
        if renewals >= 1.0 { Ok(()) } else { Err(renewals) }
    })
    .await;
    let (audit, rights_of_audit) = roles.make("audit", configure).await;
    run(audit, &["audit", &running.at.admin]);
    roles.assert_used("audit", &rights_of_audit);
    stop(running).await;
    roles.assert_used("serve", &rights);
    assert_eq!(tenant.leased_users().await.expect("a list"), [""; 0], "it may give its user back");
}

#[tokio::test]
async fn a_policy_lets_migrate_have_a_login_made_renewed_and_given_back() {
    // Shorter than a lease, so that the token must be renewed with it.
    let roles = Roles { token_ttl: "12s", ..Roles::new("policy_migrate").await };
    let tenant = &roles.tenant;
    let (owner, access) = (format!("{}_owner", tenant.name()), tenant.access_role());
    // The login that the engine makes is a member of the role that owns the database.
    run_as_superuser(
        tenant,
        format!(
            "CREATE ROLE {owner} NOLOGIN; ALTER DATABASE {} OWNER TO {owner}; GRANT {owner} TO {access}",
            tenant.name()
        ),
    )
    .await;
    let login = roles.server.lease_logins(tenant, "20s", "1h").await.expect("a role");
    let mut admin = tenant.admin().await.expect("a connection");
    let reassign = format!("REASSIGN OWNED BY {} TO {owner}", tenant.migrator_role());
    sqlx::raw_sql(sqlx::AssertSqlSafe(reassign)).execute(&mut admin).await.expect("the tables have another owner");
    let configure =
        |launch: Launch| launch.env("APP_SECRETS__IDS__MIGRATOR", &login).env("APP_DATABASE__OWNER_ROLE", &owner);
    let (migrate, rights) = roles.make("migrate", configure).await;
    // A migration that takes longer than a third of the lease.
    sqlx::raw_sql("BEGIN; LOCK TABLE _sqlx_migrations").execute(&mut admin).await.expect("a lock");
    let migrating = migrate.args(["migrate"]).start();
    eventually("a renewal", async || {
        let requests = roles.server.requests_with(&roles.name("migrate"));
        let is_renewed = requests.iter().any(|request| request.path == "sys/leases/renew");
        if is_renewed { Ok(()) } else { Err(requests.len()) }
    })
    .await;
    sqlx::raw_sql("ROLLBACK").execute(&mut admin).await.expect("no lock");
    let exited = migrating.exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(0), "{}{}", exited.stdout, exited.stderr);
    roles.assert_used("migrate", &rights);
    assert_eq!(tenant.leased_users().await.expect("a list"), [""; 0]);
}

#[tokio::test]
async fn a_policy_for_a_login_that_the_engine_rotates_and_a_token_of_an_agent_has_their_paths() {
    let roles = Roles::new("policy_static").await;
    let (tenant, api) = (&roles.tenant, roles.server.api());
    roles.server.lease_logins(tenant, "1h", "1h").await.expect("a connection to the database");
    let (connection, user) = (tenant.name(), format!("{}_static", tenant.name()));
    let access = tenant.access_role();
    run_as_superuser(
        tenant,
        format!("CREATE ROLE {user} LOGIN IN ROLE {access}; GRANT {user} TO {connection}_vault WITH ADMIN OPTION"),
    )
    .await;
    let role = json!({ "db_name": connection, "username": user, "rotation_period": "24h" });
    let allowed = json!({ "allowed_roles": "*", "plugin_name": "postgresql-database-plugin" });
    api.post(&format!("database/config/{connection}"), allowed).await.expect("an answer");
    api.post(&format!("database/static-roles/{user}"), role).await.expect("a role");
    let make = async |command: &str| {
        let token_file = roles.server.write_file(&format!("agent-{}", roles.name(command)), "").expect("a file");
        let configure = |launch: Launch| {
            launch
                .env("APP_SECRETS__IDS__DATABASE", format!("database/static-creds/{user}"))
                .env("APP_SECRETS__VAULT__AUTH", "token_file")
                .env("APP_SECRETS__VAULT__TOKEN_FILE", &token_file)
        };
        let made = roles.make(command, configure).await;
        let request = json!({ "policies": [roles.name(command)], "no_default_policy": true, "ttl": "1h" });
        let issued = api.post("auth/token/create", request).await.expect("a token");
        let token = issued["auth"]["client_token"].as_str().expect("a token");
        tenant.remember("token", token);
        std::fs::write(&token_file, token).expect("a file");
        made
    };
    let (launch, rights) = make("serve").await;
    let running = RunningService::start(launch, tenant).await;
    running.create_note("with a user that the engine rotates").await;
    let (audit, rights_of_audit) = make("audit").await;
    run(audit, &["audit", &running.at.admin]);
    roles.assert_used("audit", &rights_of_audit);
    stop(running).await;
    roles.assert_used("serve", &rights);
}
