//! What a client does with notes.

use devstack::{
    RunningService,
    reqwest::{self, Method, Response, StatusCode},
};
use serde_json::{Value, json};

pub(crate) trait Notes {
    /// Posts a body to the list.
    async fn post(&self, body: impl Into<reqwest::Body>) -> Response;

    /// Creates a note; returns its path.
    async fn create(&self, text: &str) -> String;

    /// The path to the second page of a list, signed with the key in service. There must be two notes.
    async fn second_page(&self) -> String;
}

impl Notes for RunningService<'_> {
    async fn post(&self, body: impl Into<reqwest::Body>) -> Response {
        let post = self.request(Method::POST, "/v1/notes").header("content-type", "application/json");
        post.body(body).send().await.expect("an answer")
    }

    async fn create(&self, text: &str) -> String {
        let answer = self.post(json!({ "body": text }).to_string()).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.headers()["location"].to_str().expect("a path").to_owned()
    }

    async fn second_page(&self) -> String {
        let page: Value = self.get("/v1/notes?limit=1").await.json().await.expect("JSON");
        format!("/v1/notes?limit=1&cursor={}", page["next_cursor"].as_str().expect("there are more notes"))
    }
}
