//! The documents and tokens of an issuer.

use crate::{assert_quotes_nothing, with_sentinel};
use vestibule::fuzzing;

const ISSUER: &str = "https://issuer.example/";
const AUDIENCE: &str = "orders";

/// A key of that issuer, whose other half nobody has any more, and a token that it signed. The token has no end.
const KEYS: &str = include_str!("access_tokens/keys.json");
const TOKEN: &str = include_str!("access_tokens/token");

/// Checks a JWKS document or the metadata of the issuer on the first line, and a token on the second one.
pub(crate) fn check(text: &str) {
    let text = &with_sentinel(text);
    let (document, token) = text.split_once('\n').unwrap_or((text, TOKEN));
    match fuzzing::token(ISSUER, AUDIENCE, document.as_bytes(), token) {
        Ok((ids, verified)) => {
            assert!(ids.iter().all(|id| document.contains('"') && !id.is_empty() || id.is_empty()));
            refuses_in_few_words(verified);
        }
        Err(problem) => assert_quotes_nothing(problem),
    }
    match fuzzing::names_keys_over_tls(ISSUER, document.as_bytes()) {
        Ok(over_tls) => assert!(over_tls),
        Err(problem) => assert_quotes_nothing(problem),
    }
    // Nobody can sign with the key, so each other token is refused, and so is each change of the good one.
    let verified = verify(token.trim());
    assert!(token.trim() == TOKEN || verified.is_err(), "a token was accepted that nobody signed");
    refuses_in_few_words(verified);
    changed(text.as_bytes());
}

fn verify(token: &str) -> Result<String, &'static str> {
    let (_, verified) = fuzzing::token(ISSUER, AUDIENCE, KEYS.as_bytes(), token).expect("the document has a key");
    verified
}

fn refuses_in_few_words(verified: Result<String, &'static str>) {
    match verified {
        Ok(subject) => assert!(!subject.is_empty()),
        Err(reason) => assert_quotes_nothing(reason),
    }
}

/// Checks that the good token with another character anywhere is refused. Each pair of bytes is a place and a character.
fn changed(changes: &[u8]) {
    assert_eq!(verify(TOKEN).as_deref(), Ok("ada"));
    let mut token = TOKEN.as_bytes().to_vec();
    for pair in changes.chunks_exact(2).take(4) {
        let place = usize::from(pair[0]) * 2 % token.len();
        token[place] = pair[1];
    }
    let Ok(token) = str::from_utf8(&token) else { return };
    assert!(token == TOKEN || verify(token).is_err(), "a changed token was accepted: {token}");
}
