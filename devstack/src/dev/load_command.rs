mod load_statistics;

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use devstack::reqwest::tls::TlsInfo;
use devstack::reqwest::{Client, RequestBuilder, Response};
use devstack::workspace;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until};

use super::Failure;
use super::dev_client::DevClient;
use super::dev_metadata::{self, DevMetadata, Post, Requests, Target};
use super::dev_state;
use super::project;
use super::status_client::StatusClient;
use super::up_command::stop_signals;
use load_statistics::{Certificate, Sample, Tally};

/// Of so many requests one writes, where the project says what.
const WRITE_EVERY: u64 = 10;

/// Of so many requests one has a connection of its own, and so a handshake that resumes no other.
const CONNECT_EVERY: u64 = 10;

const TIMEOUT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// A steady load: requests come when they are due, however long the service takes for those before.
#[derive(clap::Args)]
pub(crate) struct LoadCommand {
    /// Requests per second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How many clients share them. Each has a connection, and keeps it; every tenth request comes on a new one.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Ends after so long, as in `60s`; else at Ctrl-C.
    #[arg(long = "for", value_name = "DURATION")]
    length: Option<humantime::Duration>,
}

impl LoadCommand {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let state = dev_state::find()?;
        let running = state.running()?;
        let dev_client = Arc::new(DevClient::of(&running.credentials)?);
        let mut generations = generations(StatusClient::new(&running.admin, &dev_client)).await?;
        let asked = Arc::new(Asked::of(project::read(&workspace()).await?.dev_metadata, &running.public)?);
        let start = Instant::now();
        let (end, ends) = watch::channel(self.length.and_then(|length| start.checked_add(*length)));
        let pace = Arc::new(Pace { start, rate: self.rate, taken: AtomicU64::new(0) });

        let (sender, mut samples) = mpsc::unbounded_channel();
        let mut clients = JoinSet::new();
        for _ in 0..self.clients {
            let dev_client = Arc::clone(&dev_client);
            clients.spawn(client(Arc::clone(&asked), dev_client, Arc::clone(&pace), ends.clone(), sender.clone()));
        }
        drop(sender);

        println!("every second {} requests by {} clients: GET {}", self.rate, self.clients, asked.get);
        if let Some((url, _)) = &asked.post {
            println!("one of {WRITE_EVERY} is POST {url}");
        }
        println!("one of {CONNECT_EVERY} opens a connection of its own");
        println!("second  requests  failures        p50        p99  generation");
        let (mut signals, mut ticks) = (stop_signals(), interval_at(start + SECOND, SECOND));
        let (mut now, mut all) = (Tally::default(), Tally::default());
        for second in 1.. {
            // The next second comes, or nothing more: every client is done, or nobody wants to wait for the last ones.
            let over = loop {
                let overdue = end.borrow().map(|end| end + TIMEOUT);
                tokio::select! {
                    sample = samples.recv() => match sample {
                        Some(sample) => now.add(sample),
                        None => break true,
                    },
                    _ = ticks.tick() => break false,
                    _ = signals.changed() => {
                        if *signals.borrow() > 1 {
                            break true;
                        }
                        let now = Instant::now();
                        end.send_modify(|end| *end = Some(end.unwrap_or(now).min(now)));
                    }
                    () = sleep_until(overdue.unwrap_or(start)), if overdue.is_some() => break true,
                }
            };
            if !over || !now.is_empty() {
                println!("{second:>6}  {}  {:>10}", now.line(), generations.borrow_and_update().now());
            }
            all.absorb(&mut now);
            if over {
                break;
            }
        }
        let end = end.borrow().unwrap_or_else(Instant::now);
        all.report(pace.due_by(end), end - start, &generations.borrow().ever)
    }
}

/// What the service is asked for.
struct Asked {
    /// A URL.
    get: String,
    /// A URL, and the JSON that it is sent.
    post: Option<(String, String)>,
}

impl Asked {
    fn of(dev_metadata: DevMetadata, public: &str) -> Result<Self, Failure> {
        let Requests { get, post } = dev_metadata.requests;
        let get = get.ok_or_else(|| dev_metadata::wanted(dev_metadata::GET))?;
        let url = |path: Target| format!("{public}{}", path.0);
        Ok(Self { get: url(get), post: post.map(|Post { path, body }| (url(path), body.0)) })
    }

