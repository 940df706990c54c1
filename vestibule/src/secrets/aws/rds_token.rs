//! Tokens of RDS: a user shows one in the place of a password. Each is signed here for one log-in, with the platform's
//! identity.

use super::{
    errors,
    sdk::{self, AwsPlatform},
};
use crate::{
    blocking_reads::FileReads,
    config::settings::AwsConfig,
    exit::{Exit, Fault},
    secrets::{secret_parts::RESERVED, source::SourceError},
};
use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4::SigningParams,
};
use percent_encoding::utf8_percent_encode;
use secrecy::SecretString;
use std::time::{Duration, SystemTime};
use tokio::{sync::OnceCell, time::timeout};
use zeroize::Zeroizing;

/// The time for which RDS accepts a token for a new connection. A longer one is refused (*IAM database authentication*).
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The longest time for getting the identity. A log-in has 5 s, and this error says more than its timeout.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(3);

/// A user at a database of RDS.
#[derive(Clone)]
pub(crate) struct RdsUser {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) name: String,
}

/// A signer of tokens for one user.
pub(crate) struct RdsTokenSigner {
    user: RdsUser,
    aws: AwsConfig,
    is_strict: bool,
    files: FileReads,
    platform: OnceCell<AwsPlatform>,
}

/// A token for one log-in.
pub(crate) struct RdsToken {
    pub(crate) text: SecretString,
    /// The number of the identity that it is signed with.
    identity: u64,
}

/// The error of a token that could not be signed: there is no identity, or no Region.
#[derive(Debug, thiserror::Error)]
#[error("no token can be signed for the log-in: {problem}")]
pub(crate) struct RdsTokenError {
    pub(crate) exit: Exit,
    problem: String,
    pub(crate) remedy: String,
}

impl RdsTokenSigner {
    /// Returns a signer. The Region of the database is `region`, or else that of the secrets or of the platform. If
    /// `is_strict`, static keys are used only if `aws` allows them.
    pub(crate) fn new(
        user: RdsUser,
        region: Option<&str>,
        aws: &AwsConfig,
        is_strict: bool,
        files: &FileReads,
    ) -> Self {
        let regions = region.map(str::to_owned).into_iter().chain(aws.regions.first().cloned()).collect();
        let aws = AwsConfig { regions, ..aws.clone() };
        Self { user, aws, is_strict, files: files.clone(), platform: OnceCell::new() }
    }

    /// Signs a token for one log-in.
    ///
    /// # Errors
    /// If the platform gives no identity in time, or names no Region.
    pub(crate) async fn token(&self) -> Result<RdsToken, RdsTokenError> {
        let signing = async {
            let configure = || sdk::configure(&self.aws, self.is_strict, &self.files);
            let AwsPlatform { region, identity, .. } = self.platform.get_or_try_init(configure).await?;
            let number = identity.number().await;
            let credentials = identity.get().await.map_err(|error| errors::identity_error(&error))?;
            let text = token(&self.user, region.as_ref(), credentials, SystemTime::now());
            Ok(RdsToken { text, identity: number })
        };
        match timeout(IDENTITY_TIMEOUT, signing).await {
            Ok(signed) => signed,
            Err(_) => Err(SourceError::Unanswered("the platform's identity service timed out".into()).into()),
        }
    }

    /// Doubts the identity of a token that the database rejected: its session may have been revoked.
    pub(crate) async fn doubt_identity(&self, rejected: &RdsToken) {
        if let Some(platform) = self.platform.get() {
            platform.identity.doubt(rejected.identity).await;
        }
    }
}

/// Signs a token: a URL without its scheme, with the signature in its query.
fn token(user: &RdsUser, region: &str, identity: Credentials, at: SystemTime) -> SecretString {
    let RdsUser { host, port, name } = user;
    let name = utf8_percent_encode(name, RESERVED);
    let url = format!("https://{host}:{port}/?Action=connect&DBUser={name}");
    let mut settings = SigningSettings::default();
    settings.expires_in = Some(LIFETIME);
    settings.signature_location = SignatureLocation::QueryParams;
    let identity = identity.into();
    let parameters = SigningParams::builder().identity(&identity).region(region).name("rds-db").time(at);
    let parameters = parameters.settings(settings).build().expect("all parameters are given").into();
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(b""));
    let signed =
        request.and_then(|request| sign(request, &parameters)).expect("a host name and encoded text are a URL");
    let (_, mut query) = signed.into_parts().0.into_parts();
    // botocore puts the signature last.
    query.sort_by_key(|(name, _)| *name == "X-Amz-Signature");
    let mut token = Zeroizing::new(url.trim_start_matches("https://").to_owned());
    token.reserve_exact(query.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum());
    for (name, value) in &query {
        token.push('&');
        token.push_str(name);
        token.push('=');
        utf8_percent_encode(value, RESERVED).for_each(|part| token.push_str(part));
    }
    token.as_str().into()
}

