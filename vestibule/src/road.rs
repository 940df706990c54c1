//! The road: from a configuration to a generation. Start-up and reload walk the same one.
//!
//! ```text
//! config ─► fetch ─► read ─► (nothing new? stop) ─► build and prove ─► generation
//!                     ▲                                   │
//!                     └── the pending version, where the current one is refused
//! ```

use crate::{
    backoff::Backoff,
    bell::Bell,
    config::Config,
    counters::Counters,
    exit::{Exit, Fault, Phase, Report},
    generation::Generation,
    http::{self, Tls},
    resources::{Attempt, Build, BuildError, Occasion, Refusal, Resources, Standings},
    secrets::{self, All, Keyring, Manager, Name, Replicas, Ring, SecretSet, Seen, Set, Source},
    service::Service,
};
use futures_util::FutureExt;
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// What `build` does through its context ends by the deadline, and knows better what it waited for.
const GRACE: Duration = Duration::from_millis(250);

/// What is the same for every trip.
pub(crate) struct Road<S> {
    source: Replicas,
    pub(crate) bell: Arc<Bell>,
    pub(crate) counters: Arc<Counters>,
    standings: Arc<Standings>,
    service: std::marker::PhantomData<fn() -> S>,
}

/// What a trip sets out with.
pub(crate) struct Errand<'a, S: Service> {
    pub(crate) config: Arc<Config<S::Settings>>,
    /// The generation in service, in a reload.
    pub(crate) held: Option<&'a Generation<S>>,
    pub(crate) deadline: Instant,
    pub(crate) occasion: Occasion,
}

/// How long a trip that replaces a refused credential waits for the others, which can stay as they are: requests wait
/// for it.
const OTHERS: Duration = Duration::from_secs(2);

impl<S: Service> Errand<'_, S> {
    /// When credentials must be there that can stay as they are, where another one is refused.
    fn others(&self) -> Instant {
        let now = Instant::now();
        match self.occasion {
            Occasion::Asked => now + self.deadline.saturating_duration_since(now) / 2,
            Occasion::Routine | Occasion::News => now + OTHERS,
        }
    }
}

/// What a trip brought home.
pub(crate) struct Walked<S: Service> {
    /// Where the manager has each version in service now; the names of those of which it said nothing are not here.
    pub(crate) seen: BTreeMap<Name, Seen>,
    pub(crate) end: Result<End<S>, Stuck>,
}

/// Where a trip ended well.
pub(crate) enum End<S: Service> {
    /// There is something new. Nobody has seen it yet.
    Built {
        generation: Box<Generation<S>>,
        /// What was wrong with credentials that it holds as before.
        carried_over: Vec<(Name, Fault)>,
    },
    /// Everything is as held, and was verified.
    Unchanged,
}

/// Why a trip ended without a generation.
pub(crate) struct Stuck {
    pub(crate) report: Report,
    pub(crate) cause: Cause,
}

/// What must change before another trip can end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The manager and the other side have different versions: in a rotation that passes.
    Refused,
    /// The manager or the database does not answer.
    Away,
    /// Something that somebody must mend.
    Fault,
}

impl From<Report> for Stuck {
    fn from(report: Report) -> Self {
        let cause = match report.exit() {
            Exit::Unavailable | Exit::Deadline => Cause::Away,
            _ => Cause::Fault,
        };
        Self { report, cause }
    }
}

impl Stuck {
    /// Also tells what was wrong with credentials that would have been left as they are.
    fn beside(mut self, others: Vec<(Name, Fault)>) -> Self {
        self.report.faults.extend(others.into_iter().map(|(_, fault)| fault));
        self
    }
}

impl From<BuildError> for Stuck {
    fn from(error: BuildError) -> Self {
        let refused = matches!(error, BuildError::Refused(_));
        let stuck = Self::from(Report::of(Phase::Build, error.into_fault()));
        Self { cause: if refused { Cause::Refused } else { stuck.cause }, ..stuck }
    }
}

impl<S: Service> Road<S> {
    /// The road to the secrets behind `source`.
    pub(crate) fn new(source: Arc<dyn Source>) -> Self {
        Self::through(Replicas::new([(String::new(), source)]))
    }

    pub(crate) fn through(source: Replicas) -> Self {
        Self {
            source,
            bell: Arc::default(),
            counters: Arc::default(),
            standings: Arc::default(),
            service: std::marker::PhantomData,
        }
    }

    /// Walks the road for the first time; while a login is refused, again and again until the deadline: a rotation may
    /// be under way. Half-way to the deadline a version that was refused is tried once more.
    pub(crate) async fn first(
        &self,
        config: Arc<Config<S::Settings>>,
        deadline: Instant,
    ) -> Result<Generation<S>, Report> {
        let mut half_way = Some(Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2);
        let mut pauses = Backoff::until(deadline);
        let mut refused: Option<Report> = None;
        loop {
            let occasion = match half_way.take_if(|half_way| Instant::now() >= *half_way) {
                Some(_) => Occasion::Asked,
                None => Occasion::Routine,
            };
            let errand = Errand { config: config.clone(), held: None, deadline, occasion };
            match self.walk(errand).await.end {
                Ok(End::Built { generation, .. }) => return Ok(*generation),
                Ok(End::Unchanged) => unreachable!("nothing was held that could be unchanged"),
                Err(Stuck { report, cause: Cause::Refused }) => {
                    if refused.is_none() {
                        tracing::warn!(
                            "a login is refused; a rotation may be under way, so this start waits for its end"
                        );
                    }
                    if !pauses.wait().await {
                        return Err(report);
                    }
                    refused = Some(report);
                }
                // The deadline cut off an attempt; what the one before met is what counts.
                Err(Stuck { report, cause: Cause::Away }) if Instant::now() >= deadline => {
                    return Err(refused.unwrap_or(report));
                }
                Err(Stuck { report, .. }) => return Err(report),
            }
        }
    }

