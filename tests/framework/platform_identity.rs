//! The identity, the endpoints, the authorities and the proxies of the platform, in the production profile.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        launch_options::LaunchOptions,
        platform::{PlatformService, refusing_proxy},
        reload_status::wait_for_generation,
        secrets::scripted_manager,
        stand_in::StandIn,
        temporary_file::TemporaryFile,
    },
};
use devstack::{
    Authority, DEFAULT_TIMEOUT, ExitedProcess, FaultRule, Launch, RunningService, ScriptedFault, Signal, Tenant,
    Validity, free_port,
};
use serde_json::json;
use std::{net::SocketAddr, path::Path};

const ROLE: &str = "arn:aws:iam::123456789012:role/notes";

/// A deadline in which the SDK gives an identity up: it asks three times, with pauses of up to 3 s in all.
const THREE_TRIES: &str = "15s";

/// Prepares the service as a platform starts it: in production, and without static keys.
fn launch_in_production(tenant: &Tenant) -> Launch {
    let launch = SERVICE.launch(tenant).env("APP_PROFILE", "production").env("HOME", "/nonexistent");
    let variables = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "APP_SECRETS__AWS__ALLOW_STATIC_KEYS"];
    variables.into_iter().fold(launch.with_short_deadline(), Launch::env_remove)
}

/// Gives the service a token that stands for its role.
fn with_web_identity(launch: Launch, token: &Path) -> Launch {
    launch.env("AWS_ROLE_ARN", ROLE).env("AWS_WEB_IDENTITY_TOKEN_FILE", token)
}

/// Runs a start that fails.
async fn run(launch: Launch) -> ExitedProcess {
    let exited = launch.start().exited(DEFAULT_TIMEOUT).await;
    assert!(!format!("{}{}", exited.stdout, exited.stderr).contains("sentinel"), "{}", exited.stdout);
    exited
}

/// Returns the hosts to which a start asks the proxy for a tunnel.
async fn tunnels_of(launch: Launch) -> Vec<String> {
    let (proxy, seen) = refusing_proxy().await;
    let launch = launch.env_remove("AWS_ENDPOINT_URL").env("HTTPS_PROXY", format!("http://127.0.0.1:{}", proxy.port()));
    let exited = run(launch).await;
    assert!(exited.stderr.contains("the proxy makes no tunnel"), "{}", exited.stderr);
    let mut lines = seen.so_far();
    lines.sort_unstable();
    lines.dedup();
    lines
}

#[tokio::test]
async fn fips_and_dual_stack_count_for_the_identity_and_for_the_manager() {
    let tenant = SERVICE.migrated("fips").await;
    let token = TemporaryFile::new("sentinel");
    let launch = || launch_in_production(&tenant).env("APP_SECRETS__AWS__REGIONS", "us-east-1");
    for (fips, dual_stack, host) in [
        ("false", "false", "sts.us-east-1.amazonaws.com"),
        ("true", "false", "sts-fips.us-east-1.amazonaws.com"),
        ("false", "true", "sts.us-east-1.api.aws"),
    ] {
        let launch = launch().env("AWS_USE_FIPS_ENDPOINT", fips).env("AWS_USE_DUALSTACK_ENDPOINT", dual_stack);
        let tunnels = tunnels_of(with_web_identity(launch, token.path())).await;
        assert_eq!(tunnels, [format!("CONNECT {host}:443 HTTP/1.1")]);
    }
    let metadata = PlatformService::metadata_at("127.0.0.1:0").await;
    let launch = launch().env_remove("AWS_EC2_METADATA_DISABLED").env("AWS_USE_FIPS_ENDPOINT", "true");
    let tunnels = tunnels_of(launch.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url(""))).await;
    assert_eq!(tunnels, ["CONNECT secretsmanager-fips.us-east-1.amazonaws.com:443 HTTP/1.1"]);
}

#[tokio::test]
async fn an_identity_without_tls_never_goes_through_a_proxy() {
    let tenant = SERVICE.migrated("past_proxies").await;
    let (proxy, seen) = refusing_proxy().await;
    let variables = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let launch = || {
        let url = format!("http://127.0.0.1:{}", proxy.port());
        variables.into_iter().fold(launch_in_production(&tenant), |launch, name| launch.env(name, &url))
    };
    let metadata = PlatformService::metadata_at("127.0.0.1:0").await;
    let of_instance = launch().env_remove("AWS_EC2_METADATA_DISABLED");
    let of_instance = of_instance.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url(""));
    let running = RunningService::start(of_instance, &tenant).await;
    running.create_note("a note").await;
    assert_eq!(metadata.seen.so_far(), ["token"]);

    let (agent, token) = (PlatformService::container_agent().await, TemporaryFile::new("sentinel"));
    let of_container = launch()
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.url("/keys"))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.path());
    let running = RunningService::start(of_container, &tenant).await;
    running.create_note("a note").await;
    assert_eq!(agent.seen.so_far(), ["sentinel"]);
    assert_eq!(seen.so_far(), [""; 0], "the proxy would have seen the keys");
}

