//! AWS Secrets Manager.

use super::{
    id::{SecretId, VersionId},
    source::{Fetched, Operation, Source, SourceError},
    version::{SecretValue, Stage, Versions},
};
use crate::{
    config::settings::AwsConfig,
    exit::{Exit, Fault},
    trust,
};
use aws_config::{
    BehaviorVersion, Region, SdkConfig, ecs::EcsCredentialsProvider, imds::credentials::ImdsCredentialsProvider,
    meta::credentials::CredentialsProviderChain, provider_config::ProviderConfig, retry::RetryConfig,
    web_identity_token::WebIdentityTokenCredentialsProvider,
};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::{describe_secret::DescribeSecretOutput, get_secret_value::GetSecretValueOutput},
};
use futures_util::future::BoxFuture;
use std::{borrow::Cow, error::Error};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// A client of AWS Secrets Manager in one Region.
///
/// Uses `GetSecretValue` for each secret, not `BatchGetSecretValue`: its quota is a hundred times larger, it needs one
/// permission fewer, and it takes a stage.
pub struct SecretsManager {
    client: Client,
}

impl SecretsManager {
    /// A client for each Region, the first and then its replicas, with the platform's identity. In production, static
    /// keys and endpoints without TLS are left out unless the configuration allows them. Asks no secret yet.
    pub async fn of_regions(aws: &AwsConfig, production: bool) -> Result<Vec<(String, Self)>, Fault> {
        // The SDK panics where it finds none, even for an endpoint without TLS.
        trust::platform_authorities()?;
        let platform_only = production && !aws.allow_static_keys;
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).retry_config(RetryConfig::disabled());
        if let Some(region) = aws.regions.first() {
            loader = loader.region(Region::new(region.clone()));
        }
        if platform_only {
            #[expect(deprecated)]
            // the alias is; its successor lives in a crate that is not meant to be used directly
            let none = {
                use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
                ProfileFiles::builder().with_contents(ProfileFileKind::Config, "").build()
            };
            loader = loader.profile_files(none);
        }
        let mut sdk = loader.load().await;
        let Some(region) = sdk.region().cloned() else {
            return Err(Fault::new(
                Exit::Config,
                "secrets.aws.regions",
                "no AWS Region is configured, and the environment names none",
                "set secrets.aws.regions = [\"eu-west-1\"], or AWS_REGION",
            ));
        };
        if production && !aws.allow_http_endpoint {
            refuse_http(&sdk)?;
        }
        if platform_only {
            sdk = sdk.clone().into_builder().credentials_provider(platform_identity(&sdk)).build();
        }
        let replicas = aws.regions.iter().skip(1).cloned().map(Region::new);
        let client = |region: Region| {
            let config = aws_sdk_secretsmanager::config::Builder::from(&sdk).region(region.clone()).build();
            (region.to_string(), Self { client: Client::from_conf(config) })
        };
        Ok(std::iter::once(region).chain(replicas).map(client).collect())
    }
}

/// The SDK's default chain without the environment's and the profile files' static keys.
fn platform_identity(sdk: &SdkConfig) -> aws_credential_types::provider::SharedCredentialsProvider {
    let config = ProviderConfig::without_region().with_region(sdk.region().cloned());
    let chain = CredentialsProviderChain::first_try(
        "WebIdentityToken",
        WebIdentityTokenCredentialsProvider::builder().configure(&config).build(),
    )
    .or_else("EcsContainer", EcsCredentialsProvider::builder().configure(&config).build())
    .or_else("Ec2InstanceMetadata", ImdsCredentialsProvider::builder().configure(&config).build());
    aws_credential_types::provider::SharedCredentialsProvider::new(chain)
}

