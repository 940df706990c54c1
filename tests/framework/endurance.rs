//! Many rotations: none is noticed, and none leaves anything behind.

use crate::{Notes, RunningService, metrics::Samples, migrated, service};
use devstack::{
    Tenant,
    reqwest::{Client, StatusCode},
};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection};
use std::{fs, time::Duration};
use tokio::{sync::watch, task::JoinSet};

/// Requests without a pause, until told to stop.
struct Load {
    stop: watch::Sender<bool>,
    clients: JoinSet<Answers>,
}

#[derive(Default)]
struct Answers {
    served: usize,
    failed: Vec<String>,
}

impl Load {
    fn on(running: &RunningService<'_>, clients: usize) -> Self {
        let (stop, stopped) = watch::channel(false);
        let url = format!("http://{}/v1/notes", running.at.public);
        let client = |_| Self::client(url.clone(), stopped.clone());
        Self { stop, clients: (0..clients).map(client).collect() }
    }

    async fn client(url: String, stopped: watch::Receiver<bool>) -> Answers {
        let client = Client::builder().no_proxy().build().expect("a client");
        let mut answers = Answers::default();
        while !*stopped.borrow() {
            let post = answers.served % 10 == 0;
            let request = if post {
                client.post(&url).json(&json!({ "body": "load" }))
            } else {
                client.get(format!("{url}?limit=5"))
            };
            match request.send().await {
                Ok(answer) if answer.status().is_success() => answers.served += 1,
                Ok(answer) => answers.failed.push(answer.status().to_string()),
                Err(error) => answers.failed.push(error.to_string()),
            }
        }
        answers
    }

    async fn stop(self) -> Answers {
        self.stop.send_replace(true);
        let all = self.clients.join_all().await.into_iter();
        all.fold(Answers::default(), |mut sum, mut one| {
            sum.served += one.served;
            sum.failed.append(&mut one.failed);
            sum
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_rotations_under_load_fail_no_request() {
    let tenant = migrated("twenty").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    let load = Load::on(&running, 16);
    for round in 1..=20 {
        let rotation = tenant.rotation("database");
        rotation.create_pending().await.unwrap();
        rotation.set().await.unwrap();
        // Longer in the window now and then: the service may take up the pending version by itself.
        tokio::time::sleep(Duration::from_millis(10 * round)).await;
        rotation.finish().await.unwrap();
        let reload = running.reload().await;
        assert_ne!(reload["outcome"], "kept", "{reload}");
        assert_eq!(running.credential("database").await["version"], rotation.version());
    }
    let answers = load.stop().await;
    assert_eq!(answers.failed, Vec::<String>::new());
    assert!(answers.served > 200, "{} requests are no load", answers.served);
    assert!(running.status().await["generation"].as_u64() > Some(20));
}

/// What a process holds.
#[derive(Debug)]
struct Footprint {
    connections: usize,
    files: usize,
    tasks: u64,
    kilobytes: u64,
}

impl Footprint {
    async fn of(running: &RunningService<'_>, tenant: &Tenant) -> Self {
        let process = format!("/proc/{}", running.process.pid());
        let status = fs::read_to_string(format!("{process}/status")).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        Self {
            connections: tenant.connections(&tenant.app_role()).await.expect("a count"),
            files: fs::read_dir(format!("{process}/fd")).expect("it runs").count(),
            tasks: Samples::of(running).await.get("tokio_alive_tasks") as u64,
            kilobytes: resident.trim().trim_end_matches(" kB").parse().expect("a number"),
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn five_hundred_reloads_leave_nothing_behind() {
    let tenant = migrated("five_hundred").await;
    let mut running = RunningService::start(service(&tenant), &tenant).await;
    let note = running.create("a note").await;
    let mut admin = tenant.admin().await.unwrap();
    // Every password begins with it: to search each page for all of them would take longer than the reloads.
    let sentinel = devstack::random_password();
    tenant.remember("database", &sentinel);
    let mut early = None;
    for trip in 1..=500 {
        renew(&tenant, &mut admin, &format!("{sentinel}{trip}")).await;
        let reload = running.reload().await;
        assert_eq!(reload["outcome"], "published", "{reload}");
        assert_eq!(running.get(&note).await.status(), StatusCode::OK);
        if trip == 50 {
            early = Some(settled(&running, &tenant).await);
        }
    }
    let (early, late) = (early.expect("trip 50 came"), settled(&running, &tenant).await);
    println!("after 50 reloads {early:?}, after 500 {late:?}");
    assert_eq!(running.status().await["generation"], 501);
    assert!(running.status().await["draining"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(late.connections, early.connections, "{late:?} after {early:?}");
    assert!(late.files <= early.files && late.tasks <= early.tasks, "{late:?} after {early:?}");
    assert!(late.kilobytes * 10 <= early.kilobytes * 11, "{late:?} after {early:?}");
}

/// Another password in the database and at the manager, in as few steps as there are.
async fn renew(tenant: &Tenant, admin: &mut PgConnection, next: &str) {
    let statement: String = sqlx::query_scalar("SELECT format('ALTER ROLE %I PASSWORD %L', $1, $2)")
        .bind(tenant.app_role())
        .bind(next)
        .fetch_one(&mut *admin)
        .await
        .expect("it is done");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(admin).await.expect("it is done");
    let secret = json!({ "username": tenant.app_role(), "password": next }).to_string();
    tenant
        .client()
        .put_secret_value()
        .secret_id(tenant.id("database"))
        .secret_string(secret)
        .send()
        .await
        .expect("it is done");
}

/// What it holds when the last generation has drained.
async fn settled(running: &RunningService<'_>, tenant: &Tenant) -> Footprint {
    tokio::time::sleep(Duration::from_secs(2)).await;
    Footprint::of(running, tenant).await
}
