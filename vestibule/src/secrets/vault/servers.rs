//! The servers of one cluster: one of them is active, the others are standbys.
//!
//! A standby passes on what it cannot answer. But it answers reads of KV itself, and may lag behind. Each answer has the
//! index of the cluster's state in the header `X-Vault-Index`. A standby that has not reached the index of a request passes
//! the request on to the active node, if `X-Vault-Inconsistent` asks for that. So every read names an index which no node
//! has reached, and the answer is always the active node's. Seen at OpenBao 2.7.2, whose index is JSON in base64. An index
//! of another form is Vault Enterprise's, and is sent back as it is: a node that has not reached it answers 412, and the
//! next one is asked. `X-Vault-Inconsistent` is not sent with it: by default, Vault Enterprise denies such a request.

use super::{
    client::{VaultAnswer, VaultCall, VaultClient},
    failure::AddressFailure,
    tls::VaultTls,
};
use crate::{
    config::{base_url::BaseUrl, settings::vault::VaultConfig},
    secrets::source::SourceError,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout},
};

const INDEX: HeaderName = HeaderName::from_static("x-vault-index");
const INCONSISTENT: HeaderName = HeaderName::from_static("x-vault-inconsistent");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");

/// An agent may ask for it: so a browser, or a server that can be made to send requests, cannot call it.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// The time that each further address has for a call that makes something, if the one before it does not answer.
const LEAST: Duration = Duration::from_millis(700);

/// The servers of one cluster, behind the configured addresses.
pub(super) struct VaultServers {
    config: VaultConfig,
    tls: VaultTls,
    /// One of those who ask makes the client, and the others wait for it.
    client: Mutex<Arc<OnceCell<VaultClient>>>,
    /// The number of the address that answered last. It is asked first.
    preferred: AtomicUsize,
    /// The index that the next request names.
    index: Mutex<Option<HeaderValue>>,
}

/// An index as OpenBao writes it.
#[derive(Serialize, Deserialize)]
struct StateIndex {
    cluster: String,
    value: String,
}

/// An answer, by what follows from it.
pub(super) enum AnswerVerdict {
    Final,
    /// The address at which the active node is.
    Redirect(usize),
    Failed(AddressFailure),
}

impl VaultServers {
    pub(super) fn new(config: &VaultConfig) -> Self {
        Self {
            config: config.clone(),
            tls: VaultTls::new(config),
            client: Mutex::default(),
            preferred: AtomicUsize::default(),
            index: Mutex::default(),
        }
    }

    fn client(&self) -> MutexGuard<'_, Arc<OnceCell<VaultClient>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one address after the other, until one gives an answer that counts. Each has its [`share`] of the time.
    ///
    /// # Errors
    /// A transient error that names the problem of each address.
    pub(super) async fn ask(&self, call: &VaultCall<'_>, deadline: Instant) -> Result<VaultAnswer, SourceError> {
        let client = self.client().clone();
        let answer = self.ask_over(&client, call, deadline).await;
        if answer.is_err() {
            let mut in_use = self.client();
            // A certificate or an authority may have been replaced: the next request reads the files again.
            if Arc::ptr_eq(&in_use, &client) {
                *in_use = Arc::default();
            }
        }
        answer
    }

    /// Does the same over new connections, for which it reads the files again. If the answer is a success, all further
    /// requests use these connections. Otherwise, those that worked until now stay.
    pub(super) async fn ask_anew(&self, call: &VaultCall<'_>, deadline: Instant) -> Result<VaultAnswer, SourceError> {
        let client = Arc::default();
        let answer = self.ask_over(&client, call, deadline).await?;
        if answer.status.is_success() {
            *self.client() = client;
        }
        Ok(answer)
    }