fn refuse_http(sdk: &SdkConfig) -> Result<(), Fault> {
    let variables = ["AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"];
    let named =
        variables.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))).find(|(_, url)| !url.is_empty());
    let (subject, url) = match &named {
        Some((name, url)) => (format!("variable {name}"), url.as_str()),
        None => match sdk.endpoint_url() {
            Some(url) => ("the SDK's endpoint_url".to_owned(), url),
            None => return Ok(()),
        },
    };
    if url.to_ascii_lowercase().starts_with("https://") {
        return Ok(());
    }
    Err(Fault::new(
        Exit::Config,
        subject,
        "the endpoint has no TLS, and this is the production profile",
        "use an https:// endpoint, or set secrets.aws.allow_http_endpoint = true",
    ))
}

impl Source for SecretsManager {
    fn fetch<'a>(
        &'a self,
        id: &'a SecretId,
        stage: Stage,
        held: Option<&'a VersionId>,
    ) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        Box::pin(async move {
            let answer = self.client.get_secret_value().secret_id(id.as_str()).version_stage(label(stage)).send().await;
            match answer {
                Ok(output) => fetched(output, held),
                Err(error) => absent_or(&error).map(|()| Fetched::Absent),
            }
        })
    }

    fn versions<'a>(&'a self, id: &'a SecretId) -> BoxFuture<'a, Result<Versions, SourceError>> {
        Box::pin(async move {
            match self.client.describe_secret().secret_id(id.as_str()).send().await {
                Ok(output) => by_stage(output),
                Err(error) => absent_or(&error).map(|()| Versions::new()),
            }
        })
    }

    fn stage_label(&self, stage: Stage) -> &'static str {
        label(stage)
    }

    fn remedy(&self, error: &SourceError, operation: Operation) -> Cow<'static, str> {
        remedy(error, operation).into()
    }
}

fn label(stage: Stage) -> &'static str {
    match stage {
        Stage::Current => "AWSCURRENT",
        Stage::Pending => "AWSPENDING",
        Stage::Previous => "AWSPREVIOUS",
    }
}

fn remedy(error: &SourceError, operation: Operation) -> &'static str {
    match (error, operation) {
        (SourceError::Missing(_), Operation::ReadValue) => {
            "create the secret (restore it, if its deletion is scheduled), or correct its id"
        }
        (SourceError::Missing(_), Operation::ReadVersions) => {
            "create or restore the secret, or correct its id where the replicas are configured"
        }
        (SourceError::Denied(_), Operation::ReadValue) => {
            "allow secretsmanager:GetSecretValue on this id, and kms:Decrypt on its key if that is your own; check the \
             id too: a wrong one may be answered like this"
        }
        (SourceError::Denied(_), Operation::ReadVersions) => {
            "allow secretsmanager:DescribeSecret on this id to whoever audits; check the id too: a wrong one may be \
             answered like this"
        }
        (SourceError::NoIdentity(_), Operation::ReadValue) => {
            "give the process an identity: a role of its pod, task or instance"
        }
        (SourceError::NoIdentity(_), Operation::ReadVersions) => {
            "audit with an identity: a role of the pod, task or instance"
        }
        (SourceError::Malformed(_), Operation::ReadValue) => "put a text value at the manager, as a new version",
        (SourceError::Unavailable(_), Operation::ReadValue) => {
            "check the way to the manager (Region, endpoint, network) and its health; then start again"
        }
        (SourceError::Unavailable(_) | SourceError::Malformed(_), Operation::ReadVersions) => {
            "check the way to the manager (Region, endpoint, network) and its health; then audit again"
        }
        (SourceError::Unanswered(_), _) => {
            "check the way to the manager (route, firewall, VPC endpoint); raise secrets.deadline if it is only slow"
        }
    }
}

fn fetched(output: GetSecretValueOutput, held: Option<&VersionId>) -> Result<Fetched, SourceError> {
    let Some(version) = output.version_id.map(VersionId::new) else {
        return Err(SourceError::Unavailable("its answer names no version".into()));
    };
    if held == Some(&version) {
        return Ok(Fetched::Same);
    }
    let created = output.created_date.and_then(|at| OffsetDateTime::from_unix_timestamp_nanos(at.as_nanos()).ok());
    match (output.secret_string, output.secret_binary) {
        (Some(text), _) => {
            // A copy: to take the SDK's, which may have room to spare, would move it and leave the old one behind.
            let text = Zeroizing::new(text).as_str().into();
            Ok(Fetched::New(SecretValue { text, version, created }))
        }
        (None, Some(_)) => Err(SourceError::Malformed("the value is binary, where text is expected".into())),
        (None, None) => Err(SourceError::Malformed("the version has no value".into())),
    }
}

