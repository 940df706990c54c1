//! The commands beside `serve`.

use crate::{DEFAULT_TIMEOUT, RunningService, SERVICE, SHORT, free_port, migrated, scripted, service, tenant};
use devstack::{FaultRule, ScriptedFault, Signal};
use serde_json::Value;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_wrong_command_line_ends_with_64_and_help_with_0() {
    for arguments in [vec!["dance"], vec!["check", "--lively"], vec!["--config-dir"]] {
        let exited = SERVICE.launch_without_tenant().await.args(arguments.clone()).run();
        assert_eq!(exited.code, Some(64), "{arguments:?}");
        assert!(exited.stderr.contains("Usage") || exited.stderr.contains("--help"), "{}", exited.stderr);
    }
    let help = SERVICE.launch_without_tenant().await.args(["--help"]).run();
    assert_eq!(help.code, Some(0));
    for command in ["serve", "check", "migrate", "config", "reload", "audit", "health"] {
        assert!(help.stdout.contains(command), "{command} is missing");
    }
    let version = SERVICE.launch_without_tenant().await.args(["--version"]).run();
    assert_eq!(version.stdout.trim(), concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn check_needs_no_manager_and_check_live_walks_the_road() {
    let tenant = tenant("check").await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let check = service(&tenant).args(["check"]).env("AWS_ENDPOINT_URL", nowhere).run();
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    assert!(check.stdout.contains(&tenant.id("signing")));
    let behind = service(&tenant).args(["check", "--live"]).run();
    assert_eq!(behind.code, Some(69), "{}", behind.stderr);
    assert_eq!(service(&tenant).args(["migrate"]).run().code, Some(0));
    let live = service(&tenant).args(["check", "--live"]).run();
    assert_eq!(live.code, Some(0), "{}", live.stderr);
    assert!(live.stdout.contains(&tenant.version("database", "AWSCURRENT").await.unwrap().unwrap()));
    tenant.put("signing", "sentinel").await.unwrap();
    assert_eq!(service(&tenant).args(["check", "--live"]).run().code, Some(65));
    assert_eq!(tenant.connections(&tenant.app_role()).await.unwrap(), 0);
}

#[tokio::test]
async fn config_prints_what_counts_and_where_it_came_from() {
    let tenant = tenant("config").await;
    let text = service(&tenant).args(["config"]).env("APP_SERVER__DRAIN", "7s").run();
    assert_eq!(text.code, Some(0));
    assert!(text.stdout.contains("drain = \"7s\"  # variable APP_SERVER__DRAIN"), "{}", text.stdout);
    assert!(text.stdout.contains("default.toml:"), "{}", text.stdout);
    let json = service(&tenant).args(["config", "--json"]).run();
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["settings"]["secrets"]["prefix"], tenant.prefix());
    let names: Vec<_> = json["credentials"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    for name in ["database", "signing", "migrator"] {
        assert!(names.contains(&name.into()), "{name} is missing in {names:?}");
    }
}

#[tokio::test]
async fn migrate_logs_in_in_the_window_of_a_rotation() {
    let tenant = tenant("migrate_window").await;
    let rotation = tenant.rotation("migrator");
    rotation.create_pending().await.unwrap();
    rotation.set().await.unwrap();
    let migrate = service(&tenant).args(["migrate"]).run();
    assert_eq!(migrate.code, Some(0), "{}", tenant.redact(&migrate.stderr));
}

#[tokio::test]
async fn migrate_runs_twice_and_lets_the_service_read_and_write_only() {
    let tenant = migrated("migrate").await;
    let again = service(&tenant).args(["migrate"]).run();
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    let mut app = tenant.log_in("database", "AWSCURRENT").await.unwrap();
    sqlx::raw_sql("SELECT count(*) FROM notes").execute(&mut app).await.unwrap();
    for forbidden in [
        "DROP TABLE notes",
        "ALTER TABLE notes ADD COLUMN x int",
        "CREATE TABLE other (x int)",
        "DELETE FROM _sqlx_migrations",
    ] {
        let error = sqlx::raw_sql(forbidden).execute(&mut app).await.expect_err(forbidden);
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("42501"), "{forbidden}");
    }
    // Tables of later migrations too.
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    sqlx::raw_sql("CREATE TABLE later (x serial)").execute(&mut owner).await.unwrap();
    sqlx::raw_sql("INSERT INTO later DEFAULT VALUES").execute(&mut app).await.unwrap();
}

#[tokio::test]
async fn migrate_says_what_is_wrong() {
    let tenant = migrated("migrate_wrong").await;
    let no_role = service(&tenant).args(["migrate"]).env("APP_DATABASE__ACCESS_ROLE", "nobody_knows").run();
    assert_eq!(no_role.code, Some(78), "{}", no_role.stderr);
    assert!(no_role.stderr.contains("nobody_knows"));

    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    let changed = "UPDATE _sqlx_migrations SET checksum = '\\x00'";
    sqlx::raw_sql(changed).execute(&mut owner).await.unwrap();
    let changed = service(&tenant).args(["migrate"]).run();
    assert_eq!(changed.code, Some(70), "{}", changed.stderr);
    assert!(changed.stderr.contains("migration 1") && changed.stderr.contains("new migration"), "{}", changed.stderr);

    let weak = tenant.value("database", "AWSCURRENT").await.unwrap();
    tenant.put("migrator", &weak).await.unwrap();
    let denied = service(&tenant).args(["migrate"]).run();
    assert_eq!(denied.code, Some(77), "{}", denied.stderr);
    tenant.delete("migrator").await.unwrap();
    assert_eq!(service(&tenant).args(["migrate"]).run().code, Some(66));
}

#[tokio::test]
async fn nothing_waits_for_a_lock_past_the_deadline() {
    let tenant = migrated("locked").await;
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE _sqlx_migrations").execute(&mut admin).await.unwrap();
    let quick = |command: &str| service(&tenant).args([command]).env("APP_SECRETS__DEADLINE", SHORT);
    let migrate = quick("migrate").run();
    assert_eq!(migrate.code, Some(69), "{}", migrate.stderr);
    assert!(migrate.stderr.contains("lock"), "{}", migrate.stderr);
    let serve = quick("serve").run();
    assert_eq!(serve.code, Some(75), "{}", serve.stderr);
    assert!(serve.stderr.contains("database"), "{}", serve.stderr);
    let mut waiting = service(&tenant).args(["migrate"]).start();
    let start = Instant::now();
    while tenant.connections(&tenant.migrator_role()).await.unwrap() == 0 {
        assert!(start.elapsed() < DEFAULT_TIMEOUT);
    }
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.exited(DEFAULT_TIMEOUT).await.code, Some(128 + 15));
}

