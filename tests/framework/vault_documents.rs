//! The commands of OPERATIONS.md for what Vault makes: logins and certificates, at a real OpenBao and a real PostgreSQL.

use crate::{
    SERVICE,
    support::{database::run_as_superuser, documented_commands::run_at_openbao, leased::Leased},
};
use devstack::{OpenBao, OpenBaoServer, Tenant, random_key};
use serde_json::{Value, json};

const MADE_BY_VAULT: &str = "### Logins and certificates that Vault makes\n";
const WITH_LEASE: &str = "#### Logins with a lease\n";

/// Returns a block of a section, with the tenant's names in the place of the document's.
fn documented(section: &str, language: &str, number: usize, names: &[(&str, &str)]) -> String {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/OPERATIONS.md")).expect("a document");
    let section = document.split(section).nth(1).expect("the section");
    let block = section.split(&format!("```{language}\n")).nth(number + 1).and_then(|rest| rest.split("```").next());
    let mut block = block.expect("a block").to_owned();
    for (name, of_tenant) in names {
        assert!(block.contains(name), "{name} is missing in:\n{block}");
        block = block.replace(name, of_tenant);
    }
    block
}

/// Logs in with the AppRole of the tenant.
async fn log_in(tenant: &Tenant) -> OpenBao {
    let api = OpenBaoServer::shared().await.api();
    let role = format!("auth/approle/role/{}", tenant.name());
    let role_id = api.get(&format!("{role}/role-id")).await.expect("a role")["data"]["role_id"].take();
    let secret_id = api.post(&format!("{role}/secret-id"), json!({})).await.expect("an id")["data"]["secret_id"].take();
    let login = json!({ "role_id": role_id, "secret_id": secret_id });
    let token = api.post("auth/approle/login", login).await.expect("a login")["auth"]["client_token"].take();
    let token = token.as_str().expect("a token").to_owned();
    tenant.remember("token", &token);
    api.with_token(token)
}

/// A login that the server has made for a lease.
struct Lease {
    id: String,
    user: String,
    password: String,
}

impl Lease {
    async fn issue(api: &OpenBao, tenant: &Tenant, path: &str) -> Self {
        let answer = api.get(path).await.expect("a lease");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let password = text(&answer["data"]["password"]);
        tenant.remember("lease", &password);
        Self { id: text(&answer["lease_id"]), user: text(&answer["data"]["username"]), password }
    }

    async fn revoke(&self, api: &OpenBao) {
        api.put("sys/leases/revoke", json!({ "lease_id": self.id, "sync": true })).await.expect("the lease ends");
    }
}

async fn has_role(tenant: &Tenant, role: &str) -> bool {
    let mut admin = tenant.admin().await.expect("a connection");
    let exists = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)").bind(role);
    exists.fetch_one(&mut admin).await.expect("an answer")
}

#[tokio::test]
async fn the_documented_roles_make_logins_that_end_with_their_leases() {
    let tenant = SERVICE.tenant("documented_roles").await;
    let name = tenant.name();
    let (admin, owner, access) = (format!("{name}_vault"), format!("{name}_owner"), tenant.access_role());
    let mount = format!("database-{name}");
    let password = random_key();
    tenant.remember("vault_admin", &password);
    run_as_superuser(&tenant, format!("CREATE ROLE {owner} NOLOGIN; ALTER DATABASE {name} OWNER TO {owner}")).await;
    let roles = [("vault_admin", &*admin), ("app_access", &access), ("app_owner", &owner)];
    let sql = [("'…'", &*format!("'{password}'")), ("DATABASE …", &format!("DATABASE {name}"))];
    run_as_superuser(&tenant, documented(MADE_BY_VAULT, "sql", 0, &[&roles[..], &sql].concat())).await;
    let server = OpenBaoServer::shared().await;
    server.write_file("vault-admin-password", &password).expect("a file");
    let places = [
        ("database/", &*format!("{mount}/")),
        ("enable database", &format!("enable -path={mount} database")),
        // The PostgreSQL of tests has no TLS.
        ("sslmode=verify-full", "sslmode=disable"),
        // The tenant's own policy has the name of the service.
        ("policy write \"$SERVICE\"", "policy write \"$SERVICE-leases\""),
        ("token_policies=\"$SERVICE\"", "token_policies=\"$SERVICE-leases\""),
    ];
    run_at_openbao(&tenant, &documented(MADE_BY_VAULT, "sh", 0, &[&roles[..], &places].concat()), &[]).await;
    assert!(tenant.connect(&admin, &password).await.is_err(), "only the server knows the password");

    let root = server.api();
    let migrator = Lease::issue(root, &tenant, &format!("{mount}/creds/{name}-migrator")).await;
    let login = json!({ "username": migrator.user, "password": migrator.password });
    tenant.put("migrator", &login.to_string()).await.expect("the manager stores it");
    let migrated = SERVICE.launch(&tenant).args(["migrate"]).env("APP_DATABASE__OWNER_ROLE", &owner).run();
    assert_eq!(migrated.code, Some(0), "{}", migrated.stderr);
    migrator.revoke(root).await;
    assert!(!has_role(&tenant, &migrator.user).await);

    let api = log_in(&tenant).await;
    assert!(api.get(&format!("{mount}/creds/{name}-migrator")).await.is_err(), "the service is not the migrator");
    let lease = Lease::issue(&api, &tenant, &format!("{mount}/creds/{name}")).await;
    let mut session = tenant.connect(&lease.user, &lease.password).await.expect("the user logs in");
    sqlx::raw_sql("SELECT count(*) FROM notes").execute(&mut session).await.expect("it may read");
    assert!(sqlx::raw_sql("CREATE TABLE mine (x int)").execute(&mut session).await.is_err());
    let renewal = json!({ "lease_id": lease.id, "increment": "2h" });
    let renewed = api.put("sys/leases/renew", renewal).await.expect("a renewal");
    assert_eq!(renewed["lease_duration"], 2 * 60 * 60);
    let dropped = Lease::issue(&api, &tenant, &format!("{mount}/creds/{name}")).await;
    run_as_superuser(&tenant, format!("DROP ROLE \"{}\"", dropped.user)).await;
    dropped.revoke(&api).await;
    lease.revoke(&api).await;
    assert!(sqlx::raw_sql("SELECT 1").execute(&mut session).await.is_err(), "its session has ended");
    assert!(!has_role(&tenant, &lease.user).await);
}

