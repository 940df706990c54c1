//! Many rotations: no client notices one, and none leaves anything behind.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        load::Load,
        metrics_page::MetricsPage,
        process::{open_files, resident_kilobytes},
        secrets::login_with_password,
        time_waits::let_time_pass,
    },
};
use devstack::{RunningService, Tenant, reqwest::StatusCode};
use sqlx::{AssertSqlSafe, PgConnection};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_rotations_under_load_fail_no_request() {
    let tenant = SERVICE.migrated("twenty").await;
    let mut running = SERVICE.start(&tenant).await;
    let load = Load::on(&running, 16);
    for round in 1..=20 {
        let rotation = tenant.rotation("database");
        rotation.create_pending().await.unwrap();
        rotation.set().await.unwrap();
        // In a long window the service may load the pending version by itself.
        let_time_pass("each window is longer than the one before", Duration::from_millis(10 * round)).await;
        rotation.finish().await.unwrap();
        let reload = running.reload().await;
        assert_ne!(reload["outcome"], "kept", "{reload}");
        assert_eq!(running.credential("database").await["version"], rotation.version());
    }
    let answers = load.stop().await;
    assert_eq!(answers.failed, Vec::<String>::new());
    assert!(answers.served > 200, "{} requests are not many", answers.served);
    assert!(running.status().await["generation"].as_u64() > Some(20));
}

/// The things that a process holds, and that could grow with each reload.
#[derive(Debug)]
struct Footprint {
    connections: usize,
    files: usize,
    tasks: u64,
    kilobytes: u64,
}

impl Footprint {
    async fn of(running: &RunningService<'_>, tenant: &Tenant) -> Self {
        let pid = running.process.pid();
        Self {
            connections: tenant.connections(&tenant.app_role()).await.expect("a count"),
            files: open_files(pid),
            tasks: MetricsPage::of(running).await.get("tokio_alive_tasks") as u64,
            kilobytes: resident_kilobytes(pid),
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn five_hundred_reloads_leave_nothing_behind() {
    let tenant = SERVICE.migrated("five_hundred").await;
    let mut running = SERVICE.start(&tenant).await;
    let note = running.create_note("a note").await;
    let mut admin = tenant.admin().await.unwrap();
    // Every password begins with it, and only it is searched for. The search of each page for 500 passwords would take
    // longer than the reloads.
    let sentinel = devstack::random_password();
    tenant.remember("database", &sentinel);
    let mut early = None;
    for number in 1..=500 {
        set_password(&tenant, &mut admin, &format!("{sentinel}{number}")).await;
        let reload = running.reload().await;
        // A reload for the old password, which is rejected by now, may have published the new one before this reload.
        assert_ne!(reload["outcome"], "kept", "{reload}");
        assert_eq!(running.get(&note).await.status(), StatusCode::OK);
        if number == 50 {
            early = Some(settled_footprint(&running, &tenant).await);
        }
    }
    let (early, late) = (early.expect("the 50th reload was one of them"), settled_footprint(&running, &tenant).await);
    println!("after 50 reloads {early:?}, after 500 {late:?}");
    assert_eq!(running.status().await["generation"], 501);
    assert!(running.status().await["draining"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(late.connections, early.connections, "{late:?} after {early:?}");
    assert!(late.files <= early.files && late.tasks <= early.tasks, "{late:?} after {early:?}");
    assert!(late.kilobytes * 10 <= early.kilobytes * 11, "{late:?} after {early:?}");
}

/// Sets a password in the database and at the manager, with as few requests as possible.
async fn set_password(tenant: &Tenant, admin: &mut PgConnection, next: &str) {
    let statement: String = sqlx::query_scalar("SELECT format('ALTER ROLE %I PASSWORD %L', $1, $2)")
        .bind(tenant.app_role())
        .bind(next)
        .fetch_one(&mut *admin)
        .await
        .expect("a statement");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(admin).await.expect("the role exists");
    let secret = login_with_password(tenant, next);
    let put = tenant.client().put_secret_value().secret_id(tenant.id("database")).secret_string(secret);
    put.send().await.expect("the manager stores it");
}

/// Returns the footprint when the last generation has drained.
async fn settled_footprint(running: &RunningService<'_>, tenant: &Tenant) -> Footprint {
    let_time_pass("sockets and tasks of the last generation end after it", Duration::from_secs(2)).await;
    Footprint::of(running, tenant).await
}
