//! The identity that the process keeps: all requests are signed with it until its last minutes, or until it is doubted.

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};
use std::{
    fmt,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// The time before the end of an identity from which on the platform is asked for another one.
const LAST_MINUTES: Duration = Duration::from_secs(5 * 60);

/// The time after the second question to the platform, and after each one that follows, for which the next one waits. Somebody
/// may deny each request, whoever signs it.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The longest time for an answer of the platform.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The identity of the platform. It is asked for at the first request, and then once more when that may help.
pub(super) struct KeptIdentity {
    platform: SharedCredentialsProvider,
    held: Mutex<Option<HeldIdentity>>,
}

struct HeldIdentity {
    identity: Credentials,
    /// The first one that the platform gave is number 1.
    number: u64,
    /// The time from which on the platform may be asked for another one.
    may_ask: Instant,
    /// `true` if somebody has denied what was signed with it: its session may have been revoked, or have ended by another
    /// clock than this machine's.
    is_doubted: bool,
}

impl HeldIdentity {
    /// Returns `true` if the identity ends later than after this time. One without an end does not last: a file or a variable
    /// has it, and may have another one by now.
    fn lasts(&self, time: Duration) -> bool {
        self.identity.expiry().is_some_and(|end| end > SystemTime::now() + time)
    }

    fn has_ended(&self) -> bool {
        self.identity.expiry().is_some_and(|end| end <= SystemTime::now())
    }

    /// Returns `true` if requests are signed with it, and nobody asks for another one.
    fn is_good(&self) -> bool {
        let is_fresh = !self.is_doubted && self.lasts(LAST_MINUTES);
        !self.has_ended() && (is_fresh || Instant::now() < self.may_ask)
    }
}

impl KeptIdentity {
    pub(super) fn of(platform: SharedCredentialsProvider) -> Self {
        Self { platform, held: Mutex::default() }
    }

    /// Returns the identity. If the platform gives no other one, the one that is held serves until its end.
    ///
    /// # Errors
    /// That of the platform.
    pub(super) async fn get(&self) -> Result<Credentials, CredentialsError> {
        let mut held = self.held.lock().await;
        if let Some(held) = &*held
            && held.is_good()
        {
            return Ok(held.identity.clone());
        }
        let answer = self.load().await;
        let now = Instant::now();
        let (number, may_ask) = held.as_ref().map_or((1, now), |before| (before.number + 1, now + ASK_AGAIN_AFTER));
        match (answer, &mut *held) {
            (Ok(identity), held) => {
                let next = HeldIdentity { identity, number, may_ask, is_doubted: false };
                Ok(held.insert(next).identity.clone())
            }
            (Err(_), Some(held)) if held.lasts(Duration::ZERO) => {
                held.may_ask = may_ask;
                Ok(held.identity.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn load(&self) -> Result<Credentials, CredentialsError> {
        match timeout(LOAD_TIMEOUT, self.platform.provide_credentials()).await {
            Ok(answer) => answer,
            Err(_) => match self.platform.fallback_on_interrupt() {
                Some(identity) => Ok(identity),
                None => Err(CredentialsError::provider_timed_out(LOAD_TIMEOUT)),
            },
        }
    }

    /// Returns the number of the identity with which a request is signed now. If the platform must be asked first, it is the
    /// next one.
    pub(super) async fn number(&self) -> u64 {
        match &*self.held.lock().await {
            Some(held) if held.is_good() => held.number,
            Some(held) => held.number + 1,
            None => 1,
        }
    }

    /// Doubts the identity of this number, because what was signed with it was denied. Returns `true` if there may be another
    /// one now.
    pub(super) async fn doubt(&self, number: u64) -> bool {
        let mut held = self.held.lock().await;
        let Some(held) = &mut *held else { return false };
        if held.number > number {
            return true;
        }
        held.is_doubted = true;
        !held.is_good()
    }
}

impl ProvideCredentials for KeptIdentity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.get())
    }
}

impl fmt::Debug for KeptIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptIdentity").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };
    use tokio::time::advance;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A platform that counts the questions. Its identities last for this time; without one, it gives none after the first.
    #[derive(Clone, Debug, Default)]
    struct Platform {
        lifetime: Option<Duration>,
        questions: Arc<AtomicU32>,
    }

    impl ProvideCredentials for Platform {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let number = self.questions.fetch_add(1, Ordering::SeqCst) + 1;
            future::ProvideCredentials::ready(match self.lifetime {
                Some(lifetime) => Ok(identity(&number.to_string(), Some(lifetime))),
                None => Err(CredentialsError::not_loaded_no_source()),
            })
        }
    }

    impl Platform {
        fn questions(&self) -> u32 {
            self.questions.load(Ordering::SeqCst)
        }
    }

    fn identity(token: &str, lifetime: Option<Duration>) -> Credentials {
        let end = lifetime.map(|lifetime| SystemTime::now() + lifetime);
        Credentials::new("AKIDEXAMPLE", "key", Some(token.to_owned()), end, "a test")
    }

    /// Keeps an identity that lasts for this time, in front of this platform.
    fn keep(lifetime: Option<Duration>, platform: &Platform) -> KeptIdentity {
        let identity = identity("held", lifetime);
        let held = HeldIdentity { identity, number: 1, may_ask: Instant::now(), is_doubted: false };
        KeptIdentity { platform: SharedCredentialsProvider::new(platform.clone()), held: Mutex::new(Some(held)) }
    }

    async fn token(kept: &KeptIdentity) -> String {
        kept.get().await.expect("an identity").session_token().expect("a token").to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn an_identity_is_kept_until_its_last_minutes() {
        for (lifetime, used) in [(Some(6 * MINUTE), "held"), (Some(4 * MINUTE), "1"), (None, "1")] {
            let platform = Platform { lifetime: Some(60 * MINUTE), ..Platform::default() };
            assert_eq!(token(&keep(lifetime, &platform)).await, used, "{lifetime:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_identity_serves_until_its_end_if_the_platform_gives_no_other_one() {
        let platform = Platform::default();
        let kept = keep(Some(MINUTE), &platform);
        for (pause, questions) in [(0, 1), (9, 1), (1, 2), (9, 2), (1, 3)] {
            advance(Duration::from_secs(pause)).await;
            assert_eq!(token(&kept).await, "held");
            assert_eq!(platform.questions(), questions, "the platform is asked once in ten seconds");
        }
        for lifetime in [Some(Duration::ZERO), None] {
            assert!(keep(lifetime, &platform).get().await.is_err(), "{lifetime:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_denied_identity_is_replaced_at_most_once_in_ten_seconds() {
        let platform = Platform { lifetime: Some(60 * MINUTE), ..Platform::default() };
        let kept = keep(Some(60 * MINUTE), &platform);
        let (first, other) = (kept.number().await, kept.number().await);
        assert!(kept.doubt(first).await);
        assert_eq!((token(&kept).await.as_str(), kept.number().await), ("1", first + 1));
        assert!(kept.doubt(other).await, "it was signed with the one before");
        assert_eq!(token(&kept).await, "1");
        advance(Duration::from_secs(9)).await;
        assert!(!kept.doubt(first + 1).await, "this one was denied, too");
        assert_eq!(token(&kept).await, "1");
        advance(Duration::from_secs(1)).await;
        assert_eq!(token(&kept).await, "2");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_identity_is_not_taken_for_another_one() {
        let platform = Platform { lifetime: Some(60 * MINUTE), ..Platform::default() };
        let kept = KeptIdentity::of(SharedCredentialsProvider::new(platform));
        let number = kept.number().await;
        assert_eq!(token(&kept).await, "1");
        assert_eq!(kept.number().await, number);
    }
}
