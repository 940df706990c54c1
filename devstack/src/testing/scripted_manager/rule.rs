//! The faults of a scripted manager, and the requests that they hit.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use serde_json::Value;

use crate::testing::scripted_manager::token_bucket::TokenBucket;

/// The header that names the operation.
pub(super) const TARGET: &str = "x-amz-target";

/// A fault in place of the manager's answer.
#[derive(Clone, Debug)]
pub enum ScriptedFault {
    /// The answer comes, this much later.
    Delay(Duration),
    /// An error in AWS's JSON: the status and the code, as `Status(400, "ThrottlingException")`.
    Status(u16, &'static str),
    /// No answer comes, and the connection stays open.
    BlackHole,
    /// No answer comes, and the connection closes.
    Reset,
    /// The connection closes in the middle of the answer.
    CutBody,
    /// The answer is 200, and its body is not JSON.
    Malformed,
    /// The manager's clock is ahead by this many seconds. As AWS does, it rejects a request whose time differs from its
    /// own by more than 5 minutes, and answers any other.
    ClockAhead(i64),
}

/// A rule: a fault, and the requests that it hits.
#[derive(Clone, Debug)]
pub struct FaultRule {
    secret: Option<String>,
    region: Option<String>,
    operation: Option<&'static str>,
    fault: ScriptedFault,
    left: usize,
    quota: Option<Arc<TokenBucket>>,
}

/// The parts of a request that a rule looks at. A part that the request does not name is empty.
pub(super) struct ManagerRequest {
    pub(super) secret: String,
    pub(super) region: String,
    pub(super) operation: String,
}

impl FaultRule {
    /// Hits every request for this secret id.
    pub fn on(secret: impl Into<String>, fault: ScriptedFault) -> Self {
        Self { secret: Some(secret.into()), ..Self::all(fault) }
    }

    /// Hits every request to this Region.
    pub fn region(region: impl Into<String>, fault: ScriptedFault) -> Self {
        Self { region: Some(region.into()), ..Self::all(fault) }
    }

    /// Hits every request.
    pub fn all(fault: ScriptedFault) -> Self {
        Self { secret: None, region: None, operation: None, fault, left: usize::MAX, quota: None }
    }

    /// Throttles every request beyond this quota, as AWS does.
    pub fn over(quota: Arc<TokenBucket>) -> Self {
        Self { quota: Some(quota), ..Self::all(ScriptedFault::Status(400, "ThrottlingException")) }
    }

    /// Limits the rule to one operation, such as `GetSecretValue`.
    pub fn of(self, operation: &'static str) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Limits the rule to this many requests.
    pub fn times(self, times: usize) -> Self {
        Self { left: times, ..self }
    }

    /// Returns the fault if the rule matches, and counts the request.
    pub(super) fn apply(&mut self, request: &ManagerRequest) -> Option<ScriptedFault> {
        let ManagerRequest { secret, region, operation } = request;
        let matches = self.left > 0
            && self.secret.as_ref().is_none_or(|wanted| wanted == secret)
            && self.region.as_ref().is_none_or(|wanted| wanted == region)
            && self.operation.is_none_or(|wanted| wanted == operation);
        if !matches || self.quota.as_ref().is_some_and(|quota| quota.take()) {
            return None;
        }
        self.left -= 1;
        Some(self.fault.clone())
    }
}

impl ManagerRequest {
    pub(super) fn new(headers: &HeaderMap, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        Self {
            secret: body["SecretId"].as_str().unwrap_or_default().into(),
            region: region_in(headers).unwrap_or_default().into(),
            operation: operation_in(headers).unwrap_or_default().into(),
        }
    }
}

/// Reads `AWS4-HMAC-SHA256 Credential=<access key>/<date>/<region>/secretsmanager/aws4_request, …`.
fn region_in(headers: &HeaderMap) -> Option<&str> {
    let signature = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (_, scope) = signature.split_once("Credential=")?;
    scope.split('/').nth(2)
}

/// Reads `secretsmanager.GetSecretValue`.
fn operation_in(headers: &HeaderMap) -> Option<&str> {
    headers.get(TARGET)?.to_str().ok()?.rsplit('.').next()
}
