use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Failure;

/// What a project wants of `cargo dev`: `[package.metadata.devstack]` in its Cargo.toml. Any of it may be left out.
#[derive(Default)]
pub(crate) struct DevMetadata {
    pub(crate) requests: Requests,
    /// Where who takes an API key listens, by the name of the credential.
    pub(crate) receivers: BTreeMap<String, SocketAddr>,
}

/// What to ask the service for.
#[derive(Default)]
pub(crate) struct Requests {
    /// The path of what is read.
    pub(crate) get: Option<Target>,
    /// What is written.
    pub(crate) post: Option<Post>,
}

/// JSON, to a path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Post {
    pub(crate) path: Target,
    pub(crate) body: Json,
}

/// The path of a URL, with a query or without.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Target(pub(crate) String);

#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Json(pub(crate) String);

pub(crate) const GET: &str = "`get = \"/v1/hello\"`: the path that `cargo dev` suggests to try, and `cargo dev load` \
     asks for";
const POST: &str = "`post = { path = \"/v1/hello\", body = '{\"name\": \"you\"}' }`: a path, and the JSON that is sent \
     there";
const RECEIVERS: &str = "lines like `webhook = \"127.0.0.1:8081\"` under [package.metadata.devstack.receivers]: the name \
     of a credential, and where to listen for it";

impl DevMetadata {
    /// `Err` says what was expected.
    pub(crate) fn read(section: &Value) -> Result<Self, Failure> {
        let mut dev_metadata = Self::default();
        let keys = match section {
            Value::Null => return Ok(dev_metadata),
            section => section.as_object().ok_or_else(|| wanted("a section"))?,
        };
        for (key, value) in keys {
            match key.as_str() {
                "get" => dev_metadata.requests.get = Some(shaped(value, GET)?),
                "post" => dev_metadata.requests.post = Some(shaped(value, POST)?),
                "receivers" => dev_metadata.receivers = shaped(value, RECEIVERS)?,
                _ => return Err(wanted(&format!("nothing but `get`, `post` and `receivers`, and not `{key}`"))),
            }
        }
        Ok(dev_metadata)
    }
}

fn shaped<T: DeserializeOwned>(value: &Value, expected: &str) -> Result<T, Failure> {
    T::deserialize(value).map_err(|_| wanted(expected))
}

/// Says what belongs into Cargo.toml.
pub(crate) fn wanted(what: &str) -> Failure {
    Failure::new(format!("[package.metadata.devstack] in Cargo.toml wants {what}"))
}

impl TryFrom<String> for Target {
    type Error = &'static str;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        let fits = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(path)) } else { Err("a path begins with / and has no blanks") }
    }
}

impl TryFrom<String> for Json {
    type Error = serde_json::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        serde_json::from_str::<serde::de::IgnoredAny>(&text)?;
        Ok(Self(text))
    }
}
