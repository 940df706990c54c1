//! The lanes of a storm: each makes one fault after the other, at random, while the others do the same.

use super::{
    Storm,
    chronicle::FaultKind::{self, *},
    configuration,
};
use crate::support::{
    database::TableLock,
    secrets::{current_version, login_with_password, password_at},
    tcp_proxy::{NewConnections, OpenFault},
};
use devstack::{FaultRule, ScriptedFault, Signal, Validity, eventually_within, send_signal};
use fastrand::Rng;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// All lanes of a storm.
pub(super) struct Lanes<'a> {
    storm: &'a Storm<'a>,
    seeds: Rng,
}

/// One lane.
struct Lane<'a> {
    storm: &'a Storm<'a>,
    random: Rng,
    end: Instant,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(storm: &'a Storm<'a>, seed: u64) -> Self {
        Self { storm, seeds: Rng::with_seed(seed) }
    }

    /// Runs all lanes. At the end, everything is mended.
    pub(super) async fn run(mut self, duration: Duration) {
        let end = Instant::now() + duration;
        let mut lane = || Lane { storm: self.storm, random: self.seeds.fork(), end };
        tokio::join!(
            lane().passwords(),
            lane().keys(),
            lane().signals(),
            lane().manager(),
            lane().network(),
            lane().database(),
        );
    }
}

