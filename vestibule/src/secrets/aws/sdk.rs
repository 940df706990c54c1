//! The configuration of the AWS SDK: the Region, the identity, the endpoints and the authorities.

use super::{
    http_client::{ManagerHttpClient, PlainHttp},
    identity::{IdentityChain, ProfileFiles, keyless_profiles},
    kept_identity::KeptIdentity,
};
use crate::{
    blocking_reads::FileReads,
    cause::RootCause,
    config::{is_region, settings::AwsConfig},
    exit::{Exit, Fault},
    trust,
};
use aws_config::{
    BehaviorVersion, Region, SdkConfig, identity::IdentityCache, provider_config::ProviderConfig, retry::RetryConfig,
};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use axum::http::{Uri, uri::Authority};
use std::{
    env,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The variables for an endpoint of the manager, or of the service that gives an identity to a token. Those before win.
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"];

/// The variables of the SDK that are on or off.
const SWITCHES: [&str; 3] = ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_EC2_METADATA_DISABLED"];

/// The variables for files that the SDK reads, and the file that it reads without the variable.
const FILES: [(&str, Option<&str>); 4] = [
    ("AWS_CONFIG_FILE", Some(CONFIG_FILE)),
    ("AWS_SHARED_CREDENTIALS_FILE", Some("~/.aws/credentials")),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", None),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", None),
];

/// The SDK's profile file.
const CONFIG_FILE: &str = "~/.aws/config";

/// The SDK, configured for requests to a manager.
#[derive(Debug)]
pub(super) struct AwsPlatform {
    pub(super) config: SdkConfig,
    pub(super) region: Region,
    /// The identity in `config`.
    pub(super) identity: Arc<KeptIdentity>,
}

/// Returns the SDK's configuration, the Region and the identity. If `strict`, it uses static keys, and an endpoint without TLS, only
/// if the settings allow them. Everything else is the platform's: what the variables and the profile file of the SDK say
/// counts for the manager and for the identity alike.
pub(super) async fn configure(aws: &AwsConfig, strict: bool, files: &FileReads) -> Result<AwsPlatform, Fault> {
    check_files(files).await?;
    refuse_other_switches()?;
    let plain = if strict && !aws.allow_http_endpoint { PlainHttp::ToAgents } else { PlainHttp::Anywhere };
    let http_client = ManagerHttpClient::new(&trust::aws_certificates(files).await?, plain)
        .map_err(|_| trust::no_certificates("they cannot be used"))?;
    let http_client = SharedHttpClient::new(http_client);
    let profiles = if strict && !aws.allow_static_keys { Some(profiles_without_keys(files).await?) } else { None };
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::disabled())
        .http_client(http_client.clone());
    if let Some(region) = aws.regions.first() {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profiles) = &profiles {
        loader = loader.profile_files(profiles.clone());
    }
    let sdk = loader.load().await;
    let Some(region) = sdk.region().cloned() else {
        // The instance metadata may not answer yet.
        let exit = if is_on("AWS_EC2_METADATA_DISABLED") { Exit::Config } else { Exit::Deadline };
        return Err(no_region(exit, "no AWS Region is configured, and the environment names none"));
    };
    if !is_region(region.as_ref()) {
        return Err(no_region(Exit::Config, "expected a Region such as \"eu-west-1\", and the environment names none"));
    }
    check_endpoints(&sdk, plain)?;
    let config = ProviderConfig::without_region()
        .with_region(Some(region.clone()))
        .with_http_client(http_client)
        // Whoever asks the manager repeats the attempt, and an attempt has no time for the SDK's pauses.
        .with_retry_config(RetryConfig::disabled())
        .with_use_fips(sdk.use_fips())
        .with_use_dual_stack(sdk.use_dual_stack());
    let chain = match profiles {
        Some(profiles) => IdentityChain::of_platform(config, Some(profiles), files),
        None => IdentityChain::with_static_keys(config, files),
    };
    let identity = Arc::new(KeptIdentity::of(SharedCredentialsProvider::new(chain)));
    let provider: Arc<dyn ProvideCredentials> = identity.clone();
    let provider = SharedCredentialsProvider::new(provider);
    let config = sdk.into_builder().credentials_provider(provider).identity_cache(IdentityCache::no_cache()).build();
    Ok(AwsPlatform { config, region, identity })
}

/// Returns the fault of a start without a Region.
pub(super) fn no_region(exit: Exit, problem: &str) -> Fault {
    Fault::new(exit, "secrets.aws.regions", problem, "set secrets.aws.regions = [\"eu-west-1\"], or AWS_REGION")
}

/// Returns the SDK's profile files without static keys.
///
/// # Errors
/// A fault with exit code 69 if the file is there and cannot be read, or if a variable names one that is not there.
async fn profiles_without_keys(files: &FileReads) -> Result<ProfileFiles, Fault> {
    let named = variable("AWS_CONFIG_FILE");
    let path = in_home(named.as_deref().unwrap_or(CONFIG_FILE));
    let is_absent = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    let text = match files.read(&path).await {
        Ok(text) => text,
        Err(error) if named.is_none() && is_absent(&error) => String::new(),
        Err(error) => {
            let problem = format!("it cannot be read: {}", RootCause::of(&error));
            let remedy =
                if named.is_some() { "make it readable, or unset AWS_CONFIG_FILE" } else { "make it readable" };
            return Err(Fault::new(Exit::Unavailable, path.display().to_string(), problem, remedy));
        }
    };
    Ok(keyless_profiles(&text))
}

