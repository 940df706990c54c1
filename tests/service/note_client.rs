//! A client of the notes.

use devstack::{RunningService, reqwest::StatusCode};
use serde_json::{Value, json};

/// The requests to the notes that several tests make.
pub(crate) trait NoteClient {
    /// Creates a note. Returns its path.
    async fn create_note(&self, text: &str) -> String;

    /// Returns the path of the second page of a list, with a cursor that the current key has signed. There must be two
    /// notes.
    async fn second_page(&self) -> String;
}

impl NoteClient for RunningService<'_> {
    async fn create_note(&self, text: &str) -> String {
        let answer = self.post_json("/v1/notes", json!({ "body": text }).to_string()).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.headers()["location"].to_str().expect("a path").to_owned()
    }

    async fn second_page(&self) -> String {
        let page: Value = self.get("/v1/notes?limit=1").await.json().await.expect("JSON");
        format!("/v1/notes?limit=1&cursor={}", page["next_cursor"].as_str().expect("there are more notes"))
    }
}

/// Returns the id of the note with this path.
pub(crate) fn note_id(path: &str) -> String {
    path.trim_start_matches("/v1/notes/").to_owned()
}