#[tokio::test]
async fn a_token_is_exchanged_at_the_configured_sts_with_the_configured_session() {
    let tenant = SERVICE.migrated("web_identity").await;
    let token = TemporaryFile::new("sentinel");
    let sts = PlatformService::sts(None).await;
    let launch = || launch_in_production(&tenant).env("AWS_ENDPOINT_URL_STS", sts.url(""));
    let of_variables = with_web_identity(launch(), token.path()).env("AWS_ROLE_SESSION_NAME", "replica-7");
    let running = RunningService::start(of_variables, &tenant).await;
    running.create_note("a note").await;

    let profile = TemporaryFile::new(&format!(
        "[profile notes]\nrole_arn = {ROLE}\nweb_identity_token_file = {}\nrole_session_name = replica-8\n",
        token.path().display()
    ));
    let of_profile = launch().env("AWS_CONFIG_FILE", profile.path()).env("AWS_PROFILE", "notes");
    let _running = RunningService::start(of_profile, &tenant).await;
    let requests = sts.seen.so_far();
    assert_eq!(requests.len(), 2, "{requests:?}");
    for (request, session) in requests.iter().zip(["replica-7", "replica-8"]) {
        assert!(request.contains(&format!("RoleSessionName={session}")) && request.contains("sentinel"), "{request}");
    }
}

#[tokio::test]
async fn a_profile_file_that_a_variable_names_is_found_in_the_home_of_the_user_and_must_be_there() {
    let tenant = SERVICE.migrated("profile_file").await;
    let token = TemporaryFile::new("sentinel");
    let sts = PlatformService::sts(None).await;
    let role = format!("role_arn = {ROLE}\nweb_identity_token_file = {}\n", token.path().display());
    let profile = TemporaryFile::new(&format!("[default]\n{role}"));
    let (home, name) = (profile.path().parent().unwrap(), profile.path().file_name().unwrap().to_str().unwrap());
    let launch = || launch_in_production(&tenant).env("AWS_ENDPOINT_URL_STS", sts.url("")).env("HOME", home);
    let _running = RunningService::start(launch().env("AWS_CONFIG_FILE", format!("~/{name}")), &tenant).await;
    let absent = run(launch().env("AWS_CONFIG_FILE", "~/absent/config")).await;
    assert_eq!(absent.code, Some(69), "{}", absent.stderr);
    assert!(absent.stderr.contains("absent/config") && absent.stderr.contains("AWS_CONFIG_FILE"), "{}", absent.stderr);
}

#[tokio::test]
async fn static_keys_of_a_profile_are_no_identity_of_the_platform() {
    let tenant = SERVICE.migrated("profile_keys").await;
    let keys = "aws_access_key_id = sentinel\naws_secret_access_key = sentinel\n";
    let sources = format!("[default]\nrole_arn = {ROLE}\nsource_profile = keys\n[profile keys]\n{keys}");
    let environment = format!("[default]\nrole_arn = {ROLE}\ncredential_source = Environment\n");
    for (profile, text) in [
        (format!("[default]\n{keys}"), "no provider has one"),
        (sources, "the profile file: "),
        (environment, "allow_static_keys"),
    ] {
        let file = TemporaryFile::new(&profile);
        let exited = run(launch_in_production(&tenant).env("AWS_CONFIG_FILE", file.path())).await;
        assert_eq!(exited.code, Some(77), "{}", exited.stderr);
        assert!(exited.stderr.contains(text), "{text} is missing in:\n{}", exited.stderr);
    }
}