/// Returns a path as the SDK reads it: `~/` is the folder of the user.
fn in_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), variable("HOME")) {
        (Some(below), Some(home)) => Path::new(&home).join(below),
        _ => path.into(),
    }
}

/// Checks that the SDK will not wait for a file: it reads them on a thread of the runtime, those of its identity each time.
///
/// # Errors
/// A fault with exit code 78 if one is no regular file, and with 69 if one does not answer. The SDK reports a file that is
/// not there.
pub(super) async fn check_files(files: &FileReads) -> Result<(), Fault> {
    for (name, default) in FILES {
        let named = variable(name);
        let Some(path) = named.as_deref().or(default).map(in_home) else { continue };
        let Err(error) = files.check(&path).await else { continue };
        let (exit, remedy) = match error.kind() {
            ErrorKind::InvalidInput => (Exit::Config, "name a regular file"),
            ErrorKind::TimedOut => (Exit::Unavailable, "look at the volume that it is on"),
            _ => continue,
        };
        return Err(Fault::new(
            exit,
            format!("variable {name}"),
            format!("{} cannot be read: {error}", path.display()),
            remedy,
        ));
    }
    Ok(())
}

/// Refuses a switch of the SDK that is neither on nor off. The SDK would take it for off, and FIPS would be off.
fn refuse_other_switches() -> Result<(), Fault> {
    for name in SWITCHES {
        if variable(name).is_some_and(|value| !["true", "false"].contains(&value.to_ascii_lowercase().as_str())) {
            let problem = "expected true or false";
            return Err(Fault::new(
                Exit::Config,
                format!("variable {name}"),
                problem,
                "correct the value, or unset it",
            ));
        }
    }
    Ok(())
}

/// Refuses an endpoint that is no URL, or has a user, which errors would show; and one without TLS, if `plain` says so.
fn check_endpoints(sdk: &SdkConfig, plain: PlainHttp) -> Result<(), Fault> {
    let variables = ENDPOINTS.into_iter().filter_map(|name| Some((format!("variable {name}"), variable(name)?)));
    let of_profile = sdk.endpoint_url().map(|url| ("the SDK's endpoint_url".to_owned(), url.to_owned()));
    for (subject, url) in variables.chain(of_profile) {
        if !is_endpoint(&url) {
            let problem = "expected a URL such as \"https://secretsmanager.eu-west-1.amazonaws.com\", without a user";
            return Err(Fault::new(Exit::Config, subject, problem, "correct the value"));
        }
        if plain == PlainHttp::ToAgents && !url.to_ascii_lowercase().starts_with("https://") {
            return Err(Fault::new(
                Exit::Config,
                subject,
                "the endpoint has no TLS, and the profile is not `dev`",
                "use an https:// endpoint, or set secrets.aws.allow_http_endpoint = true",
            ));
        }
    }
    Ok(())
}

/// Returns `true` for the URL of a host, with or without TLS.
fn is_endpoint(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let is_of_host = |authority: &Authority| !authority.host().is_empty() && !authority.as_str().contains('@');
    ["https", "http"].contains(&uri.scheme_str().unwrap_or_default()) && uri.authority().is_some_and(is_of_host)
}

/// Returns the Region that the environment names, as the SDK's chain finds it there.
pub(crate) fn region_of_environment() -> Option<String> {
    variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"))
}

/// Returns `true` if a variable of the SDK turns something on.
fn is_on(name: &str) -> bool {
    variable(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Returns a variable of the SDK. An empty one is none.
fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "the variable is the SDK's, and no setting of ours")]
    let value = env::var(name).ok()?;
    if value.is_empty() { None } else { Some(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::{aws::errors, source::SourceError};

    #[tokio::test(start_paused = true)]
    async fn a_file_of_the_sdk_that_does_not_answer_is_named_and_holds_up_nobody() {
        let files = FileReads::default();
        let chain = IdentityChain::of_platform(ProviderConfig::without_region(), None, &files);
        let path = in_home(variable("AWS_CONFIG_FILE").as_deref().unwrap_or(CONFIG_FILE));
        let _hanging = files.of(&path).hang();
        let fault = configure(&AwsConfig::default(), true, &files).await.expect_err("the file does not answer");
        assert_eq!((fault.exit, &*fault.subject), (Exit::Unavailable, "variable AWS_CONFIG_FILE"));
        let expected = format!("{} cannot be read: it did not answer within 2 s", path.display());
        assert_eq!(fault.problem, expected);
        let error = errors::identity_error(&chain.provide_credentials().await.expect_err("nor now"));
        assert!(matches!(&error, SourceError::NotConnected { problem, .. } if problem.contains(&expected)), "{error}");
    }
}
