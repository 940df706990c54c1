//! A cluster of three real OpenBao nodes: what a service under load does while its leader goes.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        configuration_folder::ConfigurationFolder, log_events::events_of_level, reload_status::assert_kept,
        secrets::moved_to,
    },
};
use devstack::{
    ExitedProcess, OpenBaoServer, RunningService, Signal, Stack, Tenant, eventually_within, random_key, send_signal,
};
use serde_json::json;
use std::time::Duration;

/// Time for an election on a busy machine. A reload ends as soon as there is a leader.
const LONG_DEADLINE: &str = "60s";
/// Time of a reload that must fail.
const SHORT_DEADLINE: &str = "5s";
/// The longest wait for a command `reload`.
const LIMIT: Duration = Duration::from_secs(90);

/// A service whose secrets are at a cluster.
struct ClusterClient<'a> {
    folder: &'a ConfigurationFolder,
    nodes: &'a [OpenBaoServer; 3],
    tenant: &'a Tenant,
    running: &'a RunningService<'a>,
}

// One after another, with one cluster: three nodes take seconds to start.
#[tokio::test]
async fn a_cluster_that_loses_its_leader_fails_no_request_and_no_rotation() {
    let nodes = Stack::shared().await.openbao_cluster(&|_| ()).await.unwrap();
    let tenant = moved_to(&nodes[0], SERVICE.migrated_at_openbao("bao_cluster").await).await;
    a_standby_answers_with_the_newest_version(&tenant, &nodes[1]).await;

    let addresses = nodes.each_ref().map(|node| node.api().address()).join(",");
    let folder = ConfigurationFolder::new();
    let launch = folder.launch(&tenant).env("APP_SECRETS__VAULT__ADDRESSES", addresses);
    set_deadline(&folder, LONG_DEADLINE);
    let running = RunningService::start(launch, &tenant).await;
    let client = ClusterClient { folder: &folder, nodes: &nodes, tenant: &tenant, running: &running };
    let requests = async {
        loop {
            running.create_note("under load").await;
        }
    };
    let ends_of_leaders = async {
        client.takes_up_a_rotation("while all is well").await;
        client.outlives_a_step_down().await;
        client.outlives_a_frozen_leader().await;
        client.outlives_a_dead_leader().await;
        let errors = events_of_level(&running.process, "ERROR");
        assert!(errors.is_empty(), "one attempt of a reload has time for the next leader: {errors:?}");
        client.keeps_what_it_has_without_a_quorum().await;
    };
    tokio::select! {
        never = requests => never,
        () = ends_of_leaders => (),
    }
}

/// Sets the deadline of the reloads that begin from now on.
fn set_deadline(folder: &ConfigurationFolder, deadline: &str) {
    folder.write(&format!("[secrets]\ndeadline = \"{deadline}\"\n"));
}

async fn a_standby_answers_with_the_newest_version(tenant: &Tenant, standby: &OpenBaoServer) {
    let launch = SERVICE.launch(tenant).env("APP_SECRETS__VAULT__ADDRESSES", standby.api().address());
    let mut running = RunningService::start(launch, tenant).await;
    // A standby lags behind by some milliseconds, and answers reads itself if nobody asks it not to.
    for _ in 0..20 {
        let version = tenant.put("signing", &random_key()).await.expect("an answer");
        assert_eq!(running.reload().await["outcome"], "published");
        assert_eq!(running.credential("signing").await["version"], version);
    }
    assert!(!standby.is_active().await, "it is still a standby");
}

impl ClusterClient<'_> {
    async fn outlives_a_step_down(&self) {
        self.leader().await.api().put("sys/step-down", json!({})).await.expect("an answer");
        self.reloads("at a step-down").await;
        self.takes_up_a_rotation("after a step-down").await;
    }

    async fn outlives_a_frozen_leader(&self) {
        let frozen = self.leader().await;
        send_signal(frozen.pid(), Signal::STOP).expect("it runs");
        self.reloads("while the leader is frozen").await;
        self.takes_up_a_rotation_at(self.others(frozen)[0], "while the leader before is frozen").await;
        // If it thaws, it takes itself for the active node for half a minute and more (OpenBao 2.7.2), beside the other one.
        frozen.kill();
        frozen.restart().await.expect("it starts");
    }

    async fn outlives_a_dead_leader(&self) {
        let dead = self.leader().await;
        dead.kill();
        self.reloads("after the leader was killed").await;
        self.takes_up_a_rotation_at(self.others(dead)[0], "without the leader before").await;
        dead.restart().await.expect("it starts");
    }

    async fn keeps_what_it_has_without_a_quorum(&self) {
        let leader = self.leader().await;
        let [standby, last] = self.others(leader);
        let before = self.running.status().await["generation"].clone();
        standby.kill();
        leader.kill();
        set_deadline(self.folder, SHORT_DEADLINE);
        let address = |node: &OpenBaoServer| node.api().address().trim_start_matches("https://").to_owned();
        let no_leader = format!("{} is a standby, and finds no active node", address(last));
        // Until the last node knows that, it passes requests on to the dead leader, and does not answer in time.
        let failed = eventually_within(LIMIT, "a standby that knows of no leader", async || {
            let failed = self.reload().await;
            assert_eq!(failed.code, Some(69), "{}", failed.stderr);
            if failed.stderr.contains(&no_leader) { Ok(failed) } else { Err(failed.stderr) }
        })
        .await;
        set_deadline(self.folder, LONG_DEADLINE);
        for text in [&address(standby), &address(leader), "Connection refused", "most of the nodes run"] {
            assert!(failed.stderr.contains(text), "{text:?} is missing in:\n{}", failed.stderr);
        }
        let status = self.running.status().await;
        assert_kept(&status["last_reload"], 69);
        assert_eq!(status["generation"], before);
        self.running.create_note("without a quorum").await;
        standby.restart().await.expect("it starts");
        self.reloads("with a quorum again").await;
        self.takes_up_a_rotation_at(standby, "with a quorum again").await;
    }

    /// Returns the active node. All nodes must answer.
    async fn leader(&self) -> &OpenBaoServer {
        eventually_within(LIMIT, "an active node", async || {
            for node in self.nodes {
                if node.is_active().await {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// Returns the other two nodes.
    fn others(&self, node: &OpenBaoServer) -> [&OpenBaoServer; 2] {
        let others: Vec<_> = self.nodes.iter().filter(|other| other.pid() != node.pid()).collect();
        others.try_into().unwrap_or_else(|_| panic!("there are three nodes"))
    }

    async fn takes_up_a_rotation(&self, when: &str) {
        self.takes_up_a_rotation_at(self.leader().await, when).await;
    }

    /// Puts a new key at a node, once there is a leader, and checks that a reload takes it up.
    async fn takes_up_a_rotation_at(&self, node: &OpenBaoServer, when: &str) {
        let (id, key) = (self.tenant.id("signing"), random_key());
        self.tenant.remember("signing", &key);
        let version =
            eventually_within(LIMIT, "a node that takes a write", async || node.api().put_secret(&id, &key).await)
                .await;
        self.reloads(when).await;
        assert_eq!(self.running.credential("signing").await["version"], version, "{when}");
    }

    async fn reloads(&self, when: &str) {
        let ended = self.reload().await;
        assert_eq!(ended.code, Some(0), "{when}: {}", ended.stderr);
    }

    async fn reload(&self) -> ExitedProcess {
        let launch = SERVICE.launch(self.tenant).args(["reload", "--wait"]);
        launch.env("APP_ADMIN__LISTEN", &self.running.at.admin).start().exited(LIMIT).await
    }
}
