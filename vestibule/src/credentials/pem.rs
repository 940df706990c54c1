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

/// The length of the longest label that is shown.
const LONGEST_LABEL: usize = 40;

/// Base64 with or without padding at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns the content of a PEM file as a text. Its comments may have any bytes: those that are no UTF-8 become `?`, which no
/// block can have.
pub(crate) fn text_of(file: &[u8]) -> Zeroizing<String> {
    // It has room for all, so it does not grow: that would leave a copy of a private key behind.
    let mut text = Zeroizing::new(String::with_capacity(file.len()));
    for chunk in file.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push('?');
        }
    }
    text
}

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

/// The reason for which a text of PEM cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PemError {
    /// It has no block, or a block is not whole.
    NotWhole,
    /// A block has a label that is none of [`PemLabel`], such as `X509 CRL`. The first block has the number 1.
    OtherLabel { number: usize, label: String },
}

impl PemError {
    /// Makes the error of a block with another label. The label is shown only if it has the form of those that tools write
    /// (RFC 7468): the text may be no PEM at all.
    fn other_label(number: usize, label: &str) -> Self {
        let is_of_a_label = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ';
        if label.len() <= LONGEST_LABEL && label.chars().all(is_of_a_label) {
            Self::OtherLabel { number, label: label.to_owned() }
        } else {
            Self::NotWhole
        }
    }
}

/// Reads all blocks.
///
/// # Errors
/// If there is none, or if one of them cannot be read.
///
/// Between two blocks, the newline may be missing. Lines may end with `\r\n`, with the two characters `\` and `n`, or have
/// become blanks: consoles and variables do that. Text around the blocks, such as openssl writes, is ignored if it
/// contains no part of a block.
pub(crate) fn blocks(text: &str) -> Result<Vec<PemBlock>, PemError> {
    let mut rest = without_byte_order_mark(text);
    let mut blocks = Vec::new();
    while let Some(start) = rest.find(BEGIN) {
        if !is_explanatory(&rest[..start]) {
            return Err(PemError::NotWhole);
        }
        let (label, after) = rest[start + BEGIN.len()..].split_once(DASHES).ok_or(PemError::NotWhole)?;
        let end = [END, label, DASHES].concat();
        let (content, after) = after.split_once(end.as_str()).ok_or(PemError::NotWhole)?;
        // The letters of a second BEGIN or END are base64 too, and it can share its dashes with the one before.
        if content.contains("BEGIN ") || !is_explanatory(content) || goes_on_as_mark(content) || goes_on_as_mark(after)
        {
            return Err(PemError::NotWhole);
        }
        let label = PemLabel::of(label).ok_or_else(|| PemError::other_label(blocks.len() + 1, label))?;
        blocks.push(PemBlock { label, der: decode(content).ok_or(PemError::NotWhole)? });
        rest = after;
    }
    if blocks.is_empty() || !is_explanatory(rest) { Err(PemError::NotWhole) } else { Ok(blocks) }
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
        Some(blocks(text).ok()?.into_iter().map(|block| (block.label, block.der.to_vec())).collect())
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

    #[test]
    fn a_block_of_another_kind_is_named_unless_its_label_may_be_anything() {
        let block = |label: &str| format!("-----BEGIN {label}-----\nAAEC\n-----END {label}-----\n");
        for label in ["X509 CRL", "TRUSTED CERTIFICATE", "PUBLIC KEY", "ENCRYPTED PRIVATE KEY"] {
            let error = PemError::OtherLabel { number: 3, label: label.to_owned() };
            assert_eq!(blocks(&format!("{ONE}{KEY}{}{ONE}", block(label))).err(), Some(error));
        }
        for label in ["hunter2", "A=B", &"A".repeat(41)] {
            assert_eq!(blocks(&block(label)).err(), Some(PemError::NotWhole), "{label}");
        }
    }
}
