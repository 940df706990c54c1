//! All combinations of two credentials in a reload, from the tables in ARCHITECTURE.md, *Two rules for a reload*.

use super::*;
use crate::{
    application::Build,
    openapi::OpenApiRouter,
    package::Package,
    resources::{rejection::Rejection, resource::Resource},
    secrets::{
        credential::Credential,
        expiry::{Expiry, LAST_DAYS},
        id::VersionId,
        kind::{Kind, Malformed},
        lease::{NoCalls, SecretLease},
        source::{Fetched, SourceError},
        version::{SecretValue, SecretValues, Stage, Versions},
    },
    testing::Harness,
};
use futures_util::future::{BoxFuture, join_all};
use secrecy::ExposeSecret;
use std::{
    fs,
    num::NonZeroU32,
    sync::atomic::{AtomicUsize, Ordering},
};
use time::OffsetDateTime;
use vestibule_derive::SecretSet;

/// A credential whose value says how it behaves.
struct Scripted(String);

impl Kind for Scripted {
    const NAME: &'static str = "scripted";

    fn read(values: &SecretValues) -> Result<Self, Malformed> {
        match values.current().text.expose_secret() {
            "malformed" => Err(Malformed::expected("another value")),
            "too early" => Err(Malformed::too_early("a value that is valid now")),
            "too early for a while" if is_younger(values, A_WHILE) => {
                Err(Malformed::too_early("one that is valid now"))
            }
            value => Ok(Self(value.to_owned())),
        }
    }

    fn expiry(&self) -> Option<Expiry> {
        let (now, hour) = (OffsetDateTime::now_utc(), time::Duration::HOUR);
        match self.0.as_str() {
            "ending" => Some(Expiry::at(now + LAST_DAYS / 2)),
            "young, for a day" => Some(Expiry::between(now - hour, now + 23 * hour)),
            "ending, after a day" => Some(Expiry::between(now - 23 * hour, now + hour)),
            _ => None,
        }
    }
}

/// The time after which a value is valid that was made too early by this machine's clock.
const A_WHILE: Duration = Duration::from_secs(20);

/// The time of a lease.
const LEASE: Duration = Duration::from_secs(3600);

fn is_younger(values: &SecretValues, age: Duration) -> bool {
    values.current().lease.as_ref().is_some_and(|lease| lease.end().left() > LEASE - age)
}

/// A user of a credential, which the other side may reject later.
#[derive(Clone)]
struct User(Option<Rejection>);

impl Resource for User {
    fn rejection(&self) -> Option<Rejection> {
        self.0.clone()
    }
}

async fn user(cx: &Build<'_, Pair>, credential: &Credential<Scripted>) -> Result<User, BuildError> {
    cx.resource(credential, &(), async |_| match credential.0.as_str() {
        "rejected" => Err(Rejection::of(credential, "as a wrong password").into()),
        "unreachable when proven" => {
            Err(BuildError::Fault(Fault::new(Exit::Unavailable, "the other side", "it is away", "wait")))
        }
        "hanging when proven" => std::future::pending().await,
        "slow when proven" => {
            tokio::time::sleep(2 * WAIT_FOR_OTHERS).await;
            Ok(User(None))
        }
        "rejected later" | "rejected later, and silent" => {
            Ok(User(Some(Rejection::of(credential, "as a password that was changed"))))
        }
        _ => Ok(User(None)),
    })
    .await
}

#[derive(SecretSet)]
struct PairOfSecrets {
    first: Credential<Scripted>,
    second: Credential<Scripted>,
}

/// A service with two credentials.
struct Pair;

impl Application for Pair {
    const PACKAGE: Package = Package::new("pair", "0");
    type Settings = ();
    type Secrets = PairOfSecrets;

    async fn build(cx: &Build<'_, Self>) -> Result<Self, BuildError> {
        user(cx, &cx.secrets.first).await?;
        user(cx, &cx.secrets.second).await?;
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }
}

