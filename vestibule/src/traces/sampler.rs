//! The decision whether a request is sampled.

use super::{OpenSpan, Tracer};
use crate::{
    config::settings::traces::TracesConfig,
    request_context::CurrentSpan,
    trace_context::{SpanParent, new_span_id},
};

/// Decides for each request whether it is sampled.
pub(crate) struct Sampler {
    tracer: Tracer,
    ratio: f64,
}

/// The facts on which the decision depends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SampledBy {
    pub(crate) parent: Option<SpanParent>,
    /// `true` if the parent's flag counts: a trusted proxy has sent it, or a client with a certificate.
    pub(crate) is_trusted: bool,
    /// `true` if the request is sampled in any case.
    pub(crate) is_forced: bool,
}

impl Sampler {
    pub(crate) fn new(config: &TracesConfig, tracer: &Tracer) -> Self {
        Self { tracer: tracer.clone(), ratio: config.sample_ratio }
    }

    /// Begins the span of a request. The second one is there if the request is sampled: it is recorded.
    pub(crate) fn begin(&self, trace_id: u128, by: SampledBy) -> (CurrentSpan, Option<OpenSpan>) {
        let span = CurrentSpan { id: new_span_id(), is_sampled: self.is_sampled(by) };
        if !span.is_sampled {
            return (span, None);
        }
        (span, self.tracer.begin_request(SpanParent::within(trace_id, span), by.parent))
    }

    /// Decides. Nothing else does.
    ///
    /// A trace id has no part in it: a client that is not trusted can choose one.
    fn is_sampled(&self, by: SampledBy) -> bool {
        match by.parent {
            _ if by.is_forced => true,
            Some(parent) if by.is_trusted => parent.is_sampled,
            // The random number is below 1.
            _ => fastrand::f64() < self.ratio,
        }
    }
}

#[cfg(all(test, feature = "otlp"))]
mod tests {
    use super::*;
    use crate::metrics::MetricsRegistry;

    fn sampler(ratio: f64) -> Sampler {
        Sampler { tracer: Tracer::register(&MetricsRegistry::new("test")), ratio }
    }

    fn parent(is_sampled: bool) -> Option<SpanParent> {
        Some(SpanParent { trace_id: 1, span_id: new_span_id(), is_sampled })
    }

    #[test]
    fn the_flag_of_a_parent_counts_only_if_its_sender_is_trusted() {
        let (none, all) = (sampler(0.0), sampler(1.0));
        for is_sampled in [false, true] {
            let trusted = SampledBy { parent: parent(is_sampled), is_trusted: true, is_forced: false };
            assert_eq!((none.is_sampled(trusted), all.is_sampled(trusted)), (is_sampled, is_sampled));
            let stranger = SampledBy { is_trusted: false, ..trusted };
            assert_eq!((none.is_sampled(stranger), all.is_sampled(stranger)), (false, true));
            assert!(none.is_sampled(SampledBy { is_forced: true, ..trusted }), "it is forced");
        }
        let first = SampledBy { is_trusted: true, ..SampledBy::default() };
        assert_eq!((none.is_sampled(first), all.is_sampled(first)), (false, true), "there is no parent");
    }

    #[test]
    fn about_the_configured_part_of_requests_is_sampled() {
        let tenth = sampler(0.1);
        let sampled = (0..10_000).filter(|_| tenth.is_sampled(SampledBy::default())).count();
        assert!((700..1300).contains(&sampled), "{sampled}");
    }
}
