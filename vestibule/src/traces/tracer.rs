//! The tracer: it begins spans, and has the queue of those that have ended.

use super::{ChildKind, exporter::Exporter, span::OpenSpan};
use crate::{
    caught::caught_future,
    metrics::{Counter, MetricsRegistry},
    request_context::RequestContext,
    trace_context::{SpanParent, new_span_id},
};
use axum::http::HeaderMap;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use prometheus_client::metrics::family::Family;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The largest number of spans in one call of the collector.
const LARGEST_BATCH: usize = 512;

/// The time for which the first span waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// The tracer of a process. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Tracer(Arc<TracerState>);

struct TracerState {
    /// The id of this process in its spans.
    instance: Uuid,
    ended: Mutex<Vec<Span>>,
    /// The largest number of spans that wait. 0 while traces are off.
    largest_queue: AtomicUsize,
    /// Wakes the exporter: there is a first span, or a whole batch.
    work: Notify,
    exported: Counter,
    dropped: Family<[(&'static str, &'static str); 1], Counter>,
}

/// The reason for which spans were dropped.
#[derive(Clone, Copy, Debug)]
enum SpanDropReason {
    QueueFull,
    /// The collector is away, or refuses the whole batch.
    NotSent,
    /// The collector took the batch without them.
    Refused,
}

impl SpanDropReason {
    const ALL: [Self; 3] = [Self::QueueFull, Self::NotSent, Self::Refused];

    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::NotSent => "not_sent",
            Self::Refused => "refused",
        }
    }
}

impl Tracer {
    /// Registers the metrics. Call it once per process.
    pub(crate) fn register(metrics: &MetricsRegistry) -> Self {
        let (exported, dropped) = (Counter::default(), Family::default());
        metrics.register("vestibule_traces_exported_spans", "Spans that the collector has taken", exported.clone());
        let help = "Spans that were dropped, by reason";
        metrics.register("vestibule_traces_dropped_spans", help, Family::clone(&dropped));
        let (ended, largest_queue, work) = Default::default();
        Self(Arc::new(TracerState { instance: Uuid::new_v4(), ended, largest_queue, work, exported, dropped }))
    }

    /// Begins the span of a request.
    pub(crate) fn begin_request(&self, own: SpanParent, parent: Option<SpanParent>) -> Option<OpenSpan> {
        let mut span = OpenSpan::begin(self, SpanKind::Server, own, parent.map(|parent| parent.span_id));
        if parent.is_some() {
            span.set_remote_parent();
        }
        Some(span)
    }

    /// Begins a span within the current request. `None` if that is not sampled, or if there is none.
    pub(crate) fn begin_child(&self, kind: ChildKind) -> Option<OpenSpan> {
        let parent = current_request()?;
        if !parent.is_sampled {
            return None;
        }
        let kind = match kind {
            ChildKind::Call => SpanKind::Client,
            ChildKind::Wait => SpanKind::Internal,
        };
        Some(self.child_of(parent, kind).0)
    }

    /// Begins the span of a call, and names it to the receiver as the parent. The parent of the call is in its headers,
    /// or it is the current request. `None` if the parent is not sampled, or if there is none.
    pub(crate) fn begin_call(&self, headers: &mut HeaderMap) -> Option<OpenSpan> {
        if !self.is_on() {
            return None;
        }
        let parent = SpanParent::of(headers).or_else(current_request)?;
        if !parent.is_sampled {
            parent.put_on(headers);
            return None;
        }
        let (span, own) = self.child_of(parent, SpanKind::Client);
        own.put_on(headers);
        Some(span)
    }

    fn child_of(&self, parent: SpanParent, kind: SpanKind) -> (OpenSpan, SpanParent) {
        let own = SpanParent { span_id: new_span_id(), ..parent };
        (OpenSpan::begin(self, kind, own, Some(parent.span_id)), own)
    }

    /// Returns the id of this process in its spans.
    pub(super) fn instance(&self) -> Uuid {
        self.0.instance
    }

