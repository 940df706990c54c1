//! Leases that end otherwise than planned: at the manager, in the database, and with the process.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        configuration_folder::ConfigurationFolder,
        database::run_as_superuser,
        launch_options::LaunchOptions,
        leased::{Leased, stop, use_next_user, user_of},
        load::Load,
        reload_status::assert_kept,
        tcp_proxy::{NewConnections, OpenFault, TcpProxy},
    },
};
use devstack::{
    DEFAULT_TIMEOUT, RunningService, Signal, eventually,
    reqwest::{Certificate, Client, StatusCode},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

async fn renewals(running: &RunningService<'_>, outcome: &str) -> f64 {
    running.metric(&format!("vestibule_lease_renewals_total{{name=\"database\",outcome=\"{outcome}\"}}")).await
}

#[tokio::test]
async fn a_renewal_that_comes_back_shorter_brings_a_successor_and_fails_no_request() {
    let leased = Leased::new("lease_shorter", "12s", "18s").await;
    let running = leased.start().await;
    let first = user_of(&running).await;
    let load = Load::on(&running, 2);
    eventually("another user", async || user_of(&running).await != first).await;
    assert!(renewals(&running, "renewed").await >= 1.0, "it was renewed before, for less than 12 s at last");
    let answers = load.stop().await;
    assert_eq!(answers.failed, Vec::<String>::new());
    assert_eq!(running.status().await["last_reload"]["trigger"], "lease");
    stop(running).await;
    leased.wait_for_users(0).await;
}

#[tokio::test]
async fn a_renewal_that_the_server_cannot_make_in_the_database_is_not_the_end_of_the_lease() {
    let leased = Leased::new("lease_database_down", "1h", "1h").await;
    let proxy = TcpProxy::before(&leased.tenant).await;
    let (name, database) = (leased.tenant.name(), leased.tenant.database());
    let url =
        format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/{name}?sslmode=disable", proxy.port());
    assert_eq!(name, database.name);
    leased.server.api().post(&format!("database/config/{name}"), json!({ "connection_url": url })).await.unwrap();
    let mut running = leased.start().await;
    let user = user_of(&running).await;
    proxy.set_new_connections(NewConnections::Reset);
    proxy.fail_open_connections(OpenFault::Reset);
    assert_kept(&running.reload().await, 69);
    assert!(renewals(&running, "failed").await >= 1.0);
    running.create_note("while the server cannot reach the database").await;
    proxy.set_new_connections(NewConnections::Forwarded);
    assert_eq!(running.reload().await["outcome"], "unchanged");
    assert_eq!((user_of(&running).await, renewals(&running, "ended").await), (user, 0.0));
}

#[tokio::test]
async fn a_token_that_is_lost_is_noticed_also_if_nobody_can_log_in() {
    let leased = Leased::new("lease_no_login", "1h", "1h").await;
    let mut running = leased.start().await;
    leased.server.api().delete(&format!("auth/jwt/role/{}", leased.tenant.name())).await.expect("an answer");
    leased.revoke_tokens().await;
    assert_kept(&running.reload().await, 77);
    assert_eq!(renewals(&running, "ended").await, 1.0);
}

#[tokio::test]
async fn a_user_that_is_dropped_under_its_open_sessions_is_replaced() {
    let leased = Leased::new("lease_dropped", "1h", "1h").await;
    let running = leased.start().await;
    let first = user_of(&running).await;
    run_as_superuser(&leased.tenant, format!("DROP ROLE \"{first}\"")).await;
    use_next_user(&running, &first).await;
    assert_eq!(leased.users().await, [user_of(&running).await]);
    let leases = format!("sys/leases/lookup/{}?list=true", leased.id);
    eventually("the end of the lease whose user is gone", async || {
        let listed = leased.server.api().get(&leases).await.expect("a list")["data"]["keys"].take();
        if listed.as_array().is_some_and(|leases| leases.len() == 1) { Ok(()) } else { Err(listed) }
    })
    .await;
}

#[tokio::test]
async fn each_start_that_fails_has_one_user_made_at_most() {
    let leased = Leased::new("lease_crash_loop", "1h", "1h").await;
    let made = format!("CREATE TABLE made (name text); GRANT INSERT ON made TO \"{}_vault\"", leased.tenant.name());
    run_as_superuser(&leased.tenant, made).await;
    leased.server.set_lease_role(&leased.tenant, "1h", "1h", "NOLOGIN").await.unwrap();
    leased.before_each_user("INSERT INTO made VALUES ('{{name}}')").await;
    let mut admin = leased.tenant.admin().await.unwrap();
    for starts in 1..=3 {
        let mut process = leased.launch().with_short_deadline().start();
        if starts == 3 {
            process.wait_for_line(|line| line.contains("a login is rejected"), DEFAULT_TIMEOUT).await;
            process.signal(Signal::KILL);
        }
        let exited = process.exited(DEFAULT_TIMEOUT).await;
        assert_eq!(exited.code, if starts == 3 { None } else { Some(77) }, "{}", exited.stderr);
        let made: i64 = sqlx::query_scalar("SELECT count(*) FROM made").fetch_one(&mut admin).await.unwrap();
        assert_eq!(made, starts, "a start tries the user of its first try again");
    }
    // The server ends that of the process that was killed.
    leased.wait_for_users(1).await;
}

/// The time that an answer of the server takes to the service: time for a test to see the user, and to send a signal.
const LATENCY: Duration = Duration::from_millis(200);

/// Returns a proxy whose answers take a while.
async fn slow_proxy(leased: &Leased) -> TcpProxy {
    let address = leased.server.api().address().rsplit(':').next().expect("a port");
    let proxy = TcpProxy::to("127.0.0.1", address.parse().expect("a number")).await;
    proxy.set_latency(LATENCY);
    proxy
}

#[tokio::test]
async fn a_process_that_ends_before_it_has_the_answer_with_its_user_gives_the_user_back() {
    let leased = Leased::new("lease_stop", "1h", "1h").await;
    let proxy = slow_proxy(&leased).await;
    // The database does not answer either, so that nothing goes on before the signal comes.
    let database = TcpProxy::before(&leased.tenant).await;
    database.set_new_connections(NewConnections::Swallowed);
    let launch = async |arguments: &[&str]| {
        let launch = database.launch(leased.launch().args(arguments.iter().copied()));
        let launch = launch.env("APP_SECRETS__VAULT__ADDRESSES", format!("https://127.0.0.1:{}", proxy.port()));
        // The token is an agent's and lives on, so nothing else ends the user.
        leased.with_token_of_agent(launch).await.0
    };
    for (arguments, code) in [(&["serve"][..], 0), (&["check", "--live"], 143)] {
        let mut process = launch(arguments).await.start();
        leased.wait_for_users(1).await;
        process.signal(Signal::TERM);
        let exited = process.exited(DEFAULT_TIMEOUT).await;
        assert_eq!(exited.code, Some(code), "{}", exited.stderr);
        leased.wait_for_users(0).await;
    }

    database.set_new_connections(NewConnections::Forwarded);
    let mut running = RunningService::start(launch(&["serve"]).await, &leased.tenant).await;
    let first = user_of(&running).await;
    leased.revoke_all().await;
    leased.wait_for_users(0).await;
    database.set_new_connections(NewConnections::Swallowed);
    running.process.signal(Signal::HUP);
    leased.wait_for_users(1).await;
    assert_eq!(user_of(&running).await, first, "nothing is published yet");
    running.process.signal(Signal::TERM);
    let exited = running.process.exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(0), "{}", exited.stderr);
    leased.wait_for_users(0).await;
}

