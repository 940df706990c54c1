//! Traces: the spans of sampled requests, at a collector whose key rotates.

use crate::{
    SERVICE,
    note_client::NoteClient,
    support::{
        collector::{CollectedSpan, Collector, hex, only},
        configuration_folder::ConfigurationFolder,
        log_events::events_that_say,
        metrics_page::MetricsPage,
        mistakes::assert_mistake,
        reload_status::{assert_carried_over, assert_taken_up, wait_for_last_reload},
        secrets::current_version,
        temporary_file::TemporaryFile,
    },
    webhook_setup::{launch_with_webhook, tenant_with_receiver},
};
use devstack::{
    AnswerRule, DEFAULT_TIMEOUT, RunningService, ScriptedAnswer, Signal, Validity, eventually, random_key,
    reqwest::{Method, StatusCode},
};
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode as SpanStatus};
use std::time::{Duration, Instant};

const SAMPLED_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const PARENT_WITHOUT_SAMPLE: &str = "00-11111111111111111111111111111111-2222222222222222-00";

/// Asks for the list of notes with this `traceparent`, and waits for the answer.
async fn list_within(running: &RunningService<'_>, parent: &str) {
    let request = running.request(Method::GET, "/v1/notes").header("traceparent", parent);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    answer.bytes().await.expect("a body");
}

#[tokio::test]
async fn a_sampled_request_arrives_with_its_statements_and_its_calls() {
    let (tenant, webhook) = tenant_with_receiver("traced").await;
    let collector = Collector::start(&tenant).await;
    let launch = collector
        .configure(launch_with_webhook(&tenant, webhook.address()), &tenant, "1")
        .env("APP_TRACES__ATTRIBUTES", "deployment.environment.name=test");
    let mut running = RunningService::start(launch, &tenant).await;
    let post = running.request(Method::POST, "/v1/notes?access_token=sentinel-in-query");
    let post = post.header("traceparent", SAMPLED_PARENT).header("x-password", "sentinel-in-header");
    let created = post.json(&serde_json::json!({ "body": "sentinel-in-body" })).send().await.unwrap();
    assert_eq!(created.status(), StatusCode::CREATED);
    let delivered = webhook.wait_until(|deliveries| deliveries.len() == 1).await;
    let has_call = |span: &CollectedSpan| span.span.name == "POST";
    let spans = collector.wait_until("the call of the webhook", |spans| spans.iter().any(has_call)).await;

    let request = only(&spans, "POST /v1/notes");
    assert_eq!(hex(&request.span.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&request.span.parent_span_id), "b7ad6b7169203331");
    assert_eq!(request.span.kind, SpanKind::Server as i32);
    assert!(request.span.status.is_none() && request.span.start_time_unix_nano < request.span.end_time_unix_nano);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/notes"),
        ("http.response.status_code", "201"),
        ("url.path", "/v1/notes"),
        ("url.scheme", "http"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
    ] {
        assert_eq!(request.attribute(name), value, "{name}: {request:#?}");
    }
    for (name, operation) in [("BEGIN", "BEGIN"), ("INSERT notes", "INSERT"), ("COMMIT", "COMMIT")] {
        let statement = only(&spans, name);
        assert!(statement.is_child_of(request), "{statement:#?}");
        assert_eq!(statement.span.kind, SpanKind::Client as i32);
        assert_eq!(statement.attribute("db.operation.name"), operation);
        assert_eq!(statement.attribute("db.query.summary"), name);
        assert_eq!(statement.attribute("db.system.name"), "postgresql");
        assert_eq!(statement.attribute("db.namespace"), tenant.name());
    }
    let call = only(&spans, "POST");
    assert!(call.is_child_of(request), "{call:#?}");
    assert_eq!(call.attribute("server.address"), "127.0.0.1");
    assert_eq!(call.attribute("server.port"), webhook.address().port().to_string());
    assert_eq!(call.attribute("http.response.status_code"), "202");
    assert_eq!(delivered[0].header("traceparent"), call.traceparent());

    let resource = &request.resource;
    assert_eq!(resource["service.name"], env!("CARGO_PKG_NAME"));
    assert_eq!(resource["deployment.environment.name"], "test");
    assert!(!resource["service.instance.id"].is_empty());
    running.process.signal(Signal::TERM);
    running.process.exited(DEFAULT_TIMEOUT).await;
    for delivery in collector.0.requests() {
        let text = format!("{delivery:?}");
        assert!(!text.contains("sentinel-in"), "{text}");
        tenant.assert_secret_free("a batch of spans", &text);
    }
}

