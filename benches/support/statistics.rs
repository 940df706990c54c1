//! Medians of rounds.

/// The values of one measure, one for each round.
#[derive(Clone, Default)]
pub(crate) struct Rounds(pub(crate) Vec<f64>);

impl Rounds {
    /// Returns the median.
    pub(crate) fn median(&self) -> f64 {
        self.sorted()[self.0.len() / 2]
    }

    /// Returns the ratio to another measure, round by round.
    pub(crate) fn ratio(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// Returns the median, and the quartiles in brackets.
    pub(crate) fn summary(&self) -> String {
        let (sorted, count) = (self.sorted(), self.0.len());
        format!("{:.2} [{:.2}, {:.2}]", self.median(), sorted[count / 4], sorted[count * 3 / 4])
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted
    }
}