    /// Walks the road once. Publishes nothing.
    pub(crate) async fn walk(&self, errand: Errand<'_, S>) -> Walked<S> {
        let nothing = Keyring::default();
        let before = errand.held.map_or(&nothing, |held| &held.keyring);
        let mut doubted = BTreeSet::new();
        if let Some(held) = errand.held {
            // That it is refused is the news; it is the others that may be good by now.
            let occasion = if errand.occasion == Occasion::News { Occasion::Routine } else { errand.occasion };
            held.resources.probe(occasion, errand.deadline).await;
            doubted.extend(held.resources.refusals().into_iter().map(|refusal| refusal.credential));
            // What leaked is not kept in use for the sake of a sibling that is broken.
            let revoked = &errand.config.secrets.revoked;
            doubted.extend(held.keyring.iter().filter(|(_, held)| held.has_any(revoked)).map(|(name, _)| name));
        }
        let wanted: Vec<_> = All::<S::Secrets>::wanted()
            .into_iter()
            .filter_map(|wanted| Some((wanted, errand.config.id(&wanted)?)))
            .collect();
        let manager = self.manager(&errand);
        let fetched = secrets::fetch(manager, &wanted, before, &doubted, errand.others(), errand.deadline).await;
        let seen = fetched
            .iter()
            .filter_map(|(wanted, id, outcome)| Some((wanted.name, outcome.seen(before.get(wanted.name, id)?)?)))
            .collect();
        let may_stay = before.without(manager.revoked);
        let ring = Ring::new(fetched, &may_stay, &doubted).for_hosts(&errand.config.server.tls_names);
        // A panic of the service's code is a report like any other: in a reload it must not end the actor.
        let end = AssertUnwindSafe(self.steps(&errand, ring, &doubted))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(Report::of(Phase::Build, panicked()).into()));
        Walked { seen, end }
    }

    fn manager<'a>(&'a self, errand: &'a Errand<'_, S>) -> Manager<'a> {
        Manager { source: &self.source, revoked: &errand.config.secrets.revoked }
    }

    async fn steps(&self, errand: &Errand<'_, S>, ring: Ring<'_>, doubted: &BTreeSet<Name>) -> Result<End<S>, Stuck> {
        let nothing = Keyring::default();
        let before = errand.held.map_or(&nothing, |held| &held.keyring);
        let read = ring.read(before).map_err(|unread| Stuck::from(unread.report).beside(unread.carried_over));
        let mut set: Set<All<S::Secrets>> = read?;
        let carried_over = std::mem::take(&mut set.carried_over);
        loop {
            let same_config = errand.held.is_some_and(|held| Arc::ptr_eq(&held.config, &errand.config));
            if same_config && doubted.is_empty() && set.keyring.same_as(before) {
                return Ok(End::Unchanged);
            }
            let error = match self.build(errand, &set).await {
                Ok(generation) => return Ok(End::Built { generation: Box::new(generation), carried_over }),
                Err(error) => error,
            };
            let pending = match &error {
                BuildError::Refused(Refusal { credential, .. }) => {
                    set.with_pending(credential, self.manager(errand), before, doubted, errand.deadline).await
                }
                BuildError::Fault(_) => None,
            };
            set = match pending {
                Some(set) => set,
                None => return Err(Stuck::from(error).beside(carried_over)),
            };
        }
    }

    /// Builds the service and proves its credentials.
    async fn build(&self, errand: &Errand<'_, S>, set: &Set<All<S::Secrets>>) -> Result<Generation<S>, BuildError> {
        let Errand { config, held, deadline, occasion } = errand;
        let tls = Tls::build(&set.secrets, &config.server, &config.admin, held.map(|held| &held.tls));
        let (bell, standings) = (self.bell.clone(), self.standings.clone());
        let attempt = Attempt { deadline: *deadline, occasion: *occasion, bell, standings };
        let cx = Build::<S> {
            settings: &config.service,
            secrets: &set.secrets.service,
            database: &config.database,
            max_stale: config.secrets.max_stale,
            app: &S::APP,
            counters: &self.counters,
            before: held.map(|held| &held.resources),
            attempt: &attempt,
            made: Mutex::default(),
        };
        let building = tokio::time::timeout_at(*deadline + GRACE, S::build(&cx));
        let service = Arc::new(building.await.unwrap_or_else(|_| Err(BuildError::Fault(overdue())))?);
        let resources: Resources = cx.made.into_inner().unwrap_or_else(PoisonError::into_inner);

        let in_flight =
            held.filter(|held| held.config.server.max_in_flight == config.server.max_in_flight).map_or_else(
                || Arc::new(Semaphore::new(config.server.max_in_flight.get() as usize)),
                |held| held.in_flight.clone(),
            );
        Ok(Generation {
            number: held.map_or(1, |held| held.number + 1),
            router: http::router(S::routes().with_state(service.clone()), &config.server),
            service,
            in_flight,
            tls,
            config: config.clone(),
            keyring: set.keyring.clone(),
            resources,
        })
    }
}

fn panicked() -> Fault {
    Fault::new(Exit::Bug, "the service's code", "it panicked", "see the panic's event in the log: this is a bug")
}

fn overdue() -> Fault {
    Fault::new(
        Exit::Deadline,
        "Service::build",
        "it did not end before secrets.deadline",
        "look for what it waits for; raise secrets.deadline if it is only slow",
    )
}