    fn request(&self, number: u64, client: &Client) -> RequestBuilder {
        match &self.post {
            Some((url, body)) if number.is_multiple_of(WRITE_EVERY) => {
                client.post(url).header("content-type", "application/json").body(body.clone())
            }
            _ => client.get(&self.get),
        }
    }
}

/// Which request is due when.
struct Pace {
    start: Instant,
    rate: u32,
    taken: AtomicU64,
}

impl Pace {
    /// The next request, and its time. It is for whoever asks, also when that time has passed.
    fn next(&self) -> (u64, Instant) {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        (number, self.start + Duration::from_secs(number) / self.rate)
    }

    /// How many are due before `end`.
    fn due_by(&self, end: Instant) -> u64 {
        let due = ((end - self.start).as_nanos() * u128::from(self.rate)).div_ceil(SECOND.as_nanos());
        u64::try_from(due).unwrap_or(u64::MAX)
    }
}

/// Takes one request after another, until the next would be due after the end.
async fn client(
    asked: Arc<Asked>,
    dev_client: Arc<DevClient>,
    pace: Arc<Pace>,
    mut ends: watch::Receiver<Option<Instant>>,
    samples: mpsc::UnboundedSender<Sample>,
) {
    let new = || dev_client.http().timeout(TIMEOUT).build().expect("it trusts an authority of ours");
    let kept: Client = new();
    loop {
        let (number, due) = pace.next();
        tokio::select! {
            biased;
            _ = ends.wait_for(|end| end.is_some_and(|end| end <= due)) => return,
            () = sleep_until(due) => (),
        }
        let client = if number % CONNECT_EVERY == CONNECT_EVERY / 2 { new() } else { kept.clone() };
        let outcome = send(asked.request(number, &client)).await;
        let _ = samples.send(Sample { took: due.elapsed(), outcome });
    }
}

/// The certificate that the connection began with, if it is one over TLS; or what went wrong.
async fn send(request: RequestBuilder) -> Result<Option<Certificate>, String> {
    let why = |error: devstack::reqwest::Error| {
        let kind = match () {
            () if error.is_timeout() => "timeout",
            () if broke_in_handshake(&error) => "handshake failed",
            () if error.is_connect() => "no connection",
            () => "connection broken",
        };
        kind.to_owned()
    };
    let answer = request.send().await.map_err(why)?;
    let (status, certificate) = (answer.status(), certificate(&answer));
    answer.bytes().await.map_err(why)?;
    if status.is_success() { Ok(certificate) } else { Err(format!("status {}", status.as_u16())) }
}

fn certificate(answer: &Response) -> Option<Certificate> {
    answer.extensions().get::<TlsInfo>()?.peer_certificate().map(Into::into)
}

/// TLS hides its errors in those of the connection.
fn broke_in_handshake(error: &devstack::reqwest::Error) -> bool {
    let mut causes = std::iter::successors(error.source(), |&error| match error.downcast_ref::<io::Error>() {
        Some(outer) => outer.get_ref().map(|inner| inner as &dyn Error),
        None => error.source(),
    });
    error.is_connect() && causes.any(|cause| cause.is::<rustls::Error>())
}

/// Which generations were in service.
#[derive(Default)]
struct Generations {
    now: Option<u64>,
    ever: BTreeSet<u64>,
}

impl Generations {
    fn now(&self) -> String {
        self.now.map_or_else(|| "?".into(), |now| now.to_string())
    }
}

/// Asks for the generation five times a second.
async fn generations(admin: StatusClient) -> Result<watch::Receiver<Generations>, Failure> {
    admin.status().await?;
    let (sender, generations) = watch::channel(Generations::default());
    tokio::spawn(async move {
        loop {
            let now = admin.status().await.ok().map(|status| status.generation());
            sender.send_modify(|generations| {
                generations.now = now;
                generations.ever.extend(now);
            });
            sleep(SECOND / 5).await;
        }
    });
    Ok(generations)
}
