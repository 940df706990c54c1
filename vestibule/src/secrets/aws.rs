//! AWS Secrets Manager. Only this module and its settings ([`AwsConfig`]) know AWS.

pub(crate) mod errors;
pub(crate) mod policy;
pub(crate) mod rds_token;

mod http_client;
mod identity;
mod kept_identity;
mod remedies;
pub(crate) mod sdk;

use self::{kept_identity::KeptIdentity, sdk::AwsPlatform};
use super::{
    id::{SecretId, VersionId},
    source::{Fetched, Operation, Source, SourceError},
    version::{SecretValue, Stage, Versions},
};
use crate::{
    blocking_reads::FileReads,
    config::settings::AwsConfig,
    exit::{Exit, Fault},
};
use aws_config::Region;
use aws_sdk_secretsmanager::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{describe_secret::DescribeSecretOutput, get_secret_value::GetSecretValueOutput},
};
use futures_util::future::BoxFuture;
use std::{
    borrow::Cow,
    error::Error,
    sync::{Arc, Once},
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// A client of AWS Secrets Manager in one Region.
///
/// It uses `GetSecretValue` for each secret, not `BatchGetSecretValue`: the quota of `GetSecretValue` is a hundred times
/// larger, it needs one permission fewer, and it takes a stage.
pub struct SecretsManager {
    client: Client,
    /// The Region that ARNs are translated to, if there are several: a replica has the name of its primary secret, and an
    /// ARN of its own Region.
    region_of_arns: Option<String>,
    identity: Arc<KeptIdentity>,
    /// Done once it is logged that the clock is wrong.
    clock_logged: Once,
}

impl SecretsManager {
    /// Makes a client for each Region, with the platform's identity: for the first one, then for those to which it is
    /// replicated. If `strict`, static keys and endpoints without TLS are used only if the configuration allows them.
    /// Asks for no secret yet.
    ///
    /// # Errors
    /// A fault if there is no Region, if the platform trusts no certificate authority, or if the endpoint has no TLS and
    /// must have it.
    pub(crate) async fn of_regions(
        aws: &AwsConfig,
        strict: bool,
        files: &FileReads,
    ) -> Result<Vec<(String, Self)>, Fault> {
        let platform = sdk::configure(aws, strict, files).await?;
        let mut regions = vec![platform.region.clone()];
        regions.extend(aws.regions.iter().skip(1).cloned().map(Region::new));
        let has_replicas = regions.len() > 1;
        let clients = regions.into_iter().map(|region| {
            let name = region.to_string();
            (name.clone(), Self::in_region(&platform, region, if has_replicas { Some(name) } else { None }))
        });
        Ok(clients.collect())
    }

    /// Returns the fault of a start in which the platform did not name its Region in time.
    pub(crate) fn region_timeout() -> Fault {
        sdk::no_region(Exit::Deadline, "the platform did not name its Region before secrets.deadline")
    }

    fn in_region(platform: &AwsPlatform, region: Region, region_of_arns: Option<String>) -> Self {
        let config = aws_sdk_secretsmanager::config::Builder::from(&platform.config).region(region).build();
        let identity = platform.identity.clone();
        Self { client: Client::from_conf(config), region_of_arns, identity, clock_logged: Once::new() }
    }

    /// Returns the id as this Region knows it.
    fn id_here<'a>(&self, id: &'a SecretId) -> Cow<'a, str> {
        match &self.region_of_arns {
            Some(region) => in_region(id.as_str(), region),
            None => id.as_str().into(),
        }
    }

    /// Sends a request. If the manager does not accept the signature, sends it once more: from each answer the SDK
    /// learns the difference between this machine's clock and the manager's, and it signs the next request with the
    /// manager's time. Its own retries, which would do this only for a clock that is wrong now, are off.
    ///
    /// If it denies access, sends the request once more if the platform may give another identity: the session of this one may
    /// have been revoked.
    async fn send<T, E, F>(&self, request: impl Fn() -> F) -> Result<T, SdkError<E>>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let identity = self.identity.number().await;
        let answer = request().await;
        let Err(error) = &answer else { return answer };
        let may_help = match errors::source_error(error) {
            error @ SourceError::ClockWrong(_) => {
                self.clock_logged.call_once(|| {
                    tracing::warn!(%error, "the manager rejects the time of a request; signing with the manager's time");
                });
                true
            }
            SourceError::Denied(_) => self.identity.doubt(identity).await || errors::is_bad_signature(error),
            _ => false,
        };
        if may_help { request().await } else { answer }
    }
}

