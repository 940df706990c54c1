//! Several resources that are made from one credential.

use serde::{Deserialize, Serialize};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};
use vestibule::{
    ApiClient, ApiEndpoint, Application, Build, BuildError, Credential, OpenApiRouter, Package, SecretSet,
    config::{BaseUrl, Config},
    credentials::ApiKey,
    exit::{Exit, Report},
    resources::{Rejection, Resource},
    testing::{Harness, MemoryManager},
};

#[derive(SecretSet)]
struct Secrets {
    key: Credential<ApiKey>,
}

/// The settings: a text for each channel. The other side rejects the key on a channel `reject`.
#[derive(Clone, Default, Serialize, Deserialize, vestibule::ConfigSection)]
#[serde(default)]
struct Settings {
    /// The settings of the channels.
    channels: Vec<String>,
}

/// A resource that knows its predecessor, its successor and its end.
#[derive(Clone)]
struct Channel(Arc<ChannelState>);

struct ChannelState {
    setting: String,
    predecessor: Option<String>,
    /// The setting of its successor, once it is retired.
    successor: OnceLock<Option<String>>,
    closed: AtomicBool,
}

impl Resource for Channel {
    fn retire(&self, successor: Option<&Self>) {
        let _ = self.0.successor.set(successor.map(|Self(next)| next.setting.clone()));
    }

    async fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }
}

/// A service with a channel per setting, and two clients, all with one key.
struct Several {
    channels: Vec<Channel>,
    clients: [ApiClient; 2],
}

impl Application for Several {
    const PACKAGE: Package = Package::new("several", "0");
    type Settings = Settings;
    type Secrets = Secrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        let key = &cx.secrets.key;
        let mut channels = Vec::new();
        for setting in &cx.settings.channels {
            let make = async |before: Option<&Channel>| {
                if setting == "reject" {
                    return Err(Rejection::of(key, "this channel is not for you").into());
                }
                Ok(Channel(Arc::new(ChannelState {
                    setting: setting.clone(),
                    predecessor: before.map(|Channel(before)| before.setting.clone()),
                    successor: OnceLock::new(),
                    closed: AtomicBool::new(false),
                })))
            };
            channels.push(cx.resource(key, setting, make).await?);
        }
        let [orders, refunds] = ["http://127.0.0.1:7", "http://127.0.0.1:9"].map(endpoint);
        let clients = tokio::join!(cx.client(key, &orders), cx.client(key, &refunds));
        Ok(Self { channels, clients: [clients.0?, clients.1?] })
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

fn endpoint(url: &str) -> ApiEndpoint {
    ApiEndpoint::at(BaseUrl::parse(url).expect("a URL of this machine"))
}

fn config(channels: &[&str]) -> Config<Settings> {
    let channels = channels.iter().map(|channel| (*channel).to_owned()).collect();
    Config { service: Settings { channels }, ..Config::default() }
}

async fn start(channels: &[&str]) -> Result<(Arc<MemoryManager>, Harness<Several>), Report> {
    let manager = MemoryManager::with([("key", "first")]);
    let harness = Harness::start(manager.clone(), config(channels)).await?;
    Ok((manager, harness))
}

fn is_same(one: &Channel, other: &Channel) -> bool {
    Arc::ptr_eq(&one.0, &other.0)
}

fn is_retired(channel: &Channel) -> bool {
    channel.0.successor.get().is_some()
}

#[tokio::test]
async fn two_clients_of_one_key_have_endpoints_of_their_own() {
    let (_manager, harness) = start(&[]).await.unwrap();
    let shown = format!("{:?}", harness.live().service().clients);
    assert!(shown.contains("127.0.0.1:7") && shown.contains("127.0.0.1:9"), "{shown}");
}

#[tokio::test]
async fn if_the_setting_of_one_changes_the_other_is_carried_over() {
    let (_manager, harness) = start(&["a", "b"]).await.unwrap();
    let before = harness.live().service();
    assert!(harness.reload_with(config(&["a", "c"])).await.unwrap());
    let after = harness.live().service();
    assert!(is_same(&before.channels[0], &after.channels[0]) && !is_retired(&before.channels[0]));
    assert_eq!(after.channels[1].0.predecessor.as_deref(), Some("b"));
    assert_eq!(before.channels[1].0.successor.get(), Some(&Some("c".into())));
}

#[tokio::test]
async fn a_new_version_of_the_key_replaces_all_and_each_finds_its_own_predecessor() {
    let (manager, harness) = start(&["a", "b"]).await.unwrap();
    let before = harness.live().service();
    manager.rotate("key", "second");
    assert!(harness.reload().await.unwrap());
    let after = harness.live().service();
    for (old, new) in before.channels.iter().zip(&after.channels) {
        assert_eq!(new.0.predecessor.as_ref(), Some(&old.0.setting));
        assert_eq!(old.0.successor.get(), Some(&Some(new.0.setting.clone())));
        assert!(!is_retired(new));
    }
    harness.stop().await;
    assert!(after.channels.iter().all(|channel| channel.0.closed.load(Ordering::SeqCst)), "a stop closes all");
}

#[tokio::test]
async fn if_one_is_rejected_the_report_names_the_credential() {
    let mut config = config(&["a", "reject"]);
    config.secrets.deadline = std::time::Duration::from_millis(500);
    let manager = MemoryManager::with([("key", "first")]);
    let report = Harness::<Several>::start(manager, config).await.unwrap_err();
    assert_eq!(report.exit(), Exit::Denied);
    assert!(report.to_string().contains("credential `key`"), "{report}");
}
