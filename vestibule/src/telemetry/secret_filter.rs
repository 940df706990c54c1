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
            let (word, bit) = place(*group);
            self.0[word] |= bit;
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Returns ranges that have the first byte of each secret in a text, and few other places. Use `for_each`: the log
    /// looks at all that it writes, and a `for` loop would cost three times as much.
    pub(super) fn starts(&self, text: &[u8]) -> impl Iterator<Item = RangeInclusive<usize>> {
        let (strides, rest) = text.as_chunks::<STRIDE>();
        // Most runs have no known group: one branch for all of them costs less than one for each.
        let runs = strides.chunks(RUN).enumerate().filter(|(_, run)| match run.as_array::<RUN>() {
            Some(run) => run.iter().fold(false, |any, stride| any | self.knows(stride)),
            None => true,
        });
        let of_runs = runs.flat_map(|(number, run)| (number * RUN..).zip(run).filter(|(_, stride)| self.knows(stride)));
        let rest = rest.first_chunk().filter(|group| self.has(**group)).map(|_| strides.len());
        let known = of_runs.map(|(number, _)| number).chain(rest);
        known.map(|number| (number * STRIDE).saturating_sub(STRIDE - 1)..=number * STRIDE)
    }

    /// Returns `true` if a stride begins with a known group.
    fn knows(&self, stride: &[u8; STRIDE]) -> bool {
        stride.first_chunk().is_some_and(|group| self.has(*group))
    }

    fn has(&self, group: [u8; GROUP]) -> bool {
        let (word, bit) = place(group);
        self.0[word] & bit != 0
    }
}

/// Returns the word of the filter that has the bit of a group, and the bit.
fn place(group: [u8; GROUP]) -> (usize, u64) {
    let group = u32::from_le_bytes(group);
    // The golden ratio: near groups get bits that are far from each other.
    let bit = group.wrapping_mul(0x9e37_79b9) / (u32::MAX / BITS + 1);
    (bit as usize / 64, 1 << (bit % 64))
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