    /// Adopts the exporter of the generation that comes into service. Without one, traces are off.
    pub(crate) fn publish(&self, exporter: Option<&Arc<Exporter>>) {
        self.set_largest_queue(exporter.map_or(0, |exporter| exporter.config.queue.get() as usize));
    }

    /// Lets this many spans wait. 0 turns traces off.
    pub(crate) fn set_largest_queue(&self, spans: usize) {
        self.0.largest_queue.store(spans, Ordering::Relaxed);
        if spans > 0 {
            for reason in SpanDropReason::ALL {
                self.dropped(reason, 0);
            }
        }
    }

    fn is_on(&self) -> bool {
        self.0.largest_queue.load(Ordering::Relaxed) > 0
    }

    /// Adds a span that has ended. Drops it if too many wait, and if traces are off since it began.
    pub(super) fn push(&self, span: Span) {
        let largest_queue = self.0.largest_queue.load(Ordering::Relaxed);
        if largest_queue == 0 {
            return;
        }
        let mut ended = self.ended();
        if ended.len() >= largest_queue {
            drop(ended);
            return self.dropped(SpanDropReason::QueueFull, 1);
        }
        ended.push(span);
        if ended.len() == 1 || ended.len() >= LARGEST_BATCH {
            self.0.work.notify_one();
        }
    }

    /// Sends the spans that end, until `stop`, and then those that wait. `exporter` returns that of the generation in
    /// service. A panic costs a batch.
    pub(crate) async fn export(self, exporter: impl Fn() -> Option<Arc<Exporter>>, stop: CancellationToken) {
        let mut is_failing = false;
        loop {
            let is_stopping = stop.run_until_cancelled(self.wait_for_batch()).await.is_none();
            let batch = self.take_batch();
            let spans = batch.len() as u64;
            if spans > 0 {
                let sending = caught_future(async { self.send(batch, exporter(), &mut is_failing).await });
                // The task goes on: without it, no span would ever be sent again.
                if sending.await.is_none() {
                    self.dropped(SpanDropReason::NotSent, spans);
                }
            } else if is_stopping {
                return;
            }
        }
    }

    async fn send(&self, batch: Vec<Span>, exporter: Option<Arc<Exporter>>, is_failing: &mut bool) {
        let spans = batch.len() as u64;
        // Traces are off since the last reload.
        let Some(exporter) = exporter else { return self.dropped(SpanDropReason::NotSent, spans) };
        match exporter.send(batch).await {
            Ok(refused) => {
                let refused = refused.min(spans);
                self.0.exported.inc_by(spans - refused);
                self.dropped(SpanDropReason::Refused, refused);
                if std::mem::take(is_failing) {
                    tracing::info!("the collector of traces takes spans again");
                }
            }
            Err(error) => {
                self.dropped(SpanDropReason::NotSent, spans);
                if !std::mem::replace(is_failing, true) {
                    tracing::warn!(%error, "spans could not be sent to the collector of traces; dropping them");
                }
            }
        }
    }

    /// Waits until a batch is full, or until its first span has waited long enough. Cancel-safe.
    async fn wait_for_batch(&self) {
        self.wait_for(1).await;
        let _ = timeout(BATCH_DELAY, self.wait_for(LARGEST_BATCH)).await;
    }

    async fn wait_for(&self, spans: usize) {
        while self.ended().len() < spans {
            self.0.work.notified().await;
        }
    }

    fn take_batch(&self) -> Vec<Span> {
        let mut ended = self.ended();
        let size = ended.len().min(LARGEST_BATCH);
        ended.drain(..size).collect()
    }

    fn dropped(&self, reason: SpanDropReason, spans: u64) {
        self.0.dropped.get_or_create(&[("reason", reason.label())]).inc_by(spans);
    }

    fn ended(&self) -> MutexGuard<'_, Vec<Span>> {
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the span of the current request, as the parent of others.
fn current_request() -> Option<SpanParent> {
    let request = RequestContext::current()?;
    Some(SpanParent::within(request.trace_id, request.span?))
}

#[cfg(test)]
mod tests;
