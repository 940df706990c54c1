//! A lease at Vault or OpenBao. It ends with its own time, or with the token that it was made with.

use super::{
    ATTEMPT,
    client::{VaultAnswer, VaultCall, json_object},
    sessions::{VaultSession, VaultSessions},
};
use crate::{
    credentials::json,
    moment::Moment,
    secrets::{
        lease::{LeaseCalls, Renewal},
        source::SourceError,
    },
};
use axum::http::StatusCode;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use zeroize::Zeroizing;

/// The time for giving a lease back.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// The pauses between tries to give a lease back, in seconds. The servers may elect a leader meanwhile, and the database may
/// come back: the engine says no while it cannot drop the user. Nobody asks the server to try by itself (`sync=false`): it
/// gives up after some minutes, and the user then stays also after the end of the lease.
const PAUSES: [u64; 5] = [1, 5, 30, 120, 600];

/// A lease of this process.
pub(super) struct VaultLease {
    /// A secret: who knows it can shorten or end the lease.
    id: SecretString,
    granted: Duration,
    /// The session that it was made in, and ends with.
    session: Arc<VaultSession>,
    sessions: Arc<VaultSessions>,
    /// Locked during a try to give it back, so that a stop waits for that.
    pub(super) is_given_back: Mutex<bool>,
}

/// The answer to a renewal.
#[derive(Deserialize)]
struct RenewalAnswer {
    lease_duration: u64,
}

impl VaultLease {
    pub(super) fn new(
        id: SecretString,
        granted: Duration,
        session: Arc<VaultSession>,
        sessions: Arc<VaultSessions>,
    ) -> Self {
        Self { id, granted, session, sessions, is_given_back: Mutex::new(false) }
    }

    /// Renews the lease, and its token before, if that would end first.
    async fn renew_both(&self) -> Result<Renewal, SourceError> {
        let deadline = Instant::now() + ATTEMPT;
        if self.session.left().is_some_and(|left| left < self.granted) {
            self.sessions.refresh(&self.session, deadline).await?;
        }
        if self.session.has_ended_at_server() {
            return Ok(Renewal::Ended);
        }
        let answer = self.renew_with(&self.session, deadline).await?;
        if answer.status != StatusCode::FORBIDDEN {
            return self.renewal(&answer);
        }
        // No policy of the token allows it, or the token is lost, and the lease with it.
        let renewal = if self.sessions.is_lost(&self.session, deadline).await? {
            Renewal::Ended
        } else {
            // Another token can ask if the lease still is there. All leases of a session ask with the same one, so a policy that
            // denies costs one login.
            let other = self.sessions.other_than(&self.session, deadline).await?;
            self.renewal(&self.renew_with(&other, deadline).await?)?
        };
        if renewal == Renewal::Ended {
            // So nobody tries to revoke it, and its other leases end too.
            self.session.lasts_until(Moment::now());
        }
        Ok(renewal)
    }

    async fn renew_with(&self, session: &VaultSession, deadline: Instant) -> Result<VaultAnswer, SourceError> {
        let increment = self.granted.as_secs().to_string();
        self.call("sys/leases/renew", session, Some(&increment), deadline).await
    }

    /// Returns the renewal that an answer means.
    fn renewal(&self, answer: &VaultAnswer) -> Result<Renewal, SourceError> {
        let said = answer.errors();
        let says = |texts: &[&str]| said.iter().any(|error| texts.iter().any(|text| error.contains(text)));
        match answer.status {
            StatusCode::OK => {
                let RenewalAnswer { lease_duration } = json(answer.text(), "a renewal")
                    .map_err(|_| SourceError::Unavailable("the answer to a renewal cannot be understood".into()))?;
                let granted = Duration::from_secs(lease_duration);
                Ok(Renewal::For(self.session.left().map_or(granted, |left| left.min(granted))))
            }
            StatusCode::BAD_REQUEST if says(&["lease not found", "lease expired"]) => Ok(Renewal::Ended),
            StatusCode::BAD_REQUEST if says(&["not renewable", "past the max TTL"]) => Ok(Renewal::AsBefore),
            StatusCode::FORBIDDEN => {
                let problem = "no policy of its token lets it renew leases (update on sys/leases/renew)";
                Err(SourceError::Denied(problem.into()))
            }
            status => Err(SourceError::Unavailable(format!("a renewal gets HTTP {}", status.as_u16()))),
        }
    }

    async fn call(
        &self,
        path: &str,
        session: &VaultSession,
        increment: Option<&str>,
        deadline: Instant,
    ) -> Result<VaultAnswer, SourceError> {
        let mut fields = vec![("lease_id", Zeroizing::new(self.id.expose_secret().to_owned()))];
        fields.extend(increment.map(|increment| ("increment", Zeroizing::new(increment.to_owned()))));
        let call = VaultCall::post(path, session.token(), &json_object(&fields));
        self.sessions.servers().ask(&call, deadline).await
    }
}

impl LeaseCalls for VaultLease {
    fn renew(&self) -> BoxFuture<'_, Result<Renewal, SourceError>> {
        Box::pin(self.renew_both())
    }

    fn give_back(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut pauses = PAUSES.into_iter();
            let problem = loop {
                let mut is_given_back = self.is_given_back.lock().await;
                if *is_given_back || self.session.has_ended_at_server() {
                    return;
                }
                let deadline = Instant::now() + GIVE_BACK;
                let problem = match self.call("sys/leases/revoke", &self.session, None, deadline).await {
                    Ok(answer) if answer.status.is_success() => {
                        *is_given_back = true;
                        return;
                    }
                    // No pause changes a policy.
                    Ok(answer) if answer.status == StatusCode::FORBIDDEN => break "HTTP 403".into(),
                    Ok(answer) => format!("HTTP {}", answer.status.as_u16()),
                    Err(error) => error.to_string(),
                };
                drop(is_given_back);
                let Some(pause) = pauses.next() else { break problem };
                sleep(Duration::from_secs(pause)).await;
            };
            tracing::warn!(problem, "could not give a lease back; it ends by itself, or with its token");
        })
    }
}
