//! A service with two databases (`vestibule/examples/two_databases`), and one with none.

use crate::support::{
    examples::{config_of_examples, example},
    reload_status::wait_for_generation,
};
use devstack::{Launch, RunningService, Signal, Stack, Tenant};

/// Returns a tenant with the credentials of both databases. It has the database of `[database]` alone.
async fn without_section(label: &str) -> Tenant {
    let tenant = Stack::shared().await.tenant(label).await.expect("a tenant");
    for credential in ["reports", "migrator_reports"] {
        tenant.put_random_login(credential).await.expect("a role and its secret");
    }
    tenant
}

/// Returns a tenant with both databases, as `cargo dev` makes one.
async fn with_reports(label: &str) -> Tenant {
    let mut tenant = without_section(label).await;
    let database = role(&tenant, "db");
    tenant.add_database("reports", &database, "migrator_reports").await.expect("a database");
    tenant
}

/// Returns a name of the tenant's own.
fn role(tenant: &Tenant, credential: &str) -> String {
    format!("{}_{credential}", tenant.name())
}

fn launch(tenant: &Tenant) -> Launch {
    Launch::with_tenant(example("two_databases"), tenant).env("APP_CONFIG_DIR", config_of_examples())
}

async fn sessions(running: &RunningService<'_>) -> [i32; 2] {
    let answer = running.get("/").await;
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("two process ids")
}

#[tokio::test]
async fn a_rotation_at_one_database_leaves_the_sessions_at_the_other_one() {
    let tenant = with_reports("two").await;
    let migrated = launch(&tenant).args(["migrate"]).run();
    assert_eq!(migrated.code, Some(0), "{}", migrated.stderr);
    let mut running = RunningService::start(launch(&tenant), &tenant).await;
    let [orders, reports] = sessions(&running).await;
    let version = tenant.rotate("reports").await.expect("a rotation");
    running.process.signal(Signal::HUP);
    wait_for_generation(&running, 2).await;
    assert_eq!(running.credential("reports").await["version"], version);
    let after = sessions(&running).await;
    assert_eq!(after[0], orders, "the pool of [database] goes on");
    assert_ne!(after[1], reports, "the other pool uses the session that proved the new version");
    assert_eq!(tenant.rejected_logins(&role(&tenant, "reports")).expect("the log"), 0);
}

#[tokio::test]
async fn a_database_without_its_section_ends_each_command_with_the_name_of_the_section() {
    let tenant = without_section("no_section").await;
    let migrated = launch(&tenant).args(["migrate"]).run();
    assert_eq!(migrated.code, Some(78), "{}", migrated.stderr);
    assert!(migrated.stderr.contains("add the section [databases.reports]"), "{}", migrated.stderr);
    let checked = launch(&tenant).env("APP_DATABASES__REPORTS__HOTS", "localhost").args(["check"]).run();
    assert_eq!(checked.code, Some(78), "{}", checked.stderr);
    assert!(checked.stderr.contains("APP_DATABASES__REPORTS__HOTS"), "{}", checked.stderr);
}

#[tokio::test]
async fn migrate_stops_at_the_first_database_that_fails_and_names_both() {
    let tenant = with_reports("one_fails").await;
    tenant.set_password(&role(&tenant, "migrator_reports"), "sentinel-elsewhere").await.expect("it is set");
    let migrated = launch(&tenant).args(["migrate"]).run();
    assert_eq!(migrated.code, Some(77), "{}", migrated.stderr);
    assert!(migrated.stdout.contains("\"database\":\"database\""), "the first one is done: {}", migrated.stdout);
    assert!(migrated.stderr.contains("migrator_reports"), "{}", migrated.stderr);

    // The schema of the second database is behind, and the report says which one it is.
    let checked = launch(&tenant).args(["check", "--live"]).env("APP_SECRETS__DEADLINE", "5s").run();
    assert_eq!(checked.code, Some(69), "{}", checked.stderr);
    assert!(checked.stderr.contains("database `reports` schema"), "{}", checked.stderr);
}

#[tokio::test]
async fn a_service_without_a_database_has_nothing_to_migrate() {
    let tenant = Stack::shared().await.tenant("none").await.expect("a tenant");
    let launch = || Launch::with_tenant(example("api_keys"), &tenant).env("APP_CONFIG_DIR", config_of_examples());
    let migrated = launch().args(["migrate"]).run();
    assert_eq!(migrated.code, Some(0), "{}", migrated.stderr);
    assert!(migrated.stdout.contains("there is nothing to migrate"), "{}", migrated.stdout);
}
