//! The HTTP clients of `cargo dev`.

use reqwest::ClientBuilder;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::dev::error::DevError;
use crate::stack::authority::Authority;
use crate::stack::authority::identity::Identity;
use crate::stack::authority::validity::Validity;
use crate::stack::declared_credential::DeclaredCredential;
use crate::stack::folders::home;

/// The certificate authority that `cargo dev` trusts as a client of the service, and the certificate that it shows.
pub(crate) struct DevClient {
    pub(crate) authority: Authority,
    /// `None` if the service asks its clients for no certificate.
    pub(crate) identity: Option<Identity>,
    /// The token that requests bear. `None` if they need none.
    pub(crate) token: Option<String>,
}

impl DevClient {
    /// Prepares clients of a service with these credentials.
    pub(crate) fn new(credentials: &[DeclaredCredential]) -> Result<Self, DevError> {
        let authority = Authority::load_or_create(&home()?)?;
        let mut identity = None;
        if credentials.iter().any(|credential| credential.kind == "client_ca") {
            identity = Some(authority.client("cargo-dev", Validity::days(90)));
        }
        Ok(Self { authority, identity, token: None })
    }

    /// Returns a builder for an HTTP client. Each client has its own connections and TLS sessions.
    pub(crate) fn http(&self) -> ClientBuilder {
        let mut http = self.authority.trusted().tls_info(true);
        if let Some(token) = &self.token {
            let bearer = HeaderValue::try_from(format!("Bearer {token}")).expect("a token is ASCII");
            http = http.default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]));
        }
        match &self.identity {
            Some(identity) => http.identity(identity.for_client()),
            None => http,
        }
    }
}
