//! The check of a token: Signature Version 4 of AWS, with the signature in the query.

use crate::support::collector::hex;
use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac::{HMAC_SHA256, Key, sign},
};
use std::collections::BTreeMap;

/// A key of an identity.
pub(super) struct AccessKey {
    pub(super) id: &'static str,
    pub(super) secret: &'static str,
}

/// Checks that a token was signed with this key, for this user at this host and port. Says what is wrong with it otherwise.
pub(super) fn verify(token: &str, host: &str, user: &str, region: &str, key: &AccessKey) -> Result<(), String> {
    let (signed_host, query) = token.split_once("/?").ok_or("it is no URL")?;
    let (query, signature) = query.split_once("&X-Amz-Signature=").ok_or("it has no signature")?;
    let parts: BTreeMap<&str, &str> = query.split('&').filter_map(|part| part.split_once('=')).collect();
    let date = parts.get("X-Amz-Date").copied().unwrap_or_default();
    let scope = format!("{}/{region}/rds-db/aws4_request", date.get(..8).unwrap_or_default());
    let credential = format!("{}/{scope}", key.id).replace('/', "%2F");
    for (name, expected) in [
        ("Action", "connect"),
        ("DBUser", user),
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", &credential),
        ("X-Amz-Expires", "900"),
        ("X-Amz-SignedHeaders", "host"),
    ] {
        if parts.get(name) != Some(&expected) {
            return Err(format!("{name} is not {expected}"));
        }
    }
    if signed_host != host {
        return Err(format!("it is for {signed_host}"));
    }
    // A canonical request has the parts in the order of their names.
    let parts: Vec<_> = parts.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let canonical = format!("GET\n/\n{}\nhost:{host}\n\nhost\n{}", parts.join("&"), sha256(""));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(&canonical));
    let mut signing_key = format!("AWS4{}", key.secret).into_bytes();
    for part in scope.split('/') {
        signing_key = hmac(&signing_key, part);
    }
    if hex(&hmac(&signing_key, &to_sign)) == signature { Ok(()) } else { Err("its signature is wrong".into()) }
}

fn sha256(text: &str) -> String {
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    sign(&Key::new(HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}
