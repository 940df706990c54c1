//! Secrets at a real OpenBao: logins, rotations, and what a start says when it cannot have them.

mod pod;

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        documented_commands::run_at_openbao, launch_options::LaunchOptions, reload_status::assert_kept,
        secrets::moved_to,
    },
};
use axum::{
    Router,
    http::Uri,
    response::{Html, Redirect},
};
use devstack::{
    Authority, DEFAULT_TIMEOUT, ExitedProcess, Launch, OpenBao, OpenBaoServer, RunningService, Signal, Stack, Tenant,
    Validity, eventually, free_port, problem, random_key, reqwest::StatusCode,
};
use serde_json::{Value, json};
use std::{
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::net::TcpListener;

/// Returns the interface of the server that has the secrets of a tenant.
async fn openbao() -> &'static OpenBao {
    OpenBaoServer::shared().await.api()
}

/// Runs a start that must fail with this exit code and these texts.
async fn assert_fails(launch: Launch, code: i32, texts: &[&str]) -> ExitedProcess {
    let exited = launch.with_short_deadline().start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(code), "{}", exited.stderr);
    for text in texts {
        assert!(exited.stderr.contains(text), "{text:?} is missing in:\n{}", exited.stderr);
    }
    exited
}

/// Starts the service without polling, and shows that it works.
async fn serves<'a>(launch: Launch, tenant: &'a Tenant) -> RunningService<'a> {
    let running = RunningService::start(launch, tenant).await;
    running.create_note("it has logged in").await;
    running
}

/// Prepares the service with a login by AppRole. Returns it with the secret id.
async fn launch_with_approle(tenant: &Tenant, role: Value) -> (Launch, String) {
    let (server, name) = (OpenBaoServer::shared().await, tenant.name());
    let path = format!("auth/approle/role/{name}");
    server.api().post(&path, role).await.expect("an answer");
    let role_id = server.api().get(&format!("{path}/role-id")).await.expect("an answer")["data"]["role_id"].clone();
    let secret_id =
        server.api().post(&format!("{path}/secret-id"), json!({})).await.expect("an answer")["data"]["secret_id"]
            .clone();
    let secret_id = secret_id.as_str().expect("a secret id").to_owned();
    tenant.remember("secret id", &secret_id);
    let write = |file: &str, text: &str| server.write_file(&format!("{file}-{name}"), text).expect("a file");
    let launch = SERVICE
        .launch(tenant)
        .env("APP_SECRETS__VAULT__AUTH", "approle")
        .env("APP_SECRETS__VAULT__ROLE_ID_FILE", write("role-id", role_id.as_str().expect("a role id")))
        .env("APP_SECRETS__VAULT__SECRET_ID_FILE", write("secret-id", &format!("{secret_id}\n")));
    (launch, secret_id)
}

#[tokio::test]
async fn a_service_takes_up_what_is_rotated_at_openbao() {
    let tenant = SERVICE.migrated_at_openbao("bao_rotates").await;
    let mut running = serves(SERVICE.launch(&tenant), &tenant).await;
    let before = running.credential("database").await;
    assert_eq!(before["id"], tenant.id("database"));
    assert!(before["version"].as_str().is_some_and(|version| version.starts_with("1@20")), "{before}");
    assert_eq!(running.reload().await["outcome"], "unchanged");

    let version = tenant.rotate("database").await.unwrap();
    let reload = running.reload().await;
    assert_eq!(reload["outcome"], "published", "{reload}");
    let after = running.credential("database").await;
    assert_eq!((&after["version"], &after["stage"]), (&version.into(), &"current".into()));
    running.create_note("with the next version").await;

    let audit = SERVICE.launch(&tenant).args(["audit", &running.at.admin]).run();
    assert_eq!(audit.code, Some(0), "{}{}", audit.stdout, audit.stderr);
    tenant.put("signing", &random_key()).await.unwrap();
    let audit = SERVICE.launch(&tenant).args(["audit", &running.at.admin]).run();
    assert_eq!(audit.code, Some(69), "{}{}", audit.stdout, audit.stderr);
}

