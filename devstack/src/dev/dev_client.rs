use devstack::reqwest::ClientBuilder;
use devstack::{Authority, Identity, Validity, home};

use super::Failure;
use super::project::Credential;

/// Whoever calls the service from here: whom it trusts, and what it shows.
pub(crate) struct DevClient {
    pub(crate) authority: Authority,
    /// None where the service asks its clients for no certificate.
    pub(crate) identity: Option<Identity>,
}

impl DevClient {
    /// Of a service with these credentials.
    pub(crate) fn of(credentials: &[Credential]) -> Result<Self, Failure> {
        let authority = Authority::load_or_create(&home()?)?;
        let asked = credentials.iter().any(|credential| credential.kind == "client_ca");
        let identity = asked.then(|| authority.client("cargo-dev", Validity::days(90)));
        Ok(Self { authority, identity })
    }

    /// An HTTP client of its own connections and TLS sessions.
    pub(crate) fn http(&self) -> ClientBuilder {
        let http = self.authority.trusted().tls_info(true);
        match &self.identity {
            Some(identity) => http.identity(identity.for_client()),
            None => http,
        }
    }
}
