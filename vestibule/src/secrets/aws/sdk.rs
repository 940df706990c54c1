//! The configuration of the AWS SDK: the Region, the platform's identity and the endpoint.

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
use aws_credential_types::provider::SharedCredentialsProvider;

/// Returns the SDK's configuration and its Region. In production it uses static keys, and an endpoint without TLS, only
/// if the settings allow them.
pub(super) async fn configure(aws: &AwsConfig, production: bool) -> Result<(SdkConfig, Region), Fault> {
    // The SDK panics if the platform trusts no authority, even for an endpoint without TLS.
    trust::check_platform_authorities()?;
    let platform_only = production && !aws.allow_static_keys;
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).retry_config(RetryConfig::disabled());
    if let Some(region) = aws.regions.first() {
        loader = loader.region(Region::new(region.clone()));
    }
    if platform_only {
        #[expect(deprecated, reason = "only the alias is; the crate behind it is not meant to be used directly")]
        let no_profiles = {
            use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
            ProfileFiles::builder().with_contents(ProfileFileKind::Config, "").build()
        };
        loader = loader.profile_files(no_profiles);
    }
    let sdk = loader.load().await;
    let Some(region) = sdk.region().cloned() else {
        return Err(no_region(Exit::Config, "no AWS Region is configured, and the environment names none"));
    };
    if production && !aws.allow_http_endpoint {
        refuse_http(&sdk)?;
    }
    if platform_only {
        let identity = platform_identity(&region);
        return Ok((sdk.into_builder().credentials_provider(identity).build(), region));
    }
    Ok((sdk, region))
}

/// Returns the fault of a start without a Region.
pub(super) fn no_region(exit: Exit, problem: &str) -> Fault {
    Fault::new(exit, "secrets.aws.regions", problem, "set secrets.aws.regions = [\"eu-west-1\"], or AWS_REGION")
}

/// Returns the SDK's default chain of identities, without the static keys of the environment and the profile files.
fn platform_identity(region: &Region) -> SharedCredentialsProvider {
    let config = ProviderConfig::without_region().with_region(Some(region.clone()));
    let chain = CredentialsProviderChain::first_try(
        "WebIdentityToken",
        WebIdentityTokenCredentialsProvider::builder().configure(&config).build(),
    )
    .or_else("EcsContainer", EcsCredentialsProvider::builder().configure(&config).build())
    .or_else("Ec2InstanceMetadata", ImdsCredentialsProvider::builder().configure(&config).build());
    SharedCredentialsProvider::new(chain)
}

/// Refuses an endpoint without TLS.
fn refuse_http(sdk: &SdkConfig) -> Result<(), Fault> {
    let Some((subject, url)) = endpoint(sdk) else {
        return Ok(());
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

/// Returns the endpoint that replaces the one of the Region, and the place that names it.
fn endpoint(sdk: &SdkConfig) -> Option<(String, String)> {
    for name in ["AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"] {
        #[expect(clippy::disallowed_methods, reason = "the variable is the SDK's, and no setting of ours")]
        let url = std::env::var(name).unwrap_or_default();
        if !url.is_empty() {
            return Some((format!("variable {name}"), url));
        }
    }
    let url = sdk.endpoint_url()?;
    Some(("the SDK's endpoint_url".to_owned(), url.to_owned()))
}
