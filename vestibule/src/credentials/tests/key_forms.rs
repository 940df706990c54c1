//! The forms in which tools and people write signing keys and API keys.

use super::*;

/// A form, the tool that writes it, and what was expected, if it is refused.
type Row = (&'static str, &'static str, Result<(), &'static str>);

const SIGNING_KEYS: [Row; 23] = [
    ("openssl rand -base64 32", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n", Ok(())),
    (
        "openssl rand -base64 64, which breaks the line",
        "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB\nQUFBQUFBQUFBQQ==\n",
        Ok(()),
    ),
    ("base64 on Windows", "QUFBQUFBQUFBQUFBQUFBQUFB\r\nQUFBQUFBQUFBQUFBQUE=\r\n", Ok(())),
    ("Python: secrets.token_urlsafe, without padding", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE", Ok(())),
    ("Terraform: random_id.b64_url", "-_-_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE", Ok(())),
    ("Terraform: random_bytes.base64", "+/+/QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=", Ok(())),
    ("both alphabets in one", "-/-/QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE", Err(SigningKeys::EXPECTED)),
    (
        "openssl rand -hex 32, which is base64 too",
        "3031323334353637383930313233343536373839303132333435363738393031",
        Ok(()),
    ),
    ("console: a row", r#"{"key":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="}"#, Ok(())),
    ("a file as a row", r#"{"key":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n"}"#, Ok(())),
    ("PowerShell: a byte order mark", "\u{feff}QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=", Ok(())),
    ("get-random-password", r"R{4>x'^]Oa`\R{4>x'^]Oa`\R{4>x'^]Oa`\", Err(SigningKeys::EXPECTED)),
    (
        "CloudFormation: GenerateSecretString",
        r#"{"password":"abcdefghijklmnopqrstuvwxyzabcdefghijklm"}"#,
        Err(SigningKeys::EXPECTED),
    ),
    (
        "a JSON Web Key",
        r#"{"kty":"oct","k":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"}"#,
        Err(SigningKeys::EXPECTED),
    ),
    ("a key that is too short", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQQ==", Err(SigningKeys::EXPECTED)),
    ("a key in quotes", "\"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\"", Err(SigningKeys::EXPECTED)),
    ("a sentence", "replace me with the real signing key of this service", Err(SigningKeys::EXPECTED)),
    ("words in lines", "replace me with\nthe real signing key\nof this service", Err(SigningKeys::EXPECTED)),
    (
        "a public key in PEM, whose letters are base64 too",
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE\n-----END PUBLIC KEY-----\n",
        Err(SigningKeys::EXPECTED),
    ),
    (
        "ssh-keygen: a public key",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE\n",
        Err(SigningKeys::EXPECTED),
    ),
    ("two keys in a line", "QUFBQUFBQUFBQUFBQUFBQUFB\tQUFBQUFBQUFBQUFBQUFBQUFB", Err(SigningKeys::EXPECTED)),
    ("an editor's blanks around lines", "  QUFBQUFBQUFBQUFBQUFBQUFB\t\r\n  QUFBQUFBQUFBQUFBQUE=  \n", Ok(())),
    ("a UUID", "01234567-89ab-cdef-0123-456789abcdef", Err(SigningKeys::EXPECTED)),
];

#[test]
fn a_signing_key_is_read_in_every_form_or_refused_in_words() {
    for (from, text, expected) in SIGNING_KEYS {
        let expected = expected.map_err(Malformed::expected);
        assert_eq!(read::<SigningKeys>(text).map(|_| ()), expected, "{from}: {text}");
    }
}

#[test]
fn one_key_in_two_forms_of_base64_is_one_key() {
    let signed = |text| read::<SigningKeys>(text).unwrap().sign(b"m").1;
    let padded = signed("+/+/QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=");
    assert_eq!(signed("-_-_QUFB\nQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"), padded);
}

const API_KEYS: [(&str, &str, Result<&str, &str>); 16] = [
    ("bare", "abc-123_X.y~z", Ok("abc-123_X.y~z")),
    ("CLI: file://", "abc\n", Ok("abc")),
    ("CLI: file:// from Windows", "\u{feff}abc\r\n", Ok("abc")),
    ("console: a row", r#"{"api_key":"abc"}"#, Ok("abc")),
    ("jsonencode", r#"{"api_key":"a\u0026b"}"#, Ok("a&b")),
    ("base64", "YWJjZGVm+/==", Ok("YWJjZGVm+/==")),
    // {"k":"made up","n":"ci","id":1} and {"a":"made up","t":"0","s":"bWFkZSB1cA=="}
    ("Grafana", "eyJrIjoibWFkZSB1cCIsIm4iOiJjaSIsImlkIjoxfQ==", Ok("eyJrIjoibWFkZSB1cCIsIm4iOiJjaSIsImlkIjoxfQ==")),
    (
        "Cloudflare: a tunnel",
        "eyJhIjoibWFkZSB1cCIsInQiOiIwIiwicyI6ImJXRmtaU0IxY0E9PSJ9",
        Ok("eyJhIjoibWFkZSB1cCIsInQiOiIwIiwicyI6ImJXRmtaU0IxY0E9PSJ9"),
    ),
    ("console: a row, in base64", "eyJhcGlfa2V5IjoiYWJjIn0=", Err(ApiKey::EXPECTED)),
    ("a row of another name", r#"{"token":"abc"}"#, Err(ApiKey::EXPECTED)),
    ("the whole header", "Bearer abc", Err(ApiKey::EXPECTED)),
    ("a file as a row", r#"{"api_key":"abc\n"}"#, Err(ApiKey::EXPECTED)),
    ("in quotes", "\"abc\"", Err(ApiKey::EXPECTED)),
    ("a PEM key", "-----BEGIN PRIVATE KEY-----\nAAEC\n-----END PRIVATE KEY-----\n", Err(ApiKey::EXPECTED)),
    ("two lines", "abc\ndef", Err(ApiKey::EXPECTED)),
    ("a quotation mark of an editor", "abc”", Err(ApiKey::EXPECTED)),
];

#[test]
fn an_api_key_is_read_in_every_form_or_refused_in_words() {
    for (from, text, expected) in API_KEYS {
        let key = read::<ApiKey>(text);
        let expected = expected.map_err(Malformed::expected);
        assert_eq!(key.as_ref().map(ExposeSecret::expose_secret), expected.as_ref().copied(), "{from}: {text}");
    }
}
