//! The address of another service, and the limits of calls to it.

use crate::config::{base_url::BaseUrl, settings::traces::HeaderSetting};
use serde::Serialize;
use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

/// Another service: its address, and the limits of calls to it.
///
/// ```
/// use std::time::Duration;
/// use vestibule::{ApiEndpoint, KeyHeader, config::BaseUrl};
///
/// let url = BaseUrl::parse("https://payments.example/v1").expect("it is a URL");
/// let endpoint = ApiEndpoint {
///     timeout: Duration::from_secs(2),
///     key_header: KeyHeader::Named("x-api-key"),
///     ..ApiEndpoint::at(url)
/// };
/// assert_eq!(endpoint.attempts.get(), 3);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ApiEndpoint {
    /// The URL that paths are joined to. The key is sent to no other host.
    pub url: BaseUrl,
    /// The timeout of a call, with all its attempts and the pauses between them. The default is 10 s.
    pub timeout: Duration,
    /// The largest number of attempts of a call. A 401 may add one, with another key. The default is 3.
    pub attempts: NonZeroU32,
    /// The largest number of attempts at a time, over all generations. The default is 32.
    pub concurrency: NonZeroUsize,
    /// The header that carries the key. The default is `Authorization: Bearer`.
    pub key_header: KeyHeader,
    /// `true` if a 403 says that the key is not accepted, as a 401 does. The default is `false`: most often, a 403 is
    /// about what the call asks for.
    pub rejects_key_with_403: bool,
}

impl ApiEndpoint {
    /// Makes an endpoint with the default limits.
    pub fn at(url: BaseUrl) -> Self {
        Self {
            url,
            timeout: Duration::from_secs(10),
            attempts: NonZeroU32::new(3).expect("3 is not zero"),
            concurrency: NonZeroUsize::new(32).expect("32 is not zero"),
            key_header: KeyHeader::default(),
            rejects_key_with_403: false,
        }
    }
}

/// The header that carries an API key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum KeyHeader {
    /// `Authorization: Bearer <key>`.
    #[default]
    Bearer,
    /// A header of this name, `x-api-key` for example, with nothing but the key.
    Named(&'static str),
    /// A header from the configuration.
    Configured(HeaderSetting),
}