#[tokio::test]
async fn a_newer_migration_does_not_stand_in_for_a_missing_one() {
    let tenant = migrated("gap").await;
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    let newer = "DELETE FROM _sqlx_migrations WHERE version > 1; UPDATE _sqlx_migrations SET version = 99999999999999";
    sqlx::raw_sql(newer).execute(&mut owner).await.unwrap();
    let behind = service(&tenant).run();
    assert_eq!(behind.code, Some(69), "{}", behind.stderr);
    assert!(behind.stderr.contains("not applied: 1"), "{}", behind.stderr);
}

#[tokio::test]
async fn serve_needs_no_migrator_and_accepts_a_newer_schema() {
    let tenant = migrated("newer").await;
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99999999999999, 'from the future', true, '\\x00', 1)";
    sqlx::raw_sql(newer).execute(&mut owner).await.unwrap();
    assert_eq!(service(&tenant).args(["migrate"]).run().code, Some(0), "a rollback may run migrate too");
    tenant.delete("migrator").await.unwrap();
    RunningService::start(service(&tenant), &tenant).await;
}

#[tokio::test]
async fn health_asks_the_admin_listener() {
    let tenant = migrated("health").await;
    let running = RunningService::start(service(&tenant), &tenant).await;
    let ask = |arguments: &[&str], at: &str| service(&tenant).args(arguments).env("APP_ADMIN__LISTEN", at).run();
    for arguments in [vec!["health"], vec!["health", "ready"], vec!["health", "live"]] {
        let asked = ask(&arguments, &running.at.admin);
        assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    }
    let everywhere = running.at.admin.replace("127.0.0.1", "0.0.0.0");
    assert_eq!(ask(&["health"], &everywhere).code, Some(0));
    let launch = service(&tenant)
        .env("APP_SECRETS__REFRESH_EVERY", "0s")
        .env("APP_SECRETS__MAX_STALE", "1s")
        .env("APP_SECRETS__WHEN_STALE", "unready");
    let stale = RunningService::start(launch, &tenant).await;
    // max_stale, and up to a tenth more.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(ask(&["health", "live"], &stale.at.admin).code, Some(0));
    let unready = ask(&["health", "ready"], &stale.at.admin);
    assert_eq!(unready.code, Some(69));
    assert!(unready.stderr.contains("max_stale"), "{}", unready.stderr);
    // Other mistakes do not concern it: the service goes on serving while its files are half edited.
    let half_edited = service(&tenant).args(["health", "live"]).env("APP_SERVER__DRAIN", "soon");
    let half_edited = half_edited.env("APP_ADMIN__LISTEN", &running.at.admin).run();
    assert_eq!(half_edited.code, Some(0), "{}", half_edited.stderr);
    assert_eq!(ask(&["health", "live"], "nowhere").code, Some(78));
    let nobody = ask(&["health"], &format!("127.0.0.1:{}", free_port()));
    assert_eq!(nobody.code, Some(69), "{}", nobody.stderr);
}

