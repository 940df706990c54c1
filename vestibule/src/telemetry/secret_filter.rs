//! A filter that finds the places of a text at which a secret may begin. It costs the same for any number of secrets, until
//! they are thousands.

use crate::secrets::secret_parts::SecretParts;
use std::ops::RangeInclusive;

/// The length of a group, in bytes.
const GROUP: usize = 4;

/// The distance of the groups at which the filter looks. A secret has [`SecretParts::SHORTEST`] bytes at least. So a whole
/// group of it is at a multiple of this, wherever it begins.
const STRIDE: usize = SecretParts::SHORTEST - GROUP + 1;

/// The number of strides that the filter looks at together.
const RUN: usize = 8;

/// The bits of the filter. A service has some hundred groups, so few other ones share a bit with them.
const BITS: u32 = 1 << 16;

/// A filter with a bit for each of the first groups of each secret.
pub(super) struct SecretFilter([u64; BITS as usize / 64]);

impl SecretFilter {
    pub(super) const fn new() -> Self {
        Self([0; BITS as usize / 64])
    }

    pub(super) fn add(&mut self, secret: &[u8]) {
        debug_assert!(secret.len() >= SecretParts::SHORTEST, "a shorter one would not be found");
        for group in secret.windows(GROUP).filter_map(<[u8]>::first_chunk).take(STRIDE) {
            let bit = bit_of(*group);
            self.0[bit / 64] |= 1 << (bit % 64);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Returns ranges that have the first byte of each secret in a text, and few other places. Use `for_each`: the log
    /// looks at all that it writes, and a `for` loop would cost three times as much.
    pub(super) fn starts(&self, text: &[u8]) -> impl Iterator<Item = RangeInclusive<usize>> {
        // Most runs have no known group: one branch for all of them costs less than one for each.
        let runs = text.chunks(RUN * STRIDE).enumerate().filter(|(_, run)| match run.as_array() {
            Some::<&[_; RUN * STRIDE]>(run) => {
                run.chunks(STRIDE).fold(0, |any, stride| any | self.word(stride)) & 1 == 1
            }
            None => true,
        });
        let strides = runs.flat_map(|(number, run)| (number * RUN..).zip(run.chunks(STRIDE)));
        let known = strides.filter(|(_, stride)| self.word(stride) & 1 == 1).map(|(number, _)| number);
        known.map(|number| (number * STRIDE).saturating_sub(STRIDE - 1)..=number * STRIDE)
    }

    /// Returns a word of the filter, whose last bit is 1 if a text begins with a known group. Its other bits say nothing.
    fn word(&self, text: &[u8]) -> u64 {
        let Some(group) = text.first_chunk() else { return 0 };
        let bit = bit_of(*group);
        self.0[bit / 64] >> (bit % 64)
    }
}

/// Returns the number of the bit of a group.
fn bit_of(group: [u8; GROUP]) -> usize {
    // The golden ratio: near groups get bits that are far from each other.
    let bit = u32::from_le_bytes(group).wrapping_mul(0x9e37_79b9) / (u32::MAX / BITS + 1);
    bit as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_wherever_it_begins() {
        let secrets: [&[u8]; 2] = [b"k7XbZq0w", b"wh_4f9c2b71d0e84a6f"];
        let mut filter = SecretFilter::new();
        secrets.into_iter().for_each(|secret| filter.add(secret));
        for (secret, start) in secrets.into_iter().flat_map(|secret| (0..100).map(move |start| (secret, start))) {
            for end in [0, 1, 9, 50] {
                let text = [&vec![b'.'; start], secret, &vec![b'.'; end]].concat();
                assert!(filter.starts(&text).any(|range| range.contains(&start)), "{start} and {end}");
            }
        }
        filter.clear();
        assert_eq!(filter.starts(&[b'k'; 100]).count(), 0);
    }
}