#[tokio::test]
async fn a_signature_of_the_key_before_counts_and_that_of_a_destroyed_one_does_not() {
    let tenant = SERVICE.migrated_at_openbao("bao_previous").await;
    let mut running = serves(SERVICE.launch(&tenant), &tenant).await;
    running.create_note("another").await;
    let path = running.second_page().await;
    tenant.put("signing", &random_key()).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(running.get(&path).await.status(), StatusCode::OK);
    let others = running.credential("signing").await["others"].clone();
    assert!(others["previous"].as_str().is_some_and(|version| version.starts_with("1@")), "{others}");

    let destroy = tenant.id("signing").replacen("/data/", "/destroy/", 1);
    openbao().await.put(&destroy, json!({ "versions": [1] })).await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    problem(running.get(&path).await, 400).await;
}

#[tokio::test]
async fn a_value_with_one_field_is_that_text_and_any_other_is_json() {
    let tenant = SERVICE.migrated_at_openbao("bao_forms").await;
    let key = random_key();
    tenant.put("signing", &key).await.unwrap();
    let stored = openbao().await.secret(&tenant.id("signing")).await.unwrap().expect("a secret").0;
    assert_eq!(stored, json!({ "value": key }));
    assert_eq!(tenant.value("signing", "AWSCURRENT").await.unwrap(), key);
    serves(SERVICE.launch(&tenant), &tenant).await;
    tenant.put("signing", &json!({ "key": random_key() }).to_string()).await.unwrap();
    assert_eq!(tenant.value("signing", "AWSPREVIOUS").await.unwrap(), key, "an API receiver accepts both");
    serves(SERVICE.launch(&tenant), &tenant).await;
    tenant.put("signing", &json!({ "value": "sentinel-short" }).to_string()).await.unwrap();
    assert_fails(SERVICE.launch(&tenant), 65, &["credential `signing`", "malformed", "plain text"]).await;
}

#[tokio::test]
async fn each_auth_method_logs_in_and_reads_its_files_again_for_the_next_login() {
    let tenant = SERVICE.migrated_at_openbao("bao_logins").await;
    serves(SERVICE.launch(&tenant), &tenant).await;

    let role = json!({ "token_policies": [tenant.name()], "token_ttl": "2s", "secret_id_num_uses": 1 });
    let (launch, first) = launch_with_approle(&tenant, role.clone()).await;
    let mut running = serves(launch, &tenant).await;
    eventually("the end of the token, whose secret id has no use left", async || {
        let reload = running.reload().await;
        if reload["exit_code"] == 77 { Ok(()) } else { Err(reload) }
    })
    .await;
    let (_, second) = launch_with_approle(&tenant, role).await;
    assert_ne!(first, second);
    assert_eq!(running.reload().await["outcome"], "unchanged", "other credentials are tried at once");
}