#[tokio::test]
async fn reload_sends_the_signal_and_tells_what_came_of_it() {
    let tenant = migrated("reload").await;
    let manager = scripted(&tenant).await;
    let running = RunningService::start(service(&tenant).env("AWS_ENDPOINT_URL", manager.endpoint()), &tenant).await;
    let reload = |arguments: &[&str]| {
        let arguments = [&["reload"], arguments].concat();
        service(&tenant).args(arguments).env("APP_ADMIN__LISTEN", &running.at.admin).run()
    };
    let unchanged = reload(&["--wait"]);
    assert_eq!(unchanged.code, Some(0), "{}", unchanged.stderr);
    assert!(unchanged.stdout.contains("unchanged: generation 1"), "{}", unchanged.stdout);

    // Slow enough for the one before to be told instead.
    manager.script([FaultRule::on(tenant.id("database"), ScriptedFault::Delay(Duration::from_millis(500)))]);
    tenant.rotate("database").await.unwrap();
    let published = reload(&["--wait"]);
    assert_eq!(published.code, Some(0), "{}", published.stderr);
    assert!(published.stdout.contains("published: generation 2"), "{}", published.stdout);

    tenant.put("signing", "sentinel, and no key").await.unwrap();
    let kept = reload(&["--wait", "--pid", &running.process.pid().to_string()]);
    assert_eq!(kept.code, Some(65), "{}", kept.stderr);
    assert!(kept.stderr.contains("credential `signing`") && kept.stderr.contains("stays"), "{}", kept.stderr);

    let seen = running.status().await["signals"]["seen"].clone();
    assert_eq!(reload(&[]).code, Some(0));
    assert_eq!(reload(&["--pid", &running.process.pid().to_string()]).code, Some(0));
    running
        .wait_until("two more signals", |status| status["signals"]["seen"].as_u64() > seen.as_u64().map(|n| n + 1))
        .await;

    assert_eq!(reload(&["--pid", "0"]).code, Some(64));
    assert_eq!(reload(&["--pid", "2147483646"]).code, Some(69));
    let nobody = service(&tenant).args(["reload"]).env("APP_ADMIN__LISTEN", format!("127.0.0.1:{}", free_port()));
    assert_eq!(nobody.run().code, Some(69));
}