impl From<SourceError> for RdsTokenError {
    fn from(error: SourceError) -> Self {
        let exit = error.exit();
        let (problem, remedy) = match error {
            SourceError::NoIdentity(problem) | SourceError::Denied(problem) => (
                problem,
                "give the process an identity: a role of its pod, task or instance, which exists and trusts it",
            ),
            SourceError::NotConnected { problem, remedy: Some(remedy) } => (problem, remedy),
            SourceError::NotConnected { problem, remedy: None }
            | SourceError::ClockWrong(problem)
            | SourceError::Missing(problem)
            | SourceError::Malformed(problem)
            | SourceError::Unavailable(problem)
            | SourceError::Unanswered(problem) => {
                (problem, "check the platform's identity service, and the network path to it; then start again")
            }
        };
        Self { exit, problem: format!("the platform gives no identity: {problem}"), remedy: remedy.into() }
    }
}

impl From<Fault> for RdsTokenError {
    fn from(fault: Fault) -> Self {
        let Fault { exit, subject, problem, remedy } = fault;
        Self { exit, problem: format!("{subject}: {problem}"), remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    /// A token of botocore 1.44.5: `boto3.Session(…).client("rds").generate_db_auth_token(host, port, user, region)` with the
    /// keys of [`identity`], and with `botocore.auth.get_current_datetime` patched to 2026-01-02T03:04:05Z.
    struct TokenOfBotocore {
        host: &'static str,
        port: u16,
        user: &'static str,
        region: &'static str,
        session_token: Option<&'static str>,
        token: &'static str,
    }

    const OF_BOTOCORE: [TokenOfBotocore; 4] = [
        TokenOfBotocore {
            host: "db.c1.eu-west-1.rds.amazonaws.com",
            port: 5432,
            user: "app",
            region: "eu-west-1",
            session_token: None,
            token: "db.c1.eu-west-1.rds.amazonaws.com:5432/?Action=connect&DBUser=app&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Feu-west-1%2Frds-db%2Faws4_request&X-Amz-Date=20260102T030405Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=297005ad5c968bb87f4656c14a6c000d73a88f8cc8c7802e729194430e0a7d97",
        },
        TokenOfBotocore {
            host: "db.c1.eu-west-1.rds.amazonaws.com",
            port: 5432,
            user: "app",
            region: "eu-west-1",
            session_token: Some("session/token+with=signs=="),
            token: "db.c1.eu-west-1.rds.amazonaws.com:5432/?Action=connect&DBUser=app&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Feu-west-1%2Frds-db%2Faws4_request&X-Amz-Date=20260102T030405Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Security-Token=session%2Ftoken%2Bwith%3Dsigns%3D%3D&X-Amz-Signature=f1832242c58fc66a4d07bebd0ac3747e452f386bd1c4b37a8169ab61d2bee91e",
        },
        TokenOfBotocore {
            host: "db.c1.us-east-1.rds.amazonaws.com",
            port: 6543,
            user: "J. Doe/é+~_-*'&=%@",
            region: "us-east-1",
            session_token: None,
            token: "db.c1.us-east-1.rds.amazonaws.com:6543/?Action=connect&DBUser=J.%20Doe%2F%C3%A9%2B~_-%2A%27%26%3D%25%40&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Fus-east-1%2Frds-db%2Faws4_request&X-Amz-Date=20260102T030405Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=a586a61df8acb19b1512da94d09a21d33c94526aa52dd23f2a6561afc4f879e0",
        },
        TokenOfBotocore {
            host: "db.c1.rds.cn-north-1.amazonaws.com.cn",
            port: 5432,
            user: "app",
            region: "cn-north-1",
            session_token: Some("token"),
            token: "db.c1.rds.cn-north-1.amazonaws.com.cn:5432/?Action=connect&DBUser=app&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Fcn-north-1%2Frds-db%2Faws4_request&X-Amz-Date=20260102T030405Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Security-Token=token&X-Amz-Signature=265eb9ac1517e9f100f308f96ec394f9fabe399606ccbc9cdd3ac36f0aaece3d",
        },
    ];

    fn identity(session_token: Option<&str>) -> Credentials {
        let key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        Credentials::new("AKIDEXAMPLE", key, session_token.map(str::to_owned), None, "a test")
    }

    #[test]
    fn a_token_is_byte_for_byte_that_of_botocore() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        for TokenOfBotocore { host, port, user, region, session_token, token: expected } in OF_BOTOCORE {
            let user = RdsUser { host: host.into(), port, name: user.into() };
            let token = token(&user, region, identity(session_token), at);
            assert_eq!(token.expose_secret(), expected);
        }
    }
}