/// A manager with one version of each secret: its id and its value.
#[derive(Clone, Default)]
struct OneVersionEach(Arc<Mutex<BTreeMap<&'static str, (String, &'static str)>>>);

impl OneVersionEach {
    fn put(&self, name: &'static str, version: String, value: &'static str) {
        self.0.lock().unwrap().insert(name, (version, value));
    }
}

impl Source for OneVersionEach {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        let name = id.as_str().trim_start_matches("pair/");
        let (version, value) = self.0.lock().unwrap()[name].clone();
        if stage == Stage::Pending && value == "rejected later, and silent" {
            return Box::pin(std::future::pending());
        }
        let answer = if stage != Stage::Current {
            Ok(Fetched::Absent)
        } else if value == "unreachable when fetched" {
            Err(SourceError::Unavailable("it is away".into()))
        } else if held.is_some_and(|held| held.as_str() == version) {
            Ok(Fetched::Same)
        } else {
            Ok(Fetched::New(SecretValue {
                text: value.into(),
                version: VersionId::new(version),
                created: None,
                lease: None,
            }))
        };
        Box::pin(async { answer })
    }

    fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async { Ok(Versions::new()) })
    }
}

/// A row of the first table.
#[derive(Clone, Debug)]
struct Case {
    held: String,
    new: String,
    class: String,
}

/// Returns the rows of the first table whose head begins with `head`, without the head.
fn table(document: &str, head: &str) -> Vec<Vec<String>> {
    let table = &document[document.find(head).expect("the table is there")..];
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('*', "")).collect();
    rows.skip(2).map(cells).collect()
}

/// Returns the value in service. That of `second` has a lifetime of a day, if it has one.
fn value_held(name: &str, case: &Case) -> &'static str {
    match case.held.as_str() {
        "good" | "revoked" if name == "first" => "good",
        "good" | "revoked" => "young, for a day",
        "rejected" => "rejected later",
        "ending" if name == "first" => "ending",
        "ending" => "ending, after a day",
        other => panic!("no such state: {other}"),
    }
}

fn value_new(name: &str, case: &Case) -> Option<&'static str> {
    match case.new.as_str() {
        "none" => None,
        "good" => Some("good too"),
        "malformed" => Some("malformed"),
        "rejected" => Some("rejected"),
        // A start can fail to reach the manager, and to reach the other side.
        "unreachable" if name == "first" => Some("unreachable when fetched"),
        "unreachable" => Some("unreachable when proven"),
        other => panic!("no such version: {other}"),
    }
}