    async fn ask_over(
        &self,
        client: &OnceCell<VaultClient>,
        call: &VaultCall<'_>,
        deadline: Instant,
    ) -> Result<VaultAnswer, SourceError> {
        let client = client.get_or_try_init(async || self.tls.config().await.map(VaultClient::new)).await?;
        let addresses = &self.config.addresses;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut waiting: VecDeque<usize> = (first..addresses.len()).chain(0..first).collect();
        let mut failures = Vec::new();
        while let Some(number) = waiting.pop_front() {
            let address = &addresses[number];
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = match timeout(share(call, left, waiting.len()), self.ask_one(client, address, call)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(failure)) => {
                    failures.push(failure);
                    continue;
                }
                Err(_) => {
                    failures.push(AddressFailure::unanswered(address.authority()));
                    continue;
                }
            };
            match self.judge(address, call, &answer) {
                AnswerVerdict::Final => {
                    self.preferred.store(number, Ordering::Relaxed);
                    return Ok(answer);
                }
                AnswerVerdict::Redirect(to) if waiting.contains(&to) => {
                    waiting.retain(|number| *number != to);
                    waiting.push_front(to);
                }
                // That one has failed already: it was the active node.
                AnswerVerdict::Redirect(_) => failures.push(no_active_node(address.authority())),
                AnswerVerdict::Failed(failure) => failures.push(failure),
            }
        }
        Err(AddressFailure::error_of(&failures))
    }

    /// Asks one address. Asks it again if the answer shows that the request did not name the right index.
    async fn ask_one(
        &self,
        client: &VaultClient,
        address: &BaseUrl,
        call: &VaultCall<'_>,
    ) -> Result<VaultAnswer, AddressFailure> {
        let named = self.next_index();
        let answer = self.send(client, address, call, named.as_ref()).await?;
        let Some(given) = answer.headers.get(INDEX) else { return Ok(answer) };
        let unreachable = unreachable_index(given);
        let is_right = unreachable.is_none() || unreachable == named;
        let index = unreachable.unwrap_or_else(|| given.clone());
        *self.index.lock().unwrap_or_else(PoisonError::into_inner) = Some(index.clone());
        if is_right || !call.may_repeat() {
            return Ok(answer);
        }
        self.send(client, address, call, Some(&index)).await
    }

    async fn send(
        &self,
        client: &VaultClient,
        address: &BaseUrl,
        call: &VaultCall<'_>,
        index: Option<&HeaderValue>,
    ) -> Result<VaultAnswer, AddressFailure> {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(namespace) = HeaderValue::from_str(&self.config.namespace)
            && !namespace.is_empty()
        {
            headers.insert(NAMESPACE, namespace);
        }
        if let Some(index) = index {
            headers.insert(INDEX, index.clone());
            if unreachable_index(index).is_some() {
                headers.insert(INCONSISTENT, HeaderValue::from_static("forward-active-node"));
            }
        }
        let Some(request) = call.request(address, &headers) else {
            let text = format!("a request to {} cannot be made", address.authority());
            return Err(AddressFailure::out_of_service(text, "correct secrets.vault.addresses"));
        };
        client.send(address, request).await
    }

    fn next_index(&self) -> Option<HeaderValue> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn judge(&self, address: &BaseUrl, call: &VaultCall<'_>, answer: &VaultAnswer) -> AnswerVerdict {
        let host = address.authority();
        if answer.status.is_redirection() {
            return match self.redirect(answer) {
                Some(number) => AnswerVerdict::Redirect(number),
                None => AnswerVerdict::Failed(AddressFailure::out_of_service(
                    format!("{host} redirects to a host that is not in secrets.vault.addresses"),
                    "add the address of the active node to secrets.vault.addresses, as the server's api_addr has it",
                )),
            };
        }
        match out_of_service(host, call, answer) {
            Some(failure) => AnswerVerdict::Failed(failure),
            None => AnswerVerdict::Final,
        }
    }

    /// Returns the number of the address that an answer redirects to, if it is one of ours.
    fn redirect(&self, answer: &VaultAnswer) -> Option<usize> {
        let location: Uri = answer.headers.get(header::LOCATION)?.to_str().ok()?.parse().ok()?;
        let is_there = |address: &BaseUrl| {
            let has_scheme = location.scheme_str() == Some(if address.is_https() { "https" } else { "http" });
            has_scheme && location.authority().is_some_and(|authority| authority.as_str() == address.authority())
        };
        self.config.addresses.iter().position(is_there)
    }
}

/// Returns the part of the time left that an address has while this many others wait. What makes something, such as a user in
/// a database, may take long, and each address would pass it on to the same active node.
fn share(call: &VaultCall<'_>, left: Duration, others: usize) -> Duration {
    let others = others as u32;
    let equal = left / (others + 1);
    if call.may_repeat() { equal } else { equal.max(left.saturating_sub(LEAST * others)) }
}

