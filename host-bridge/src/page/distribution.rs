//! A distribution of times as a report holds it: drawn, told, and as a file of HdrHistogram's.
//!
//! Such a file (`.hgrm`) is HdrHistogram's percentile output, with values in microseconds; its
//! plotters read it, and so does [`Distribution::parse_hgrm`], so that what another run or another
//! program measured stands on the same axes.

use std::fmt::Write as _;

use super::whole;

/// Counts by upper bound. Invariant: bounds ascend, and no count is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    buckets: Vec<(u64, u64)>,
    sum_ns: u64,
    max_ns: u64,
}

impl Distribution {
    /// Of upper bounds in nanoseconds, ascending, and counts. A bound that comes again, as after a
    /// change of units, is the same bucket.
    #[must_use]
    pub fn new(buckets: impl IntoIterator<Item = (u64, u64)>, sum_ns: u64, max_ns: u64) -> Self {
        let mut kept: Vec<(u64, u64)> = Vec::new();
        for (upper, count) in buckets.into_iter().filter(|(_, count)| *count != 0) {
            let upper = upper.min(max_ns);
            match kept.last_mut() {
                Some((last, counted)) if upper <= *last => *counted += count,
                _ => kept.push((upper, count)),
            }
        }
        Self { buckets: kept, sum_ns, max_ns }
    }

    /// Upper bounds, ascending, and their counts.
    #[must_use]
    pub fn buckets(&self) -> &[(u64, u64)] {
        &self.buckets
    }

    /// The greatest.
    #[must_use]
    pub const fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// All of them together.
    #[must_use]
    pub const fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Their mean; 0 without any.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count()).unwrap_or(0)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// The value that so many do not exceed; 0 without any.
    #[must_use]
    pub fn quantile(&self, parts_per_million: u32) -> u64 {
        let rank = (u128::from(self.count()) * u128::from(parts_per_million)).div_ceil(1_000_000);
        let mut seen = 0_u128;
        let found = self.buckets.iter().find(|(_, count)| {
            seen += u128::from(*count);
            seen >= rank.max(1)
        });
        found.map_or(0, |(upper, _)| *upper)
    }

    /// As HdrHistogram's tools read it.
    #[must_use]
    pub fn hgrm(&self) -> String {
        let total = self.count();
        let mut out = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
        let us = |ns: u64| ns as f64 / 1e3;
        let mut seen = 0;
        for (upper, count) in &self.buckets {
            seen += count;
            let (value, share) = (us(*upper), seen as f64 / total.max(1) as f64);
            let _ = write!(out, "{value:12.3} {share:2.12} {seen:10}");
            let _ = match seen == total {
                true => writeln!(out),
                false => writeln!(out, " {:14.2}", 1.0 / (1.0 - share)),
            };
        }
        let mean = us(self.sum_ns) / total.max(1) as f64;
        let off = |(upper, count): &(u64, u64)| *count as f64 * (us(*upper) - mean).powi(2);
        let deviation = self.buckets.iter().map(off).sum::<f64>() / total.max(1) as f64;
        let _ = write!(
            out,
            "#[Mean    = {mean:12.3}, StdDeviation   = {:12.3}]\n\
             #[Max     = {:12.3}, Total count    = {total:12}]\n\
             #[Buckets = {:12}, SubBuckets     = {:12}]\n",
            deviation.sqrt(),
            us(self.max_ns),
            64,
            32
        );
        out
    }

    /// Reads such a file, of whatever program, whose values are microseconds.
    ///
    /// # Errors
    /// The first line that does not belong there, or that there is no value in it.
    pub fn parse_hgrm(text: &str) -> Result<Self, String> {
        let (mut buckets, mut seen, mut sum) = (Vec::new(), 0, 0.0);
        for (at, line) in text.lines().enumerate() {
            let words: Vec<_> = line.split_whitespace().collect();
            let first = words.first().copied().unwrap_or("#");
            if first.starts_with('#') || first == "Value" {
                continue;
            }
            let number = |word: usize| words.get(word).and_then(|word| word.parse::<f64>().ok());
            let count = words.get(2).and_then(|word| word.parse::<u64>().ok());
            let (Some(us), Some(_), Some(count)) = (number(0), number(1), count) else {
                return Err(format!(
                    "line {}: it has no value, percentile and count: {line}",
                    at + 1
                ));
            };
            let ns = (us * 1e3).round();
            let last = buckets.last().map_or(0, |(ns, _)| *ns);
            if !(0.0..1e18).contains(&ns) || whole(ns) < last || count < seen {
                return Err(format!("line {}: values and counts have to ascend: {line}", at + 1));
            }
            sum += ns * (count - seen) as f64;
            buckets.push((whole(ns), count - seen));
            seen = count;
        }
        match buckets.last() {
            Some((max, _)) if seen != 0 => Ok(Self::new(buckets.clone(), whole(sum), *max)),
            _ => Err("it holds no value; HdrHistogram's percentile output is read".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_file_has_the_columns_of_hdrhistogram() {
        let text = Distribution::new([(999, 0), (1000, 3), (5000, 1)], 7000, 4000).hgrm();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().count(), 4);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(lines[2]), ["1.000", "0.750000000000", "3", "4.00"]);
        assert_eq!(words(lines[3]), ["4.000", "1.000000000000", "4"]);
        assert!(lines[4].starts_with("#[Mean    =        1.750,"), "{text}");
        assert!(lines[5].contains("Total count    =            4]"), "{text}");
    }

    #[test]
    fn a_percentile_file_is_read_back() {
        let written = Distribution::new([(700, 2), (1000, 30), (5000, 1), (90_000, 1)], 0, 80_000);
        let read = Distribution::parse_hgrm(&written.hgrm()).expect("ours");
        assert_eq!((read.buckets(), read.max_ns()), (written.buckets(), written.max_ns()));
        // Another program's: percentiles are repeated, and the last line has an infinite one.
        let text = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n\
                    0.500 0.0 1 1.00\n0.500 0.1 1 1.11\n 2.0 0.75 3 4.00\n 2.0 1.0 3 inf\n\
                    #[Mean = 1.0, StdDeviation = 0.1]\n";
        let read = Distribution::parse_hgrm(text).expect("HdrHistogram's");
        assert_eq!((read.buckets(), read.max_ns()), (&[(500, 1), (2000, 2)][..], 2000));
        for (text, says) in [
            ("", "holds no value"),
            ("#[Max = 1]\n", "holds no value"),
            ("<html>\n", "line 1: it has no value"),
            ("1.0 0.5 2\n0.5 0.7 3\n", "line 2: values and counts have to ascend"),
            ("1.0 0.5 2\n1.5 0.7 1\n", "line 2: values"),
            ("NaN 0.5 2\n", "line 1: values"),
            ("-1 0.5 2\n", "line 1: values"),
        ] {
            let error = Distribution::parse_hgrm(text).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn quantiles_are_upper_bounds_and_never_above_the_greatest() {
        let values = Distribution::new([(10, 50), (20, 49), (1000, 1)], 0, 900);
        assert_eq!(values.quantile(500_000), 10);
        assert_eq!((values.quantile(990_000), values.quantile(1_000_000)), (20, 900));
        assert_eq!((Distribution::default().quantile(500_000), values.count()), (0, 100));
        let values = Distribution::new([(10, 2), (30, 1)], 47, 30);
        assert_eq!((values.mean_ns(), Distribution::default().mean_ns()), (15, 0));
    }
}
