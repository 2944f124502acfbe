//! Short names in fixed fields: printable ASCII, padded with zero bytes.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::AbiError;

/// A name of at most `N` bytes of printable ASCII, padded with zero bytes.
///
/// Comes from outside as any bytes at all: [`Name::check`] says whether it is one, and
/// [`Name::as_str`] gives the longest printable start in any case.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Name<const N: usize>([u8; N]);

impl<const N: usize> Name<N> {
    /// The empty name.
    pub const EMPTY: Self = Self([0; N]);

    /// A name from our own text; what is too long is cut, what is not printable becomes `?`.
    #[must_use]
    pub const fn lossy(text: &str) -> Self {
        let text = text.as_bytes();
        let mut bytes = [0; N];
        let mut i = 0;
        while i < text.len() && i < N {
            bytes[i] = if is_printable(text[i]) { text[i] } else { b'?' };
            i += 1;
        }
        Self(bytes)
    }

    /// A name from our own text.
    ///
    /// # Errors
    /// [`AbiError::Field`] if it is longer than `N` bytes, [`AbiError::Name`] if it is empty or not
    /// printable ASCII.
    pub fn new(what: &'static str, text: &str) -> Result<Self, AbiError> {
        if text.len() > N {
            return Err(AbiError::Field {
                what,
                field: "name length",
                found: text.len() as u64,
                allowed: N as u64,
            });
        }
        if let Some(at) = text.bytes().position(|b| !is_printable(b)) {
            return Err(AbiError::Name { what, at });
        }
        let name = Self::lossy(text);
        name.check(what)?;
        Ok(name)
    }

    /// Whether these bytes are a name: at least one printable byte, zero bytes only at the end.
    ///
    /// # Errors
    /// [`AbiError::Name`] with the first byte that is wrong.
    pub fn check(&self, what: &'static str) -> Result<(), AbiError> {
        let len = self.as_str().len();
        if len == 0 {
            return Err(AbiError::Name { what, at: 0 });
        }
        match self.0.iter().skip(len).position(|&b| b != 0) {
            Some(more) => Err(AbiError::Name { what, at: len.saturating_add(more) }),
            None => Ok(()),
        }
    }

    /// The longest printable start.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().take_while(|&&b| is_printable(b)).count();
        self.0.get(..len).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or("")
    }

    /// All `N` bytes.
    #[must_use]
    pub const fn as_bytes_padded(&self) -> &[u8; N] {
        &self.0
    }
}

const fn is_printable(byte: u8) -> bool {
    byte > b' ' && byte <= b'~' || byte == b' '
}

impl<const N: usize> fmt::Debug for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl<const N: usize> fmt::Display for Name<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_text_and_pads_with_zero() {
        let name = Name::<8>::new("test", "io").unwrap();
        assert_eq!(name.as_bytes_padded(), b"io\0\0\0\0\0\0");
        assert_eq!(name.as_str(), "io");
    }

    #[test]
    fn too_long_empty_and_unprintable_names_are_refused() {
        assert_eq!(
            Name::<4>::new("test", "longer").unwrap_err().to_string(),
            "test has name length 6, allowed is 4"
        );
        assert_eq!(Name::<4>::new("test", ""), Err(AbiError::Name { what: "test", at: 0 }));
        assert_eq!(Name::<4>::new("test", "a\nb"), Err(AbiError::Name { what: "test", at: 1 }));
    }

    #[test]
    fn bytes_after_the_padding_are_refused() {
        let name = Name(*b"ab\0c");
        assert_eq!(name.check("x"), Err(AbiError::Name { what: "x", at: 3 }));
        assert_eq!(name.as_str(), "ab");
        assert!(Name(*b"\xff\0\0\0").check("x").is_err());
    }

    #[test]
    fn lossy_names_are_cut_and_made_printable() {
        assert_eq!(Name::<4>::lossy("a\u{e9}bcd").as_str(), "a??b");
    }
}
