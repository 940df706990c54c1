//! `policy`, compared with the calls that the service makes: nothing is asked that is not allowed, and nothing is allowed
//! that is not asked.

mod at_vault;

use crate::{
    SERVICE,
    support::{
        iam_policy::{IamPolicy, matches},
        launch_options::LaunchOptions,
        rds_front::RdsFront,
    },
};
use devstack::{
    DEFAULT_TIMEOUT, ExitedProcess, FaultRule, Launch, RunningService, ScriptedFault, ScriptedManager, Stack, Tenant,
    eventually,
};
use std::collections::BTreeSet;

/// The account of the emulator.
const ACCOUNT: &str = "123456789012";

const FIRST: &str = "eu-west-1";
const SECOND: &str = "eu-west-2";

/// An action at AWS, and the ARN of its resource.
type Call = (String, String);

/// Prints the policy for a command, with the same configuration.
fn print_policy(launch: Launch, command: &str, options: &[&str]) -> ExitedProcess {
    let printed = launch.args(["policy", "--for", command]).args(options.iter().copied()).run();
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    printed
}

fn policy_for(launch: Launch, command: &str) -> IamPolicy {
    IamPolicy::parse(&print_policy(launch, command, &["--account", ACCOUNT]).stdout)
}

/// Returns the calls that a manager has got, with the ARNs that the secrets have there.
async fn calls(manager: &ScriptedManager, tenant: &Tenant) -> BTreeSet<Call> {
    let mut calls = BTreeSet::new();
    for (operation, region, secret) in manager.calls() {
        // The ends of the ARNs differ at two emulators, and those of AWS do not.
        let named = tenant.client().describe_secret().secret_id(&secret).send().await.expect("the secret exists");
        let arn = named.arn.expect("a secret has an ARN").replace(FIRST, &region);
        calls.insert((format!("secretsmanager:{operation}"), arn));
    }
    calls
}

/// Checks that a policy allows these calls, and nothing else.
#[track_caller]
fn assert_fits(policy: &IamPolicy, calls: &BTreeSet<Call>) {
    let grants = policy.grants();
    let is_for = |(action, pattern): &Call, (asked, arn): &Call| action == asked && matches(pattern, arn);
    for call in calls {
        assert!(grants.iter().any(|grant| is_for(grant, call)), "{call:?} is asked and not allowed: {grants:#?}");
    }
    for (action, arn) in calls {
        // A secret whose name begins with that of another one.
        let Some((name, end)) = arn.rsplit_once('-') else { panic!("{arn}") };
        let neighbour = (action.clone(), format!("{name}-old-{end}"));
        assert!(!grants.iter().any(|grant| is_for(grant, &neighbour)), "{neighbour:?} is allowed: {grants:#?}");
    }
    for grant in &grants {
        assert!(calls.iter().any(|call| is_for(grant, call)), "{grant:?} is allowed and not asked: {calls:#?}");
    }
}

/// Waits until a poll has asked for each credential once more.
async fn wait_for_poll(manager: &ScriptedManager, tenant: &Tenant) {
    let before = manager.requests(&tenant.id("database"));
    eventually("a poll", async || manager.requests(&tenant.id("database")) > before).await;
}

#[tokio::test]
async fn a_policy_allows_what_a_command_asks_in_each_region_and_nothing_else() {
    let tenant = SERVICE.migrated("policy_regions").await;
    let second = Stack::shared().await.second_region().await.expect("another emulator");
    tenant.replicate_to(second.emulator(), SECOND).await.expect("replicas");
    let manager = || {
        let both = [(FIRST, tenant.emulator()), (SECOND, second.emulator())];
        ScriptedManager::regions(both).expect("a scripted manager")
    };
    let launch = |manager: &ScriptedManager| {
        let launch = SERVICE.launch(&tenant).with_manager(manager);
        launch
            .env("APP_SECRETS__AWS__REGIONS", format!("{FIRST},{SECOND}"))
            .env("APP_SECRETS__DEADLINE", "5s")
            .env("APP_ADMIN__RELOAD", "signed")
    };
    let first_is_away = || [FaultRule::region(FIRST, ScriptedFault::Reset)];

    let of_service = manager();
    let polls = launch(&of_service).env("APP_SECRETS__REFRESH_EVERY", "1s");
    let mut running = RunningService::start(polls, &tenant).await;
    wait_for_poll(&of_service, &tenant).await;
    of_service.script(first_is_away());
    assert_eq!(running.reload().await["outcome"], "unchanged");
    let policy = policy_for(launch(&of_service), "serve");
    assert_fits(&policy, &calls(&of_service, &tenant).await);

    let of_audit = manager();
    let audit = launch(&of_audit).args(["audit", &running.at.admin]).run();
    assert_eq!(audit.code, Some(0), "{}{}", audit.stdout, audit.stderr);
    assert_fits(&policy_for(launch(&of_audit), "audit"), &calls(&of_audit, &tenant).await);

    let of_reload = manager();
    let reload = || launch(&of_reload).args(["reload", "--fleet", &running.at.admin]).run();
    let reloaded = reload();
    assert_eq!(reloaded.code, Some(0), "{}{}", reloaded.stdout, reloaded.stderr);
    of_reload.script(first_is_away());
    let unaudited = reload();
    assert!(unaudited.stdout.contains("unchanged: generation 1 is in service"), "{}", unaudited.stderr);
    assert_eq!(unaudited.code, Some(69), "an audit asks the first Region alone: {}", unaudited.stderr);
    assert_fits(&policy_for(launch(&of_reload), "reload"), &calls(&of_reload, &tenant).await);

    let of_migrate = manager();
    for rules in [vec![], first_is_away().into()] {
        of_migrate.script(rules);
        let migrated = launch(&of_migrate).args(["migrate"]).run();
        assert_eq!(migrated.code, Some(0), "{}", migrated.stderr);
    }
    assert_fits(&policy_for(launch(&of_migrate), "migrate"), &calls(&of_migrate, &tenant).await);
}

