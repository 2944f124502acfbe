//! Sizes as fio, SPDK and the kernel's command line spell them: `4k`, `2M`, `1G`.

use core::fmt;
use core::str::FromStr;

use crate::number::{NumberError, parse_u64, split_number};
use crate::seen::Seen;

/// A size in bytes; suffixes are powers of 1024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A size that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// No leading number.
    #[error("size {0} has no number; write it as 512, 4k, 2M or 1G")]
    NoNumber(Seen),
    /// A suffix that is none of ours, or one that some read as 1000 and some as 1024.
    #[error("size {0} has an unknown suffix; allowed are k, M, G and T (powers of 1024, also KiB)")]
    Suffix(Seen),
    /// More than 64 bits of bytes.
    #[error("size {0} does not fit 64 bits; the largest is 18446744073709551615")]
    TooLarge(Seen),
}

/// Suffixes, largest first, with their shift.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('k', 10)];

impl Bytes {
    /// The size as a number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The shift of a suffix: nothing or `B` is bytes; a letter may be followed by `i` or `iB`.
fn shift_of(suffix: &str) -> Option<u32> {
    if matches!(suffix, "" | "B" | "b") {
        return Some(0);
    }
    let mut chars = suffix.chars();
    let letter = chars.next()?;
    if !matches!(chars.as_str(), "" | "i" | "iB") {
        return None;
    }
    UNITS.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(&letter)).map(|&(_, shift)| shift)
}

impl FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, BytesError> {
        let seen = Seen::new(text);
        let (number, suffix) = split_number(text.trim());
        let number = parse_u64(number).map_err(|error| match error {
            NumberError::NotANumber => BytesError::NoNumber(seen),
            NumberError::TooLarge => BytesError::TooLarge(seen),
        })?;
        let shift = shift_of(suffix).ok_or(BytesError::Suffix(seen))?;
        number.checked_mul(1 << shift).map(Self).ok_or(BytesError::TooLarge(seen))
    }
}

/// Prints the largest suffix that is exact: `4k`, `2M`, but `4097`.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_powers_of_1024_in_every_spelling() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("512b", 512),
            ("4k", 4096),
            ("4K", 4096),
            ("4Ki", 4096),
            ("4KiB", 4096),
            ("4kiB", 4096),
            ("2M", 2 << 20),
            ("2m", 2 << 20),
            ("1G", 1 << 30),
            ("1GiB", 1 << 30),
            ("3T", 3 << 40),
            ("0x1000", 4096),
            ("0x10k", 16384),
            (" 1G\n", 1 << 30),
            ("18446744073709551615", u64::MAX),
            ("16777215T", 16_777_215 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text:?}");
        }
    }

    #[test]
    fn a_refused_size_says_what_was_seen_and_what_is_allowed() {
        for (text, message) in [
            ("", "size \"\" has no number; write it as 512, 4k, 2M or 1G"),
            ("k", "size \"k\" has no number; write it as 512, 4k, 2M or 1G"),
            ("-1k", "size \"-1k\" has no number; write it as 512, 4k, 2M or 1G"),
            (
                "4kB",
                "size \"4kB\" has an unknown suffix; allowed are k, M, G and T \
                 (powers of 1024, also KiB)",
            ),
            (
                "1.5G",
                "size \"1.5G\" has an unknown suffix; allowed are k, M, G and T \
                 (powers of 1024, also KiB)",
            ),
            (
                "16777216T",
                "size \"16777216T\" does not fit 64 bits; the largest is 18446744073709551615",
            ),
            (
                "18446744073709551616",
                "size \"18446744073709551616\" does not fit 64 bits; \
                 the largest is 18446744073709551615",
            ),
        ] {
            let error = text.parse::<Bytes>().expect_err(text);
            assert_eq!(error.to_string(), message);
        }
        for text in ["4 k", "4kk", "4E", "4KIB", "4i", "4iB", "1,000"] {
            assert!(matches!(text.parse::<Bytes>(), Err(BytesError::Suffix(_))), "{text:?}");
        }
    }

    #[test]
    fn sizes_print_with_the_largest_exact_suffix() {
        for (bytes, text) in [
            (0, "0"),
            (512, "512"),
            (4096, "4k"),
            (4097, "4097"),
            (1536, "1536"),
            (3 << 20, "3M"),
            (1 << 30, "1G"),
            (5 << 50, "5120T"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_prints_parses_back(mantissa: u32, shift in 0_u32..32) {
            let bytes = Bytes(u64::from(mantissa) << shift);
            prop_assert_eq!(bytes.to_string().parse(), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<Bytes>();
        }
    }
}
