//! The commands other than `serve`.

use crate::{
    SERVICE,
    support::{
        configuration_folder::ConfigurationFolder,
        database::TableLock,
        launch_options::LaunchOptions,
        secrets::{current_version, scripted_manager},
    },
};
use devstack::{
    DEFAULT_TIMEOUT, FaultRule, RunningService, ScriptedFault, Signal, eventually, free_port, reqwest::StatusCode,
};
use serde_json::Value;
use std::{fs, time::Duration};

#[tokio::test]
async fn a_wrong_command_line_ends_with_64_and_help_with_0() {
    for arguments in [vec!["dance"], vec!["check", "--lively"], vec!["--config-dir"]] {
        let exited = SERVICE.launch_without_tenant().await.args(arguments.clone()).run();
        assert_eq!(exited.code, Some(64), "{arguments:?}");
        assert!(exited.stderr.contains("Usage") || exited.stderr.contains("--help"), "{}", exited.stderr);
    }
    let help = SERVICE.launch_without_tenant().await.args(["--help"]).run();
    assert_eq!(help.code, Some(0));
    for command in ["serve", "check", "migrate", "config", "openapi", "reload", "audit", "health"] {
        assert!(help.stdout.contains(command), "{command} is missing");
    }
    let version = SERVICE.launch_without_tenant().await.args(["--version"]).run();
    assert_eq!(version.stdout.trim(), concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_command_whose_output_cannot_be_written_ends_with_69() {
    let launch = async |script: &str, arguments: &[&str]| {
        let launch = SERVICE.launch_without_tenant().await.args(arguments.to_vec());
        launch.started_by(["sh", "-c", script, "sh"]).run()
    };
    for arguments in
        [&["openapi"][..], &["config"], &["config", "--json"], &["config", "--explain"], &["check"], &["--help"]]
    {
        let full = launch("exec \"$@\" > /dev/full", arguments).await;
        assert_eq!(full.code, Some(69), "{arguments:?}: {}", full.stderr);
        for part in ["standard output", "it cannot be written: ", "No space left on device"] {
            assert!(full.stderr.contains(part), "{arguments:?}: {part} is missing in {}", full.stderr);
        }
    }
    let wrong = launch("export APP_SERVER__DRAIN=soon; exec \"$@\" > /dev/full", &["check"]).await;
    assert_eq!(wrong.code, Some(78), "{}", wrong.stderr);
    // The first line is there, and the reader is gone before the last one.
    let script = "{ \"$@\"; echo $? >&2; } | head -1";
    let cut_off = launch(script, &["openapi"]).await;
    assert_eq!((cut_off.stdout.trim(), cut_off.stderr.trim()), ("{", "0"));
}

#[tokio::test]
async fn check_needs_no_manager_and_check_live_loads_the_credentials() {
    let tenant = SERVICE.tenant("check").await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let check = SERVICE.launch(&tenant).args(["check"]).env("AWS_ENDPOINT_URL", nowhere).run();
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    assert!(check.stdout.contains(&tenant.id("signing")));
    let behind = SERVICE.launch(&tenant).args(["check", "--live"]).run();
    assert_eq!(behind.code, Some(69), "{}", behind.stderr);
    assert_eq!(SERVICE.launch(&tenant).args(["migrate"]).run().code, Some(0));
    let live = SERVICE.launch(&tenant).args(["check", "--live"]).run();
    assert_eq!(live.code, Some(0), "{}", live.stderr);
    assert!(live.stdout.contains(&current_version(&tenant, "database").await));
    tenant.put("signing", "sentinel").await.unwrap();
    assert_eq!(SERVICE.launch(&tenant).args(["check", "--live"]).run().code, Some(65));
    assert_eq!(tenant.connections(&tenant.app_role()).await.unwrap(), 0);
}

#[tokio::test]
async fn config_prints_each_setting_and_its_source() {
    let tenant = SERVICE.tenant("config").await;
    let text = SERVICE.launch(&tenant).args(["config"]).env("APP_SERVER__DRAIN", "7s").run();
    assert_eq!(text.code, Some(0));
    assert!(text.stdout.contains("drain = \"7s\"  # variable APP_SERVER__DRAIN"), "{}", text.stdout);
    assert!(text.stdout.contains("default.toml:"), "{}", text.stdout);
    let json = SERVICE.launch(&tenant).args(["config", "--json"]).run();
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["settings"]["secrets"]["prefix"], tenant.prefix());
    let names: Vec<_> = json["credentials"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    for name in ["database", "signing", "migrator"] {
        assert!(names.contains(&name.into()), "{name} is missing in {names:?}");
    }
}

#[tokio::test]
async fn migrate_logs_in_in_the_window_of_a_rotation() {
    let tenant = SERVICE.tenant("migrate_window").await;
    let rotation = tenant.rotation("migrator");
    rotation.create_pending().await.unwrap();
    rotation.set().await.unwrap();
    let migrate = SERVICE.launch(&tenant).args(["migrate"]).run();
    assert_eq!(migrate.code, Some(0), "{}", tenant.redact(&migrate.stderr));
}

#[tokio::test]
async fn migrate_runs_twice_and_lets_the_service_read_and_write_only() {
    let tenant = SERVICE.migrated("migrate").await;
    let again = SERVICE.launch(&tenant).args(["migrate"]).run();
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
    // The same holds for tables of later migrations.
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    sqlx::raw_sql("CREATE TABLE later (x serial)").execute(&mut owner).await.unwrap();
    sqlx::raw_sql("INSERT INTO later DEFAULT VALUES").execute(&mut app).await.unwrap();
}

#[tokio::test]
async fn migrate_names_the_problem() {
    let tenant = SERVICE.migrated("migrate_wrong").await;
    let no_role = SERVICE.launch(&tenant).args(["migrate"]).env("APP_DATABASE__ACCESS_ROLE", "nobody_knows").run();
    assert_eq!(no_role.code, Some(78), "{}", no_role.stderr);
    assert!(no_role.stderr.contains("nobody_knows"));

    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    let changed = "UPDATE _sqlx_migrations SET checksum = '\\x00'";
    sqlx::raw_sql(changed).execute(&mut owner).await.unwrap();
    let changed = SERVICE.launch(&tenant).args(["migrate"]).run();
    assert_eq!(changed.code, Some(70), "{}", changed.stderr);
    assert!(changed.stderr.contains("migration 1") && changed.stderr.contains("new migration"), "{}", changed.stderr);

    let app_login = tenant.value("database", "AWSCURRENT").await.unwrap();
    tenant.put("migrator", &app_login).await.unwrap();
    let denied = SERVICE.launch(&tenant).args(["migrate"]).run();
    assert_eq!(denied.code, Some(77), "{}", denied.stderr);
    tenant.delete("migrator").await.unwrap();
    assert_eq!(SERVICE.launch(&tenant).args(["migrate"]).run().code, Some(66));
}

#[tokio::test]
async fn no_command_waits_for_a_lock_past_the_deadline() {
    let tenant = SERVICE.migrated("locked").await;
    let _lock = TableLock::on(&tenant, "_sqlx_migrations").await;
    let launch = |command: &str| SERVICE.launch(&tenant).args([command]).with_short_deadline();
    let migrate = launch("migrate").run();
    assert_eq!(migrate.code, Some(69), "{}", migrate.stderr);
    assert!(migrate.stderr.contains("lock"), "{}", migrate.stderr);
    let serve = launch("serve").run();
    assert_eq!(serve.code, Some(75), "{}", serve.stderr);
    assert!(serve.stderr.contains("database"), "{}", serve.stderr);
    let mut waiting = SERVICE.launch(&tenant).args(["migrate"]).start();
    let is_connected = async || tenant.connections(&tenant.migrator_role()).await.unwrap() > 0;
    eventually("a connection of the migrator", is_connected).await;
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.exited(DEFAULT_TIMEOUT).await.code, Some(128 + 15));
}

#[tokio::test]
async fn a_newer_migration_does_not_replace_a_missing_one() {
    let tenant = SERVICE.migrated("gap").await;
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    let newer = "DELETE FROM _sqlx_migrations WHERE version > 1; UPDATE _sqlx_migrations SET version = 99999999999999";
    sqlx::raw_sql(newer).execute(&mut owner).await.unwrap();
    let behind = SERVICE.launch(&tenant).run();
    assert_eq!(behind.code, Some(69), "{}", behind.stderr);
    assert!(behind.stderr.contains("not applied: 1"), "{}", behind.stderr);
}

#[tokio::test]
async fn serve_needs_no_migrator_and_accepts_a_newer_schema() {
    let tenant = SERVICE.migrated("newer").await;
    let mut owner = tenant.log_in("migrator", "AWSCURRENT").await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99999999999999, 'from the future', true, '\\x00', 1)";
    sqlx::raw_sql(newer).execute(&mut owner).await.unwrap();
    assert_eq!(
        SERVICE.launch(&tenant).args(["migrate"]).run().code,
        Some(0),
        "a binary that is rolled back may run migrate too"
    );
    tenant.delete("migrator").await.unwrap();
    SERVICE.start(&tenant).await;
}

