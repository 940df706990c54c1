//! Settings that are text: ids, durations, sizes, addresses, log filters, URLs.

use crate::{assert_quotes_nothing, with_sentinel};
use axum::http::Uri;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};
use vestibule::{
    config::{BaseUrl, HeaderSetting, ProcessAttribute, ProxyNetwork, units},
    credentials::{Host, PostgresName},
    fuzzing,
    secrets::{SecretId, VersionId},
};

/// Reads a setting, and checks that it can be written and read again, and that an error does not quote it.
fn read<T: Serialize + DeserializeOwned + PartialEq>(text: &str) -> Option<T> {
    let setting = match serde_json::from_value::<T>(json!(text)) {
        Ok(setting) => setting,
        Err(error) => {
            assert_quotes_nothing(&error.to_string());
            return None;
        }
    };
    let written = serde_json::to_value(&setting).expect("a setting can be written");
    let again = serde_json::from_value::<T>(written.clone());
    let is_same = matches!(&again, Ok(again) if *again == setting);
    assert!(is_same, "{text:?} is written as {written}, which is {:?}", again.err());
    Some(setting)
}

/// Checks the text as each setting.
pub(crate) fn check(text: &str) {
    let text = &with_sentinel(text);
    ids(text);
    units(text);
    urls(text);
}

/// Checks the ids of secrets and versions. The second line is a Region.
fn ids(text: &str) {
    let (id, region) = text.split_once('\n').unwrap_or((text, "eu-west-1"));
    if let Some(version) = read::<VersionId>(id) {
        assert!(version.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
    }
    let Some(id) = read::<SecretId>(id) else { return };
    assert!(id.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+=.@-:!".contains(&byte)));
    assert!(id.as_str().starts_with("arn:") || !id.as_str().contains(':'));
    if region.len() < 30 && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        let there = fuzzing::id_in_region(id.as_str(), region);
        assert!(there.len() > 512 || SecretId::parse(&there).is_some(), "{id} is {there} in {region}");
        // It differs in one part at most, and the way back leads to the id.
        let parts: Vec<_> = id.as_str().splitn(5, ':').collect();
        let back = fuzzing::id_in_region(&there, parts.get(3).unwrap_or(&""));
        assert_eq!(back, id.as_str());
    }
}

#[derive(PartialEq, Serialize, Deserialize)]
struct DurationSetting(#[serde(with = "units::duration")] Duration);

#[derive(PartialEq, Serialize, Deserialize)]
struct Size(#[serde(with = "units::size")] ByteSize);

#[derive(PartialEq, Serialize, Deserialize)]
struct Address(#[serde(with = "units::address")] SocketAddr);

#[derive(PartialEq, Serialize, Deserialize)]
struct Filter(#[serde(with = "units::filter")] String);

/// Checks durations, sizes, addresses, log filters, networks, headers and attributes.
fn units(text: &str) {
    let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let duration = read::<DurationSetting>(text).map(|DurationSetting(duration)| duration);
    assert!(duration.is_none_or(|duration| duration <= century));
    read::<Host>(text);
    read::<PostgresName>(text);
    read::<Size>(text);
    if let Some(Address(address)) = read::<Address>(text) {
        assert_eq!(address.ip(), address.ip().to_canonical());
    }
    read::<ProxyNetwork>(text);
    read::<HeaderSetting>(text);
    read::<ProcessAttribute>(text);
    if let Some(Filter(filter)) = read::<Filter>(text) {
        assert_eq!(filter, text);
    }
}

/// Checks URLs of other services and of replicas. The second line is a reference below the first.
fn urls(text: &str) {
    let (text, reference) = text.split_once('\n').unwrap_or((text, "/a?b=c"));
    match fuzzing::replica_address(text) {
        Ok((shown, status)) => {
            assert!(!shown.contains(['@', '?', '#']) && status.port_u16().is_some() && status.path() == "/status");
            assert_eq!(fuzzing::replica_address(&shown), Ok((shown, status)));
        }
        Err(mistake) => assert_quotes_nothing(mistake),
    }
    let Some(url) = read::<BaseUrl>(text) else { return };
    let written = serde_json::to_value(&url).expect("a URL can be written");
    let Value::String(written) = written else { panic!("a URL is a text") };
    let uri: Uri = written.parse().expect("a URL is a URI");
    let host = uri.host().expect("a URL has a host").trim_matches(['[', ']']);
    let is_here = host.eq_ignore_ascii_case("localhost") || host == "::1" || host.starts_with("127.");
    assert!(uri.scheme_str() == Some("https") || is_here || host.parse::<std::net::Ipv6Addr>().is_ok(), "{uri}");
    assert!(!written.contains(['@', '?', '#', ' ']) || !uri.path().contains(['?', '#']), "{uri}");
    assert!(!url.authority().contains('@') && uri.query().is_none());
    if let Ok(reference) = reference.parse()
        && let Some(joined) = fuzzing::join(&url, &reference)
    {
        assert_eq!((joined.scheme(), joined.authority()), (uri.scheme(), uri.authority()));
        assert!(joined.path().starts_with(uri.path().trim_end_matches('/')), "{joined} is not below {uri}");
    }
}
