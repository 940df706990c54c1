//! A log-in at PostgreSQL by SCRAM-SHA-256 (RFC 5802, RFC 7677).

use super::{read_message, write_message};
use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac::{HMAC_SHA256, Key, Tag, sign},
    pbkdf2::{PBKDF2_HMAC_SHA256, derive},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{io, num::NonZeroU32};
use tokio::net::TcpStream;

/// Logs in after the start was sent. The answer of the server to the log-in is read too.
pub(super) async fn log_in(server: &mut TcpStream, password: &str) -> io::Result<()> {
    let nonce = devstack::random();
    let first = format!("n=,r={nonce}");
    // AuthenticationSASL, with the names of the methods.
    read_message(server, b'R').await?;
    let initial = format!("n,,{first}");
    let mut message = b"SCRAM-SHA-256\0".to_vec();
    message.extend((initial.len() as u32).to_be_bytes());
    message.extend(initial.as_bytes());
    write_message(server, b'p', &message).await?;

    let challenge = read_message(server, b'R').await?;
    let challenge = String::from_utf8_lossy(&challenge[4..]).into_owned();
    let part = |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name)).expect("three parts");
    let salt = STANDARD.decode(part("s=")).expect("base64");
    let iterations: NonZeroU32 = part("i=").parse().expect("a number");
    let mut salted = [0; 32];
    derive(PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let client_key = hmac(&salted, "Client Key");
    let stored_key = digest(&SHA256, client_key.as_ref());
    // `biws` is `n,,` in base64.
    let last = format!("c=biws,r={}", part("r="));
    let signature = hmac(stored_key.as_ref(), &format!("{first},{challenge},{last}"));
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect();
    write_message(server, b'p', format!("{last},p={}", STANDARD.encode(proof)).as_bytes()).await?;
    // AuthenticationSASLFinal, AuthenticationOk.
    read_message(server, b'R').await?;
    read_message(server, b'R').await.map(drop)
}

fn hmac(key: &[u8], text: &str) -> Tag {
    sign(&Key::new(HMAC_SHA256, key), text.as_bytes())
}
