//! Numbers for eyes: rounded, with a unit, never parsed back. Machines get plain integers.
//!
//! Everything is integer arithmetic, so that a report is the same on every machine.

use core::fmt;

/// A count with thousands separators: `5,000,000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u64);

/// A count in powers of 1000 with three or four digits: `2.31 M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Si(pub u64);

/// Bytes in powers of 1024: `1.5 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanBytes(pub u64);

/// A duration in nanoseconds: `3.2 us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HumanNanos(pub u64);

/// Text built on the stack before padding; 32 bytes hold the longest form, `u64::MAX` with commas.
struct Line {
    bytes: [u8; 32],
    len: usize,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: [0; 32], len: 0 }
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Formats through a [`Line`], so that width and alignment of the formatter work.
fn padded(f: &mut fmt::Formatter<'_>, args: fmt::Arguments<'_>) -> fmt::Result {
    let mut line = Line::new();
    fmt::Write::write_fmt(&mut line, args)?;
    f.pad(line.as_str())
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Line::new();
        let mut started = false;
        for power in (0..7).rev() {
            let group = self.0 / 1000_u64.pow(power) % 1000;
            if started {
                fmt::Write::write_fmt(&mut line, format_args!(",{group:03}"))?;
            } else if group != 0 || power == 0 {
                fmt::Write::write_fmt(&mut line, format_args!("{group}"))?;
                started = true;
            }
        }
        f.pad(line.as_str())
    }
}

/// The smallest unit whose rounded figure is below `step`, and the figure in `1 / parts` of it.
///
/// Rounding comes first, so that 999.95 us prints as `1.0 ms` and never as `1000.0 us`.
fn scale(value: u64, units: &[(&'static str, u64)], step: u64, parts: u64) -> (u128, &'static str) {
    let mut chosen = (0, "");
    for &(name, size) in units {
        let size = u128::from(size);
        chosen = ((u128::from(value) * u128::from(parts) + size / 2) / size, name);
        if chosen.0 < u128::from(step * parts) {
            break;
        }
    }
    chosen
}

impl fmt::Display for Si {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000), ("T", 1_000_000_000_000)];
        if self.0 < 1_000 {
            return padded(f, format_args!("{}", self.0));
        }
        let (figure, unit) = scale(self.0, &UNITS, 1000, 100);
        padded(f, format_args!("{}.{:02} {unit}", figure / 100, figure % 100))
    }
}

impl fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
        if self.0 < 1024 {
            return padded(f, format_args!("{} B", self.0));
        }
        let (figure, unit) = scale(self.0, &UNITS, 1024, 10);
        padded(f, format_args!("{}.{} {unit}", figure / 10, figure % 10))
    }
}

impl fmt::Display for HumanNanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 3] = [("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
        if self.0 < 1_000 {
            return padded(f, format_args!("{} ns", self.0));
        }
        let (figure, unit) = scale(self.0, &UNITS, 1000, 10);
        padded(f, format_args!("{}.{} {unit}", figure / 10, figure % 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_have_thousands_separators() {
        for (count, text) in [
            (0, "0"),
            (7, "7"),
            (999, "999"),
            (1_000, "1,000"),
            (1_050, "1,050"),
            (5_000_000, "5,000,000"),
            (1_000_000_007, "1,000,000,007"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(Count(count).to_string(), text);
        }
    }

    #[test]
    fn bytes_round_to_a_tenth_and_carry_into_the_next_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            (256 << 20, "256.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(HumanBytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn durations_round_to_a_tenth_and_carry_into_the_next_unit() {
        for (nanos, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.0 us"),
            (3_249, "3.2 us"),
            (3_250, "3.3 us"),
            (999_949, "999.9 us"),
            (999_950, "1.0 ms"),
            (1_500_000_000, "1.5 s"),
            (3_600_000_000_000, "3600.0 s"),
            (u64::MAX, "18446744073.7 s"),
        ] {
            assert_eq!(HumanNanos(nanos).to_string(), text);
        }
    }

    #[test]
    fn rates_have_two_decimals() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.00 k"),
            (2_310_000, "2.31 M"),
            (999_995, "1.00 M"),
            (999_994, "999.99 k"),
            (u64::MAX, "18446744.07 T"),
        ] {
            assert_eq!(Si(count).to_string(), text);
        }
    }

    #[test]
    fn width_and_alignment_of_the_formatter_work() {
        assert_eq!(format!("[{:>8}]", Count(1_000)), "[   1,000]");
        assert_eq!(format!("[{:<10}]", HumanBytes(1_024)), "[1.0 KiB   ]");
        assert_eq!(format!("[{:>10}]", HumanNanos(3_200)), "[    3.2 us]");
        assert_eq!(format!("[{:^10}]", Si(5)), "[    5     ]");
    }

    proptest! {
        #[test]
        fn counts_without_commas_are_the_number(count: u64) {
            let text = Count(count).to_string();
            prop_assert_eq!(text.replace(',', ""), count.to_string());
        }

        #[test]
        fn every_value_prints(value: u64) {
            for text in [Si(value).to_string(), HumanBytes(value).to_string(),
                         HumanNanos(value).to_string()] {
                prop_assert!(!text.is_empty() && text.len() <= 26);
            }
        }
    }
}
