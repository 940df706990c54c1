//! The road: from a configuration to a generation. Start-up and reload walk the same one.
//!
//! ```text
//! config ─► fetch ─► read ─► (nothing new? stop) ─► build and prove ─► generation
//! ```

use crate::{
    config::Config,
    exit::{Exit, Fault, Phase, Report},
    generation::{Generation, Live},
    http,
    resources::{Build, BuildError},
    secrets::{self, Keyring, Ring, SecretSet, Source},
    service::Service,
};
use futures_util::FutureExt;
use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

/// What `build` does through its context ends by the deadline, and knows better what it waited for.
const GRACE: Duration = Duration::from_millis(250);

/// What is the same for every trip.
pub struct Road<S> {
    source: Arc<dyn Source>,
    service: std::marker::PhantomData<fn() -> S>,
}

/// Where a trip ended well.
pub(crate) enum Trip<S: Service> {
    /// There is something new. Nobody has seen it yet.
    Built(Box<Generation<S>>),
    /// Everything is as held, and was verified.
    Unchanged,
}

impl<S: Service> Road<S> {
    /// The road to the secrets behind `source`.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self { source, service: std::marker::PhantomData }
    }

    /// Walks the road once, for tests and benchmarks of a service without a process around it.
    ///
    /// # Errors
    /// As a start that fails.
    pub async fn enter(&self, config: Config<S::Settings>) -> Result<Live<S>, Report> {
        let deadline = Instant::now() + config.secrets.deadline;
        let first = self.first(Arc::new(config), deadline).await?;
        Ok(Live::new(watch::Sender::new(Arc::new(first)).subscribe()))
    }

    /// Walks the road for the first time.
    pub(crate) async fn first(
        &self,
        config: Arc<Config<S::Settings>>,
        deadline: Instant,
    ) -> Result<Generation<S>, Report> {
        match self.walk(config, None, deadline).await? {
            Trip::Built(first) => Ok(*first),
            Trip::Unchanged => unreachable!("nothing was held that could be unchanged"),
        }
    }

    /// Walks the road, from the generation in service if there is one. Publishes nothing.
    ///
    /// # Errors
    /// Every fault of the phase that failed.
    pub(crate) async fn walk(
        &self,
        config: Arc<Config<S::Settings>>,
        held: Option<&Generation<S>>,
        deadline: Instant,
    ) -> Result<Trip<S>, Report> {
        // A panic of the service's code is a report like any other: in a reload it must not end the actor.
        AssertUnwindSafe(self.steps(config, held, deadline))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(Report::of(Phase::Build, panicked())))
    }

    async fn steps(
        &self,
        config: Arc<Config<S::Settings>>,
        held: Option<&Generation<S>>,
        deadline: Instant,
    ) -> Result<Trip<S>, Report> {
        let nothing = Keyring::default();
        let before = held.map_or(&nothing, |held| &held.keyring);
        let wanted: Vec<_> =
            S::Secrets::wanted().into_iter().filter_map(|wanted| Some((wanted, config.id(&wanted)?))).collect();

        let fetched = secrets::fetch(&*self.source, &wanted, before, deadline).await;
        let (secrets, keyring) = Ring::new(fetched, before).read::<S::Secrets>()?;

        if let Some(held) = held
            && keyring.same_as(&held.keyring)
            && config.tree() == held.config.tree()
        {
            return Ok(Trip::Unchanged);
        }

        let cx = Build::<S> {
            settings: &config.service,
            secrets: &secrets,
            database: &config.database,
            app: &S::APP,
            before: held.map(|held| &held.resources),
            deadline,
            made: Mutex::default(),
        };
        let built = match tokio::time::timeout_at(deadline + GRACE, S::build(&cx)).await {
            Ok(built) => built.map_err(BuildError::into_fault),
            Err(_) => Err(overdue()),
        };
        let service = built.map(Arc::new).map_err(|fault| Report::of(Phase::Build, fault))?;
        let resources = cx.made.into_inner().unwrap_or_else(PoisonError::into_inner);

        let in_flight =
            held.filter(|held| held.config.server.max_in_flight == config.server.max_in_flight).map_or_else(
                || Arc::new(Semaphore::new(config.server.max_in_flight.get() as usize)),
                |held| held.in_flight.clone(),
            );
        Ok(Trip::Built(Box::new(Generation {
            number: held.map_or(1, |held| held.number + 1),
            router: http::router(S::routes().with_state(service.clone()), &config.server),
            service,
            in_flight,
            config,
            keyring,
            resources,
        })))
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
