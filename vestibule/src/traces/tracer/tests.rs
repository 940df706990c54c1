//! Tests of the queue, and of the task that sends what is in it.

use super::*;
use crate::{
    config::{Config, base_url::BaseUrl, settings::traces::TracesConfig},
    loader::{LoadOutcome, LoadRequest, LoadScope},
    resources::breaker::ProbeReason,
    testing::{Harness, MemoryManager, eventually::eventually, idle_service::IdleService},
};
use tokio::time::Instant;

fn config(is_on: bool) -> Config<()> {
    let endpoint = if is_on { BaseUrl::parse("http://127.0.0.1:1/v1/traces") } else { None };
    Config { traces: TracesConfig { endpoint, ..TracesConfig::default() }, ..Config::default() }
}

fn begin(tracer: &Tracer) -> OpenSpan {
    let own = SpanParent { trace_id: 1, span_id: new_span_id(), is_sampled: true };
    tracer.begin_request(own, None).expect("traces are on")
}

fn dropped(tracer: &Tracer, reason: SpanDropReason) -> u64 {
    tracer.0.dropped.get_or_create(&[("reason", reason.label())]).get()
}

#[tokio::test]
async fn traces_change_when_a_generation_is_published_and_not_before() {
    let harness = Harness::<IdleService>::start(MemoryManager::new(), config(true)).await.expect("a start");
    let tracer = &harness.reloader.loader.tracer;
    assert!(tracer.is_on());
    let span = begin(tracer);
    let in_service = harness.live().generation();
    let request = LoadRequest {
        config: Arc::new(config(false)),
        in_service: Some(&in_service),
        deadline: Instant::now() + Duration::from_secs(30),
        probe_reason: ProbeReason::Operator,
        scope: LoadScope::All,
    };
    let loaded = harness.reloader.loader.load(request).await.result;
    assert!(matches!(loaded, Ok(LoadOutcome::Built { .. })) && tracer.is_on(), "it is not published");
    assert!(harness.reload_with(config(false)).await.expect("a reload"));
    assert!(!tracer.is_on());
    drop(span);
    assert_eq!(dropped(tracer, SpanDropReason::QueueFull), 0, "the queue is off, and not full");
}

#[tokio::test(start_paused = true)]
async fn spans_are_still_taken_from_the_queue_after_a_panic_at_one_of_them() {
    let tracer = Tracer::register(&MetricsRegistry::new("test"));
    tracer.set_largest_queue(8);
    let calls = AtomicUsize::new(0);
    let exporter = move || {
        assert!(calls.fetch_add(1, Ordering::Relaxed) > 0, "a bug");
        None
    };
    let stop = CancellationToken::new();
    let exporting = tokio::spawn(tracer.clone().export(exporter, stop.clone()));
    for taken in 1..=2 {
        drop(begin(&tracer));
        let not_sent = || dropped(&tracer, SpanDropReason::NotSent);
        eventually("a span that is not sent", not_sent, |spans| *spans >= taken).await;
    }
    stop.cancel();
    exporting.await.expect("it ends without a panic");
}