#[tokio::test]
async fn a_command_that_a_signal_ends_gives_its_user_back() {
    let leased = Leased::new("lease_commands", "1h", "1h").await;
    let proxy = TcpProxy::before(&leased.tenant).await;
    // The database does not answer the command, which has its user by then.
    proxy.set_new_connections(NewConnections::Swallowed);
    for (arguments, signal, code) in [
        (&["check", "--live"][..], Signal::TERM, 143),
        (&["check", "--live"], Signal::INT, 130),
        (&["migrate"], Signal::INT, 130),
    ] {
        let launch = leased.launch().args(arguments.iter().copied()).env("APP_SECRETS__IDS__MIGRATOR", &leased.id);
        let (launch, _) = leased.with_token_of_agent(proxy.launch(launch)).await;
        let mut command = launch.start();
        leased.wait_for_users(1).await;
        eventually("a log-in", async || proxy.sent() > 0).await;
        command.signal(signal);
        let exited = command.exited(DEFAULT_TIMEOUT).await;
        assert_eq!(exited.code, Some(code), "{arguments:?}: {}", exited.stderr);
        leased.wait_for_users(0).await;
    }
}

#[tokio::test]
async fn the_end_of_the_token_is_shown() {
    let leased = Leased::new("lease_token_end", "1h", "1h").await;
    let (launch, token) = leased.with_token_of_agent(leased.launch()).await;
    let running = RunningService::start(launch, &leased.tenant).await;
    let of_server = leased.server.api().with_token(token).get("auth/token/lookup-self").await.unwrap();
    let text = |value: &Value| value.as_str().expect("a time").to_owned();
    let (shown, expected) =
        (text(&running.status().await["manager_token_end"]), text(&of_server["data"]["expire_time"]));
    let seconds = |time: &str| {
        let time = time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).expect("a time");
        time.unix_timestamp()
    };
    let metric = running.metric("vestibule_manager_token_end_timestamp_seconds").await;
    // The server says how many seconds are left, and nothing of their parts.
    assert!((seconds(&shown) - seconds(&expected)).abs() <= 2, "{shown}, and not {expected}");
    assert!((metric - seconds(&expected) as f64).abs() <= 2.0, "{metric}, and not {expected}");
    let at_aws = SERVICE.migrated("no_token_end").await;
    let running = SERVICE.start(&at_aws).await;
    assert_eq!(running.status().await.get("manager_token_end"), None);
}

