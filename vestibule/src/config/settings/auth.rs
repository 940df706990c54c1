//! The section `[auth]`.

use crate::config::{base_url::BaseUrl, units};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use vestibule_derive::ConfigSection;

/// `[auth]`: the tokens that [`Application::routes`](crate::Application::routes) need. It is off without an issuer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ConfigSection)]
#[serde(default)]
pub struct AuthConfig {
    /// The issuer of tokens: their claim `iss`, to the letter. If it is empty, authentication is off.
    pub issuer: String,
    /// The name of this service at the issuer: the claim `aud` of a token is it, or has it.
    pub audience: String,
    /// The claim that has the audience: `client_id` for Amazon Cognito, whose access tokens have no `aud`. The audience is
    /// then the one client whose tokens are accepted.
    pub audience_claim: AudienceClaim,
    /// `true` if a token without `typ` is refused: Amazon Cognito, Okta and Kubernetes make such tokens. If it is `false`,
    /// an id token with the same audience is accepted too.
    pub require_type: bool,
    /// The URL of the issuer's keys (JWKS). Without it, the issuer's metadata names it, at
    /// `<issuer>/.well-known/openid-configuration`. Outside of the `dev` profile it is `https://`.
    pub jwks_url: Option<BaseUrl>,
    /// The algorithms that a token may be signed with. A key is used for its own algorithm only.
    pub algorithms: Vec<TokenAlgorithm>,
    /// The time between two fetches of the keys, give or take 10 %. A token with an unknown key causes one too.
    #[serde(with = "units::duration")]
    #[setting(min = "5m", max = "15m")]
    pub refresh_every: Duration,
    /// The age at which keys are no longer used, if the issuer does not answer. After it, clients get 503.
    #[serde(with = "units::duration")]
    #[setting(min = "30m", max = "7d")]
    pub max_stale: Duration,
    /// The difference of clocks that the times in a token allow for.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "1m", zero)]
    pub leeway: Duration,
    /// The time for which a token is not verified again; with `"0s"`, each request verifies its own. It ends when the
    /// token expires, and when the keys change.
    #[serde(with = "units::duration")]
    #[setting(min = "1s", max = "1m", zero)]
    pub cache_lifetime: Duration,
    /// `true` if each token must be bound to the certificate of its client (RFC 8705). Needs `server.client_ca`. A token
    /// that is bound is always checked.
    pub require_certificate_binding: bool,
}

impl AuthConfig {
    /// Returns the URL of the issuer's metadata. `None` if the issuer is no URL that may have some.
    pub(crate) fn metadata_url(&self) -> Option<BaseUrl> {
        BaseUrl::parse(&format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/')))
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            audience_claim: AudienceClaim::Aud,
            require_type: true,
            jwks_url: None,
            algorithms: vec![TokenAlgorithm::ES256, TokenAlgorithm::RS256, TokenAlgorithm::EdDSA],
            refresh_every: Duration::from_secs(10 * 60),
            max_stale: Duration::from_secs(24 * 60 * 60),
            leeway: Duration::from_secs(30),
            cache_lifetime: Duration::from_secs(30),
            require_certificate_binding: false,
        }
    }
}

/// The claim of a token that says for which service, or for which client, it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AudienceClaim {
    /// `aud` (RFC 7519): the services.
    Aud,
    /// `client_id` (RFC 8693): the client.
    ClientId,
}

/// An algorithm of a token's signature (RFC 7518, RFC 8037). All of them have a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the RFCs document them")]
pub enum TokenAlgorithm {
    ES256,
    ES384,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    EdDSA,
}
