//! PEM as people and tools write it (RFC 7468). Every block counts: one that cannot be read makes the whole text
//! malformed, and none is left out.

use crate::secrets::shape::without_byte_order_mark;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use rustls::pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Base64 with or without padding at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A block of a PEM text.
pub(crate) struct PemBlock {
    pub(crate) label: PemLabel,
    /// The content, which may be a private key. It is wiped.
    pub(crate) der: Zeroizing<Vec<u8>>,
}

impl PemBlock {
    /// Returns the private key that it is, if it is one.
    pub(crate) fn private_key(&self) -> Option<PrivateKeyDer<'_>> {
        let der = self.der.as_slice();
        match self.label {
            PemLabel::Pkcs8Key => Some(PrivateKeyDer::Pkcs8(der.into())),
            PemLabel::RsaKey => Some(PrivateKeyDer::Pkcs1(der.into())),
            PemLabel::EcKey => Some(PrivateKeyDer::Sec1(der.into())),
            PemLabel::Certificate | PemLabel::EcParameters => None,
        }
    }
}

/// The label of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PemLabel {
    Certificate,
    /// A private key as PKCS #8.
    Pkcs8Key,
    /// A private key as PKCS #1.
    RsaKey,
    /// A private key as SEC 1.
    EcKey,
    /// The curve of an EC key, which openssl writes before the key. The key has it too.
    EcParameters,
}

impl PemLabel {
    fn of(label: &str) -> Option<Self> {
        Some(match label {
            "CERTIFICATE" | "X509 CERTIFICATE" => Self::Certificate,
            "PRIVATE KEY" => Self::Pkcs8Key,
            "RSA PRIVATE KEY" => Self::RsaKey,
            "EC PRIVATE KEY" => Self::EcKey,
            "EC PARAMETERS" => Self::EcParameters,
            _ => return None,
        })
    }
}

/// Reads all blocks. Returns `None` if there is none, or if one of them cannot be read.
///
/// Between two blocks, the newline may be missing. Lines may end with `\r\n`, with the two characters `\` and `n`, or have
/// become blanks: consoles and variables do that. Text around the blocks, such as openssl writes, is ignored if it
/// contains no part of a block.
pub(crate) fn blocks(text: &str) -> Option<Vec<PemBlock>> {
    let mut rest = without_byte_order_mark(text);
    let mut blocks = Vec::new();
    while let Some(start) = rest.find(BEGIN) {
        if !is_explanatory(&rest[..start]) {
            return None;
        }
        let (label, after) = rest[start + BEGIN.len()..].split_once(DASHES)?;
        let end = [END, label, DASHES].concat();
        let (content, after) = after.split_once(end.as_str())?;
        // The letters of a second BEGIN or END are base64 too, and it can share its dashes with the one before.
        if content.contains("BEGIN ") || !is_explanatory(content) || goes_on_as_mark(content) || goes_on_as_mark(after)
        {
            return None;
        }
        blocks.push(PemBlock { label: PemLabel::of(label)?, der: decode(content)? });
        rest = after;
    }
    if blocks.is_empty() || !is_explanatory(rest) { None } else { Some(blocks) }
}

/// Returns `true` if a text that follows dashes goes on as another BEGIN or END, to which these dashes would belong too.
fn goes_on_as_mark(text: &str) -> bool {
    text.starts_with("BEGIN ") || text.starts_with("END ")
}

/// Returns `true` if a text outside of blocks contains no part of a block.
fn is_explanatory(text: &str) -> bool {
    const PARTS: [&str; 6] = ["-----", "-BEGIN", "-END", "BEGIN CERTIFICATE", "END CERTIFICATE", "PRIVATE KEY"];
    !PARTS.iter().any(|part| text.contains(part))
}

/// Decodes the base64 of a block. Headers, which an encrypted key of openssl has, are no base64.
fn decode(content: &str) -> Option<Zeroizing<Vec<u8>>> {
    // Both have their final size from the start, because a vector that grows leaves copies behind.
    let mut base64 = Zeroizing::new(Vec::with_capacity(content.len()));
    for line in content.split("\\n") {
        let line = line.strip_suffix("\\r").unwrap_or(line);
        base64.extend(line.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    }
    let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(base64.len())]);
    let length = BASE64.decode_slice(&*base64, &mut der).ok()?;
    der.truncate(length);
    if der.is_empty() { None } else { Some(der) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAAEC\nAwQF\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nBwg=\n-----END EC PRIVATE KEY-----\n";

    fn read(text: &str) -> Option<Vec<(PemLabel, Vec<u8>)>> {
        Some(blocks(text)?.into_iter().map(|block| (block.label, block.der.to_vec())).collect())
    }

    fn certificate() -> (PemLabel, Vec<u8>) {
        (PemLabel::Certificate, vec![0, 1, 2, 3, 4, 5])
    }

    #[test]
    fn one_block_is_read_in_every_form_that_tools_write() {
        for text in [
            ONE.to_owned(),
            ONE.trim().to_owned(),
            ONE.replace('\n', "\r\n"),
            ONE.replace('\n', "\\n"),
            ONE.replace('\n', "\\r\\n"),
            ONE.replace('\n', " "),
            ONE.replace('\n', ""),
            format!("\u{feff}{ONE}"),
            format!("  {}", ONE.replace('\n', "\n  ")),
            format!("subject=CN = a\nissuer=CN = b\n{ONE}\nBag Attributes: <No Attributes>\n"),
        ] {
            assert_eq!(read(&text), Some(vec![certificate()]), "{text:?}");
        }
    }

    #[test]
    fn several_blocks_are_all_read_also_without_a_newline_between_them() {
        let glued = format!("{}{}{KEY}", ONE.trim(), ONE.trim());
        for text in [format!("{ONE}{ONE}{KEY}"), format!("{ONE}\n# the next\n{ONE}\n{KEY}"), glued] {
            assert_eq!(
                read(&text),
                Some(vec![certificate(), certificate(), (PemLabel::EcKey, vec![7, 8])]),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_block_that_cannot_be_read_makes_the_text_malformed() {
        for broken in [
            "",
            "no block",
            "-----BEGIN CERTIFICATE-----\nAAEC\n",
            "AAEC\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAEC\n-----END PRIVATE KEY-----\n",
            "----BEGIN CERTIFICATE----\nAAEC\n----END CERTIFICATE----\n",
            "BEGIN CERTIFICATE\nAAEC\nEND CERTIFICATE\n",
            "-----begin CERTIFICATE-----\nAAEC\n-----end CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nA*EC\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAE\u{fffd}\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----BEGIN AAECAwQ\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----BEGIN AAECAwQ\n",
            "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----END AAECAwQ\n",
            "-----BEGIN CERTIFICATE-----END AAECA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nAAEC\nEND CERTIFICATE\nAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAEC\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAEC\n-----END RSA PRIVATE KEY-----\n",
            "-----BEGIN TRUSTED CERTIFICATE-----\nAAEC\n-----END TRUSTED CERTIFICATE-----\n",
        ] {
            assert_eq!(read(broken), None, "{broken:?}");
            if !broken.is_empty() && broken != "no block" {
                assert_eq!(read(&format!("{ONE}{broken}")), None, "{broken:?}");
                assert_eq!(read(&format!("{broken}{ONE}")), None, "{broken:?}");
            }
        }
    }
}
