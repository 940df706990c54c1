//! The comparison of a generation with the one that it replaced: did the rotation do harm?

use crate::generation_usage::{Answers, GenerationUsage};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// The number of answers from which on a comparison says something.
const ENOUGH_ANSWERS: u64 = 20;

/// The last rotation: the generation in service, and the one that it replaced.
#[derive(Clone)]
pub(crate) struct LastRotation {
    pub(super) generation: u64,
    pub(super) usage: Arc<GenerationUsage>,
    pub(super) replaced: u64,
    /// The answers of the replaced generation until then.
    pub(super) before: Answers,
}

/// A [`LastRotation`] as `/status` shows it.
#[derive(Serialize, Deserialize)]
pub(crate) struct RotationStatus {
    pub(crate) generation: u64,
    replaced: u64,
    before: AnswerStatus,
    after: AnswerStatus,
    pub(crate) verdict: RotationVerdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct AnswerStatus {
    requests: u64,
    /// The answers with a status from 500 on.
    errors: u64,
    /// The mean time until a response began.
    mean_ms: f64,
}

/// The verdict on a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RotationVerdict {
    /// One of both generations has answered fewer than 20 requests.
    TooEarly,
    /// The share of errors is more than twice as high as before, and more than 1 % higher.
    MoreErrors,
    /// The mean time is more than twice as long as before, and more than 5 ms longer.
    Slower,
    Good,
}

impl From<Answers> for AnswerStatus {
    fn from(answers: Answers) -> Self {
        let mean_ms = answers.microseconds as f64 / 1000.0 / answers.answered.max(1) as f64;
        Self { requests: answers.answered, errors: answers.failed, mean_ms: (mean_ms * 1000.0).round() / 1000.0 }
    }
}

impl AnswerStatus {
    fn error_rate(self) -> f64 {
        self.errors as f64 / self.requests.max(1) as f64
    }
}

impl LastRotation {
    /// Compares the answers until now.
    pub(super) fn status(&self) -> RotationStatus {
        let (before, after) = (self.before.into(), self.usage.answers().into());
        let verdict = RotationVerdict::of(before, after);
        RotationStatus { generation: self.generation, replaced: self.replaced, before, after, verdict }
    }
}

impl Serialize for LastRotation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.status().serialize(serializer)
    }
}

impl RotationVerdict {
    fn of(before: AnswerStatus, after: AnswerStatus) -> Self {
        if before.requests.min(after.requests) < ENOUGH_ANSWERS {
            Self::TooEarly
        } else if after.error_rate() > 2.0 * before.error_rate() && after.error_rate() > before.error_rate() + 0.01 {
            Self::MoreErrors
        } else if after.mean_ms > 2.0 * before.mean_ms && after.mean_ms > before.mean_ms + 5.0 {
            Self::Slower
        } else {
            Self::Good
        }
    }
}

impl fmt::Display for RotationVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooEarly => "too early to compare",
            Self::MoreErrors => "more errors than before",
            Self::Slower => "slower than before",
            Self::Good => "as before",
        })
    }
}

impl fmt::Display for AnswerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, errors, mean_ms } = self;
        write!(f, "{requests} requests, {errors} errors, {mean_ms:.1} ms on average")
    }
}

impl fmt::Display for RotationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, replaced, before, after, verdict } = self;
        write!(f, "{verdict}: generation {generation}: {after}; generation {replaced}: {before}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{Instant, advance};

    fn answers(requests: u64, errors: u64, mean_ms: f64) -> AnswerStatus {
        AnswerStatus { requests, errors, mean_ms }
    }

    #[test]
    fn a_rotation_is_judged_by_its_errors_and_its_times() {
        let calm = answers(1000, 0, 4.0);
        for (after, verdict) in [
            (answers(19, 19, 400.0), RotationVerdict::TooEarly),
            (answers(1000, 0, 8.9), RotationVerdict::Good),
            (answers(1000, 10, 4.0), RotationVerdict::Good),
            (answers(1000, 11, 4.0), RotationVerdict::MoreErrors),
            (answers(1000, 0, 9.1), RotationVerdict::Slower),
        ] {
            assert_eq!(RotationVerdict::of(calm, after), verdict, "{after}");
        }
        assert_eq!(RotationVerdict::of(answers(5, 0, 4.0), calm), RotationVerdict::TooEarly);
        let troubled = answers(100, 20, 50.0);
        assert_eq!(RotationVerdict::of(troubled, answers(100, 39, 99.0)), RotationVerdict::Good);
    }

    #[tokio::test(start_paused = true)]
    async fn the_mean_is_that_of_all_answers() {
        let (usage, started) = (GenerationUsage::default(), Instant::now());
        advance(Duration::from_micros(1500)).await;
        usage.answered(false, started);
        advance(Duration::from_micros(1000)).await;
        usage.answered(true, started);
        assert_eq!(AnswerStatus::from(usage.answers()), answers(2, 1, 2.0));
    }
}
