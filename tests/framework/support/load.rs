//! Clients that load a service.

use devstack::{RunningService, post_json, reqwest::Client};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};

/// Clients that make one request after the other until they are told to stop.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    clients: JoinSet<Answers>,
}

#[derive(Default)]
pub(crate) struct Answers {
    /// The number of answers with success.
    pub(crate) served: usize,
    /// The status or the error of each other request.
    pub(crate) failed: Vec<String>,
}

impl Load {
    /// Starts this number of clients.
    pub(crate) fn on(running: &RunningService<'_>, count: usize) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for _ in 0..count {
            clients.spawn(Self::run_client(running.url("/v1/notes"), stopped.clone()));
        }
        Self { stop, clients }
    }

    async fn run_client(url: String, stopped: watch::Receiver<bool>) -> Answers {
        let client = Client::builder().no_proxy().build().expect("a client");
        let mut answers = Answers::default();
        while !*stopped.borrow() {
            let request = if answers.served % 10 == 0 {
                post_json(&client, &url, json!({ "body": "load" }).to_string())
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

    /// Stops the clients. Returns the sum of their answers.
    pub(crate) async fn stop(self) -> Answers {
        self.stop.send_replace(true);
        let mut sum = Answers::default();
        for answers in self.clients.join_all().await {
            sum.served += answers.served;
            sum.failed.extend(answers.failed);
        }
        sum
    }
}
