//! Calls under way: what a login or an engine makes is not lost.

use crate::secrets::source::SourceError;
use futures_util::future::BoxFuture;
use std::panic::resume_unwind;
use tokio::task::JoinError;
use tokio_util::task::TaskTracker;

/// The calls under way that have the server make something. Each goes on to its end also if nobody waits for it any more: what a
/// login or an engine has made is given back then.
#[derive(Clone)]
pub(super) struct CallsUnderWay(TaskTracker);

impl CallsUnderWay {
    pub(super) fn new() -> Self {
        let calls = TaskTracker::new();
        calls.close();
        Self(calls)
    }

    /// Does a call to its end in a task, and returns its answer.
    pub(super) fn to_its_end<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, SourceError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, SourceError>> {
        let call = self.0.spawn(call);
        Box::pin(async {
            match call.await.map_err(JoinError::try_into_panic) {
                Ok(answer) => answer,
                Err(Ok(panic)) => resume_unwind(panic),
                Err(Err(_)) => Err(SourceError::Unanswered("this process ends".into())),
            }
        })
    }

    /// Waits until none is under way.
    pub(super) async fn wait(&self) {
        self.0.wait().await;
    }
}
