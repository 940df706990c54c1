//! A secrets manager with a replica in a second Region: two emulators, of which the first fails.

use crate::{DEFAULT_TIMEOUT, Notes, RunningService, migrated, service};
use devstack::{FaultRule, Launch, ScriptedFault, ScriptedManager, SecondRegion, Stack, Tenant};
use std::time::{Duration, Instant};

const FIRST: &str = "eu-west-1";
const SECOND: &str = "eu-west-2";

/// The ways in which a Region is away: each within a deadline that leaves time for the next.
fn away() -> [(&'static str, ScriptedFault); 4] {
    [
        ("dead", ScriptedFault::Reset),
        ("black-holed", ScriptedFault::BlackHole),
        ("slow", ScriptedFault::Delay(Duration::from_secs(60))),
        ("failing", ScriptedFault::Status(503, "ServiceUnavailable")),
    ]
}

/// A second emulator, still empty, and both behind one endpoint.
async fn two_regions(tenant: &Tenant) -> (SecondRegion, ScriptedManager) {
    let second = Stack::shared().await.second_region().await.expect("another emulator");
    let both = [(FIRST, tenant.emulator()), (SECOND, second.emulator())];
    let managers = ScriptedManager::regions(both).await.expect("a scripted manager");
    (second, managers)
}

fn replicated(tenant: &Tenant, managers: &ScriptedManager) -> Launch {
    service(tenant)
        .env("AWS_ENDPOINT_URL", managers.endpoint())
        .env("APP_SECRETS__AWS__REGIONS", format!("{FIRST},{SECOND}"))
        .env("APP_SECRETS__REFRESH_EVERY", "0s")
        .env("APP_SECRETS__DEADLINE", "4s")
}

#[tokio::test]
async fn a_start_asks_the_next_region_when_the_first_is_away() {
    let tenant = migrated("region_start").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    RunningService::start(replicated(&tenant, &managers), &tenant).await.create("a note").await;
    assert_eq!(managers.requests_in(SECOND), 0, "it is asked when the first does not answer");
    for (how, fault) in away() {
        managers.script([FaultRule::region(FIRST, fault)]);
        let start = Instant::now();
        let mut running = RunningService::start(replicated(&tenant, &managers), &tenant).await;
        running.create(how).await;
        assert!(start.elapsed() < DEFAULT_TIMEOUT);
        let told = |line: &str| line.contains("does not answer; the next one is asked") && line.contains(FIRST);
        running.process.wait_for_line(told, DEFAULT_TIMEOUT).await;
    }
}

#[tokio::test]
async fn a_reload_asks_the_next_region_when_the_first_is_away() {
    let tenant = migrated("region_reload").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    for (how, fault) in away() {
        managers.clear();
        let mut running = RunningService::start(replicated(&tenant, &managers), &tenant).await;
        let version = tenant.rotate("database").await.unwrap();
        tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
        managers.script([FaultRule::region(FIRST, fault)]);
        let reload = running.reload().await;
        assert_eq!(reload["outcome"], "published", "{how}: {reload}");
        assert_eq!(running.credential("database").await["version"], version);

        // What did not answer a moment ago is asked last, so nothing waits for it again.
        let asked = managers.requests_in(FIRST);
        assert_eq!(running.reload().await["outcome"], "unchanged");
        assert_eq!(managers.requests_in(FIRST), asked, "{how}");
    }
}

#[tokio::test]
async fn a_denial_of_the_first_region_is_an_answer() {
    let tenant = migrated("region_denied").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    managers.script([FaultRule::region(FIRST, ScriptedFault::Status(400, "AccessDeniedException"))]);
    let exited = replicated(&tenant, &managers).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(77), "{}", tenant.redact(&exited.stderr));
    assert_eq!(managers.requests_in(SECOND), 0);
}

#[tokio::test]
async fn a_region_that_lags_behind_takes_nothing_back() {
    let tenant = migrated("region_lags").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    let mut running = RunningService::start(replicated(&tenant, &managers), &tenant).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let version = tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    managers.script([FaultRule::region(FIRST, ScriptedFault::Status(503, "ServiceUnavailable"))]);
    assert_eq!(running.reload().await["exit_code"], 69, "it is as if nobody had answered");
    let held = running.credential("signing").await;
    assert_eq!((&held["version"], &held["stage"]), (&version.into(), &"current".into()));
    // Nor does an audit take its word for what is current.
    let audit = replicated(&tenant, &managers).args(["audit", &running.at.admin]).run();
    assert_eq!(audit.code, Some(69), "{}", audit.stdout);
    assert!(audit.stdout.contains("unknown"), "{}", audit.stdout);
}

#[tokio::test]
async fn a_key_that_a_lagging_region_has_not_seen_is_kept() {
    let tenant = migrated("region_pending").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    tenant.put_pending("signing", &devstack::random_key()).await.unwrap();
    let mut running = RunningService::start(replicated(&tenant, &managers), &tenant).await;
    managers.script([FaultRule::region(FIRST, ScriptedFault::Reset)]);
    assert_eq!(running.reload().await["outcome"], "unchanged");
}

#[tokio::test]
async fn a_secret_that_is_not_replicated_is_not_missing() {
    let tenant = migrated("region_without").await;
    let (_second, managers) = two_regions(&tenant).await;
    managers.script([FaultRule::region(FIRST, ScriptedFault::Status(503, "ServiceUnavailable")).times(6)]);
    RunningService::start(replicated(&tenant, &managers), &tenant).await.create("a note").await;
    assert!(managers.requests_in(SECOND) > 0);
    managers.script([FaultRule::region(FIRST, ScriptedFault::Reset)]);
    let exited = replicated(&tenant, &managers).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(69), "{}", tenant.redact(&exited.stderr));
}

#[tokio::test]
async fn regions_that_are_all_away_end_a_start_as_one_does() {
    let tenant = migrated("region_none").await;
    let managers = ScriptedManager::before(tenant.emulator()).await.unwrap();
    for (fault, code) in [(ScriptedFault::Status(503, "ServiceUnavailable"), 69), (ScriptedFault::BlackHole, 75)] {
        managers.script([FaultRule::all(fault)]);
        let start = Instant::now();
        let exited = replicated(&tenant, &managers).start().exited(DEFAULT_TIMEOUT).await;
        assert_eq!(exited.code, Some(code), "{}", tenant.redact(&exited.stderr));
        assert!(start.elapsed() < Duration::from_secs(8), "the deadline is 4 s");
    }
    assert!(managers.requests_in(FIRST) > 0 && managers.requests_in(SECOND) > 0);
}
