//! Medians of repetitions.

/// The median; the lower of two middle ones, so that it is a value that was measured. `None`
/// without any.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

/// Values of one figure, one a repetition.
#[derive(Clone, Debug, Default)]
pub struct Series(pub Vec<f64>);

impl Series {
    /// Adds what a repetition gave, if it gave anything.
    pub fn push(&mut self, value: Option<f64>) {
        self.0.extend(value);
    }

    /// The median.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        median(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_measured_value() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3.0, 1.0]), Some(1.0));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    }
}