/// Reloads two credentials, and compares the result with the tables.
async fn try_combination(cases: [Case; 2], expected: String) {
    let (manager, names) = (OneVersionEach::default(), ["first", "second"]);
    for (name, case) in names.iter().zip(&cases) {
        manager.put(name, format!("{name}-held"), value_held(name, case));
    }
    let loader = Loader::<Pair>::new(Arc::new(manager.clone()));
    let mut config = Config::<()>::default();
    config.secrets.prefix = "pair".into();
    config.secrets.deadline = Duration::from_secs(2);
    config.server.max_in_flight = NonZeroU32::MIN;
    let start = Instant::now() + config.secrets.deadline;
    let held = loader.first_load(Arc::new(config), start).await.expect("all held versions are accepted at first");
    held.resources.publish();

    // A reload without another setting has the same `Arc` as the generation in service, but `revoked` is a setting. So
    // it is in both here, as after a reload that could not replace the version.
    let mut held = held;
    let mut config = Config::<()>::default();
    config.secrets = held.config.secrets.clone();
    config.server = held.config.server.clone();
    for (name, case) in names.iter().zip(&cases) {
        if case.held == "revoked" {
            config.secrets.revoked.insert(VersionId::new(format!("{name}-held")));
        }
        if let Some(value) = value_new(name, case) {
            manager.put(name, format!("{name}-new"), value);
        }
    }
    held.set_config(config);
    let request = LoadRequest {
        config: held.config.clone(),
        in_service: Some(&held),
        deadline: Instant::now() + Duration::from_millis(1500),
        probe_reason: ProbeReason::Scheduled,
        scope: LoadScope::All,
    };
    let result = loader.load(request).await.result;
    let is_wrong = |case: &Case| ["faulty", "still rejected"].contains(&case.class.as_str());
    let mut wrong = Vec::new();
    for (name, case) in names.iter().zip(&cases) {
        if is_wrong(case) {
            wrong.push(*name);
        }
    }
    let seen = match result {
        Ok(LoadOutcome::Unchanged) => "unchanged",
        Ok(LoadOutcome::Built { generation, carried_over }) => {
            let mut named: Vec<_> = carried_over.iter().map(|stays| stays.name).collect();
            named.sort_unstable();
            assert_eq!(named, wrong, "{cases:?}");
            for (name, case) in names.iter().zip(&cases) {
                let is_replaced = ["new", "due"].contains(&case.class.as_str());
                let version = if is_replaced { format!("{name}-new") } else { format!("{name}-held") };
                assert_eq!(generation.credentials.named(name).unwrap().in_use().as_str(), version, "{cases:?}");
            }
            "published"
        }
        Err(error) => {
            let report = error.report.to_string();
            let is_named =
                |name: &&str| report.contains(&format!("credential `{name}`")) || report.contains("it is away");
            assert!(wrong.iter().any(is_named), "{cases:?}: {report}");
            let has_rejected = cases.iter().any(|case| case.held == "rejected" && is_wrong(case));
            let is_looked_for = matches!(error.retry, RetryClass::Rejected | RetryClass::NoSuccessor);
            assert!(!has_rejected || is_looked_for, "{cases:?}: a retry looks for a successor");
            "kept"
        }
    };
    assert_eq!(seen, expected, "{cases:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reload_does_what_the_tables_in_the_architecture_say() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md")).unwrap();
    let cases: Vec<Case> = table(&document, "| held | new |")
        .into_iter()
        .map(|row| Case { held: row[0].clone(), new: row[1].clone(), class: row[2].clone() })
        .collect();
    let outcomes = table(&document, "| | same |");
    let classes: Vec<String> = outcomes.iter().map(|row| row[0].clone()).collect();
    let position = |case: &Case| classes.iter().position(|class| *class == case.class).expect("a class of the table");
    assert_eq!((cases.len(), classes.len()), (20, 5));
    let mut combinations = Vec::new();
    for first in &cases {
        for second in &cases {
            let expected = outcomes[position(first)][position(second) + 1].clone();
            combinations.push(try_combination([first.clone(), second.clone()], expected));
        }
    }
    assert_eq!(combinations.len(), 400);
    join_all(combinations).await;
}

