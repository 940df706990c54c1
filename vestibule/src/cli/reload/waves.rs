//! The waves of a fleet: the first one is one replica, so that a bad version does the least harm.

use std::num::NonZeroUsize;

/// The size of the waves after the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum WaveSize {
    /// Twice as large as the wave before.
    Doubling,
    Count(NonZeroUsize),
    /// From 1 to 100, of the whole fleet.
    Percent(usize),
}

impl WaveSize {
    /// Parses a number, or a percentage.
    ///
    /// # Errors
    /// If it is neither.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, &'static str> {
        let number = text.strip_suffix('%').unwrap_or(text).parse::<NonZeroUsize>();
        match (number, text.ends_with('%')) {
            (_, _) if text == "double" => Ok(Self::Doubling),
            (Ok(percent), true) if percent.get() <= 100 => Ok(Self::Percent(percent.get())),
            (Ok(replicas), false) => Ok(Self::Count(replicas)),
            _ => Err("give a number of replicas such as 5, a part of the fleet such as 25%, or `double`"),
        }
    }

    /// Splits a fleet into waves.
    pub(super) fn split<T>(self, mut fleet: &[T]) -> Vec<&[T]> {
        let (all, mut waves, mut size) = (fleet.len(), Vec::new(), 1);
        while !fleet.is_empty() {
            let (wave, rest) = fleet.split_at(size.min(fleet.len()));
            waves.push(wave);
            fleet = rest;
            size = match self {
                Self::Doubling => size * 2,
                Self::Count(replicas) => replicas.get(),
                Self::Percent(percent) => (all * percent).div_ceil(100),
            };
        }
        waves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(wave: &str, replicas: usize) -> Vec<usize> {
        let fleet: Vec<_> = (0..replicas).collect();
        let waves = WaveSize::parse(wave).expect("a size").split(&fleet);
        assert_eq!(waves.concat(), fleet, "each replica is in one wave");
        waves.iter().map(|wave| wave.len()).collect()
    }

    #[test]
    fn the_first_wave_is_one_replica() {
        assert_eq!(sizes("double", 12), [1, 2, 4, 5]);
        assert_eq!(sizes("5", 12), [1, 5, 5, 1]);
        assert_eq!(sizes("25%", 12), [1, 3, 3, 3, 2]);
        assert_eq!(sizes("100%", 12), [1, 11]);
        assert_eq!(sizes("1%", 3), [1, 1, 1], "a wave has one replica at least");
        assert_eq!(sizes("double", 1), [1]);
        assert_eq!(sizes("double", 0), [0; 0]);
    }

    #[test]
    fn a_size_is_a_number_or_a_part() {
        for text in ["", "0", "0%", "101%", "-1", "%", "half", "5 %"] {
            assert!(WaveSize::parse(text).unwrap_err().contains("such as 25%"), "{text}");
        }
    }
}