#[tokio::test]
async fn a_token_of_an_agent_is_read_from_its_file() {
    let tenant = SERVICE.migrated_at_openbao("bao_agent").await;
    let server = OpenBaoServer::shared().await;
    let file = format!("agent-token-{}", tenant.name());
    let issue = async |ttl: &str| {
        let request = json!({ "policies": [tenant.name()], "ttl": ttl });
        let answer = server.api().post("auth/token/create", request).await.unwrap();
        let token = answer["auth"]["client_token"].as_str().expect("a token").to_owned();
        tenant.remember("token", &token);
        (server.write_file(&file, &format!("{token}\n")).unwrap(), token)
    };
    let (path, first) = issue("1h").await;
    let launch = || {
        let launch = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__AUTH", "token_file");
        launch.env("APP_SECRETS__VAULT__TOKEN_FILE", &path)
    };
    let mut running = serves(launch(), &tenant).await;
    server.api().post("auth/token/revoke", json!({ "token": first })).await.unwrap();
    assert_fails(launch(), 77, &["secrets.vault.token_file is not accepted", "let the agent put a token"]).await;
    issue("1h").await;
    eventually("a reload with the agent's next token", async || {
        let reload = running.reload().await;
        if reload["outcome"] == "unchanged" { Ok(()) } else { Err(reload) }
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_denies_ends_with_77_and_names_the_path_and_the_capability() {
    let tenant = SERVICE.migrated_at_openbao("bao_denied").await;
    let name = tenant.name();
    let only = format!("path \"{}\" {{ capabilities = [\"read\"] }}", tenant.id("database"));
    openbao().await.post(&format!("sys/policies/acl/{name}"), json!({ "policy": only })).await.unwrap();
    let signing = format!("path \"{}\" {{ capabilities = [\"read\"] }}", tenant.id("signing"));
    let exited = assert_fails(SERVICE.launch(&tenant), 77, &["credential `signing`", "denies access", &signing]).await;
    assert!(!exited.stderr.contains("credential `database`"), "{}", exited.stderr);
}

#[tokio::test]
async fn what_is_not_there_ends_with_66_and_says_what_is_missing() {
    let tenant = SERVICE.migrated_at_openbao("bao_missing").await;
    let (bao, id) = (openbao().await, tenant.id("signing"));
    bao.delete(&id).await.unwrap();
    assert_fails(SERVICE.launch(&tenant), 66, &["credential `signing`", "version 1 is deleted", "undelete"]).await;
    bao.delete(&id.replacen("/data/", "/metadata/", 1)).await.unwrap();
    let put = format!("bao kv put -mount=kv {}/signing", tenant.name());
    assert_fails(SERVICE.launch(&tenant), 66, &["credential `signing`", &put, "[secrets.ids] signing"]).await;
}

#[tokio::test]
async fn a_login_that_is_denied_ends_with_77_in_the_words_of_its_method() {
    let tenant = SERVICE.migrated_at_openbao("bao_no_login").await;
    let namespace = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__NAMESPACE", "pay\nments");
    assert_fails(namespace, 78, &["secrets.vault.namespace", "no header can carry"]).await;
    let mount = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__MOUNT", "team/data/kv");
    assert_fails(mount, 78, &["secrets.vault.mount", "`data`"]).await;
    let namespace = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__NAMESPACE", "nowhere");
    assert_fails(namespace, 77, &["there is no namespace `nowhere`", "secrets.vault.namespace"]).await;

    let server = OpenBaoServer::shared().await;
    let stranger = server.write_file(&format!("stranger-{}", tenant.name()), &server.issuer().token("stranger", ""));
    let launch = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__JWT_FILE", stranger.unwrap());
    assert_fails(launch, 77, &["the login at auth/jwt/login is denied", "sub", "bound_subject"]).await;

    let absent = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__JWT_FILE", "/nonexistent/jwt");
    assert_fails(absent, 69, &["/nonexistent/jwt of secrets.vault.jwt_file", "put the file there"]).await;

    let once = json!({ "token_policies": [tenant.name()], "token_num_uses": 1 });
    let (launch, _) = launch_with_approle(&tenant, once).await;
    assert_fails(launch, 77, &["its tokens end after 1 uses", "num_uses"]).await;
}

#[tokio::test]
async fn a_secret_id_that_has_ended_is_tried_once_and_locks_no_role() {
    let tenant = SERVICE.migrated_at_openbao("bao_secret_id").await;
    let role = json!({ "token_policies": [tenant.name()], "secret_id_num_uses": 1 });
    let (launch, _) = launch_with_approle(&tenant, role.clone()).await;
    serves(launch, &tenant).await;
    for _ in 0..3 {
        let (launch, secret_id) = launch_with_approle(&tenant, role.clone()).await;
        openbao()
            .await
            .post(&format!("auth/approle/role/{}/secret-id/destroy", tenant.name()), json!({ "secret_id": secret_id }))
            .await
            .unwrap();
        let texts = ["invalid role or secret ID", "a new secret id", "secrets.vault.role_id_file"];
        assert_fails(launch, 77, &texts).await;
    }
    // A server locks a role after five logins that it denies.
    let (launch, _) = launch_with_approle(&tenant, role).await;
    serves(launch, &tenant).await;
}

#[tokio::test]
async fn a_secret_id_whose_time_is_over_ends_a_start_with_77() {
    let tenant = SERVICE.migrated_at_openbao("bao_secret_id_over").await;
    let role = json!({ "token_policies": [tenant.name()], "secret_id_ttl": "2s" });
    let (launch, secret_id) = launch_with_approle(&tenant, role).await;
    let id = openbao().await.get(&format!("auth/approle/role/{}/role-id", tenant.name())).await.unwrap();
    let login = json!({ "role_id": id["data"]["role_id"], "secret_id": secret_id });
    eventually("the secret id is still accepted", async || {
        match openbao().await.post("auth/approle/login", login.clone()).await {
            Ok(_) => Err("logged in"),
            Err(_) => Ok(()),
        }
    })
    .await;
    assert_fails(launch, 77, &["invalid role or secret ID", "a new secret id"]).await;
}

#[tokio::test]
async fn a_sealed_server_ends_a_start_with_69_and_fails_no_request() {
    let stack = Stack::shared().await;
    let server = stack.openbao(&|_| ()).await.unwrap();
    let tenant = SERVICE.migrated_at_openbao("bao_sealed").await;
    let tenant = moved_to(&server, tenant).await;
    let mut running = serves(SERVICE.launch(&tenant), &tenant).await;
    server.api().put("sys/seal", json!({})).await.unwrap();
    assert_fails(SERVICE.launch(&tenant), 69, &["is sealed", "bao operator unseal"]).await;
    assert_kept(&running.reload().await, 69);
    running.create_note("while the server is sealed").await;
    server.unseal().await.unwrap();
    assert_eq!(running.reload().await["outcome"], "unchanged");
}

#[tokio::test]
async fn an_address_that_is_dead_costs_no_start_and_is_named_if_none_answers() {
    let tenant = SERVICE.migrated_at_openbao("bao_dead").await;
    let dead = format!("https://127.0.0.1:{}", free_port());
    let both = format!("{dead},{}", openbao().await.address());
    serves(SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__ADDRESSES", both), &tenant).await;
    let none = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__ADDRESSES", &dead);
    assert_fails(none, 69, &[&dead["https://".len()..], "Connection refused"]).await;
    let untrusted = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__CA", "");
    assert_fails(untrusted, 69, &["authority that is not trusted", "secrets.vault.ca"]).await;
}

#[tokio::test]
async fn a_server_that_never_answers_ends_a_start_with_75() {
    let tenant = SERVICE.migrated_at_openbao("bao_silent").await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let launch = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__ADDRESSES", format!("https://{address}"));
    // Time for one whole attempt, which names the address, and for one that is cut off.
    let exited = launch.env("APP_SECRETS__DEADLINE", "6s").start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(75), "{}", exited.stderr);
    let text = format!("the manager did not answer: {address} did not answer in time");
    assert!(exited.stderr.contains(&text), "{}", exited.stderr);
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_read_again_for_the_next_connection() {
    let tenant = SERVICE.migrated_at_openbao("bao_certificate").await;
    let server = OpenBaoServer::shared().await;
    let guarded = SERVICE.launch(&tenant).env("APP_SECRETS__VAULT__ADDRESSES", server.guarded_address());
    let without = ["secrets.vault.client_cert and secrets.vault.client_key"];
    assert_fails(guarded, 69, &without).await;

    let write = |authority: &Authority| {
        let identity = authority.client("notes", Validity::days(9));
        let write =
            |end: &str, text: &str| server.write_file(&format!("{}.{end}", tenant.name()), text).expect("a file");
        (write("crt", &identity.certificate), write("key", &identity.private_key))
    };
    let (certificate, key) = write(&Authority::new("strangers"));
    let launch = SERVICE
        .launch(&tenant)
        .env("APP_SECRETS__VAULT__ADDRESSES", server.guarded_address())
        .env("APP_SECRETS__VAULT__CLIENT_CERT", certificate)
        .env("APP_SECRETS__VAULT__CLIENT_KEY", key);
    let mut process = launch.start();
    process.wait_for_line(|line| line.contains("this start tries until secrets.deadline"), DEFAULT_TIMEOUT).await;
    write(tenant.authority());
    process.listening().await;
}

#[tokio::test]
async fn a_configuration_that_cannot_log_in_is_refused_with_every_mistake() {
    let tenant = SERVICE.migrated_at_openbao("bao_config").await;
    let launch = SERVICE
        .launch(&tenant)
        .env("APP_SECRETS__VAULT__ADDRESSES", "http://127.0.0.1:8200")
        .env("APP_SECRETS__VAULT__MOUNT", "k v")
        .env_remove("APP_SECRETS__VAULT__JWT_FILE")
        .env("APP_SECRETS__VAULT__CLIENT_CERT", "/a.pem")
        .env("APP_SECRETS__IDS__SIGNING", "notes/signing");
    let texts = ["has no TLS", "MOUNT", "vault.jwt_file", "needs its key", "a path in a KV engine"];
    assert_fails(launch, 78, &texts).await;
}

#[tokio::test]
async fn a_redirect_is_followed_to_an_address_of_the_list_only() {
    let tenant = SERVICE.migrated_at_openbao("bao_redirect").await;
    let target = openbao().await.address().to_owned();
    let (to_target, _) = redirecting_server(&target).await;
    let (to_stranger, requests) = redirecting_server("https://stranger.example").await;
    let launch = |addresses: &str| {
        let launch = SERVICE.launch(&tenant).env("APP_PROFILE", "dev");
        launch.env("APP_SECRETS__VAULT__ADDRESSES", addresses)
    };
    tenant.put("webhook", &devstack::random()).await.unwrap();
    serves(launch(&format!("{to_target},{to_stranger},{target}")), &tenant).await;
    assert_eq!(requests.load(Ordering::Relaxed), 0, "the redirect names another address of the list");
    let text = "redirects to a host that is not in secrets.vault.addresses";
    assert_fails(launch(&to_stranger), 69, &[text]).await;
}

/// Starts a server that redirects every request to another one, as a standby does. Returns its address, and the number of
/// its requests.
async fn redirecting_server(target: &str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (target, requests) = (target.to_owned(), Arc::new(AtomicUsize::new(0)));
    let count = requests.clone();
    let redirect = async move |uri: Uri| {
        count.fetch_add(1, Ordering::Relaxed);
        Redirect::temporary(&format!("{target}{uri}"))
    };
    tokio::spawn(axum::serve(listener, Router::new().fallback(redirect)).into_future());
    (address, requests)
}

#[tokio::test]
async fn a_page_of_a_load_balancer_is_no_answer_of_the_server() {
    let tenant = SERVICE.migrated_at_openbao("bao_page").await;
    tenant.put("webhook", &devstack::random()).await.unwrap();
    let server = openbao().await.address().to_owned();
    for status in [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE] {
        let page = page_server(status).await;
        let launch = |addresses: &str| {
            let launch = SERVICE.launch(&tenant).env("APP_PROFILE", "dev");
            launch.env("APP_SECRETS__VAULT__ADDRESSES", addresses)
        };
        let text = format!("answers HTTP {} with an HTML page", status.as_u16());
        assert_fails(launch(&page), 69, &[&text, "the load balancer"]).await;
        serves(launch(&format!("{page},{server}")), &tenant).await;
    }
}

/// Starts a load balancer without a server behind it. Returns its address.
async fn page_server(status: StatusCode) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let page = async move || (status, Html("<html>as scripted</html>"));
    tokio::spawn(axum::serve(listener, Router::new().fallback(page)).into_future());
    address
}

/// Returns the shell commands that OPERATIONS.md has for OpenBao.
fn documented_commands() -> String {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/OPERATIONS.md")).expect("a document");
    let section = document.split("### Vault and OpenBao").nth(1).expect("the section");
    section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("commands").to_owned()
}

#[tokio::test]
async fn the_documented_commands_admit_a_service() {
    let tenant = SERVICE.migrated_at_openbao("bao_documented").await;
    let server = OpenBaoServer::shared().await;
    let (login, _) = openbao().await.secret(&tenant.id("database")).await.unwrap().expect("a login");
    let password = server.write_file("password", login["password"].as_str().expect("a password")).unwrap();
    let folder = password.parent().expect("a folder");
    let commands = documented_commands().replace("app_login", &tenant.app_role());
    run_at_openbao(&tenant, &commands, &[]).await;
    let launch = SERVICE
        .launch(&tenant)
        .env("APP_SECRETS__VAULT__AUTH", "approle")
        .env("APP_SECRETS__VAULT__ROLE_ID_FILE", folder.join("role-id"))
        .env("APP_SECRETS__VAULT__SECRET_ID_FILE", folder.join("secret-id"));
    let running = serves(launch, &tenant).await;
    let version = running.credential("database").await["version"].clone();
    assert!(version.as_str().is_some_and(|version| version.starts_with("2@")), "{version}");
}

/// Returns the accessors of the tokens that the server has for a service.
async fn accessors_of(tenant: &Tenant) -> Vec<Value> {
    let list = openbao().await.get("auth/token/accessors?list=true").await.expect("a list");
    let mut accessors = Vec::new();
    for accessor in list["data"]["keys"].as_array().into_iter().flatten() {
        // Another test may have ended it meanwhile.
        let token = openbao().await.post("auth/token/lookup-accessor", json!({ "accessor": accessor })).await;
        let policies = token.unwrap_or_default()["data"]["policies"].clone();
        if policies.as_array().is_some_and(|all| all.contains(&json!(tenant.name()))) {
            accessors.push(accessor.clone());
        }
    }
    accessors
}

/// Returns the number of tokens that the server has for a service.
async fn tokens_of(tenant: &Tenant) -> usize {
    accessors_of(tenant).await.len()
}

#[tokio::test]
async fn the_end_of_a_token_is_no_failure_until_a_login_fails() {
    let tenant = SERVICE.migrated_at_openbao("bao_login_fails").await;
    let role = json!({ "token_policies": [tenant.name()], "secret_id_num_uses": 1 });
    let (launch, _) = launch_with_approle(&tenant, role.clone()).await;
    let mut running = serves(launch, &tenant).await;
    for accessor in accessors_of(&tenant).await {
        openbao().await.post("auth/token/revoke-accessor", json!({ "accessor": accessor })).await.unwrap();
    }
    let failed = "vestibule_manager_login_failed";
    assert_eq!(running.metric(failed).await, 0.0, "nobody needs the token");
    eventually("a login that fails", async || {
        running.reload().await;
        running.metric(failed).await == 1.0
    })
    .await;
    drop(launch_with_approle(&tenant, role).await);
    running.reload().await;
    assert_eq!(running.metric(failed).await, 0.0, "it has a new secret id");
}

#[tokio::test]
async fn every_way_out_gives_the_token_back() {
    let tenant = SERVICE.migrated_at_openbao("bao_gives_back").await;
    assert_eq!(tokens_of(&tenant).await, 0, "after `migrate`");
    let mut running = serves(SERVICE.launch(&tenant), &tenant).await;
    assert_eq!(tokens_of(&tenant).await, 1, "requests share one session");
    for arguments in [["check", "--live"], ["audit", &running.at.admin]] {
        let exited = SERVICE.launch(&tenant).args(arguments).run();
        assert_eq!(exited.code, Some(0), "{}", exited.stderr);
        assert_eq!(tokens_of(&tenant).await, 1, "after {arguments:?}");
    }
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert_eq!(tokens_of(&tenant).await, 0, "after a stop");
    openbao().await.delete(&tenant.id("signing")).await.unwrap();
    assert_fails(SERVICE.launch(&tenant), 66, &["credential `signing`"]).await;
    assert_eq!(tokens_of(&tenant).await, 0, "after a failed start");
}

#[tokio::test]
async fn a_role_that_got_another_policy_is_taken_up_and_the_token_before_is_given_back() {
    let tenant = SERVICE.migrated_at_openbao("bao_role").await;
    let (bao, name) = (openbao().await, tenant.name());
    let mut running = serves(SERVICE.launch(&tenant), &tenant).await;
    let below = |folder: &str| format!("path \"kv/{folder}/{name}/*\" {{ capabilities = [\"read\"] }}");
    bao.post(&format!("sys/policies/acl/{name}"), json!({ "policy": below("metadata") })).await.unwrap();
    assert_kept(&running.reload().await, 77);
    bao.post(&format!("sys/policies/acl/{name}-2"), json!({ "policy": below("data") })).await.unwrap();
    let mut role = bao.get(&format!("auth/jwt/role/{name}")).await.unwrap()["data"].take();
    role["token_policies"] = json!([name, format!("{name}-2")]);
    bao.post(&format!("auth/jwt/role/{name}"), role).await.unwrap();
    eventually("a login that has the new policy", async || {
        let reload = running.reload().await;
        if reload["outcome"] == "unchanged" { Ok(()) } else { Err(reload) }
    })
    .await;
    eventually("the end of the token before", async || tokens_of(&tenant).await == 1).await;
}