#[tokio::test]
async fn a_password_that_the_server_rotates_is_taken_up_and_no_request_fails() {
    let leased = Leased::new("lease_static", "1h", "1h").await;
    let (api, name, user) = (leased.server.api(), leased.tenant.name(), leased.tenant.app_role());
    run_as_superuser(&leased.tenant, format!("GRANT \"{user}\" TO \"{name}_vault\" WITH ADMIN OPTION")).await;
    // One name is that of one role.
    api.delete(&format!("database/roles/{name}")).await.expect("an answer");
    let role = json!({ "db_name": name, "username": user, "rotation_period": "1h" });
    api.post(&format!("database/static-roles/{name}"), role).await.expect("a role");
    let (id, role) = (format!("database/static-creds/{name}"), format!("database/static-roles/{name}"));
    leased.allow(&[(&id, "read"), (&role, "read")]).await;
    let launch = SERVICE.launch(&leased.tenant).env("APP_SECRETS__IDS__DATABASE", &id);
    let mut running = RunningService::start(launch, &leased.tenant).await;
    let load = Load::on(&running, 4);
    let mut versions = BTreeSet::from([user_of(&running).await]);
    for _ in 0..3 {
        api.post(&format!("database/rotate-role/{name}"), json!({})).await.expect("a rotation");
        running.reload().await;
        eventually("the next version", async || versions.insert(user_of(&running).await)).await;
    }
    let answers = load.stop().await;
    assert_eq!(answers.failed, Vec::<String>::new());
    let audit = SERVICE.launch(&leased.tenant).args(["audit", &running.at.admin]).run();
    assert_eq!(audit.code, Some(0), "{}{}", audit.stdout, audit.stderr);
}

/// Has the server issue the certificates of the service, by a role with these settings too. Returns the configuration for
/// it, and the certificate of the authority as PEM.
async fn issue_certificates(leased: &Leased, settings: Value) -> (ConfigurationFolder, String) {
    let (api, name) = (leased.server.api(), leased.tenant.name());
    let mount = format!("pki-{name}");
    api.post(&format!("sys/mounts/{mount}"), json!({ "type": "pki" })).await.expect("a mount");
    let root = json!({ "common_name": "test", "ttl": "24h" });
    let root = api.post(&format!("{mount}/root/generate/internal"), root).await.expect("an authority");
    let mut role = json!({ "allow_any_name": true, "key_type": "ec", "key_bits": 256 });
    role.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
    api.post(&format!("{mount}/roles/{name}"), role).await.expect("a role");
    let id = format!("{mount}/issue/{name}");
    leased.allow(&[(&id, "update")]).await;
    let folder = ConfigurationFolder::new();
    folder.write(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ntls = true\n[secrets.ids]\ndatabase = \"{}\"\nserver_tls = \"{id}\"\n\
         [secrets.vault.issue.server_tls]\ncommon_name = \"localhost\"\nip_sans = [\"127.0.0.1\"]\n",
        leased.id
    ));
    (folder, root["data"]["certificate"].as_str().expect("a certificate").to_owned())
}

#[tokio::test]
async fn a_role_whose_certificates_have_leases_ends_a_start_with_65() {
    let leased = Leased::new("lease_pki_leased", "1h", "1h").await;
    let (folder, _) = issue_certificates(&leased, json!({ "ttl": "1h", "generate_lease": true })).await;
    let exited = folder.launch(&leased.tenant).start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(65), "{}", exited.stderr);
    let remedy = format!("`bao patch pki-{0}/roles/{0} generate_lease=false`", leased.tenant.name());
    assert!(exited.stderr.contains(&remedy), "{}", exited.stderr);
}

#[tokio::test]
async fn a_certificate_that_the_server_issues_is_replaced_in_time_and_no_request_fails() {
    let leased = Leased::new("lease_pki", "1h", "1h").await;
    let (folder, root) = issue_certificates(&leased, json!({ "ttl": "12s", "max_ttl": "12s" })).await;
    let running = RunningService::start(folder.launch(&leased.tenant), &leased.tenant).await;
    let root = Certificate::from_pem(root.as_bytes()).expect("a certificate");
    let serial = async || running.credential("server_tls").await["version"].as_str().expect("a version").to_owned();
    let mut serials = BTreeSet::from([serial().await]);
    while serials.len() < 3 {
        // Each client makes a connection of its own.
        let client = Client::builder().no_proxy().add_root_certificate(root.clone()).build().expect("a client");
        let answer = client.get(format!("https://{}/v1/notes", running.at.public)).send().await;
        assert_eq!(answer.expect("a certificate that is valid").status(), StatusCode::OK);
        serials.insert(serial().await);
    }
    let status = running.status().await;
    assert_eq!(status["last_reload"]["trigger"], "lease", "{status}");
}