fn by_stage(output: DescribeSecretOutput) -> Result<Versions, SourceError> {
    // Such a secret is still described, while its value is refused.
    if output.deleted_date.is_some() {
        return Err(SourceError::Missing("its deletion is scheduled".into()));
    }
    let labels = output.version_ids_to_stages.unwrap_or_default();
    let stages = |(version, labels): (String, Vec<String>)| {
        let has = move |stage: &Stage| labels.iter().any(|given| given == label(*stage));
        Stage::ALL.into_iter().filter(has).map(move |stage| (stage, VersionId::new(version.clone())))
    };
    Ok(labels.into_iter().flat_map(stages).collect())
}

/// `Ok`: the manager does not have it.
fn absent_or<E>(error: &SdkError<E>) -> Result<(), SourceError>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(rejection) => refused(rejection.err().meta(), rejection.raw().status().as_u16()),
        SdkError::DispatchFailure(failure) => Err(match credentials_error(error) {
            Some(CredentialsError::CredentialsNotLoaded(_)) => SourceError::NoIdentity(
                "no provider has one (web identity, container, instance; static keys where they are allowed)".into(),
            ),
            Some(CredentialsError::InvalidConfiguration(_)) => {
                SourceError::NoIdentity("the identity's configuration is invalid".into())
            }
            Some(CredentialsError::ProviderTimedOut(_)) => SourceError::Unanswered(
                "the platform's identity service; in a container, check the hop limit of the instance metadata".into(),
            ),
            Some(_) => SourceError::Unavailable(
                "the platform's identity service failed; check that the role exists and trusts this workload".into(),
            ),
            None if failure.is_timeout() => SourceError::Unanswered("connecting timed out".into()),
            None => SourceError::Unavailable(format!("connecting failed: {}", io_kind(error))),
        }),
        SdkError::TimeoutError(_) => Err(SourceError::Unanswered("the request timed out".into())),
        SdkError::ResponseError(_) => {
            Err(SourceError::Unavailable("its answer was cut off or cannot be understood".into()))
        }
        _ => Err(SourceError::Unavailable("the request could not be made".into())),
    }
}

/// What the manager says no with. Codes: `GetSecretValue`, `DescribeSecret` and *Common Errors* in the API reference;
/// access is denied with a code that the SDK's error enums do not have.
fn refused(meta: &aws_sdk_secretsmanager::error::ErrorMetadata, status: u16) -> Result<(), SourceError> {
    const REFUSALS: [&str; 13] = [
        "AccessDenied",
        "AccessDeniedException",
        "DecryptionFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    ];
    let code = meta.code().unwrap_or("no code");
    // Errors of signing quote the request that was signed, its headers too: there the code must do.
    let quotable = code.starts_with("AccessDenied") || code == "InvalidRequestException";
    let said = meta.message().filter(|_| quotable).unwrap_or_default();
    let text = format!("{code} {}", said.chars().take(300).collect::<String>()).trim_end().to_owned();
    if code == "ResourceNotFoundException" {
        return Ok(());
    }
    Err(match code {
        code if REFUSALS.contains(&code) => SourceError::Denied(text),
        "InvalidRequestException" if said.contains("delet") => SourceError::Missing(text),
        "InvalidParameterException" | "ValidationException" => SourceError::Missing(text),
        "InvalidRequestException" => SourceError::Malformed(text),
        _ if status == 403 || status == 401 => SourceError::Denied(text),
        _ => SourceError::Unavailable(format!("{text} (HTTP {status})")),
    })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

fn credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn io_kind(error: &(dyn Error + 'static)) -> String {
    causes(error)
        .find_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map_or_else(|| "no answer".to_owned(), |io| io.kind().to_string())
}