#[tokio::test]
async fn the_documented_role_issues_a_certificate_for_the_listeners() {
    let tenant = SERVICE.migrated("documented_certificates").await;
    let (name, mount) = (tenant.name(), format!("pki-{}", tenant.name()));
    let places = [
        ("pki/", &*format!("{mount}/")),
        ("87600h pki", &format!("87600h {mount}")),
        ("enable pki", &format!("enable -path={mount} pki")),
        ("policy write \"$SERVICE\"", "policy write \"$SERVICE-certificates\""),
    ];
    let variables = [
        ("APP_SERVER__TLS", "true"),
        ("APP_SECRETS__IDS__SERVER_TLS", &*format!("{mount}/issue/{name}")),
        ("APP_SECRETS__VAULT__ISSUE__SERVER_TLS__COMMON_NAME", "notes.internal"),
    ];
    run_at_openbao(&tenant, &documented(MADE_BY_VAULT, "sh", 1, &places), &variables).await;
    let role = json!({ "token_policies": format!("{name}-certificates") });
    OpenBaoServer::shared().await.api().post(&format!("auth/approle/role/{name}"), role).await.expect("a role");
    let request = json!({ "common_name": "notes.internal" });
    let issued = log_in(&tenant).await.post(&format!("{mount}/issue/{name}"), request).await.expect("a certificate");
    tenant.remember("server_tls", issued["data"]["private_key"].as_str().expect("a key"));
    tenant.put("server_tls", &issued["data"].to_string()).await.expect("the manager stores it");
    let checked = SERVICE
        .launch(&tenant)
        .args(["check", "--live"])
        .env("APP_SERVER__TLS", "true")
        .env("APP_SERVER__TLS_NAMES", "notes.internal")
        .run();
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
}

#[tokio::test]
async fn the_documented_revocation_ends_all_users_and_an_audit_finds_none_of_them() {
    let leased = Leased::new("documented_revocation", "1h", "1h").await;
    let replicas = [leased.start().await, leased.start().await];
    let [one, other] = [0, 1].map(|index: usize| replicas[index].at.admin.as_str());
    let users = leased.users().await;
    let reload = format!("for at in {one} {other}; do APP_ADMIN__LISTEN=$at \"$SERVICE\" reload --wait; done");
    let places = [
        ("database/creds/payments", &*leased.id),
        ("# … reload each replica …", &reload),
        ("10.0.0.7:9090", one),
        ("10.0.0.8:9090", other),
    ];
    let environment = leased.tenant.env();
    let mut variables: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    variables.push(("APP_SECRETS__IDS__DATABASE", &leased.id));
    let commands = documented(WITH_LEASE, "sh", 0, &places);
    run_at_openbao(&leased.tenant, &commands, &variables).await;
    leased.wait_for_users(2).await;
    let now = leased.users().await;
    assert!(!users.iter().any(|user| now.contains(user)), "{users:?} and {now:?}");
}
