//! Times as fio, rtla and systemd spell them: `500us`, `10s`, `5m`; held in nanoseconds.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;

use crate::number::{NumberError, parse_radix, split_number};
use crate::seen::Seen;

/// A span of time in nanoseconds (at most 584 years).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

/// A unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeUnit {
    /// `ns`
    Nano,
    /// `us`
    Micro,
    /// `ms`
    Milli,
    /// `s`
    Second,
    /// `m`
    Minute,
    /// `h`
    Hour,
    /// `d`, 24 hours
    Day,
}

impl TimeUnit {
    /// Every unit, largest first.
    pub const ALL: [Self; 7] =
        [Self::Day, Self::Hour, Self::Minute, Self::Second, Self::Milli, Self::Micro, Self::Nano];

    /// Nanoseconds in one.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        match self {
            Self::Nano => 1,
            Self::Micro => 1_000,
            Self::Milli => 1_000_000,
            Self::Second => 1_000_000_000,
            Self::Minute => 60_000_000_000,
            Self::Hour => 3_600_000_000_000,
            Self::Day => 86_400_000_000_000,
        }
    }

    /// The suffix that names it.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Nano => "ns",
            Self::Micro => "us",
            Self::Milli => "ms",
            Self::Second => "s",
            Self::Minute => "m",
            Self::Hour => "h",
            Self::Day => "d",
        }
    }

    fn from_suffix(suffix: &str) -> Option<Self> {
        if matches!(suffix, "µs" | "μs") {
            return Some(Self::Micro);
        }
        Self::ALL.into_iter().find(|unit| unit.suffix() == suffix)
    }
}

/// A time that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NanosError {
    /// No leading number.
    #[error("time {0} has no number; write it as 500us, 10s or 5m")]
    NoNumber(Seen),
    /// A number without a unit, where none is implied.
    #[error("time {0} has no unit; allowed are ns, us, ms, s, m, h and d")]
    NoUnit(Seen),
    /// A suffix that is no unit.
    #[error("time {0} has an unknown unit; allowed are ns, us, ms, s, m, h and d")]
    Unit(Seen),
    /// More than 64 bits of nanoseconds.
    #[error("time {0} does not fit 64 bits of nanoseconds; the largest is 213503d")]
    TooLarge(Seen),
}

impl Nanos {
    /// The time as a number of nanoseconds.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The time as the standard type.
    #[must_use]
    pub const fn to_duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Parses a time where a bare number counts `bare` units (`-t 10` of `spdk_nvme_perf` is 10 s).
    ///
    /// # Errors
    /// [`NanosError`] says what was seen and what is allowed.
    pub fn parse(text: &str, bare: TimeUnit) -> Result<Self, NanosError> {
        parse(text, Some(bare))
    }
}

fn parse(text: &str, bare: Option<TimeUnit>) -> Result<Nanos, NanosError> {
    let seen = Seen::new(text);
    let (number, suffix) = split_number(text.trim());
    let number = parse_radix(number, 10).map_err(|error| match error {
        NumberError::NotANumber => NanosError::NoNumber(seen),
        NumberError::TooLarge => NanosError::TooLarge(seen),
    })?;
    let unit = match (suffix, number, bare) {
        ("", _, Some(unit)) => unit,
        ("", 0, None) => TimeUnit::Nano,
        ("", _, None) => return Err(NanosError::NoUnit(seen)),
        _ => TimeUnit::from_suffix(suffix).ok_or(NanosError::Unit(seen))?,
    };
    number.checked_mul(unit.nanos()).map(Nanos).ok_or(NanosError::TooLarge(seen))
}

impl FromStr for Nanos {
    type Err = NanosError;

    /// A unit is required, except for zero.
    fn from_str(text: &str) -> Result<Self, NanosError> {
        parse(text, None)
    }
}

/// Prints the largest unit that is exact: `5m`, `90s`, `1500us`.
impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for unit in TimeUnit::ALL {
            if self.0 != 0 && self.0.is_multiple_of(unit.nanos()) {
                return write!(f, "{}{}", self.0 / unit.nanos(), unit.suffix());
            }
        }
        f.write_str("0s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_parse_in_every_unit() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("7ns", 7),
            ("500us", 500_000),
            ("500µs", 500_000),
            ("500μs", 500_000),
            ("20ms", 20_000_000),
            ("10s", 10_000_000_000),
            ("5m", 300_000_000_000),
            ("2h", 7_200_000_000_000),
            ("1d", 86_400_000_000_000),
            (" 10s\n", 10_000_000_000),
            ("213503d", 213_503 * 86_400_000_000_000),
            ("18446744073709551615ns", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Nanos(nanos)), "{text:?}");
        }
    }

    #[test]
    fn a_bare_number_counts_the_implied_unit() {
        assert_eq!(Nanos::parse("10", TimeUnit::Second), Ok(Nanos(10_000_000_000)));
        assert_eq!(Nanos::parse("10", TimeUnit::Micro), Ok(Nanos(10_000)));
        assert_eq!(Nanos::parse("10m", TimeUnit::Micro), Ok(Nanos(600_000_000_000)));
        assert_eq!(Nanos::parse("0", TimeUnit::Day), Ok(Nanos(0)));
    }

    #[test]
    fn a_refused_time_says_what_was_seen_and_what_is_allowed() {
        for (text, message) in [
            ("", "time \"\" has no number; write it as 500us, 10s or 5m"),
            ("-5s", "time \"-5s\" has no number; write it as 500us, 10s or 5m"),
            ("10", "time \"10\" has no unit; allowed are ns, us, ms, s, m, h and d"),
            ("10min", "time \"10min\" has an unknown unit; allowed are ns, us, ms, s, m, h and d"),
            ("1.5s", "time \"1.5s\" has an unknown unit; allowed are ns, us, ms, s, m, h and d"),
            (
                "213504d",
                "time \"213504d\" does not fit 64 bits of nanoseconds; the largest is 213503d",
            ),
        ] {
            let error = text.parse::<Nanos>().expect_err(text);
            assert_eq!(error.to_string(), message);
        }
        for text in ["1M", "1 s", "1S", "1sec", "0xs", "0x10"] {
            assert!(
                matches!(text.parse::<Nanos>(), Err(NanosError::Unit(_) | NanosError::NoNumber(_))),
                "{text:?}"
            );
        }
    }

    #[test]
    fn times_print_with_the_largest_exact_unit() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1500ns"),
            (1_500_000, "1500us"),
            (90_000_000_000, "90s"),
            (300_000_000_000, "5m"),
            (86_400_000_000_000, "1d"),
        ] {
            assert_eq!(Nanos(nanos).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_prints_parses_back(number: u32, unit in 0_usize..7) {
            let nanos = u64::from(number).saturating_mul(TimeUnit::ALL[unit].nanos());
            prop_assert_eq!(Nanos(nanos).to_string().parse(), Ok(Nanos(nanos)));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<Nanos>();
        }
    }
}
