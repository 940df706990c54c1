//! Authentication: the tokens of an issuer, its keys, and its outages.

use crate::{
    SERVICE,
    support::{
        configuration_folder::ConfigurationFolder, launch_options::LaunchOptions, metrics_page::MetricsPage,
        mistakes::assert_mistake, reload_status::assert_carried_over, secrets::current_version,
        temporary_file::TemporaryFile,
    },
};
use devstack::{
    DEFAULT_TIMEOUT, Launch, RunningService, Tenant, TokenIssuer, Validity, eventually, free_port, problem, random_key,
    reqwest::{Method, Response, StatusCode},
};
use serde_json::{Value, json};

/// An issuer, and the file of the authority of its certificate.
struct TrustedIssuer {
    issuer: TokenIssuer,
    roots: TemporaryFile,
}

impl TrustedIssuer {
    fn start(tenant: &Tenant) -> Self {
        let authority = tenant.authority();
        let issuer = TokenIssuer::with_tls(&authority.local(Validity::days(1))).expect("a port");
        Self { issuer, roots: TemporaryFile::new(authority.certificate()) }
    }

    /// Starts another issuer, whose certificate is trusted too.
    fn another(tenant: &Tenant) -> TokenIssuer {
        TokenIssuer::with_tls(&tenant.authority().local(Validity::days(1))).expect("a port")
    }

    /// Prepares the service with the tokens of this issuer.
    fn launch(&self, tenant: &Tenant) -> Launch {
        let launch = SERVICE.launch(tenant).env("SSL_CERT_FILE", self.roots.path());
        self.issuer.env().into_iter().fold(launch, |launch, (name, value)| launch.env(name, value))
    }
}

/// Gets the list of notes with this token.
async fn list(running: &RunningService<'_>, token: &str) -> Response {
    running.request(Method::GET, "/v1/notes").bearer_auth(token).send().await.expect("an answer")
}

#[tokio::test]
async fn a_route_needs_a_token_of_the_issuer_and_what_is_public_does_not() {
    let tenant = SERVICE.migrated("auth").await;
    let trusted = TrustedIssuer::start(&tenant);
    let running = RunningService::start(trusted.launch(&tenant), &tenant).await;
    let token = trusted.issuer.token("ada", "");
    tenant.leak_detector().remember("token", &token);

    for path in ["/v1/notes", "/v1/notes/7", "/no/such/path"] {
        let answer = running.get(path).await;
        assert_eq!(answer.headers()["www-authenticate"], "Bearer realm=\"service\"", "{path}");
        problem(answer, 401).await;
    }
    let post = running.request(Method::POST, "/v1/notes").bearer_auth(&token).json(&json!({ "body": "mine" }));
    let note: Value = post.send().await.unwrap().json().await.unwrap();
    assert_eq!(note["created_by"], "ada", "{note}");
    let unknown = running.request(Method::GET, "/no/such/path").bearer_auth(&token).send().await.unwrap();
    problem(unknown, 404).await;
    let in_query = running.get(&format!("/v1/notes?access_token={token}")).await;
    problem(in_query, 401).await;
    let expired = list(&running, &trusted.issuer.token_with(json!({ "exp": 1 }))).await;
    let challenge = "Bearer realm=\"service\", error=\"invalid_token\"";
    assert_eq!(expired.headers()["www-authenticate"], challenge);
    assert_eq!(problem(expired, 401).await, "the token is refused: it has expired");
    let served = running.get("/openapi.json").await.text().await.unwrap();
    assert!(served.contains("\"bearerFormat\": \"JWT\""), "{served}");
    let printed = SERVICE.launch_without_tenant().await.args(["openapi", "--auth"]).run();
    assert_eq!(printed.stdout.trim(), served);

    let keys = &running.status().await["authentication"];
    assert_eq!((&keys["issuer"], keys["key_ids"].as_array().unwrap().len()), (&"urn:devstack".into(), 1), "{keys}");
    let (_, _, page) = running.page("/").await;
    assert!(page.contains("Tokens of urn:devstack; its keys were fetched"), "{page}");
    assert_eq!(running.metric("vestibule_auth_tokens_total{outcome=\"accepted\"}").await, 2.0);
    assert_eq!(running.metric("vestibule_auth_tokens_total{outcome=\"missing\"}").await, 4.0);
}

#[tokio::test]
async fn a_client_without_a_token_does_not_learn_which_paths_there_are() {
    let tenant = SERVICE.migrated("auth_paths").await;
    let trusted = TrustedIssuer::start(&tenant);
    let running = RunningService::start(trusted.launch(&tenant), &tenant).await;
    let unknown = TokenIssuer::start().expect("a port").token("eve", "");
    problem(list(&running, &unknown).await, 401).await;
    for path in ["/v1/notes", "/no/such/path"] {
        let delete = || running.request(Method::DELETE, path);
        for (request, status) in [
            (delete(), 401),
            (delete().bearer_auth("x"), 401),
            (delete().bearer_auth(&unknown), 429),
            (delete().bearer_auth("x").bearer_auth("x"), 400),
            (delete().header("content-encoding", "gzip").body("x"), 415),
        ] {
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.headers().get("allow"), None, "{path}: {status}");
            problem(answer, status).await;
        }
    }
    let token = trusted.issuer.token("ada", "");
    let answer = running.request(Method::DELETE, "/v1/notes").bearer_auth(token).send().await.expect("an answer");
    assert_eq!(answer.headers()["allow"], "POST,GET,HEAD");
    problem(answer, 405).await;
}

