//! How long a command takes: nothing, a constant, a uniform range, or a histogram.

use crate::rng::Rng;

/// Time from the fetch of an I/O command to its completion, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LatencyModel {
    /// Completed in the step that fetched it.
    #[default]
    None,
    /// Always the same.
    FixedNs(u64),
    /// Anything from `min` to `max`, both included, equally likely.
    UniformNs {
        /// Shortest.
        min: u64,
        /// Longest.
        max: u64,
    },
    /// Pairs of latency and weight; a weight of 0 never happens.
    Histogram(Vec<(u64, u32)>),
}

impl LatencyModel {
    /// Whether every command completes at once.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Draws a latency. An empty histogram gives 0.
    pub(crate) fn draw(&self, rng: &mut Rng) -> u64 {
        match self {
            Self::None => 0,
            Self::FixedNs(ns) => *ns,
            Self::UniformNs { min, max } => {
                let width = max.saturating_sub(*min).saturating_add(1);
                min.saturating_add(rng.below(width))
            }
            Self::Histogram(buckets) => {
                let total: u64 = buckets.iter().map(|(_, weight)| u64::from(*weight)).sum();
                let mut at = rng.below(total);
                for (ns, weight) in buckets {
                    match at.checked_sub(u64::from(*weight)) {
                        Some(rest) => at = rest,
                        None => return *ns,
                    }
                }
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_latencies_include_both_ends() {
        let model = LatencyModel::UniformNs { min: 10, max: 12 };
        let mut rng = Rng::new(7);
        let drawn: std::collections::BTreeSet<_> = (0..200).map(|_| model.draw(&mut rng)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [10, 11, 12]);
    }

    #[test]
    fn histogram_weights_are_kept() {
        let model = LatencyModel::Histogram(vec![(5, 9), (7, 0), (100, 1)]);
        let mut rng = Rng::new(3);
        let slow = (0..10_000).filter(|_| model.draw(&mut rng) == 100).count();
        assert!((800..1_200).contains(&slow), "{slow} of 10000");
        assert_eq!(LatencyModel::Histogram(vec![]).draw(&mut rng), 0);
    }
}
