//! The part of a private key that its certificate does not show.

use crate::secrets::secret_parts::SecretParts;
use std::ops::Range;
use x509_cert::der::{Decode, Reader, SliceReader, Tag, Tagged, asn1::AnyRef};

/// The deepest element that is looked into. Those of keys are at most four deep. Without a limit, a key that is nested without
/// end would use up the stack.
const DEEPEST: usize = 8;

/// The places of a private key's secret values. The rest of the key is public: the modulus or the point is in the certificate,
/// and every key of an algorithm begins with the same bytes.
pub(super) struct PrivateValues(Vec<Range<usize>>);

impl PrivateValues {
    /// Returns those of a key in DER, whose certificate this is. If the key cannot be read, all of it is secret.
    pub(super) fn of(key: &[u8], certificate: &[u8]) -> Self {
        let mut values = Vec::new();
        if add_values(key, 0..key.len(), DEEPEST, &mut values).is_none() {
            values.clear();
            values.push(0..key.len());
        }
        values.retain(|value| value.len() >= SecretParts::SHORTEST && !is_in(certificate, &key[value.clone()]));
        Self(values)
    }

    /// Returns `true` if the byte at this place is a part of a secret value.
    pub(super) fn contain(&self, place: usize) -> bool {
        self.0.iter().any(|value| value.contains(&place))
    }
}

/// Adds the place of each value in a part of a key: of each element of DER that has no elements in it. Returns `None` if the
/// part is not DER, or lies deeper than `levels`.
fn add_values(key: &[u8], part: Range<usize>, levels: usize, values: &mut Vec<Range<usize>>) -> Option<()> {
    let levels = levels.checked_sub(1)?;
    let mut reader = SliceReader::new(&key[part.clone()]).ok()?;
    while !reader.is_finished() {
        let element = AnyRef::decode(&mut reader).ok()?;
        let end = part.start + usize::try_from(reader.position()).ok()?;
        let content = end - element.value().len()..end;
        let count = values.len();
        if !may_have_elements(element) || add_values(key, content.clone(), levels, values).is_none() {
            values.truncate(count);
            values.push(content);
        }
    }
    Some(())
}

/// Returns `true` for a constructed element, and for a string of bytes that begins as PKCS #8 writes a key into one: with
/// another element (RFC 5958, RFC 8410).
fn may_have_elements(element: AnyRef<'_>) -> bool {
    let begins_with_element = matches!(element.value(), [0x30 | 0x04, ..]);
    element.tag().is_constructed() || (element.tag() == Tag::OctetString && begins_with_element)
}

fn is_in(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_that_is_nested_without_end_is_one_value() {
        // 20,000 sequences, each in the one before.
        let mut key = Vec::new();
        for _ in 0..20_000 {
            let length = u32::try_from(key.len()).unwrap();
            let mut head = vec![0x30];
            match length {
                0..=0x7f => head.push(u8::try_from(length).unwrap()),
                0x80..=0xff => head.extend([0x81, u8::try_from(length).unwrap()]),
                0x100..=0xffff => head.extend([&[0x82], &length.to_be_bytes()[2..]].concat()),
                _ => head.extend([&[0x83], &length.to_be_bytes()[1..]].concat()),
            }
            key.splice(0..0, head);
        }
        let values = PrivateValues::of(&key, &[]);
        assert!(values.contain(key.len() / 2) && !values.contain(0));
    }
}
