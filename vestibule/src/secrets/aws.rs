//! AWS Secrets Manager. Only this module and its settings ([`AwsConfig`]) know AWS.

mod errors;
mod remedies;
mod sdk;

use super::{
    id::{SecretId, VersionId},
    source::{Fetched, Operation, Source, SourceError},
    version::{SecretValue, Stage, Versions},
};
use crate::{
    config::settings::AwsConfig,
    exit::{Exit, Fault},
};
use aws_config::{Region, SdkConfig};
use aws_sdk_secretsmanager::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{describe_secret::DescribeSecretOutput, get_secret_value::GetSecretValueOutput},
};
use futures_util::future::BoxFuture;
use std::{borrow::Cow, error::Error, sync::Once};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// A client of AWS Secrets Manager in one Region.
///
/// It uses `GetSecretValue` for each secret, not `BatchGetSecretValue`: the quota of `GetSecretValue` is a hundred times
/// larger, it needs one permission fewer, and it takes a stage.
pub struct SecretsManager {
    client: Client,
    /// Done once it is logged that the clock is wrong.
    clock_logged: Once,
}

impl SecretsManager {
    /// Makes a client for each Region, with the platform's identity: for the first one, then for those to which it is
    /// replicated. In production, static keys and endpoints without TLS are used only if the configuration allows them.
    /// Asks for no secret yet.
    ///
    /// # Errors
    /// A fault if there is no Region, if the platform trusts no certificate authority, or if the endpoint has no TLS and
    /// must have it.
    pub async fn of_regions(aws: &AwsConfig, production: bool) -> Result<Vec<(String, Self)>, Fault> {
        let (sdk, first) = sdk::configure(aws, production).await?;
        let mut clients = vec![(first.to_string(), Self::in_region(&sdk, first))];
        for name in aws.regions.iter().skip(1) {
            clients.push((name.clone(), Self::in_region(&sdk, Region::new(name.clone()))));
        }
        Ok(clients)
    }

    /// Returns the fault of a start in which the platform did not name its Region in time.
    pub(crate) fn region_timeout() -> Fault {
        sdk::no_region(Exit::Deadline, "the platform did not name its Region before secrets.deadline")
    }

    fn in_region(sdk: &SdkConfig, region: Region) -> Self {
        let config = aws_sdk_secretsmanager::config::Builder::from(sdk).region(region).build();
        Self { client: Client::from_conf(config), clock_logged: Once::new() }
    }

    /// Sends a request. If the manager does not accept the signature, sends it once more: from each answer the SDK
    /// learns the difference between this machine's clock and the manager's, and it signs the next request with the
    /// manager's time. Its own retries, which would do this only for a clock that is wrong now, are off.
    async fn send<T, E, F>(&self, request: impl Fn() -> F) -> Result<T, SdkError<E>>
    where
        E: ProvideErrorMetadata + Error + 'static,
        F: Future<Output = Result<T, SdkError<E>>>,
    {
        let answer = request().await;
        let Err(error) = &answer else { return answer };
        if !errors::is_bad_signature(error) {
            return answer;
        }
        if let error @ SourceError::ClockWrong(_) = errors::source_error(error) {
            self.clock_logged.call_once(|| {
                tracing::warn!(%error, "the manager rejects the time of a request; signing with the manager's time");
            });
        }
        request().await
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
            let request = self.client.get_secret_value().secret_id(id.as_str()).version_stage(label(stage));
            match self.send(|| request.clone().send()).await {
                Ok(output) => fetched(output, held),
                Err(error) if errors::is_not_found(&error) => Ok(Fetched::Absent),
                Err(error) => Err(errors::source_error(&error)),
            }
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async move {
            let request = self.client.describe_secret().secret_id(id.as_str());
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

    fn remedy(&self, error: &SourceError, operation: Operation) -> Cow<'static, str> {
        remedies::remedy(error, operation).into()
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
            Ok(Fetched::New(SecretValue { text, version, created }))
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