/// Returns the failure of an address whose answer does not count: its server cannot serve, or something before it answers.
fn out_of_service(host: &str, call: &VaultCall<'_>, answer: &VaultAnswer) -> Option<AddressFailure> {
    let status = answer.status.as_u16();
    let errors = answer.errors();
    let says = |text: &str| errors.iter().any(|error| error.contains(text));
    let (problem, remedy) = if status == 472 || says("in replication DR secondary mode") {
        (
            "is a secondary for disaster recovery, and gives no secret".into(),
            "name the servers of the primary cluster in secrets.vault.addresses",
        )
    } else if status == 473 {
        (
            "is a performance standby that passes nothing on (HTTP 473)".into(),
            "name every server of the cluster in secrets.vault.addresses",
        )
    } else if !answer.is_of_server() {
        let what = if answer.is_markup() { "an HTML page" } else { "something" };
        (
            format!("answers HTTP {status} with {what} that no server of Vault gives"),
            "look at the proxy or the load balancer that answers in its place, or correct secrets.vault.addresses",
        )
    } else if !answer.status.is_server_error() && !matches!(status, 412 | 429) {
        return None;
    } else if says("not initialized") || answer.status == StatusCode::NOT_IMPLEMENTED {
        ("is not initialised".into(), "initialise the server, or correct secrets.vault.addresses")
    } else if says("sealed") {
        ("is sealed".into(), "unseal the server (`bao operator unseal`), or mend its auto-unseal")
    } else if says("active cluster node not found") {
        return Some(no_active_node(host));
    } else if answer.status == StatusCode::TOO_MANY_REQUESTS {
        let remedy = "raise the quota for this path (sys/quotas/rate-limit)";
        ("limits the rate of requests (HTTP 429)".into(), remedy)
    } else {
        let said = if call.is_login() { answer.quoted_errors() } else { String::new() };
        (format!("answers HTTP {status} {said}").trim_end().to_owned(), "see the log of the server")
    };
    Some(AddressFailure::out_of_service(format!("{host} {problem}"), remedy))
}

fn no_active_node(host: &str) -> AddressFailure {
    AddressFailure::out_of_service(
        format!("{host} is a standby, and finds no active node"),
        "wait until a node is elected; if that takes long, check that most of the nodes run",
    )
}

/// Returns the index of the same cluster that no node ever reaches. Returns `None` if the index has another form.
#[expect(clippy::disallowed_methods, reason = "an index is no secret, and serde's message is dropped")]
pub(super) fn unreachable_index(index: &HeaderValue) -> Option<HeaderValue> {
    let json = STANDARD.decode(index.as_bytes()).ok()?;
    let index: StateIndex = serde_json::from_slice(&json).ok()?;
    index.value.parse::<u64>().ok()?;
    let unreachable = StateIndex { value: i64::MAX.to_string(), ..index };
    HeaderValue::try_from(STANDARD.encode(serde_json::to_vec(&unreachable).ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_time_to_make_a_user_and_each_other_address_to_be_asked() {
        let (token, millis) = (HeaderValue::from_static("t"), Duration::from_millis);
        let (read, make) = (VaultCall::get("", &token), VaultCall::make("", &token));
        for (left, others, of_read, of_make) in
            [(4500, 0, 4500, 4500), (4500, 2, 1500, 3100), (4500, 4, 900, 1700), (1500, 2, 500, 500), (0, 2, 0, 0)]
        {
            let shares = [&read, &make].map(|call| share(call, millis(left), others));
            assert_eq!(shares, [millis(of_read), millis(of_make)], "{left} ms, {others} others");
        }
    }

    #[test]
    fn an_index_that_no_node_reaches_is_of_the_same_cluster() {
        let given = HeaderValue::try_from(STANDARD.encode(r#"{"cluster":"f7","value":"37"}"#)).unwrap();
        let named = STANDARD.decode(unreachable_index(&given).unwrap()).unwrap();
        assert_eq!(named, br#"{"cluster":"f7","value":"9223372036854775807"}"#);
        for other in ["", "AAAA", "v1:f7:37:0:mac"] {
            assert_eq!(unreachable_index(&HeaderValue::from_static(other)), None, "{other}");
        }
    }
}