#[tokio::test]
async fn a_policy_has_each_credential_that_the_configuration_turns_on_and_an_arn_as_it_is() {
    let tenant = SERVICE.migrated("policy_credentials").await;
    for (credential, kind) in [("server_tls", "tls_identity"), ("client_ca", "client_ca"), ("otlp", "api_key")] {
        tenant.put_random(credential, kind).await.expect("the manager stores it");
    }
    let described = tenant.client().describe_secret().secret_id(tenant.id("signing")).send().await;
    let signing = described.expect("the secret exists").arn.expect("a secret has an ARN");
    let manager = ScriptedManager::before(tenant.emulator()).expect("a scripted manager");
    let launch = || {
        SERVICE
            .launch(&tenant)
            .with_manager(&manager)
            .env("APP_SERVER__TLS", "true")
            .env("APP_SERVER__CLIENT_CA", "{prefix}/client_ca")
            .env("APP_TRACES__ENDPOINT", "https://localhost:1/v1/traces")
            .env("APP_SECRETS__IDS__OTLP", "{prefix}/otlp")
            .env("APP_SECRETS__IDS__SIGNING", &signing)
    };
    // The ARN names the account.
    let policy = IamPolicy::parse(&print_policy(launch(), "serve", &[]).stdout);
    assert!(policy.grants().iter().any(|(_, arn)| *arn == signing), "{:?}", policy.grants());
    let running = RunningService::start_tls(launch(), &tenant).await;
    assert_fits(&policy, &calls(&manager, &tenant).await);
    drop(running);
    assert_eq!(manager.requests(&tenant.id("migrator")), 0);
}

#[tokio::test]
async fn a_log_in_with_a_token_needs_a_right_at_the_database_and_none_at_the_manager() {
    let tenant = SERVICE.migrated("policy_iam").await;
    let front = RdsFront::before(&tenant).await;
    let manager = ScriptedManager::before(tenant.emulator()).expect("a scripted manager");
    let launch = || {
        let launch = front.launch(&tenant).with_manager(&manager);
        launch.env("APP_DATABASE__MIGRATOR_USERNAME", tenant.migrator_role())
    };
    let log_ins = || -> BTreeSet<Call> {
        let log_in = |token: &String| {
            let part = |name: &str| token.split_once(name).and_then(|(_, rest)| rest.split('&').next());
            let region = part("X-Amz-Credential=").and_then(|scope| scope.split("%2F").nth(2)).expect("a Region");
            let user = part("DBUser=").expect("a user");
            ("rds-db:connect".into(), format!("arn:aws:rds-db:{region}:{ACCOUNT}:dbuser:db-NOTES/{user}"))
        };
        front.tokens().iter().map(log_in).collect()
    };
    let options = ["--account", ACCOUNT, "--database-resource", "database=db-NOTES"];
    let of_migrate = IamPolicy::parse(&print_policy(launch(), "migrate", &options).stdout);
    let migrated = launch().args(["migrate"]).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(migrated.code, Some(0), "{}", migrated.stderr);
    let migrator = log_ins();
    assert_fits(&of_migrate, &migrator);
    assert_eq!(manager.calls().len(), 0, "neither role needs a secret");

    let of_service = IamPolicy::parse(&print_policy(launch(), "serve", &options).stdout);
    let _running = RunningService::start(launch(), &tenant).await;
    let mut asked = calls(&manager, &tenant).await;
    asked.extend(log_ins().difference(&migrator).cloned());
    assert_fits(&of_service, &asked);

    let wide = print_policy(launch(), "serve", &["--account", ACCOUNT]);
    assert!(wide.stdout.contains(&format!("dbuser:*/{}", tenant.app_role())), "{}", wide.stdout);
    assert!(wide.stderr.contains("--database-resource database=db-…"), "{}", wide.stderr);
}

#[tokio::test]
async fn what_a_policy_lacks_is_said_on_standard_error_with_a_code() {
    let tenant = SERVICE.migrated("policy_faults").await;
    let launch = |options: &[&str]| SERVICE.launch(&tenant).args(["policy"]).args(options.iter().copied()).run();
    for (options, text) in [
        (&[][..], "aws sts get-caller-identity"),
        (&["--account", "12"], "12 digits"),
        (&["--account", ACCOUNT, "--kms-key", "alias/notes"], "cannot name an alias"),
        (&["--account", ACCOUNT, "--database-resource", "database=db-A"], "no section of this name has auth = \"iam\""),
        (&["--provider", "vault"], "the secrets are not at Vault"),
    ] {
        let ExitedProcess { code, stdout, stderr, .. } = launch(options);
        assert_eq!((code, &*stdout), (Some(64), ""), "{stderr}");
        assert!(stderr.contains(text), "{text:?} is missing in:\n{stderr}");
    }
    // Nobody can be asked, and no credential can be had.
    let alone = SERVICE.launch(&tenant).env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").env_remove("AWS_ACCESS_KEY_ID");
    let alone = print_policy(alone, "serve", &["--account", ACCOUNT]);
    assert_eq!(alone.stderr, "");
    let other_account = print_policy(SERVICE.launch(&tenant), "serve", &["--account", "210987654321"]);
    assert_eq!(alone.stdout.replace(ACCOUNT, "210987654321"), other_account.stdout);
}
