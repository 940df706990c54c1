//! One token: its signature, its times, and what it says (RFC 7519, RFC 8725, RFC 9068).

use super::key_set::KeySet;
use crate::config::settings::auth::{AudienceClaim, AuthConfig, TokenAlgorithm};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The largest token, in bytes.
pub(super) const MAX_TOKEN: usize = 8 * 1024;

/// The properties that a token must have.
pub(super) struct TokenRules {
    issuer: String,
    validation: Validation,
    /// The only client whose tokens are accepted, if their audience is in `client_id`.
    client: Option<String>,
    requires_type: bool,
}

/// The reason for which a token is refused. It quotes nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenFault {
    /// The set has no key of this id. A newer one may have it.
    UnknownKey,
    /// It is not valid with the keys of this set. A newer one may have another key for it.
    WrongKeys(&'static str),
    Invalid(&'static str),
}

/// The claims of a token that was verified.
pub(super) struct TokenClaims {
    pub(super) subject: String,
    pub(super) scopes: Vec<String>,
    pub(super) client_id: Option<String>,
    /// In seconds since 1970.
    pub(super) expires: u64,
    /// The thumbprint of the client's certificate that the token is bound to.
    pub(super) thumbprint: Option<String>,
    pub(super) all: Map<String, Value>,
}

/// The claims that the framework reads itself.
#[derive(Deserialize)]
struct KnownClaims {
    iss: String,
    sub: String,
    exp: f64,
    scope: Option<ScopeClaim>,
    scp: Option<ScopeClaim>,
    client_id: Option<String>,
    azp: Option<String>,
    cnf: Option<Confirmation>,
}

/// The scopes of a token: a text with spaces (RFC 8693), or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum ScopeClaim {
    Text(String),
    List(Vec<String>),
}

/// The proof that a token asks of its bearer (RFC 7800).
#[derive(Deserialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    thumbprint: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl TokenRules {
    pub(super) fn of(config: &AuthConfig) -> Self {
        let mut validation = Validation {
            algorithms: config.algorithms.iter().copied().map(Algorithm::from).collect(),
            validate_nbf: true,
            leeway: config.leeway.as_secs(),
            ..Validation::default()
        };
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&config.issuer]);
        validation.set_audience(&[&config.audience]);
        let mut client = None;
        if config.audience_claim == AudienceClaim::ClientId {
            validation.required_spec_claims.remove("aud");
            validation.validate_aud = false;
            client = Some(config.audience.clone());
        }
        Self { issuer: config.issuer.clone(), validation, client, requires_type: config.require_type }
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// The reason for which it is refused.
    pub(super) fn verify(&self, token: &str, keys: &KeySet) -> Result<TokenClaims, TokenFault> {
        use TokenFault::Invalid;
        if token.len() > MAX_TOKEN {
            return Err(Invalid("it is longer than 8 KiB"));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| Invalid("it is no signed JWT of an algorithm that is accepted here"))?;
        if header.crit.is_some() {
            return Err(Invalid("it has critical header parameters (`crit`), which are not understood here"));
        }
        match header.typ.as_deref() {
            Some(name) if !is_type_of_access_token(name) => {
                return Err(Invalid("its `typ` is neither `at+jwt` nor `JWT`"));
            }
            None if self.requires_type => return Err(Invalid("it has no `typ`, and `auth.require_type` asks for one")),
            Some(_) | None => {}
        }
        if !self.validation.algorithms.contains(&header.alg) {
            return Err(Invalid("its algorithm is not accepted here"));
        }
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let id = header.kid.as_deref();
        let mut refused = match id {
            Some(id) if keys.has_removed(id) => TokenFault::WrongKeys("its issuer has removed its key"),
            Some(id) if keys.has(id) => TokenFault::WrongKeys("its algorithm is not that of its key"),
            Some(_) => TokenFault::UnknownKey,
            None => TokenFault::WrongKeys("it has no `kid`, and its issuer has no key for such a token"),
        };
        for key in keys.find(id, header.alg) {
            refused = match jsonwebtoken::decode(token, key, &validation) {
                Ok(verified) => return self.read(verified.claims),
                Err(error) => fault(error.kind()),
            };
            if matches!(refused, Invalid(_)) {
                break;
            }
        }
        Err(refused)
    }

    fn read(&self, all: Map<String, Value>) -> Result<TokenClaims, TokenFault> {
        let malformed = TokenFault::Invalid("a claim has a wrong type, or is missing");
        let known = KnownClaims::deserialize(&Value::Object(all.clone())).map_err(|_| malformed)?;
        if known.iss != self.issuer || known.sub.is_empty() {
            return Err(malformed);
        }
        if self.client.is_some() && self.client != known.client_id {
            return Err(TokenFault::Invalid("its `client_id` is not the audience of this service"));
        }
        let thumbprint = match known.cnf {
            None => None,
            Some(Confirmation { thumbprint, others }) if others.is_empty() => thumbprint,
            Some(_) => return Err(TokenFault::Invalid("it asks for a proof (`cnf`) that is not understood here")),
        };
        Ok(TokenClaims {
            subject: known.sub,
            scopes: known.scope.or(known.scp).map(ScopeClaim::into_list).unwrap_or_default(),
            client_id: known.client_id.or(known.azp),
            expires: known.exp as u64,
            thumbprint,
            all,
        })
    }
}

impl ScopeClaim {
    fn into_list(self) -> Vec<String> {
        match self {
            Self::Text(text) => text.split_ascii_whitespace().map(str::to_owned).collect(),
            Self::List(list) => list,
        }
    }
}

/// Returns `true` if a `typ` says that this is an access token (RFC 9068), or any JWT.
fn is_type_of_access_token(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.strip_prefix("application/").unwrap_or(&name), "at+jwt" | "jwt")
}

fn fault(error: &ErrorKind) -> TokenFault {
    TokenFault::Invalid(match error {
        // The issuer may have replaced the key by one of the same id, or by one that has no id either.
        ErrorKind::InvalidSignature => return TokenFault::WrongKeys("its signature cannot be verified"),
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidIssuer => "another issuer has made it",
        ErrorKind::InvalidAudience => "it is for another service",
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => {
            "`iss`, `sub`, `aud`, `exp` or `nbf` is missing or malformed"
        }
        _ => "it is malformed",
    })
}

impl From<TokenAlgorithm> for Algorithm {
    fn from(algorithm: TokenAlgorithm) -> Self {
        match algorithm {
            TokenAlgorithm::ES256 => Self::ES256,
            TokenAlgorithm::ES384 => Self::ES384,
            TokenAlgorithm::RS256 => Self::RS256,
            TokenAlgorithm::RS384 => Self::RS384,
            TokenAlgorithm::RS512 => Self::RS512,
            TokenAlgorithm::PS256 => Self::PS256,
            TokenAlgorithm::PS384 => Self::PS384,
            TokenAlgorithm::PS512 => Self::PS512,
            TokenAlgorithm::EdDSA => Self::EdDSA,
        }
    }
}
