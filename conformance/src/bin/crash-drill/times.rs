//! Percentiles of few samples.

use std::fmt;
use std::time::Duration;

use hybrid_conventions::HumanNanos;

/// Samples of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The smallest sample that `percent` of all do not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = |percent| {
            HumanNanos(u64::try_from(self.percentile(percent).as_nanos()).unwrap_or(u64::MAX))
        };
        let (p50, p99, max) =
            (nanos(50).to_string(), nanos(99).to_string(), nanos(100).to_string());
        write!(f, "{:>9}{p50:>11}{p99:>11}{max:>11}", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let mut times = Times::default();
        assert_eq!(times.percentile(50), Duration::ZERO);
        (1..=100).rev().for_each(|ms| times.add(Duration::from_millis(ms)));
        let ms = |percent| times.percentile(percent).as_millis();
        assert_eq!((ms(50), ms(99), ms(100)), (50, 99, 100));
    }
}
