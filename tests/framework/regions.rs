//! A secrets manager in two Regions: two emulators, of which the first one fails.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{launch_options::LaunchOptions, time_waits::let_time_pass},
};
use devstack::{
    DEFAULT_TIMEOUT, FaultRule, Launch, RunningService, ScriptedFault, ScriptedManager, SecondRegion, Stack, Tenant,
};
use std::time::{Duration, Instant};

const FIRST: &str = "eu-west-1";
const SECOND: &str = "eu-west-2";

/// Returns the ways in which a Region can fail. With each, the deadline leaves time for the next Region.
fn outages() -> [(&'static str, ScriptedFault); 4] {
    [
        ("dead", ScriptedFault::Reset),
        ("black-holed", ScriptedFault::BlackHole),
        ("slow", ScriptedFault::Delay(Duration::from_secs(60))),
        ("failing", ScriptedFault::Status(503, "ServiceUnavailable")),
    ]
}

/// Starts a second emulator without secrets, and a scripted manager in front of both.
async fn two_regions(tenant: &Tenant) -> (SecondRegion, ScriptedManager) {
    let second = Stack::shared().await.second_region().await.expect("another emulator");
    let both = [(FIRST, tenant.emulator()), (SECOND, second.emulator())];
    let managers = ScriptedManager::regions(both).expect("a scripted manager");
    (second, managers)
}

/// Prepares the service with both Regions.
fn launch_with_regions(tenant: &Tenant, managers: &ScriptedManager) -> Launch {
    SERVICE
        .launch(tenant)
        .with_manager(managers)
        .env("APP_SECRETS__AWS__REGIONS", format!("{FIRST},{SECOND}"))
        .env("APP_SECRETS__DEADLINE", "8s")
}

#[tokio::test]
async fn a_start_queries_the_next_region_if_the_first_is_away() {
    let tenant = SERVICE.migrated("region_start").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    RunningService::start(launch_with_regions(&tenant, &managers), &tenant).await.create_note("a note").await;
    assert_eq!(managers.requests_in(SECOND), 0, "only an outage of the first Region causes a request to the second");
    for (how, fault) in outages() {
        managers.script([FaultRule::region(FIRST, fault)]);
        let start = Instant::now();
        let mut running = RunningService::start(launch_with_regions(&tenant, &managers), &tenant).await;
        running.create_note(how).await;
        assert!(start.elapsed() < DEFAULT_TIMEOUT);
        let is_warning = |line: &str| line.contains("does not answer; asking the next one") && line.contains(FIRST);
        running.process.wait_for_line(is_warning, DEFAULT_TIMEOUT).await;
    }
}

/// A replica of a secret has an ARN of its own, in which the Region differs.
#[tokio::test]
async fn an_arn_is_asked_of_the_next_region_as_that_region_has_it() {
    let tenant = SERVICE.migrated("region_arn").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    let described = tenant.client().describe_secret().secret_id(tenant.id("signing")).send().await.unwrap();
    // Without the six random characters, which each Region chooses for itself in the emulator.
    let arn = described.arn.expect("a secret has an ARN");
    let arn = arn.rsplit_once('-').expect("an ARN ends with random characters").0;
    assert!(arn.contains(FIRST), "{arn}");
    managers.script([FaultRule::region(FIRST, ScriptedFault::Reset)]);
    let launch = || launch_with_regions(&tenant, &managers).env("APP_SECRETS__IDS__SIGNING", arn);
    assert_eq!(launch().args(["check"]).run().code, Some(0));
    RunningService::start(launch(), &tenant).await.create_note("a note").await;
}

#[tokio::test]
async fn a_reload_queries_the_next_region_if_the_first_is_away() {
    let tenant = SERVICE.migrated("region_reload").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    for (how, fault) in outages() {
        managers.clear();
        let mut running = RunningService::start(launch_with_regions(&tenant, &managers), &tenant).await;
        let version = tenant.rotate("database").await.unwrap();
        tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
        managers.script([FaultRule::region(FIRST, fault)]);
        let reload = running.reload().await;
        assert_eq!(reload["outcome"], "published", "{how}: {reload}");
        assert_eq!(running.credential("database").await["version"], version);

        // A Region that just failed is queried last, so the next reload does not wait for it.
        let requests = managers.requests_in(FIRST);
        assert_eq!(running.reload().await["outcome"], "unchanged");
        assert_eq!(managers.requests_in(FIRST), requests, "{how}");
    }
}

#[tokio::test]
async fn a_denial_by_the_first_region_is_not_asked_of_the_next() {
    let tenant = SERVICE.migrated("region_denied").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    managers.script([FaultRule::region(FIRST, ScriptedFault::Status(400, "AccessDeniedException"))]);
    let exited = launch_with_regions(&tenant, &managers).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(77), "{}", tenant.redact(&exited.stderr));
    assert_eq!(managers.requests_in(SECOND), 0);
}

