//! The section `[package.metadata.devstack]` of a project's Cargo.toml.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::dev::error::DevError;

/// The section `[package.metadata.devstack]` of a project's Cargo.toml. Each key is optional.
#[derive(Default)]
pub(crate) struct DevMetadata {
    pub(crate) requests: ExampleRequests,
    /// The addresses at which `cargo dev` takes requests with an API key, by the name of the credential.
    pub(crate) receivers: BTreeMap<String, SocketAddr>,
}

/// The requests that `cargo dev` suggests and `cargo dev load` sends.
#[derive(Default)]
pub(crate) struct ExampleRequests {
    /// The path of a GET request.
    pub(crate) get: Option<RequestPath>,
    pub(crate) post: Option<ExamplePost>,
}

/// A POST request with JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExamplePost {
    pub(crate) path: RequestPath,
    pub(crate) body: JsonText,
}

/// The path of a URL, with or without a query.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct RequestPath(pub(crate) String);

/// A text that is JSON.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct JsonText(pub(crate) String);

pub(crate) const GET: &str = "`get = \"/v1/hello\"`: the path that `cargo dev` suggests to try, and `cargo dev load` \
     asks for";
const POST: &str = "`post = { path = \"/v1/hello\", body = '{\"name\": \"you\"}' }`: a path, and the JSON that is sent \
     there";
const RECEIVERS: &str = "lines like `webhook = \"127.0.0.1:8081\"` under [package.metadata.devstack.receivers]: the name \
     of a credential, and where to listen for it";

impl DevMetadata {
    /// Reads the section, which is null if it is missing. An error names the expected form.
    pub(crate) fn read(section: &Value) -> Result<Self, DevError> {
        let mut metadata = Self::default();
        if section.is_null() {
            return Ok(metadata);
        }
        let keys = section.as_object().ok_or_else(|| expected("a section"))?;
        for (key, value) in keys {
            match key.as_str() {
                "get" => metadata.requests.get = Some(parse(value, GET)?),
                "post" => metadata.requests.post = Some(parse(value, POST)?),
                "receivers" => metadata.receivers = parse(value, RECEIVERS)?,
                _ => return Err(expected(&format!("nothing but `get`, `post` and `receivers`, and not `{key}`"))),
            }
        }
        Ok(metadata)
    }
}

fn parse<T: DeserializeOwned>(value: &Value, form: &str) -> Result<T, DevError> {
    T::deserialize(value).map_err(|_| expected(form))
}

/// Returns an error that says what belongs into Cargo.toml.
pub(crate) fn expected(form: &str) -> DevError {
    DevError::new(format!("[package.metadata.devstack] in Cargo.toml wants {form}"))
}

impl TryFrom<String> for RequestPath {
    type Error = &'static str;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        if path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(path))
        } else {
            Err("a path begins with / and has no blanks")
        }
    }
}

impl TryFrom<String> for JsonText {
    type Error = serde_json::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        serde_json::from_str::<serde::de::IgnoredAny>(&text)?;
        Ok(Self(text))
    }
}
