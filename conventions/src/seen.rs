//! A short copy of refused text, so that an error can say what was seen without borrowing it.

use core::fmt;

/// The first bytes of a refused text.
///
/// Prints in double quotes, with `...` where the text was longer. Control characters are escaped,
/// because the text may come from a file that is not text at all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    bytes: [u8; Seen::CAPACITY],
    len: usize,
    cut: bool,
}

impl Seen {
    /// Bytes kept: a full BDF, a CPU list of a two-socket machine or a short path fit, and an error
    /// stays one line.
    pub const CAPACITY: usize = 48;

    pub(crate) fn new(text: &str) -> Self {
        let mut len = text.len().min(Self::CAPACITY);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        let mut bytes = [0; Self::CAPACITY];
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { bytes, len, cut: len < text.len() }
    }

    /// The kept text, without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = if self.cut { "..." } else { "" };
        write!(f, "\"{}{tail}\"", self.as_str().escape_debug())
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_is_kept_whole() {
        assert_eq!(Seen::new("03:00.0").to_string(), "\"03:00.0\"");
        assert_eq!(Seen::new("").to_string(), "\"\"");
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let text = "é".repeat(40);
        let seen = Seen::new(&text);
        assert_eq!(seen.as_str(), "é".repeat(24));
        assert_eq!(seen.to_string(), format!("\"{}...\"", "é".repeat(24)));
        let odd = format!("a{text}");
        assert_eq!(Seen::new(&odd).as_str(), format!("a{}", "é".repeat(23)));
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(Seen::new("a\n\u{1b}[0m\"").to_string(), "\"a\\n\\u{1b}[0m\\\"\"");
    }
}
