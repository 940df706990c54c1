//! The page of the admin listener for people.

use crate::{SERVICE, note_client::NoteClient, support::secrets::current_version};
use devstack::reqwest::{self, StatusCode};

#[tokio::test]
async fn the_page_shows_a_rotation_and_the_requests() {
    let tenant = SERVICE.migrated("page").await;
    let mut running = SERVICE.start(&tenant).await;
    let (code, kind, first) = running.page("/").await;
    assert_eq!((code, kind.as_str()), (StatusCode::OK, "text/html; charset=utf-8"));
    let old = current_version(&tenant, "database").await;
    assert!(first.contains("generation 1 in service") && first.contains(&old), "{first}");
    assert!(first.contains("in the last hour, requests: 0, errors: 0"), "{first}");

    running.create_note("a note").await;
    let new = tenant.rotate("database").await.unwrap();
    assert_eq!(running.reload().await["outcome"], "published");
    let (_, _, second) = running.page("/").await;
    assert!(second.contains("generation 2 in service") && second.contains(&new), "{second}");
    assert!(second.contains("<g class=\"reload published\">") && second.contains(">published</td>"), "{second}");
    assert!(second.contains("in the last hour, requests: 1, errors: 0"), "{second}");
}

#[tokio::test]
async fn a_browser_loads_and_runs_nothing_but_the_page() {
    let tenant = SERVICE.migrated("page_policy").await;
    let running = SERVICE.start(&tenant).await;
    let answer = reqwest::get(format!("http://{}/", running.at.admin)).await.unwrap();
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'unsafe-inline';"), "{policy}");
    let page = answer.text().await.unwrap();
    for word in ["<script", "<img", "<link", "javascript:", "http://", "https://", "@import", "url("] {
        assert!(!page.contains(word), "{word} in {page}");
    }
    for path in ["/status", "/metrics", "/readyz", "/docs"] {
        assert!(page.contains(&format!("<a href=\"{path}\">")), "{path}");
    }
}
