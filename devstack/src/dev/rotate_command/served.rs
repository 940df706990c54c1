use std::time::{Duration, Instant};

use devstack::Identity;
use devstack::reqwest::tls::TlsInfo;

use crate::dev::Failure;
use crate::dev::dev_client::DevClient;

/// Waits until a listener shows the certificate in a new handshake.
pub(super) async fn served(url: &str, identity: &Identity, dev_client: &DevClient) -> Result<(), Failure> {
    let give_up = Instant::now() + Duration::from_secs(5);
    loop {
        let found = match shown(url, dev_client).await {
            Ok(Some(leaf)) if leaf == *identity.leaf() => return Ok(()),
            Ok(_) => "it still shows another certificate".to_owned(),
            Err(why) => why,
        };
        if Instant::now() > give_up {
            return Err(Failure::new(format!("{url} does not serve the new certificate: {found}")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The certificate of a handshake that resumes no other.
async fn shown(url: &str, dev_client: &DevClient) -> Result<Option<Vec<u8>>, String> {
    let client = dev_client.http().timeout(Duration::from_secs(5)).build().expect("it trusts an authority of ours");
    let answer = client.get(url).send().await.map_err(|error| error.to_string())?;
    let info = answer.extensions().get::<TlsInfo>();
    Ok(info.and_then(TlsInfo::peer_certificate).map(Into::into))
}