impl Lane<'_> {
    /// Waits for a random time. Returns `false` at the end of the storm.
    async fn pause(&mut self, seconds: std::ops::Range<u64>) -> bool {
        self.wait(seconds).await;
        Instant::now() < self.end
    }

    async fn wait(&mut self, seconds: std::ops::Range<u64>) {
        let milliseconds = self.random.u64(seconds.start * 1000..seconds.end * 1000);
        sleep(Duration::from_millis(milliseconds)).await;
    }

    fn note(&self, kind: FaultKind, what: &str) {
        self.storm.chronicle.note(kind, what);
    }

    /// Sends SIGHUP in every other case.
    fn perhaps_signal(&mut self) {
        if self.random.bool() {
            self.signal();
        }
    }

    fn signal(&self) {
        self.note(Unnoticed, "SIGHUP");
        send_signal(self.storm.running.process.pid(), Signal::HUP).expect("the service runs");
    }

    async fn passwords(mut self) {
        let (tenant, chronicle) = (self.storm.tenant, &self.storm.chronicle);
        while self.pause(1..9).await {
            let password = devstack::random_password();
            let login = login_with_password(tenant, &password);
            match self.random.u8(0..4) {
                0 => {
                    let _gap = chronicle.begin(DifferentPasswords, "the database's password before the manager's");
                    tenant.set_password(&tenant.app_role(), &password).await.expect("the role exists");
                    self.wait_in_gap().await;
                    tenant.put("database", &login).await.expect("the manager stores it");
                }
                1 => {
                    let _gap = chronicle.begin(DifferentPasswords, "the manager's password before the database's");
                    tenant.put("database", &login).await.expect("the manager stores it");
                    self.perhaps_signal();
                    self.wait_in_gap().await;
                    tenant.set_password(&tenant.app_role(), &password).await.expect("the role exists");
                }
                2 => {
                    let rotation = tenant.rotation("database");
                    rotation.create_pending().await.expect("step 1");
                    let _gap = chronicle.begin(DifferentPasswords, "a rotation with a pending version");
                    // Not by `rotation.set()`, whose own connection another lane may end.
                    let pending = password_at(tenant, "AWSPENDING").await;
                    tenant.set_password(&tenant.app_role(), &pending).await.expect("the role exists");
                    self.wait_in_gap().await;
                    rotation.finish().await.expect("step 4");
                }
                _ => {
                    let good = tenant.value("database", "AWSCURRENT").await.expect("a login");
                    let _wrong = chronicle.begin(Unnoticed, "a wrong password at the manager");
                    tenant.put("database", &login).await.expect("the manager stores it");
                    self.perhaps_signal();
                    self.wait(4..5).await;
                    tenant.put("database", &good).await.expect("the manager stores it");
                }
            }
            self.perhaps_signal();
        }
    }

    /// Waits for a part of a rotation. In every other case, the service must log in again meanwhile.
    async fn wait_in_gap(&mut self) {
        if self.random.bool() {
            self.end_connections().await;
        }
        self.wait(0..3).await;
    }

    async fn end_connections(&self) {
        let _ending = self.storm.chronicle.begin(EndedConnections, "the database ends all connections");
        let tenant = self.storm.tenant;
        tenant.kill_connections(&tenant.app_role()).await.expect("PostgreSQL ends them");
    }

    async fn keys(mut self) {
        let tenant = self.storm.tenant;
        let mut revoked = Vec::new();
        while self.pause(1..6).await {
            match self.random.u8(0..4) {
                0 => self.rotate_signing_key().await,
                1 => {
                    self.note(Unnoticed, "another key of the webhook");
                    tenant.put_random("webhook", "api_key").await.expect("the manager stores it");
                    self.perhaps_signal();
                }
                2 => {
                    self.note(Unnoticed, "another certificate");
                    let identity = tenant.authority().local(Validity::days(90));
                    tenant.put_identity("server_tls", &identity).await.expect("the manager stores it");
                    self.perhaps_signal();
                }
                _ => {
                    revoked.push(current_version(tenant, "signing").await);
                    self.rotate_signing_key().await;
                    let _revoking = self.storm.chronicle.begin(RevokedKey, "a signing key is revoked");
                    self.storm.folder.write(&configuration(&revoked));
                    self.signal();
                    self.wait(1..2).await;
                }
            }
        }
    }

    /// Replaces the signing key, and waits until the service has it. A second rotation before that would end the time of
    /// the cursors that the first one left valid.
    async fn rotate_signing_key(&mut self) {
        self.note(SigningKey, "another signing key");
        let Storm { tenant, running, .. } = self.storm;
        let version = tenant.put("signing", &devstack::random_key()).await.expect("the manager stores it");
        self.perhaps_signal();
        eventually_within(Duration::from_secs(60), "the next signing key", async || {
            let held = running.credential("signing").await;
            if held["version"] == version { Ok(()) } else { Err(held) }
        })
        .await;
    }

    async fn signals(mut self) {
        while self.pause(2..12).await {
            for _ in 0..self.random.u8(1..5) {
                self.signal();
            }
        }
    }

    async fn manager(mut self) {
        while self.pause(4..16).await {
            let fault = match self.random.u8(0..4) {
                0 => ScriptedFault::Status(500, "InternalServiceError"),
                1 => ScriptedFault::BlackHole,
                2 => ScriptedFault::Reset,
                _ => ScriptedFault::Status(400, "ThrottlingException"),
            };
            let _away = self.storm.chronicle.begin(AbsentManager, format!("the manager is away: {fault:?}"));
            self.storm.manager.script([FaultRule::all(fault)]);
            self.wait(1..5).await;
            self.storm.manager.clear();
        }
    }

    async fn network(mut self) {
        let (proxy, chronicle) = (&self.storm.proxy, &self.storm.chronicle);
        while self.pause(2..9).await {
            let (kind, new_connections) = match self.random.u8(0..6) {
                0 => {
                    self.note(EndedConnections, "the network resets all connections");
                    proxy.fail_open_connections(OpenFault::Reset);
                    continue;
                }
                1 => {
                    self.note(EndedConnections, "the network closes all connections");
                    proxy.fail_open_connections(OpenFault::Close);
                    continue;
                }
                2 => {
                    self.note(SwallowedConnections, "all open connections become a black hole");
                    proxy.fail_open_connections(OpenFault::Swallow);
                    continue;
                }
                3 => (RefusedLogins, NewConnections::Reset),
                4 => (SwallowedLogins, NewConnections::Swallowed),
                _ => (Unnoticed, NewConnections::Delayed(Duration::from_millis(300))),
            };
            let _window = chronicle.begin(kind, format!("new connections: {new_connections:?}"));
            proxy.set_new_connections(new_connections);
            self.wait(0..2).await;
            proxy.set_new_connections(NewConnections::Forwarded);
        }
    }

    async fn database(mut self) {
        let Storm { tenant, chronicle, .. } = self.storm;
        while self.pause(3..12).await {
            if self.random.bool() {
                self.end_connections().await;
            } else {
                let _locked = chronicle.begin(LockedTable, "a table is locked");
                let lock = TableLock::on(tenant, "notes").await;
                sleep(Duration::from_secs(1)).await;
                lock.release().await;
            }
        }
    }
}
