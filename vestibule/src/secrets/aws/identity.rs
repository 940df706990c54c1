//! The identity with which the manager is asked: from the providers of the SDK's default chain, in its order.

use super::sdk;
use crate::blocking_reads::FileReads;
use aws_config::{
    ecs::EcsCredentialsProvider,
    environment::EnvironmentVariableCredentialsProvider,
    imds::{self, credentials::ImdsCredentialsProvider},
    profile::ProfileFileCredentialsProvider,
    provider_config::ProviderConfig,
    web_identity_token::WebIdentityTokenCredentialsProvider,
};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError, future},
};
use std::fmt;

/// The SDK's profile files.
#[expect(deprecated, reason = "only the alias is; the crate behind it is not meant to be used directly")]
pub(super) type ProfileFiles = aws_config::profile::profile_file::ProfileFiles;

/// The name of the provider that asks the agent of a container.
pub(super) const CONTAINER: &str = "the container's agent";

/// The keys of a profile that are static keys.
const KEYS_OF_A_PROFILE: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

/// The providers of an identity, in the order in which they are asked. The first identity counts.
pub(super) struct IdentityChain {
    config: ProviderConfig,
    /// The profile files, if not those of the SDK.
    profiles: Option<ProfileFiles>,
    static_keys: Option<EnvironmentVariableCredentialsProvider>,
    web_identity: WebIdentityTokenCredentialsProvider,
    metadata: ImdsCredentialsProvider,
    files: FileReads,
}

/// A provider that should have an identity, and gives none.
#[derive(Debug, thiserror::Error)]
#[error("{provider} gives no identity")]
pub(super) struct IdentityError {
    pub(super) provider: &'static str,
    pub(super) source: CredentialsError,
}

/// A file of an identity that cannot be read now.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UnreadableFile(pub(super) String);

impl IdentityChain {
    /// Returns the identity with the static keys of the environment and of the profile files.
    pub(super) fn with_static_keys(config: ProviderConfig, files: &FileReads) -> Self {
        let static_keys = Some(EnvironmentVariableCredentialsProvider::new());
        Self { static_keys, ..Self::of_platform(config, None, files) }
    }

    /// Returns the identity of the platform. `profiles` are without static keys.
    pub(super) fn of_platform(config: ProviderConfig, profiles: Option<ProfileFiles>, files: &FileReads) -> Self {
        // With the SDK's four attempts of 2 s each, an attempt at the manager would end before these.
        let metadata = imds::Client::builder().configure(&config).max_attempts(2).build();
        Self {
            profiles,
            static_keys: None,
            web_identity: WebIdentityTokenCredentialsProvider::builder().configure(&config).build(),
            metadata: ImdsCredentialsProvider::builder().imds_client(metadata).configure(&config).build(),
            config,
            files: files.clone(),
        }
    }

    async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        if let Err(fault) = sdk::check_files(&self.files).await {
            let problem = format!("{}: {}", fault.subject, fault.problem);
            return Err(CredentialsError::provider_error(UnreadableFile(problem)));
        }
        // These two are made anew each time: they keep the error of a file or of a name for ever.
        let profile = self.profile();
        let container = EcsCredentialsProvider::builder().configure(&self.config).build();
        let mut providers: Vec<(&'static str, &dyn ProvideCredentials)> = vec![
            ("the profile file", &profile),
            ("the web identity", &self.web_identity),
            (CONTAINER, &container),
            ("the instance metadata", &self.metadata),
        ];
        if let Some(keys) = &self.static_keys {
            providers.insert(0, ("the environment", keys));
        }
        let mut last = CredentialsError::not_loaded_no_source();
        for (provider, credentials) in providers {
            match credentials.provide_credentials().await {
                Ok(credentials) => return Ok(credentials),
                Err(error @ CredentialsError::CredentialsNotLoaded(_)) => last = error,
                Err(source) => return Err(CredentialsError::provider_error(IdentityError { provider, source })),
            }
        }
        Err(last)
    }

    fn profile(&self) -> ProfileFileCredentialsProvider {
        let mut builder = ProfileFileCredentialsProvider::builder().configure(&self.config);
        if let Some(profiles) = &self.profiles {
            // `credential_source = Environment` would be static keys, too.
            builder = builder.profile_files(profiles.clone()).with_custom_provider("Environment", NoStaticKeys);
        }
        builder.build()
    }
}

impl ProvideCredentials for IdentityChain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.metadata.fallback_on_interrupt()
    }
}

impl fmt::Debug for IdentityChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityChain").finish_non_exhaustive()
    }
}

/// The static keys of the environment, where they are not allowed.
#[derive(Debug)]
struct NoStaticKeys;

impl ProvideCredentials for NoStaticKeys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let problem = "static keys are not allowed (secrets.aws.allow_static_keys)";
        future::ProvideCredentials::ready(Err(CredentialsError::invalid_configuration(problem)))
    }
}

/// Returns profile files that are this config file without its static keys. The credentials file, which is for static keys,
/// is left out.
pub(super) fn keyless_profiles(config_file: &str) -> ProfileFiles {
    #[expect(deprecated, reason = "as for the alias above")]
    let kind = aws_config::profile::profile_file::ProfileFileKind::Config;
    ProfileFiles::builder().with_contents(kind, without_static_keys(config_file)).build()
}

/// Returns the text of a profile file without the lines of static keys.
fn without_static_keys(profiles: &str) -> String {
    let is_key = |line: &&str| {
        let name = line.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        KEYS_OF_A_PROFILE.contains(&name.as_str())
    };
    let lines: Vec<_> = profiles.lines().filter(|line| !is_key(line)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_keeps_all_but_its_static_keys() {
        let profiles = "[default]\nrole_arn = arn:aws:iam::1:role/a\n AWS_Access_Key_Id=sentinel\n\
                        aws_secret_access_key = sentinel\naws_session_token\t=sentinel\nuse_fips_endpoint = true";
        let kept = without_static_keys(profiles);
        assert_eq!(kept, "[default]\nrole_arn = arn:aws:iam::1:role/a\nuse_fips_endpoint = true");
    }
}