#[tokio::test]
async fn keys_that_the_issuer_rotates_are_taken_up_without_a_restart() {
    let tenant = SERVICE.migrated("auth_rotation").await;
    let trusted = TrustedIssuer::start(&tenant);
    let running = RunningService::start(trusted.launch(&tenant), &tenant).await;
    let before = trusted.issuer.token("ada", "");
    assert_eq!(list(&running, &before).await.status(), StatusCode::OK);
    let version = running.status().await["authentication"]["version"].clone();
    trusted.issuer.rotate();
    let after = trusted.issuer.token("ada", "");
    assert_eq!(list(&running, &after).await.status(), StatusCode::OK);
    problem(list(&running, &before).await, 401).await;
    let status = running.status().await;
    assert_ne!(status["authentication"]["version"], version);
    assert_eq!(status["generation"], 1, "nothing was built again");
}

#[tokio::test]
async fn a_made_up_key_is_no_failure_of_the_service() {
    let tenant = SERVICE.migrated("auth_unknown_key").await;
    let trusted = TrustedIssuer::start(&tenant);
    let running = RunningService::start(trusted.launch(&tenant), &tenant).await;
    let stranger = TokenIssuer::start().expect("a port").token("eve", "");
    problem(list(&running, &stranger).await, 401).await;
    let limited = list(&running, &stranger).await;
    let pause: u64 = limited.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&pause), "{pause}");
    problem(limited, 429).await;
    assert_eq!(list(&running, &trusted.issuer.token("ada", "")).await.status(), StatusCode::OK);
    assert_eq!(running.metric("vestibule_auth_tokens_total{outcome=\"unknown_key\"}").await, 1.0);
}

#[tokio::test]
async fn an_issuer_that_is_away_stops_no_token_of_its_known_keys() {
    let tenant = SERVICE.migrated("auth_outage").await;
    let trusted = TrustedIssuer::start(&tenant);
    let launch = trusted.launch(&tenant).env("APP_AUTH__CACHE_LIFETIME", "0s");
    let running = RunningService::start(launch, &tenant).await;
    let known = trusted.issuer.token("ada", "");
    trusted.issuer.rotate();
    trusted.issuer.fail(Some(StatusCode::BAD_GATEWAY));
    problem(list(&running, &trusted.issuer.token("ada", "")).await, 503).await;
    assert_eq!(list(&running, &known).await.status(), StatusCode::OK);
    assert_eq!(running.metric("vestibule_auth_key_fetches_total{outcome=\"failed\"}").await, 1.0);
    let said = eventually("the line about the failure", async || {
        let events = running.process.events();
        let said = events.iter().filter(|event| event["fields"]["error"] == "the answer is 502").count();
        if said > 0 { Ok(said) } else { Err(format!("{events:?}")) }
    });
    assert_eq!(said.await, 1);
}

#[tokio::test]
async fn a_start_waits_for_the_keys_of_the_issuer_and_fails_without_them() {
    let tenant = SERVICE.migrated("auth_start").await;
    let trusted = TrustedIssuer::start(&tenant);
    trusted.issuer.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let launch = || trusted.launch(&tenant).with_short_deadline();
    let exited = launch().start().exited(DEFAULT_TIMEOUT).await;
    assert_eq!(exited.code, Some(69), "{}", exited.stderr);
    assert!(exited.stderr.contains("the keys of the issuer at 127.0.0.1"), "{}", exited.stderr);
    let closed = format!("https://127.0.0.1:{}/jwks.json", free_port());
    let checked = launch().env("APP_AUTH__JWKS_URL", closed).args(["check", "--live"]).start();
    assert_eq!(checked.exited(DEFAULT_TIMEOUT).await.code, Some(69));

    let mut waiting = trusted.launch(&tenant).start();
    let says = "something is not available yet";
    waiting.wait_for_line(|line| line.contains(says), DEFAULT_TIMEOUT).await;
    trusted.issuer.fail(None);
    waiting.listening().await;
}

