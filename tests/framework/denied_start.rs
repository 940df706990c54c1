//! Starts that are denied access at first: identities and policies take seconds to propagate, and a clock may be wrong.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        launch_options::LaunchOptions,
        log_events::events_that_say,
        platform::PlatformService,
        reload_status::{assert_kept, wait_for_generation},
        secrets::scripted_manager,
    },
};
use devstack::{DEFAULT_TIMEOUT, ExitedProcess, FaultRule, Launch, RunningService, ScriptedFault, Tenant, free_port};
use serde_json::Value;

const WAITS: &str = "access is denied";

/// The answers of AWS to an identity or a policy that has not propagated yet.
const NOT_PROPAGATED: [(u16, &str); 8] = [
    (400, "AccessDeniedException"),
    (400, "DecryptionFailure"),
    (400, "UnrecognizedClientException"),
    (403, "InvalidClientTokenId"),
    (403, "ExpiredToken"),
    (400, "ExpiredTokenException"),
    (400, "IncompleteSignature"),
    (403, "AnyOtherCode"),
];

/// Prepares the service without the keys of the tenant.
fn launch_without_identity(tenant: &Tenant) -> Launch {
    let launch = SERVICE.launch(tenant).env("HOME", "/nonexistent");
    let variables = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"];
    variables.into_iter().fold(launch, Launch::env_remove)
}

/// Runs a start that is denied access until a short deadline.
async fn denied_until_the_deadline(launch: Launch) -> ExitedProcess {
    let exited = launch.with_short_deadline().start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(77), "{}", exited.stderr);
    assert!(exited.stderr.contains("; tried for "), "{}", exited.stderr);
    assert_eq!(exited.stdout.matches(WAITS).count(), 1, "{}", exited.stdout);
    exited
}

#[tokio::test]
async fn a_start_waits_until_the_identity_and_its_policy_have_propagated() {
    let tenant = SERVICE.migrated("propagates").await;
    let manager = scripted_manager(&tenant).await;
    let once = |(status, code)| FaultRule::all(ScriptedFault::Status(status, code)).times(1);
    manager.script(NOT_PROPAGATED.map(once));
    let running = RunningService::start(SERVICE.launch(&tenant).with_manager(&manager), &tenant).await;
    running.create_note("a note").await;
    let waits = events_that_say(&running.process, WAITS);
    let [event] = waits.as_slice() else { panic!("one event: {waits:?}") };
    assert_eq!(event["level"], "WARN");
    let error = event["fields"]["error"].as_str().expect("the first denial");
    assert!(NOT_PROPAGATED.iter().any(|(_, code)| error.contains(code)), "{error}");
}

#[tokio::test]
async fn a_start_that_is_denied_until_the_deadline_ends_with_77_and_says_so() {
    let tenant = SERVICE.migrated("denied").await;
    let manager = scripted_manager(&tenant).await;
    manager.script([FaultRule::on(tenant.id("database"), ScriptedFault::Status(400, "AccessDeniedException"))]);
    let exited = denied_until_the_deadline(SERVICE.launch(&tenant).with_manager(&manager)).await;
    for part in ["credential `database`", "AccessDeniedException", "secretsmanager:GetSecretValue", "1 fault"] {
        assert!(exited.stderr.contains(part), "{part} is missing in:\n{}", exited.stderr);
    }
    assert!(manager.requests(&tenant.id("database")) > 1);
}

#[tokio::test]
async fn a_denial_in_a_reload_is_reported_at_once() {
    let tenant = SERVICE.migrated("denied_reload").await;
    let manager = scripted_manager(&tenant).await;
    let launch = SERVICE.launch(&tenant).with_manager(&manager);
    let mut running = RunningService::start(launch, &tenant).await;
    // A second call in the same reload would succeed.
    let denied = FaultRule::on(tenant.id("database"), ScriptedFault::Status(400, "AccessDeniedException")).times(1);
    manager.script([denied]);
    let reload = running.reload().await;
    assert_kept(&reload, 77);
    assert!(!reload["error"].to_string().contains("tried for"), "{reload}");
}

#[tokio::test]
async fn a_denial_in_a_reload_is_made_up_for_when_access_is_given() {
    let tenant = SERVICE.migrated("denied_for_a_moment").await;
    let manager = scripted_manager(&tenant).await;
    let launch = SERVICE.launch(&tenant).with_manager(&manager);
    let mut running = RunningService::start(launch, &tenant).await;
    tenant.put("signing", &devstack::random_key()).await.unwrap();
    manager.script([FaultRule::all(ScriptedFault::Status(400, "AccessDeniedException"))]);
    assert_kept(&running.reload().await, 77);
    manager.clear();
    wait_for_generation(&running, 2).await;
}

#[tokio::test]
async fn a_start_waits_for_the_metadata_service_of_its_machine() {
    let tenant = SERVICE.migrated("metadata").await;
    let address = format!("127.0.0.1:{}", free_port());
    let launch =
        || launch_without_identity(&tenant).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{address}"));
    let exited = denied_until_the_deadline(launch()).await;
    assert!(exited.stderr.contains("no identity"), "{}", exited.stderr);

    let mut process = launch().start();
    let line = process.wait_for_line(|line| line.contains(WAITS), DEFAULT_TIMEOUT).await;
    assert!(line.contains("no identity"), "{line}");
    let _metadata = PlatformService::metadata_at(&address).await;
    process.listening().await;
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_named_and_fails_no_load() {
    let tenant = SERVICE.migrated("clock").await;
    let manager = scripted_manager(&tenant).await;
    for (ahead, text) in [(900, "it is 15m behind the manager's"), (-7200, "it is 2h ahead of the manager's")] {
        manager.script([FaultRule::all(ScriptedFault::ClockAhead(ahead))]);
        let launch = SERVICE.launch(&tenant).with_manager(&manager);
        let mut running = RunningService::start(launch, &tenant).await;
        let warnings = events_that_say(&running.process, "the manager rejects the time of a request");
        let [event] = warnings.as_slice() else { panic!("one event: {warnings:?}") };
        assert!(event["fields"]["error"].as_str().is_some_and(|error| error.contains(text)), "{event}");
        assert_eq!(events_that_say(&running.process, WAITS), Vec::<Value>::new());

        // The clock is set. The next request still has the time that was right before.
        manager.script([FaultRule::all(ScriptedFault::ClockAhead(0))]);
        assert_eq!(running.reload().await["outcome"], "unchanged");
    }
    manager.script([FaultRule::all(ScriptedFault::Status(403, "RequestTimeTooSkewed"))]);
    let exited = denied_until_the_deadline(SERVICE.launch(&tenant).with_manager(&manager)).await;
    for part in ["this machine's clock is wrong", "RequestTimeTooSkewed", "NTP"] {
        assert!(exited.stderr.contains(part), "{part} is missing in:\n{}", exited.stderr);
    }
}
