use super::*;
use crate::{
    application::{Application, Build, ReadinessChecks},
    config::Config,
    credentials::api_key::ApiKey,
    openapi::OpenApiRouter,
    package::Package,
    resources::build_error::BuildError,
    secrets::{
        credential::Credential,
        expiry::Expiry,
        id::VersionId,
        lease::{NoCalls, SecretLease},
        version::Stage,
    },
    status::lease_status::LeaseStatus,
    testing::{Harness, MemoryManager},
};

use std::sync::Arc;
use vestibule_derive::SecretSet;

/// Text that would be a script, if it were not escaped.
const HOSTILE: &str = "<script>alert('\"&\")</script>";

#[derive(SecretSet)]
struct Secrets {
    #[expect(dead_code, reason = "the page shows it")]
    key: Credential<ApiKey>,
}

/// A service with a check that fails with [`HOSTILE`].
struct Shown;

impl Application for Shown {
    const PACKAGE: Package = Package::new("shown", "1.2.3");
    type Settings = ();
    type Secrets = Secrets;

    async fn build(_: &Build<'_, Self>) -> Result<Self, BuildError> {
        Ok(Self)
    }

    fn routes() -> OpenApiRouter<Arc<Self>> {
        OpenApiRouter::new()
    }

    fn readiness(_: &Arc<Self>, checks: &mut ReadinessChecks<Self>) {
        checks.optional("search", async |_| Err::<(), _>(HOSTILE));
    }
}

/// Returns the page of a service in this state.
fn page(status: &Status) -> String {
    StatusPage { status, history: &RequestHistory::default() }.to_string()
}

async fn start() -> (Arc<MemoryManager>, Harness<Shown>) {
    let manager = MemoryManager::with([("key", "sentinel-of-a-key")]);
    let harness = Harness::start(manager.clone(), Config::default()).await.expect("it needs a key alone");
    (manager, harness)
}

fn status(harness: &Harness<Shown>) -> Status {
    harness.reloader.status.read().borrow().snapshot()
}

#[tokio::test]
async fn the_page_shows_the_service_its_credentials_its_checks_and_its_reloads() {
    let (manager, harness) = start().await;
    let first = page(&status(&harness));
    assert!(first.contains("<h1>shown 1.2.3</h1>") && first.contains("generation 1 in service"), "{first}");
    assert!(first.contains("None since the start.") && first.contains("check `search` has not ended yet"), "{first}");
    harness.check_readiness().await;
    let held = harness.live().generation();
    manager.rotate("key", "sentinel-of-the-next-key");
    assert!(harness.reload().await.unwrap());
    let version = harness.live().generation().credentials.named("key").unwrap().in_use().to_string();
    let second = page(&status(&harness));
    assert!(second.contains("generation 2 in service") && second.contains(&version), "{second}");
    assert!(second.contains("Generation 1, replaced 0 s ago, is held by 1 handle in tasks"), "{second}");
    assert!(second.contains("class=\"published\">published</td>"), "{second}");
    assert!(second.contains("<g class=\"reload published\">"), "{second}");
    assert!(second.contains("class=\"failing\">failing</td>"), "{second}");
    assert!(second.contains("<span class=\"state degraded\">degraded</span>"), "{second}");
    drop(held);
    manager.put_at("key", Stage::Current, "two words");
    harness.reload().await.unwrap_err();
    let third = page(&status(&harness));
    assert!(third.contains("The last one failed with code 65: ") && third.contains("kept, code 65</td>"), "{third}");
    for page in [first, second, third] {
        assert!(!page.contains("sentinel") && !page.contains("two words"), "{page}");
        assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"), "{page}");
    }
}

#[tokio::test]
async fn hostile_texts_stay_texts() {
    let (_, harness) = start().await;
    harness.check_readiness().await;
    let mut status = status(&harness);
    status.service = HOSTILE;
    status.version = HOSTILE;
    status.needs_restart = vec![HOSTILE.into()];
    status.credentials[0].name = HOSTILE;
    status.credentials[0].version = VersionId::new(HOSTILE);
    let page = page(&status);
    assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
    let escaped = "&lt;script&gt;alert(&#39;&quot;&amp;&quot;)&lt;/script&gt;";
    assert_eq!(Escaped(HOSTILE).to_string(), escaped);
    assert!(page.replace("<wbr>", "").matches(escaped).count() >= 6, "{page}");
    assert_eq!(Breakable("a/b_c-<d").to_string(), "a/<wbr>b_<wbr>c-<wbr>&lt;d<wbr>");
}

#[tokio::test]
async fn the_end_of_a_lease_is_shown_and_marked_once_a_successor_is_due() {
    let (_, harness) = start().await;
    let mut status = status(&harness);
    assert!(!page(&status).contains("token"));
    status.manager_token_end = Some(OffsetDateTime::UNIX_EPOCH);
    let ends = format!("The token for the manager ends at {}.", Utc(OffsetDateTime::UNIX_EPOCH));
    assert!(page(&status).contains(&ends));
    let mut lease =
        LeaseStatus::new(&SecretLease::new(Duration::from_secs(60 * 60), Arc::new(NoCalls)), Duration::ZERO);
    for (due, class) in [(lease.due, ""), (OffsetDateTime::now_utc(), "bad")] {
        lease.due = due;
        status.credentials[0].lease = Some(lease.clone());
        let cell = format!("<td data-label=\"expires\" class=\"{class}\">{} (lease)</td>", Utc(lease.end));
        let page = page(&status);
        assert!(page.contains(&cell), "{cell} in {page}");
    }
}

#[tokio::test]
async fn ages_count_the_time_for_which_the_machine_was_suspended() {
    let (_, harness) = start().await;
    let mut status = status(&harness);
    let suspension = time::Duration::hours(3);
    status.in_service_since = status.in_service_since.before_a_suspension(suspension);
    status.credentials[0].loaded = status.credentials[0].loaded.before_a_suspension(suspension);
    let page = page(&status);
    assert!(page.contains("generation 1 in service for 3 h"), "{page}");
    assert!(page.contains("<td data-label=\"loaded\" class=\"\">3 h ago</td>"), "{page}");
}

#[tokio::test]
async fn the_end_of_a_certificate_is_marked_once_it_must_be_replaced() {
    let (_, harness) = start().await;
    let mut status = status(&harness);
    let (now, hour) = (OffsetDateTime::now_utc(), time::Duration::HOUR);
    let soon = now + 3 * hour + hour / 2;
    for (expiry, class, left) in [
        (Expiry::between(soon - 4 * hour, soon), "", "3 h"),
        (Expiry::between(soon - 24 * hour, soon), "bad", "3 h"),
        (Expiry::at(now + 100 * hour), "bad", "4 days"),
        (Expiry::at(now - hour), "bad", "0 s"),
    ] {
        status.credentials[0].expires = Some(expiry);
        let cell = format!("<td data-label=\"expires\" class=\"{class}\">{} ({left} left)</td>", Utc(expiry.end()));
        let page = page(&status);
        assert!(page.contains(&cell), "{cell} in {page}");
    }
}

#[test]
fn numbers_and_ages_are_short() {
    for (number, text) in [(0.0, "0"), (0.0667, "0.067"), (0.25, "0.25"), (3.21, "3.2"), (1234.5, "1234")] {
        assert_eq!(rounded(number), text);
    }
    for (seconds, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")] {
        assert_eq!(Age(Duration::from_secs(seconds)).to_string(), text);
    }
    let time = OffsetDateTime::from_unix_timestamp(1_700_000_001).unwrap();
    assert_eq!(Utc(time).to_string(), "2023-11-14 22:13:21 UTC");
}