#[tokio::test]
async fn an_identity_that_is_not_given_names_its_provider_and_its_cause() {
    let tenant = SERVICE.migrated("no_identity").await;
    let token = TemporaryFile::new("sentinel");
    let denies = PlatformService::sts(Some("AccessDenied")).await;
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let with_token = || with_web_identity(launch_in_production(&tenant), token.path());
    let without_token = with_web_identity(launch_in_production(&tenant), Path::new("/nonexistent/token"));
    let metadata = launch_in_production(&tenant).env_remove("AWS_EC2_METADATA_DISABLED");
    for (launch, code, text) in [
        (with_token().env("AWS_ENDPOINT_URL_STS", denies.url("")), 77, "the web identity: STS says AccessDenied as"),
        (
            with_token().env("AWS_ENDPOINT_URL_STS", &nobody).env("APP_SECRETS__DEADLINE", THREE_TRIES),
            69,
            "the web identity, STS: connecting to 127.0.0.1:",
        ),
        (without_token, 69, "the web identity: the file of its token cannot be read: No such file"),
        (metadata.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &nobody), 77, "the instance metadata: connecting to 127"),
        (
            launch_in_production(&tenant)
                .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{nobody}/keys"))
                .env("APP_SECRETS__DEADLINE", THREE_TRIES),
            69,
            "the container's agent: connecting to 127.0.0.1:",
        ),
        (
            launch_in_production(&tenant).env("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.1.2.3/sentinel"),
            77,
            "the container's agent: AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ),
    ] {
        let exited = run(launch).await;
        assert_eq!(exited.code, Some(code), "{}", exited.stderr);
        assert!(exited.stderr.contains(text), "{text} is missing in:\n{}", exited.stderr);
        assert!(!exited.stdout.contains("aws_config"), "the SDK logs whole answers:\n{}", exited.stdout);
    }
}

#[tokio::test]
async fn an_agent_that_is_overloaded_is_asked_again() {
    let tenant = SERVICE.migrated("overloaded_agent").await;
    let launch = |agent: &PlatformService| {
        launch_in_production(&tenant).env("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.url("/keys"))
    };
    let for_a_moment = PlatformService::overloaded_agent(3).await;
    let patient = launch(&for_a_moment).env("APP_SECRETS__DEADLINE", "30s");
    RunningService::start(patient, &tenant).await.create_note("a note").await;
    assert!(for_a_moment.seen.so_far().len() > 3, "it gave keys");

    let always = PlatformService::overloaded_agent(usize::MAX).await;
    let exited = run(launch(&always).env("APP_SECRETS__DEADLINE", THREE_TRIES)).await;
    assert_eq!(exited.code, Some(69), "{}", exited.stderr);
    assert!(exited.stderr.contains("the container's agent gives no identity: HTTP 429"), "{}", exited.stderr);
}

#[tokio::test]
async fn an_identity_that_the_manager_denies_is_replaced_by_the_reload_that_sees_it() {
    let tenant = SERVICE.migrated("revoked_session").await;
    let (manager, agent) = (scripted_manager(&tenant).await, PlatformService::container_agent().await);
    let launch = launch_in_production(&tenant).with_manager(&manager);
    let launch = launch.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.url("/keys"));
    let mut running = RunningService::start(launch, &tenant).await;
    assert_eq!(agent.seen.so_far().len(), 1);
    tenant.rotate("database").await.expect("a rotation");
    manager.script([FaultRule::all(ScriptedFault::Status(400, "ExpiredTokenException")).times(1)]);
    running.process.signal(Signal::HUP);
    let status = wait_for_generation(&running, 2).await;
    assert_eq!(status["last_reload"]["carried_over"], json!([]), "{status}");
    assert_eq!(agent.seen.so_far().len(), 2);
}

#[tokio::test]
async fn an_endpoint_of_sts_without_tls_needs_permission_in_production() {
    let tenant = SERVICE.migrated("plain_sts").await;
    let launch = launch_in_production(&tenant).env_remove("APP_SECRETS__AWS__ALLOW_HTTP_ENDPOINT");
    let launch = launch.env_remove("AWS_ENDPOINT_URL").env("AWS_ENDPOINT_URL_STS", "http://sts.example");
    let exited = run(launch).await;
    assert_eq!(exited.code, Some(78), "{}", exited.stderr);
    assert!(exited.stderr.contains("AWS_ENDPOINT_URL_STS"), "{}", exited.stderr);
}

#[tokio::test]
async fn the_authorities_of_aws_ca_bundle_are_trusted_for_the_manager() {
    let tenant = SERVICE.migrated("ca_bundle").await;
    let authority = Authority::new("corporate");
    let emulator: SocketAddr = tenant.emulator().endpoint.trim_start_matches("http://").parse().expect("an address");
    let manager = StandIn::tls_before(&authority.local(Validity::days(1)), b"", emulator).await;
    let bundle = TemporaryFile::new(authority.certificate());
    let launch = SERVICE.launch(&tenant).env("AWS_ENDPOINT_URL", format!("https://localhost:{}", manager.port()));
    let running = RunningService::start(launch.env("AWS_CA_BUNDLE", bundle.path()), &tenant).await;
    running.create_note("a note").await;
}