#[tokio::test]
async fn a_region_that_lags_behind_does_not_bring_back_an_old_version() {
    let tenant = SERVICE.migrated("region_lags").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    // The emulator of the first Region serves all tests, and may be slow. Then the second one must not answer in its place.
    managers.script([FaultRule::region(SECOND, ScriptedFault::Reset)]);
    let mut running = RunningService::start(launch_with_regions(&tenant, &managers), &tenant).await;
    let_time_pass("creation times at the emulator are whole seconds", Duration::from_millis(1100)).await;
    let version = tenant.put("signing", &devstack::random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    managers.script([FaultRule::region(FIRST, ScriptedFault::Status(503, "ServiceUnavailable"))]);
    assert_eq!(
        running.reload().await["exit_code"],
        69,
        "the answer of the second Region is too old, and counts as none"
    );
    let loaded = running.credential("signing").await;
    assert_eq!((&loaded["version"], &loaded["stage"]), (&version.into(), &"current".into()));
    // An audit does not trust its current version either.
    let audit = launch_with_regions(&tenant, &managers).args(["audit", &running.at.admin]).run();
    assert_eq!(audit.code, Some(69), "{}", audit.stdout);
    assert!(audit.stdout.contains("unknown"), "{}", audit.stdout);
}

#[tokio::test]
async fn a_pending_key_that_a_lagging_region_does_not_have_is_kept() {
    let tenant = SERVICE.migrated("region_pending").await;
    let (second, managers) = two_regions(&tenant).await;
    tenant.replicate_to(second.emulator(), SECOND).await.unwrap();
    tenant.put_pending("signing", &devstack::random_key()).await.unwrap();
    let mut running = RunningService::start(launch_with_regions(&tenant, &managers), &tenant).await;
    managers.script([FaultRule::region(FIRST, ScriptedFault::Reset)]);
    assert_eq!(running.reload().await["outcome"], "unchanged");
}

#[tokio::test]
async fn a_secret_that_is_not_replicated_does_not_count_as_missing() {
    let tenant = SERVICE.migrated("region_without").await;
    let (_second, managers) = two_regions(&tenant).await;
    managers.script([FaultRule::region(FIRST, ScriptedFault::Status(503, "ServiceUnavailable")).times(6)]);
    RunningService::start(launch_with_regions(&tenant, &managers), &tenant).await.create_note("a note").await;
    assert!(managers.requests_in(SECOND) > 0);
    managers.script([FaultRule::region(FIRST, ScriptedFault::Reset)]);
    let exited = launch_with_regions(&tenant, &managers).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(69), "{}", tenant.redact(&exited.stderr));
}

#[tokio::test]
async fn a_start_without_any_region_has_the_exit_code_of_a_start_without_a_manager() {
    let tenant = SERVICE.migrated("region_none").await;
    let managers = ScriptedManager::before(tenant.emulator()).unwrap();
    for (fault, code) in [(ScriptedFault::Status(503, "ServiceUnavailable"), 69), (ScriptedFault::BlackHole, 75)] {
        managers.script([FaultRule::all(fault)]);
        let start = Instant::now();
        let exited = launch_with_regions(&tenant, &managers).start().exited(DEFAULT_TIMEOUT).await;
        assert_eq!(exited.code, Some(code), "{}", tenant.redact(&exited.stderr));
        assert!(start.elapsed() < Duration::from_secs(20), "the deadline is 8 s, and not 30 s");
    }
    assert!(managers.requests_in(FIRST) > 0 && managers.requests_in(SECOND) > 0);
}
