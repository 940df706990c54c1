//! A connection that speaks another protocol, after a 101 or the start of a tunnel.

use futures_util::task::AtomicWaker;
use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    task::Context,
};

/// A connection that speaks another protocol. The task that takes orders has ended, so its handler learns of a cut: its
/// reads and writes fail.
#[derive(Default)]
pub(super) struct UpgradedConnection {
    is_cut: AtomicBool,
    /// The tasks that read and write.
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// A half of a connection. Two tasks may have one each.
#[derive(Clone, Copy)]
pub(super) enum Half {
    Reads,
    Writes,
}

impl UpgradedConnection {
    /// Ends the connection at once.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    /// Returns an error if the connection was cut. Otherwise the task that reads, or the one that writes, is woken by a cut.
    pub(super) fn ensure_not_cut(&self, half: Half, cx: &Context<'_>) -> io::Result<()> {
        let waker = match half {
            Half::Reads => &self.reader,
            Half::Writes => &self.writer,
        };
        // First: a cut that comes between both must not be missed.
        waker.register(cx.waker());
        if self.is_cut.load(Ordering::Acquire) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::settings::connections::ConnectionsConfig,
        http::{
            connection::{ConnectionRules, WatchedConnection},
            end_reason::EndReason,
            exchange::ExchangeRules,
        },
    };
    use axum::http::Version;
    use std::{
        any::Any,
        sync::{Arc, atomic::AtomicUsize},
        task::Wake,
        time::Duration,
    };
    use tokio::time::Instant;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upgraded_connection_of_replaced_authorities_is_cut_in_time_and_no_other_limit_applies_to_it() {
        let [authority, other]: [Arc<dyn Any + Send + Sync>; 2] = [Arc::new("an authority"), Arc::new("another")];
        for is_upgraded_before_the_change in [true, false] {
            let connection = WatchedConnection::new(&ConnectionsConfig::default());
            connection.speaks_http(Some(Arc::downgrade(&authority)));
            let exchange = connection.begin(Version::HTTP_11);
            let task = Arc::<Counting>::default();
            let waker = task.clone().into();
            let judge = |authority| {
                let (now, response_timeout) = (Instant::now(), Duration::from_secs(60));
                let exchange = ExchangeRules { now, response_timeout, is_short: true };
                let (limits, authority) = (ConnectionsConfig::default(), Some(Arc::downgrade(authority)));
                connection.judge(&ConnectionRules { limits, exchange, is_short: true, authority });
                let cx = Context::from_waker(&waker);
                [Half::Reads, Half::Writes].into_iter().all(|half| connection.ensure_not_cut(half, &cx).is_ok())
            };
            if is_upgraded_before_the_change {
                connection.upgraded();
                connection.finish(&exchange);
                tokio::time::advance(Duration::from_secs(60 * 60)).await;
                assert!(judge(&authority));
                assert!(judge(&other));
            } else {
                assert!(judge(&other));
                connection.upgraded();
                connection.finish(&exchange);
            }
            tokio::time::advance(Duration::from_secs(59)).await;
            assert!(judge(&other), "it has the response timeout");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(!judge(&other));
            assert_eq!(task.0.load(Ordering::SeqCst), 2, "both halves are woken");
            assert_eq!(connection.end_reason(), EndReason::AuthorityChanged);
        }
    }
}