impl Source for SecretsManager {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            let request = self.client.get_secret_value().secret_id(self.id_here(id)).version_stage(label(stage));
            match self.send(|| request.clone().send()).await {
                Ok(output) => fetched(output, held),
                Err(error) if errors::is_not_found(&error) => Ok(Fetched::Absent),
                Err(error) => Err(errors::source_error(&error)),
            }
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async move {
            let request = self.client.describe_secret().secret_id(self.id_here(id));
            match self.send(|| request.clone().send()).await {
                Ok(output) => by_stage(output),
                Err(error) if errors::is_not_found(&error) => Ok(Versions::new()),
                Err(error) => Err(errors::source_error(&error)),
            }
        })
    }

    fn stage_label(&self, stage: Stage) -> &'static str {
        label(stage)
    }

    fn remedy(&self, _: &SecretId, error: &SourceError, operation: Operation) -> Cow<'static, str> {
        remedies::remedy(error, operation).into()
    }
}

/// Returns an ARN with another Region. A name stays as it is.
pub(crate) fn in_region<'a>(id: &'a str, region: &str) -> Cow<'a, str> {
    // arn:aws:secretsmanager:<Region>:<account>:secret:<name>
    let parts: Vec<_> = id.splitn(5, ':').collect();
    match parts[..] {
        ["arn", partition, service, _, rest] => format!("arn:{partition}:{service}:{region}:{rest}").into(),
        _ => id.into(),
    }
}

/// Returns the label that AWS gives to a stage.
fn label(stage: Stage) -> &'static str {
    match stage {
        Stage::Current => "AWSCURRENT",
        Stage::Pending => "AWSPENDING",
        Stage::Previous => "AWSPREVIOUS",
    }
}

fn fetched(output: GetSecretValueOutput, held: Option<&VersionId>) -> Result<Fetched, SourceError> {
    // Wiped on every way out, also if the version is the one that is held.
    let text = output.secret_string.map(Zeroizing::new);
    let Some(version) = output.version_id.map(VersionId::new) else {
        return Err(SourceError::Unavailable("its answer names no version".into()));
    };
    if held == Some(&version) {
        return Ok(Fetched::Same);
    }
    let created = output.created_date.and_then(|at| OffsetDateTime::from_unix_timestamp_nanos(at.as_nanos()).ok());
    match (text, output.secret_binary) {
        (Some(text), _) => {
            // Copies the text. The SDK's string may have spare capacity: taking it would move the text and leave the old
            // block behind.
            let text = text.as_str().into();
            Ok(Fetched::New(SecretValue { text, version, created, lease: None }))
        }
        (None, Some(_)) => Err(SourceError::Malformed("the value is binary; text is expected".into())),
        (None, None) => Err(SourceError::Malformed("the version has no value".into())),
    }
}

/// Returns the version at each stage. One version may be at two stages: after a rotation, AWS leaves AWSPENDING at the
/// version that became current.
fn by_stage(output: DescribeSecretOutput) -> Result<Versions, SourceError> {
    // AWS still describes a secret whose deletion is scheduled, but does not return its value.
    if output.deleted_date.is_some() {
        return Err(SourceError::Missing("its deletion is scheduled".into()));
    }
    let mut versions = Versions::new();
    for (version, labels) in output.version_ids_to_stages.unwrap_or_default() {
        for stage in Stage::ALL {
            if labels.iter().any(|given| given == label(stage)) {
                versions.insert(stage, VersionId::new(version.clone()));
            }
        }
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_gets_the_region_that_is_asked_and_a_name_stays() {
        let arn = "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:svc/database-AbCdEf";
        let there = "arn:aws-cn:secretsmanager:cn-northwest-1:123456789012:secret:svc/database-AbCdEf";
        assert_eq!(in_region(arn, "cn-northwest-1"), there);
        assert_eq!(in_region("svc/database", "cn-northwest-1"), "svc/database");
    }
}