#[tokio::test]
async fn authentication_that_is_half_configured_is_a_mistake() {
    for (variables, key) in [
        (vec![("APP_AUTH__AUDIENCE", "local")], "auth.issuer"),
        (vec![("APP_AUTH__ISSUER", "urn:x")], "auth.audience"),
        (vec![("APP_AUTH__ISSUER", "urn:x"), ("APP_AUTH__AUDIENCE", "local")], "auth.jwks_url"),
        (vec![("APP_AUTH__JWKS_URL", "http://127.0.0.1:9/")], "auth.jwks_url"),
        (vec![("APP_AUTH__ALGORITHMS", "[\"HS256\"]")], "auth.algorithms"),
        (vec![("APP_AUTH__LEEWAY", "2m")], "auth.leeway"),
    ] {
        assert_mistake(&variables, key).await;
    }
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_certificate_is_accepted_only_with_it() {
    let tenant = SERVICE.migrated("auth_bound").await;
    let trusted = TrustedIssuer::start(&tenant);
    let authority = tenant.authority();
    tenant.put_random("server_tls", "tls_identity").await.unwrap();
    tenant.put("client_ca", authority.certificate()).await.unwrap();
    let launch = trusted.launch(&tenant).env("APP_SERVER__CLIENT_CA", tenant.id("client_ca"));
    let launch = launch.env("APP_AUTH__REQUIRE_CERTIFICATE_BINDING", "true");
    let running = RunningService::start_tls(launch, &tenant).await;
    let (orders, billing) =
        (authority.client("orders", Validity::days(1)), authority.client("billing", Validity::days(1)));
    let bound = trusted.issuer.token_with(json!({ "cnf": { "x5t#S256": orders.thumbprint() } }));
    let unbound = trusted.issuer.token("ada", "");
    for (identity, token, status) in [(&orders, &bound, 200), (&billing, &bound, 401), (&orders, &unbound, 401)] {
        let client = authority.trusted().identity(identity.for_client()).build().unwrap();
        let answer = client.get(running.url("/v1/notes")).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), status);
    }
}

#[tokio::test]
async fn the_issuer_alone_is_enough_if_it_describes_itself() {
    let tenant = SERVICE.migrated("auth_metadata").await;
    let authority = tenant.authority();
    let issuer = TokenIssuer::with_metadata(&authority.local(Validity::days(1))).expect("a port");
    let trusted = TrustedIssuer { issuer, roots: TemporaryFile::new(authority.certificate()) };
    let running = RunningService::start(trusted.launch(&tenant), &tenant).await;
    assert_eq!(list(&running, &trusted.issuer.token("ada", "")).await.status(), StatusCode::OK);
    trusted.issuer.rotate();
    assert_eq!(list(&running, &trusted.issuer.token("ada", "")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn authentication_that_is_switched_off_leaves_no_series_behind() {
    let (tenant, folder) = (SERVICE.migrated("auth_off").await, ConfigurationFolder::new());
    let trusted = TrustedIssuer::start(&tenant);
    folder.write(&trusted.issuer.section());
    let launch = folder.launch(&tenant).env("SSL_CERT_FILE", trusted.roots.path());
    let mut running = RunningService::start(launch, &tenant).await;
    let series = "vestibule_auth_keys_fetched_timestamp_seconds{issuer=\"urn:devstack\"}";
    assert!(MetricsPage::of(&running).await.get(series) > 0.0);
    folder.write("");
    assert_eq!(running.reload().await["outcome"], "published");
    assert_eq!(running.get("/v1/notes").await.status(), StatusCode::OK);
    assert_eq!(MetricsPage::of(&running).await.find(series), None);
}

#[tokio::test]
async fn a_revoked_key_is_replaced_although_the_keys_of_a_new_issuer_cannot_be_fetched() {
    let (tenant, folder) = (SERVICE.migrated("auth_beside").await, ConfigurationFolder::new());
    let (trusted, away) = (TrustedIssuer::start(&tenant), TrustedIssuer::another(&tenant));
    away.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    folder.write(&trusted.issuer.section());
    let launch = folder.launch(&tenant).env("SSL_CERT_FILE", trusted.roots.path());
    let mut running = RunningService::start(launch, &tenant).await;
    folder.write(&away.section());
    let alone = running.reload().await;
    assert_eq!((&alone["outcome"], &alone["exit_code"]), (&"kept".into(), &69.into()), "{alone}");

    let leaked = current_version(&tenant, "signing").await;
    tenant.put("signing", &random_key()).await.unwrap();
    folder.write(&format!("{}[secrets]\nrevoked = {}\n", away.section(), json!([leaked])));
    let reload = running.reload().await;
    assert_carried_over(&reload, "[auth]", "the answer is 503");
    assert_ne!(running.credential("signing").await["version"], leaked);
    assert_eq!(list(&running, &trusted.issuer.token("ada", "")).await.status(), StatusCode::OK);

    let version = tenant.rotate("database").await.unwrap();
    assert_carried_over(&running.reload().await, "[auth]", "the answer is 503");
    assert_eq!(running.credential("database").await["version"], version, "what stays blocks nothing");
    assert_eq!(running.reload().await["outcome"], "kept", "nothing is new, and [auth] is still not in service");

    away.fail(None);
    let token = away.token("ada", "");
    eventually("the new issuer in service", async || {
        let status = list(&running, &token).await.status();
        if status == StatusCode::OK { Ok(()) } else { Err(status) }
    })
    .await;
    problem(list(&running, &trusted.issuer.token("ada", "")).await, 401).await;
}
