//! `cargo dev load`: a steady load on the running service.

mod example_requests;
mod generations;
mod load_client;
mod schedule;
mod statistics;

use std::sync::Arc;
use std::time::Duration;

use crate::stack::folders::workspace;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, interval_at, sleep_until};

use crate::dev::dev_client::DevClient;
use crate::dev::dev_lock;
use crate::dev::error::DevError;
use crate::dev::issuer_client::IssuerClient;
use crate::dev::load_command::example_requests::{LoadRequests, WRITE_EVERY};
use crate::dev::load_command::generations::{SeenGenerations, watch_generations};
use crate::dev::load_command::load_client::{CONNECT_EVERY, LoadClient, TIMEOUT};
use crate::dev::load_command::schedule::Schedule;
use crate::dev::load_command::statistics::{FinishedRequest, LoadStatistics};
use crate::dev::project::Project;
use crate::dev::status_client::StatusClient;
use crate::dev::stop_signals::stop_signals;

/// The number of finished requests that may wait to be counted.
const FINISHED_CAPACITY: usize = 4096;

const SECOND: Duration = Duration::from_secs(1);

/// A steady load: requests are sent when they are due, even if the service is still busy with earlier ones.
#[derive(clap::Args)]
pub(crate) struct LoadCommand {
    /// Requests per second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// The number of clients that share the requests. Each keeps a connection. Every tenth request opens a new one.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Ends after this time, as in `60s`. The default is to end at Ctrl-C.
    #[arg(long = "for", value_name = "DURATION")]
    length: Option<humantime::Duration>,
}

/// A load that is under way.
struct RunningLoad {
    schedule: Arc<Schedule>,
    /// The time of the end, if it is known already.
    end: watch::Sender<Option<Instant>>,
    finished: mpsc::Receiver<FinishedRequest>,
    generations: watch::Receiver<SeenGenerations>,
    ticks: Interval,
    signals: watch::Receiver<u32>,
    /// Ends its tasks when dropped.
    _clients: JoinSet<()>,
}

impl LoadCommand {
    pub(crate) async fn run(self) -> Result<(), DevError> {
        let state = dev_lock::find_running()?;
        let running = state.ready()?;
        let mut dev_client = DevClient::new(&running.credentials)?;
        let generations = watch_generations(StatusClient::new(&running.admin, &dev_client)).await?;
        if let Some(issuer) = IssuerClient::new(running) {
            dev_client.token = Some(issuer.token("load", "").await?);
        }
        let metadata = Project::read(&workspace()).await?.metadata;
        let requests = Arc::new(LoadRequests::new(metadata, &running.public)?);
        self.start(requests, Arc::new(dev_client), generations).report().await
    }

    /// Starts the clients, and prints their requests.
    fn start(
        &self,
        requests: Arc<LoadRequests>,
        dev_client: Arc<DevClient>,
        generations: watch::Receiver<SeenGenerations>,
    ) -> RunningLoad {
        let start = Instant::now();
        let schedule = Arc::new(Schedule::new(start, self.rate));
        let (end, ends) = watch::channel(self.length.and_then(|length| start.checked_add(*length)));
        let (sender, finished) = mpsc::channel(FINISHED_CAPACITY);
        let mut clients = JoinSet::new();
        for _ in 0..self.clients {
            let client = LoadClient {
                requests: Arc::clone(&requests),
                dev_client: Arc::clone(&dev_client),
                schedule: Arc::clone(&schedule),
                ends: ends.clone(),
                finished: sender.clone(),
            };
            clients.spawn(client.run());
        }
        println!("every second {} requests by {} clients: GET {}", self.rate, self.clients, requests.get);
        if let Some((url, _)) = &requests.post {
            println!("one of {WRITE_EVERY} is POST {url}");
        }
        println!("one of {CONNECT_EVERY} opens a connection of its own");
        RunningLoad {
            schedule,
            end,
            finished,
            generations,
            ticks: interval_at(start + SECOND, SECOND),
            signals: stop_signals(),
            _clients: clients,
        }
    }
}

impl RunningLoad {
    /// Prints a line per second, and everything at the end.
    async fn report(mut self) -> Result<(), DevError> {
        println!("second  requests  failures        p50        p99  generation");
        let mut all = LoadStatistics::default();
        for second in 1.. {
            let mut statistics = LoadStatistics::default();
            let over = self.collect_second(&mut statistics).await;
            if !over || !statistics.is_empty() {
                let generation = self.generations.borrow_and_update().current();
                println!("{second:>6}  {}  {generation:>10}", statistics.line());
            }
            all.absorb(statistics);
            if over {
                break;
            }
        }
        let end = self.end.borrow().unwrap_or_else(Instant::now);
        all.report(self.schedule.due_before(end), end - self.schedule.start, &self.generations.borrow().all)
    }

    /// Collects the requests that end in this second. Returns true if the load is over.
    async fn collect_second(&mut self, statistics: &mut LoadStatistics) -> bool {
        loop {
            let last_answer = self.end.borrow().map(|end| end + TIMEOUT);
            tokio::select! {
                request = self.finished.recv() => match request {
                    Some(request) => statistics.add(request),
                    // Every client is done.
                    None => return true,
                },
                _ = self.ticks.tick() => return false,
                _ = self.signals.changed() => {
                    // At the second signal the user does not wait for the last requests.
                    if *self.signals.borrow() > 1 {
                        return true;
                    }
                    self.end_now();
                }
                () = sleep_until(last_answer.unwrap_or(self.schedule.start)), if last_answer.is_some() => return true,
            }
        }
    }

    fn end_now(&self) {
        let now = Instant::now();
        self.end.send_modify(|end| *end = Some(end.unwrap_or(now).min(now)));
    }
}
