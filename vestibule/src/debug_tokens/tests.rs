//! Tests of debug tokens through the door.

use super::*;
use crate::{
    application::Build,
    config::Config,
    http::door::Door,
    openapi::OpenApiRouter,
    package::Package,
    resources::build_error::BuildError,
    secrets::{credential::Credential, id::SecretId},
    testing::{Harness, MemoryManager},
    trace_context::TraceContext,
};
use axum::{
    body::{Body, to_bytes},
    http::{Extensions, Request},
    routing::get,
};
use tower::ServiceExt;
use vestibule_derive::SecretSet;

const KEYS: &str = "keys";
const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// The credentials of a service: its signing keys, if the configuration names them.
#[derive(SecretSet)]
struct Secrets {
    #[expect(dead_code, reason = "the framework signs with them")]
    keys: Option<Credential<SigningKeys>>,
}

/// A service whose route says if a request is debugged and sampled, and if its handler sees the token. Another route keeps
/// what came with the request.
#[derive(Default)]
struct Debugged {
    kept: Arc<Mutex<Option<Extensions>>>,
}

impl Application for Debugged {
    const PACKAGE: Package = Package::new("debugged", "0");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self::default())
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        let says = async |headers: HeaderMap, trace: TraceContext| {
            let is_debugged = RequestContext::current().is_some_and(|request| request.debug);
            let is_sampled = trace.traceparent().is_some_and(|parent| parent.ends_with("-01"));
            format!("{is_debugged} {is_sampled} {}", headers.contains_key(X_DEBUG_TOKEN))
        };
        let keeps = async |State(service): State<Arc<Self>>, request: Request<Body>| {
            *service.kept.lock().expect("no panic") = Some(request.into_parts().0.extensions);
        };
        OpenApiRouter::new().route("/", get(says)).route("/kept", get(keeps))
    }
}

async fn start(config: Config<()>) -> (Arc<MemoryManager>, Harness<Debugged>) {
    let manager = MemoryManager::with([(KEYS, KEY)]);
    let harness = Harness::start(manager.clone(), config).await.expect("a start");
    (manager, harness)
}

/// Returns the configuration of a service that has signing keys.
fn with_keys() -> Config<()> {
    let mut config = Config::default();
    config.secrets.ids.insert(KEYS.into(), SecretId::parse(KEYS).expect("an id"));
    config
}

/// Returns what the route says to a request with this token.
async fn says(harness: &Harness<Debugged>, token: &str) -> String {
    let request = Request::get("/").header(X_DEBUG_TOKEN, token).body(Body::empty()).expect("a request");
    let answer = Door::new(harness.live()).oneshot(request).await.expect("an answer");
    let body = to_bytes(Body::new(answer.into_body()), usize::MAX).await.expect("a body");
    String::from_utf8(body.into()).expect("text")
}

#[tokio::test]
async fn a_valid_token_marks_its_request_and_no_handler_sees_a_token() {
    let (_, harness) = start(with_keys()).await;
    let tokens = &harness.live().generation().debug_tokens;
    let signer = tokens.signer.as_ref().expect("the service has a key");
    let valid = tokens.issue(Duration::from_secs(60)).expect("a token");
    let of_other_service = signer.seal_for(MAX_LIFETIME, b"another");
    let too_long = signer.seal_for(2 * MAX_LIFETIME, b"debugged");
    assert_eq!(says(&harness, &valid).await, "true true false");
    for token in [&*of_other_service, &too_long, &signer.seal_until(1, b"debugged"), &valid[1..], ""] {
        assert_eq!(says(&harness, token).await, "false false false");
    }
    assert!(tokens.issue(Duration::MAX).is_some_and(|token| token.len() < MAX_TOKEN / 2));
}

#[tokio::test]
async fn a_service_without_a_signing_key_issues_no_token_and_accepts_none() {
    let ((_, with), (_, without)) = (start(with_keys()).await, start(Config::default()).await);
    let token = with.live().generation().debug_tokens.issue(MAX_LIFETIME).expect("a token");
    assert_eq!(says(&without, &token).await, "false false false");
    let generation = without.live();
    let asked = async |user| {
        let query = Query(IssueQuery { seconds: 60 });
        issue(State(generation.clone()), Some(Extension(user)), query).await.map_err(|status| status.as_u16())
    };
    assert_eq!(asked(CommandUser(0)).await, Err(409));
    assert_eq!(asked(CommandUser(u32::MAX)).await, Err(403));
}

#[tokio::test]
async fn what_a_handler_keeps_of_a_request_keeps_no_key_after_its_generation() {
    let (manager, harness) = start(with_keys()).await;
    let kept = harness.live().service().kept.clone();
    let request = Request::get("/kept").body(Body::empty()).expect("a request");
    drop(Door::new(harness.live()).oneshot(request).await.expect("an answer"));
    assert!(kept.lock().expect("no panic").is_some());
    let generation = harness.live().generation();
    let held = generation.credentials.named(KEYS).expect("it is held");
    let keys = Arc::downgrade(&held.value_if::<SigningKeys>().expect("they are signing keys"));
    drop(generation);
    manager.rotate(KEYS, &*KEY.replace('M', "N"));
    assert!(harness.reload().await.expect("a reload"));
    assert_eq!(keys.strong_count(), 0);
}