#[tokio::test]
async fn a_request_that_fails_has_a_span_that_says_so() {
    let tenant = SERVICE.migrated("traced_failure").await;
    let collector = Collector::start(&tenant).await;
    let running = RunningService::start(collector.launch(&tenant, "1"), &tenant).await;
    assert_eq!(running.get("/no/such/path").await.status(), StatusCode::NOT_FOUND);
    let mut admin = tenant.admin().await.unwrap();
    sqlx::raw_sql("ALTER TABLE notes RENAME TO away").execute(&mut admin).await.unwrap();
    assert_eq!(running.get("/v1/notes").await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let spans = collector.wait_until("both requests", |spans| spans.len() >= 3).await;
    let missing = only(&spans, "GET");
    assert!(missing.span.status.is_none() && missing.span.parent_span_id.is_empty(), "{missing:#?}");
    let (request, statement) = (only(&spans, "GET /v1/notes"), only(&spans, "SELECT notes"));
    assert!(statement.is_child_of(request));
    // An undefined table.
    for (span, error_type) in [(request, "500"), (statement, "42P01")] {
        assert_eq!(span.span.status.as_ref().map(|status| status.code), Some(SpanStatus::Error as i32), "{span:#?}");
        assert_eq!(span.attribute("error.type"), error_type);
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_decides_by_its_flag_that_a_request_is_sampled() {
    for is_trusted in [false, true] {
        let tenant = SERVICE.migrated("traced_proxy").await;
        let collector = Collector::start(&tenant).await;
        let ratio = if is_trusted { "0" } else { "1" };
        let launch = collector.launch(&tenant, ratio);
        let launch = if is_trusted { launch.env("APP_SERVER__TRUSTED_PROXIES", "127.0.0.1") } else { launch };
        let running = RunningService::start(launch, &tenant).await;
        list_within(&running, PARENT_WITHOUT_SAMPLE).await;
        list_within(&running, SAMPLED_PARENT).await;
        let sampled = &SAMPLED_PARENT[3..35];
        let spans = collector.wait_until("the second request", |spans| {
            spans.iter().any(|span| hex(&span.span.trace_id) == sampled && span.span.name == "GET /v1/notes")
        });
        let unsampled = &PARENT_WITHOUT_SAMPLE[3..35];
        let has_other = spans.await.iter().any(|span| hex(&span.span.trace_id) == unsampled);
        assert_eq!(has_other, !is_trusted);
    }
}

#[tokio::test]
async fn a_client_with_a_certificate_decides_by_its_flag_that_a_request_is_sampled() {
    let tenant = SERVICE.migrated("traced_tls").await;
    let collector = Collector::start(&tenant).await;
    let authority = tenant.authority();
    tenant.put_random("server_tls", "tls_identity").await.unwrap();
    tenant.put("client_ca", authority.certificate()).await.unwrap();
    let launch = collector.launch(&tenant, "0").env("APP_SERVER__CLIENT_CA", tenant.id("client_ca"));
    let running = RunningService::start_tls(launch, &tenant).await;
    let orders = authority.client("orders", Validity::days(1));
    let client = authority.trusted().identity(orders.for_client()).build().unwrap();
    let get = client.get(running.url("/v1/notes")).header("traceparent", SAMPLED_PARENT);
    assert_eq!(get.send().await.unwrap().status(), StatusCode::OK);
    let spans = collector.wait_until("the request", |spans| spans.iter().any(|one| one.span.name == "GET /v1/notes"));
    assert_eq!(only(&spans.await, "GET /v1/notes").attribute("url.scheme"), "https");
}

#[tokio::test]
async fn a_call_within_a_request_that_is_not_sampled_bears_its_trace_and_says_so() {
    let (tenant, webhook) = tenant_with_receiver("traced_not").await;
    let collector = Collector::start(&tenant).await;
    let launch = collector.configure(launch_with_webhook(&tenant, webhook.address()), &tenant, "0");
    let running = RunningService::start(launch, &tenant).await;
    let post = running.request(Method::POST, "/v1/notes").header("traceparent", SAMPLED_PARENT);
    let post = post.header("tracestate", "vendor=1").json(&serde_json::json!({ "body": "a note" }));
    assert_eq!(post.send().await.unwrap().status(), StatusCode::CREATED);
    let delivered = webhook.wait_until(|deliveries| deliveries.len() == 1).await;
    let parent = delivered[0].header("traceparent");
    assert!(parent.starts_with(&SAMPLED_PARENT[..36]) && parent.ends_with("-00"), "{parent}");
    assert_ne!(&parent[36..52], &SAMPLED_PARENT[36..52], "the parent is the request's own span");
    assert_eq!(delivered[0].header("tracestate"), "vendor=1");
    assert_eq!(collector.0.requests().len(), 0);
}

#[tokio::test]
async fn a_key_that_rotates_is_sent_with_the_next_batch() {
    let tenant = SERVICE.migrated("traced_rotation").await;
    let collector = Collector::start(&tenant).await;
    let launch = collector.launch(&tenant, "1");
    let mut running = RunningService::start(launch, &tenant).await;
    list_within(&running, SAMPLED_PARENT).await;
    collector.wait_until("a batch", |spans| !spans.is_empty()).await;
    let old = tenant.value("otlp", "AWSCURRENT").await.unwrap();
    let before = collector.0.deliveries().len();
    tenant.put_random("otlp", "api_key").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    list_within(&running, SAMPLED_PARENT).await;
    let deliveries = collector.0.wait_until(|deliveries| deliveries.len() > before).await;
    let new = tenant.value("otlp", "AWSCURRENT").await.unwrap();
    assert!(new != old && deliveries[0].bears(&old) && deliveries[before].bears(&new));
    let held = running.credential("otlp").await;
    assert_eq!(held["version"], tenant.version("otlp", "AWSCURRENT").await.unwrap().unwrap(), "{held}");
}

#[tokio::test]
async fn a_key_that_the_collector_rejects_is_replaced_and_no_span_is_lost() {
    for status in [401, 403] {
        let tenant = SERVICE.migrated("traced_rejected").await;
        let collector = Collector::start(&tenant).await;
        let running = RunningService::start(collector.launch(&tenant, "1"), &tenant).await;
        tenant.put_random("otlp", "api_key").await.unwrap();
        if status == 401 {
            collector.0.accept([tenant.value("otlp", "AWSCURRENT").await.unwrap()]);
        } else {
            collector.0.script([AnswerRule::all(ScriptedAnswer::Status(403)).times(1)]);
        }
        list_within(&running, SAMPLED_PARENT).await;
        let spans =
            collector.wait_until("the request", |spans| spans.iter().any(|one| one.span.name == "GET /v1/notes"));
        spans.await;
        // The spans may arrive before the end of the reload is recorded, and before their answer is counted.
        wait_for_last_reload(&running).await;
        assert_eq!(MetricsPage::of(&running).await.reloads("refused_key", "published"), 1.0, "{status}");
        assert_eq!(running.metric("vestibule_traces_dropped_spans_total{reason=\"not_sent\"}").await, 0.0);
        let are_counted = async || running.metric("vestibule_traces_exported_spans_total").await >= 2.0;
        eventually("the count of the spans", are_counted).await;
    }
}

#[tokio::test]
async fn a_collector_that_does_not_answer_slows_no_request_and_no_stop() {
    let tenant = SERVICE.migrated("traced_silence").await;
    let collector = Collector::start(&tenant).await;
    collector.0.script([AnswerRule::all(ScriptedAnswer::BlackHole)]);
    let launch = collector.launch(&tenant, "1").env("APP_TRACES__QUEUE", "4").env("APP_TRACES__TIMEOUT", "10s");
    // What waited for the collector would take as long as its timeout.
    let much_less = Duration::from_secs(8);
    let mut running = RunningService::start(launch, &tenant).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let start = Instant::now();
        list_within(&running, SAMPLED_PARENT).await;
        slowest = slowest.max(start.elapsed());
    }
    assert!(slowest < much_less, "{slowest:?}");
    let dropped = "vestibule_traces_dropped_spans_total";
    assert!(running.metric(&format!("{dropped}{{reason=\"queue_full\"}}")).await >= 30.0);
    running.process.wait_for_line(|line| line.contains("spans could not be sent"), DEFAULT_TIMEOUT).await;
    assert!(running.metric(&format!("{dropped}{{reason=\"not_sent\"}}")).await >= 4.0);
    list_within(&running, SAMPLED_PARENT).await;
    let start = Instant::now();
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    assert!(start.elapsed() < much_less, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_collector_that_comes_back_gets_what_waits_and_a_stop_sends_the_last_spans() {
    let tenant = SERVICE.migrated("traced_return").await;
    let collector = Collector::start(&tenant).await;
    collector.0.script([AnswerRule::all(ScriptedAnswer::Status(503)).times(2)]);
    let mut running = RunningService::start(collector.launch(&tenant, "1"), &tenant).await;
    list_within(&running, SAMPLED_PARENT).await;
    collector.wait_until("the request, after two 503", |spans| spans.len() >= 2).await;
    list_within(&running, PARENT_WITHOUT_SAMPLE).await;
    running.process.signal(Signal::TERM);
    assert_eq!(running.process.exited(DEFAULT_TIMEOUT).await.code, Some(0));
    let last = &PARENT_WITHOUT_SAMPLE[3..35];
    assert!(collector.spans().iter().any(|one| hex(&one.span.trace_id) == last && one.span.name == "GET /v1/notes"));
}

#[tokio::test]
async fn a_collector_on_this_machine_needs_no_key() {
    let tenant = SERVICE.migrated("traced_keyless").await;
    let collector = Collector::start(&tenant).await;
    // It answers 401, and has the request all the same.
    let launch = SERVICE
        .launch(&tenant)
        .env("APP_TRACES__ENDPOINT", format!("http://{}/v1/traces", collector.0.address()))
        .env("APP_TRACES__SAMPLE_RATIO", "1");
    let mut running = RunningService::start(launch, &tenant).await;
    running.create_note("a note").await;
    running.process.wait_for_line(|line| line.contains("the answer is 401"), DEFAULT_TIMEOUT).await;
    let requests = collector.0.requests();
    assert_eq!(
        (requests[0].path.as_str(), requests[0].header("content-type")),
        ("/v1/traces", "application/x-protobuf")
    );
}

#[tokio::test]
async fn a_path_with_a_live_secret_does_not_leave_the_process() {
    let tenant = SERVICE.migrated("traced_secret").await;
    let collector = Collector::start(&tenant).await;
    let running = RunningService::start(collector.launch(&tenant, "1"), &tenant).await;
    let key = tenant.value("otlp", "AWSCURRENT").await.unwrap();
    for path in [format!("/v1/notes/{key}"), format!("/no/such/{key}/path")] {
        running.get(&path).await;
    }
    list_within(&running, SAMPLED_PARENT).await;
    let sampled = &SAMPLED_PARENT[3..35];
    let spans = collector.wait_until("all three requests", |spans| {
        let is_last = |span: &CollectedSpan| hex(&span.span.trace_id) == sampled && span.span.name == "GET /v1/notes";
        spans.iter().any(is_last) && spans.iter().any(|span| span.span.name == "GET")
    });
    let spans = spans.await;
    for name in ["GET /v1/notes/{id}", "GET"] {
        assert!(!only(&spans, name).attributes.contains_key("url.path"), "{name}");
    }
    assert_eq!(only(&spans, "GET /v1/notes").attribute("url.path"), "/v1/notes");
    for delivery in collector.0.requests() {
        tenant.assert_secret_free("a batch of spans", &String::from_utf8_lossy(&delivery.body));
    }
}

#[tokio::test]
async fn authorities_that_are_away_fail_no_reload_that_leaves_the_traces_as_they_are() {
    let tenant = SERVICE.migrated("traced_authorities").await;
    let roots = TemporaryFile::new(tenant.authority().certificate());
    let launch = SERVICE.launch(&tenant).env("SSL_CERT_FILE", roots.path());
    let launch = launch.env("APP_TRACES__ENDPOINT", "https://localhost:1/v1/traces");
    let mut running = RunningService::start(launch, &tenant).await;
    std::fs::remove_file(roots.path()).expect("it is there");
    tenant.put("signing", &random_key()).await.unwrap();
    let reload = running.reload().await;
    assert_eq!(reload["outcome"], "published", "{reload}");
}

#[tokio::test]
async fn a_revoked_key_is_replaced_although_new_traces_lack_their_authorities() {
    let (tenant, folder) = (SERVICE.migrated("traced_beside").await, ConfigurationFolder::new());
    let (collector, roots) = (Collector::start(&tenant).await, TemporaryFile::new(tenant.authority().certificate()));
    let section = |url: &str| format!("[traces]\nendpoint = \"{url}\"\nsample_ratio = 1\n");
    folder.write(&section(&format!("http://{}/v1/traces", collector.0.address())));
    let launch = folder.launch(&tenant).env("SSL_CERT_FILE", roots.path());
    let mut running = RunningService::start(launch.env("APP_SECRETS__IDS__OTLP", tenant.id("otlp")), &tenant).await;
    std::fs::remove_file(roots.path()).expect("it is there");
    let changed = section("https://localhost:1/v1/traces");
    folder.write(&changed);
    let alone = running.reload().await;
    assert_eq!((&alone["outcome"], &alone["exit_code"]), (&"kept".into(), &69.into()), "{alone}");

    let leaked = current_version(&tenant, "signing").await;
    tenant.put("signing", &random_key()).await.unwrap();
    folder.write(&format!("{changed}[secrets]\nrevoked = [\"{leaked}\"]\n"));
    for _rotation in ["of the key", "of the login"] {
        assert_carried_over(&running.reload().await, "[traces]", "cannot be read");
        for taken_up in ["signing", "database"] {
            let current = current_version(&tenant, taken_up).await;
            assert_eq!(running.credential(taken_up).await["version"], current, "{taken_up}");
        }
        list_within(&running, SAMPLED_PARENT).await;
        collector.wait_until("a span at the collector as held", |spans| !spans.is_empty()).await;
        tenant.rotate("database").await.unwrap();
    }
    roots.write(tenant.authority().certificate());
    assert_taken_up(&running.reload().await);
}

#[tokio::test]
async fn traces_that_are_half_configured_are_a_mistake() {
    for (variable, key) in [
        (("APP_TRACES__ENDPOINT", "http://collector.example/v1/traces"), "traces.endpoint"),
        (("APP_TRACES__SAMPLE_RATIO", "1.5"), "traces.sample_ratio"),
        (("APP_TRACES__KEY_HEADER", "x api key"), "traces.key_header"),
        (("APP_SECRETS__IDS__OTLP", "{prefix}/otlp"), "secrets.ids.otlp"),
        (("APP_TRACES__ATTRIBUTES", "a=b,service.name=other"), "traces.attributes.1"),
        (("APP_TRACES__ATTRIBUTES", "Team=orders"), "traces.attributes.0"),
    ] {
        assert_mistake(&[variable], key).await;
    }
}

#[tokio::test]
async fn variables_of_opentelemetry_have_no_effect_and_are_named() {
    let tenant = SERVICE.migrated("traced_variables").await;
    let collector = Collector::start(&tenant).await;
    let launch = SERVICE
        .launch(&tenant)
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.0.url())
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=sentinel-in-variable");
    let running = RunningService::start(launch, &tenant).await;
    let said = events_that_say(&running.process, "variables of OpenTelemetry have no effect");
    let names = "OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    assert_eq!(said[0]["fields"]["variables"], names, "{said:?}");
    assert!(!running.process.output().contains("sentinel-in-variable"));
}
