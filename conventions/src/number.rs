//! Strict numbers: digits only, no sign, no separators, no overflow.
//!
//! `u64::from_str` takes a leading `+`, which none of our spellings has.

/// Why a number was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberError {
    /// No digit, or something else than digits.
    NotANumber,
    /// More than 64 bits.
    TooLarge,
}

/// Parses decimal digits, or hexadecimal ones after `0x`.
pub(crate) fn parse_u64(text: &str) -> Result<u64, NumberError> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => parse_radix(digits, 16),
        None => parse_radix(text, 10),
    }
}

/// Parses digits of `radix` (at most 36).
pub(crate) fn parse_radix(digits: &str, radix: u32) -> Result<u64, NumberError> {
    if digits.is_empty() || !digits.bytes().all(|b| char::from(b).is_digit(radix)) {
        return Err(NumberError::NotANumber);
    }
    u64::from_str_radix(digits, radix).map_err(|_| NumberError::TooLarge)
}

/// Splits `text` after its leading number: decimal digits, or `0x` and hexadecimal ones.
pub(crate) fn split_number(text: &str) -> (&str, &str) {
    let hex = text.starts_with("0x") || text.starts_with("0X");
    let (skip, radix) = if hex { (2, 16) } else { (0, 10) };
    let digits =
        text.as_bytes()[skip..].iter().take_while(|b| char::from(**b).is_digit(radix)).count();
    text.split_at(skip + digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_only() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(NumberError::TooLarge)),
            ("0x10", Ok(16)),
            ("0XfF", Ok(255)),
            ("0x", Err(NumberError::NotANumber)),
            ("", Err(NumberError::NotANumber)),
            ("+1", Err(NumberError::NotANumber)),
            ("-1", Err(NumberError::NotANumber)),
            ("1_000", Err(NumberError::NotANumber)),
            (" 1", Err(NumberError::NotANumber)),
            ("٣", Err(NumberError::NotANumber)),
        ] {
            assert_eq!(parse_u64(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_number_ends_at_the_first_other_character() {
        assert_eq!(split_number("4k"), ("4", "k"));
        assert_eq!(split_number("0x10M"), ("0x10", "M"));
        assert_eq!(split_number("ms"), ("", "ms"));
        assert_eq!(split_number("12"), ("12", ""));
        assert_eq!(split_number("1µs"), ("1", "µs"));
    }
}