/// Reloads two credentials whose new versions have these values, in a minute at most. Returns the result, and the time
/// that it has taken.
async fn reload_within_a_minute(
    held: [&'static str; 2],
    new: [Option<&'static str>; 2],
) -> (Result<LoadOutcome<Pair>, LoadError>, Duration) {
    let manager = OneVersionEach::default();
    manager.put("first", "first-held".into(), held[0]);
    manager.put("second", "second-held".into(), held[1]);
    let loader = Loader::<Pair>::new(Arc::new(manager.clone()));
    let mut config = Config::<()>::default();
    config.secrets.prefix = "pair".into();
    let deadline = Instant::now() + config.secrets.deadline;
    let in_service = loader.first_load(Arc::new(config), deadline).await.expect("both are accepted at first");
    for (name, value) in ["first", "second"].into_iter().zip(new) {
        if let Some(value) = value {
            manager.put(name, format!("{name}-new"), value);
        }
    }
    let started = Instant::now();
    let request = LoadRequest {
        config: in_service.config.clone(),
        in_service: Some(&in_service),
        deadline: started + Duration::from_secs(60),
        probe_reason: ProbeReason::Scheduled,
        scope: LoadScope::All,
    };
    (loader.load(request).await.result, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_replacement_waits_for_no_other_credential() {
    let a_minute = Duration::from_secs(60);
    let cases: [([_; 2], _, &[Name], _); 5] = [
        (["good", "rejected later"], [Some("hanging when proven"), Some("good too")], &["first"], 2 * WAIT_FOR_OTHERS),
        (
            ["rejected later", "rejected later"],
            [Some("unreachable when fetched"), Some("good too")],
            &["first"],
            2 * WAIT_FOR_OTHERS,
        ),
        // The manager does not say whether there is a pending version.
        (["rejected later, and silent", "rejected later"], [None, Some("good too")], &["first"], 2 * WAIT_FOR_OTHERS),
        // Whoever hangs leaves time for another one.
        (
            ["rejected later", "rejected later"],
            [Some("hanging when proven"), Some("slow when proven")],
            &["first"],
            a_minute,
        ),
        // A version that ends, and that has no successor, takes no time from others.
        (["ending", "good"], [None, Some("slow when proven")], &[], a_minute),
    ];
    for (held, new, stay, limit) in cases {
        let (result, time) = reload_within_a_minute(held, new).await;
        assert!(time < limit, "{held:?} {new:?}: {time:?}");
        let Ok(LoadOutcome::Built { generation, carried_over }) = result else { panic!("{held:?} {new:?}") };
        assert_eq!(generation.credentials.named("second").unwrap().in_use().as_str(), "second-new", "{held:?} {new:?}");
        assert_eq!(carried_over.iter().map(|stays| stays.name).collect::<Vec<_>>(), stay, "{held:?} {new:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_hangs_does_not_keep_the_next_load_from_looking_for_a_successor() {
    let (result, time) = reload_within_a_minute(["rejected later", "good"], [None, Some("hanging when proven")]).await;
    assert!(result.is_err_and(|error| error.retry == RetryClass::Rejected));
    assert!(time < 2 * WAIT_FOR_OTHERS, "{time:?}");
}

/// A manager that makes a user at each read. The other side does not answer to the users after the first one.
#[derive(Clone, Default)]
struct MakesUsers(Arc<Mutex<usize>>);

impl Source for MakesUsers {
    fn fetch<'a>(
        &'a self,
        _: &'a SecretId,
        _: Stage,
        _: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        let mut made = self.0.lock().unwrap();
        *made += 1;
        let (value, left) = if *made <= 2 { ("good", 60) } else { ("unreachable when proven", 3600) };
        let lease = Some(SecretLease::new(Duration::from_secs(left), Arc::new(NoCalls)));
        let version = VersionId::new(format!("user-{made}"));
        Box::pin(async { Ok(Fetched::New(SecretValue { text: value.into(), version, created: None, lease })) })
    }

    fn versions<'a>(&'a self, _: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async { Ok(Versions::new()) })
    }

    fn is_made_at_each_read(&self, _: &SecretId) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_candidate_is_kept_while_the_other_side_does_not_answer() {
    let manager = MakesUsers::default();
    let harness = Harness::<Pair>::start(Arc::new(manager.clone()), Config::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(45)).await;
    for _ in 0..10 {
        harness.reload().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    assert_eq!(*manager.0.lock().unwrap(), 4, "one for each of both, and one candidate for each");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_of_a_configuration_that_is_taken_back_is_forgotten() {
    let harness = Harness::<Pair>::start(Arc::new(MakesUsers::default()), Config::default()).await.unwrap();
    harness.start_reloading();
    let signal = async |config| {
        harness.configure(config);
        harness.signal();
        tokio::time::sleep(Duration::from_secs(5)).await;
        harness.reloader.loader.candidates.all().iter().count()
    };
    let mut config = Config::<()>::default();
    config.secrets.ids.insert("first".into(), SecretId::parse("elsewhere").unwrap());
    assert_eq!(signal(config).await, 1);
    assert_eq!(signal(Config::default()).await, 0);
    harness.stop().await;
}

/// A manager that makes a value of `first` at each read.
struct MakesFirst {
    manager: OneVersionEach,
    made: Arc<AtomicUsize>,
}

impl Source for MakesFirst {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            let mut fetched = self.manager.fetch(id, stage, held).await?;
            if let Fetched::New(value) = &mut fetched
                && self.is_made_at_each_read(id)
            {
                value.version = VersionId::new(format!("made-{}", self.made.fetch_add(1, Ordering::SeqCst)));
                value.lease = Some(SecretLease::new(LEASE, Arc::new(NoCalls)));
            }
            Ok(fetched)
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        self.manager.versions(id)
    }

    fn is_made_at_each_read(&self, id: &SecretId) -> bool {
        id.as_str() == "pair/first"
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_malformed_value_that_was_made_for_a_reload_no_other_one_is_made_for_a_minute() {
    let (manager, made) = (OneVersionEach::default(), Arc::new(AtomicUsize::new(0)));
    manager.put("first", "role".into(), "rejected later");
    manager.put("second", "second-held".into(), "good");
    let loader = Loader::<Pair>::new(Arc::new(MakesFirst { manager: manager.clone(), made: made.clone() }));
    let mut config = Config::<()>::default();
    config.secrets.prefix = "pair".into();
    let deadline = Instant::now() + config.secrets.deadline;
    let held = loader.first_load(Arc::new(config), deadline).await.expect("both are accepted at first");
    held.resources.publish();
    manager.put("first", "role".into(), "malformed");
    let load = async |probe_reason| {
        let deadline = Instant::now() + Duration::from_secs(30);
        let (config, in_service, scope) = (held.config.clone(), Some(&held), LoadScope::All);
        loader.load(LoadRequest { config, in_service, deadline, probe_reason, scope }).await.result
    };
    let minute = Duration::from_secs(60);
    for (pause, reason, count) in [
        (Duration::ZERO, ProbeReason::CurrentRejected, 2),
        (Duration::from_secs(1), ProbeReason::Scheduled, 2),
        (Duration::from_secs(50), ProbeReason::CurrentRejected, 2),
        (Duration::from_secs(1), ProbeReason::Operator, 3),
        (Duration::from_secs(50), ProbeReason::Scheduled, 3),
        (minute, ProbeReason::Scheduled, 4),
    ] {
        tokio::time::advance(pause).await;
        let report = load(reason).await.err().expect("it is malformed").report.to_string();
        assert!(report.contains("credential `first`") && report.contains("malformed"), "{report}");
        assert_eq!(made.load(Ordering::SeqCst), count, "after {pause:?} more, for {reason:?}");
    }
    manager.put("first", "role".into(), "good");
    tokio::time::advance(minute).await;
    assert!(matches!(load(ProbeReason::Scheduled).await, Ok(LoadOutcome::Built { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_start_waits_for_a_value_that_was_made_too_early_and_has_no_other_one_made_at_each_try() {
    for (value, is_loaded, count) in [("too early for a while", true, 1), ("too early", false, 2)] {
        let (manager, made) = (OneVersionEach::default(), Arc::new(AtomicUsize::new(0)));
        manager.put("first", "role".into(), value);
        manager.put("second", "second-held".into(), "good");
        let loader = Loader::<Pair>::new(Arc::new(MakesFirst { manager, made: made.clone() }));
        let mut config = Config::<()>::default();
        config.secrets.prefix = "pair".into();
        let deadline = Instant::now() + 3 * A_WHILE;
        assert_eq!(loader.first_load(Arc::new(config), deadline).await.is_ok(), is_loaded, "{value}");
        assert_eq!(made.load(Ordering::SeqCst), count, "{value}: half-way, another one is made");
    }
}
