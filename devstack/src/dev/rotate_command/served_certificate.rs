//! The certificate that a listener shows.

use std::time::Duration;

use reqwest::tls::TlsInfo;

use crate::dev::dev_client::DevClient;
use crate::dev::error::DevError;
use crate::stack::authority::identity::Identity;
use crate::stack::polling::Polling;

const WAIT: Polling = Polling { interval: Duration::from_millis(100), limit: Duration::from_secs(5) };

/// Waits until a listener shows the certificate in a new handshake.
pub(super) async fn wait_until_served(url: &str, identity: &Identity, dev_client: &DevClient) -> Result<(), DevError> {
    let mut last_seen = String::new();
    let served = WAIT.until_async(async || {
        last_seen = match served_leaf(url, dev_client).await {
            Ok(Some(leaf)) if leaf == *identity.leaf() => return Some(()),
            Ok(_) => "it still shows another certificate".into(),
            Err(error) => error,
        };
        None
    });
    match served.await {
        Some(()) => Ok(()),
        None => Err(DevError::new(format!("{url} does not serve the new certificate: {last_seen}"))),
    }
}

/// Returns the certificate of a full handshake, as DER. A new client has no session to resume.
async fn served_leaf(url: &str, dev_client: &DevClient) -> Result<Option<Vec<u8>>, String> {
    let client = dev_client.http().timeout(Duration::from_secs(5)).build().expect("it trusts an authority of ours");
    let answer = client.get(url).send().await.map_err(|error| error.to_string())?;
    let info = answer.extensions().get::<TlsInfo>();
    Ok(info.and_then(TlsInfo::peer_certificate).map(Into::into))
}