#[tokio::test]
async fn health_queries_the_admin_listener() {
    let tenant = SERVICE.migrated("health").await;
    let running = SERVICE.start(&tenant).await;
    let run = |arguments: &[&str], at: &str| SERVICE.launch(&tenant).args(arguments).env("APP_ADMIN__LISTEN", at).run();
    for arguments in [vec!["health"], vec!["health", "ready"], vec!["health", "live"]] {
        let healthy = run(&arguments, &running.at.admin);
        assert_eq!(healthy.code, Some(0), "{}", healthy.stderr);
    }
    let everywhere = running.at.admin.replace("127.0.0.1", "0.0.0.0");
    assert_eq!(run(&["health"], &everywhere).code, Some(0));
    let launch = SERVICE.launch(&tenant).env("APP_SECRETS__MAX_STALE", "1s").env("APP_SECRETS__WHEN_STALE", "unready");
    let stale = RunningService::start(launch, &tenant).await;
    let is_unready = async || stale.admin("/readyz").await.0 == StatusCode::SERVICE_UNAVAILABLE;
    eventually("stale credentials", is_unready).await;
    assert_eq!(run(&["health", "live"], &stale.at.admin).code, Some(0));
    let unready = run(&["health", "ready"], &stale.at.admin);
    assert_eq!(unready.code, Some(69));
    assert!(unready.stderr.contains("max_stale"), "{}", unready.stderr);
    // Mistakes in other settings do not matter: the service goes on serving while somebody edits its files.
    let half_edited = SERVICE.launch(&tenant).args(["health", "live"]).env("APP_SERVER__DRAIN", "soon");
    let half_edited = half_edited.env("APP_ADMIN__LISTEN", &running.at.admin).run();
    assert_eq!(half_edited.code, Some(0), "{}", half_edited.stderr);
    assert_eq!(run(&["health", "live"], "nowhere").code, Some(78));
    // Nor does a file that is half written, or not there: the variables name the listener.
    let folder = ConfigurationFolder::new();
    folder.write("[database\n");
    let beside_half_a_file =
        |command: &str, at: &str| folder.launch(&tenant).args([command]).env("APP_ADMIN__LISTEN", at);
    let healthy = beside_half_a_file("health", &running.at.admin).run();
    assert_eq!(healthy.code, Some(0), "{}", healthy.stderr);
    let elsewhere = beside_half_a_file("health", &format!("127.0.0.1:{}", free_port())).run();
    assert!(elsewhere.code == Some(78) && elsewhere.stderr.contains("default.toml"), "{}", elsewhere.stderr);
    for command in ["reload", "debug-token"] {
        assert_eq!(beside_half_a_file(command, &running.at.admin).run().code, Some(78), "{command} does more than ask");
    }
    fs::remove_file(folder.path().join("default.toml")).expect("it is there");
    assert_eq!(beside_half_a_file("health", &running.at.admin).run().code, Some(0));
    let unreachable = run(&["health"], &format!("127.0.0.1:{}", free_port()));
    assert_eq!(unreachable.code, Some(69), "{}", unreachable.stderr);
}

#[tokio::test]
async fn reload_sends_the_signal_and_reports_the_outcome() {
    let tenant = SERVICE.migrated("reload").await;
    let manager = scripted_manager(&tenant).await;
    let running = RunningService::start(SERVICE.launch(&tenant).with_manager(&manager), &tenant).await;
    let reload = |arguments: &[&str]| {
        let arguments = [&["reload"], arguments].concat();
        SERVICE.launch(&tenant).args(arguments).env("APP_ADMIN__LISTEN", &running.at.admin).run()
    };
    let unchanged = reload(&["--wait"]);
    assert_eq!(unchanged.code, Some(0), "{}", unchanged.stderr);
    assert!(unchanged.stdout.contains("unchanged: generation 1"), "{}", unchanged.stdout);

    // It is slow, so that a command that does not wait would report the reload before.
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
    assert_eq!(reload(&["--pid", "2147483646"]).code, Some(64));
    let nobody =
        SERVICE.launch(&tenant).args(["reload"]).env("APP_ADMIN__LISTEN", format!("127.0.0.1:{}", free_port()));
    assert_eq!(nobody.run().code, Some(69));
}
