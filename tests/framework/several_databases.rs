//! A service with two databases (`vestibule/examples/two_databases`), and one with none.

use crate::support::{
    examples::{CONFIG_OF_EXAMPLES, example},
    reload_status::wait_for_generation,
};
use devstack::{Binary, Launch, RunningService, Signal, Stack, Tenant};
use std::sync::LazyLock;

const CONFIG: (&str, &str) = ("APP_CONFIG_DIR", CONFIG_OF_EXAMPLES);

/// The service with its section `[databases.reports]`.
static SHOP: LazyLock<Binary> =
    LazyLock::new(|| Binary::with_variables(shop(), &[CONFIG, ("APP_DATABASES__REPORTS__MAX_CONNECTIONS", "1")]));

fn shop() -> &'static str {
    example("two_databases").into_os_string().into_string().expect("a path of text").leak()
}

/// Returns the name of the role of a credential.
fn role(tenant: &Tenant, credential: &str) -> String {
    format!("{}_{credential}", tenant.name())
}

async fn sessions(running: &RunningService<'_>) -> [i32; 2] {
    let answer = running.get("/").await;
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("two process ids")
}

#[tokio::test]
async fn a_rotation_at_one_database_leaves_the_sessions_at_the_other_one() {
    let tenant = SHOP.migrated("two").await;
    let mut running = SHOP.start(&tenant).await;
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
    let shop = Binary::with_variables(shop(), &[CONFIG]);
    let tenant = shop.tenant("no_section").await;
    let migrated = shop.launch(&tenant).args(["migrate"]).run();
    assert_eq!(migrated.code, Some(78), "{}", migrated.stderr);
    assert!(migrated.stderr.contains("add the section [databases.reports]"), "{}", migrated.stderr);
    let checked = shop.launch(&tenant).env("APP_DATABASES__REPORTS__HOTS", "localhost").args(["check"]).run();
    assert_eq!(checked.code, Some(78), "{}", checked.stderr);
    assert!(checked.stderr.contains("APP_DATABASES__REPORTS__HOTS"), "{}", checked.stderr);
}

#[tokio::test]
async fn migrate_stops_at_the_first_database_that_fails_and_names_both() {
    let tenant = SHOP.tenant("one_fails").await;
    tenant.set_password(&role(&tenant, "migrator_reports"), "sentinel-elsewhere").await.expect("it is set");
    let migrated = SHOP.launch(&tenant).args(["migrate"]).run();
    assert_eq!(migrated.code, Some(77), "{}", migrated.stderr);
    assert!(migrated.stdout.contains("\"database\":\"database\""), "the first one is done: {}", migrated.stdout);
    assert!(migrated.stderr.contains("migrator_reports"), "{}", migrated.stderr);

    // The schema of the second database is behind, and the report says which one it is.
    let checked = SHOP.launch(&tenant).args(["check", "--live"]).env("APP_SECRETS__DEADLINE", "5s").run();
    assert_eq!(checked.code, Some(69), "{}", checked.stderr);
    assert!(checked.stderr.contains("database `reports` schema"), "{}", checked.stderr);
}

#[tokio::test]
async fn a_service_without_a_database_has_nothing_to_migrate() {
    let tenant = Stack::shared().await.tenant("none").await.expect("a tenant");
    let launch = || Launch::with_tenant(example("api_keys"), &tenant).env("APP_CONFIG_DIR", CONFIG_OF_EXAMPLES);
    let migrated = launch().args(["migrate"]).run();
    assert_eq!(migrated.code, Some(0), "{}", migrated.stderr);
    assert!(migrated.stdout.contains("there is nothing to migrate"), "{}", migrated.stdout);
}
