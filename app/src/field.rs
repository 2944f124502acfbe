//! The types of ITCH fields: prices, symbols, codes, and how each lies on the wire.
//!
//! Used by [`crate::message`] to read and by [`crate::encode`] to write. Integers are big-endian
//! and unsigned, `alpha` is ASCII, left-justified and padded with spaces. Codes that Nasdaq may
//! add to are newtypes with constants, not enums, so that a new letter is data and not an error.

use core::fmt;

/// A price with four implied decimals: `5_853_300` is 585.33.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price4(pub u32);

impl fmt::Display for Price4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04}", self.0 / 10_000, self.0 % 10_000)
    }
}

/// A price with eight implied decimals (market-wide decline levels only).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price8(pub u64);

impl fmt::Display for Price8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08}", self.0 / 100_000_000, self.0 % 100_000_000)
    }
}

/// A stock symbol: eight ASCII bytes, left-justified, padded with spaces.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(pub [u8; 8]);

impl Symbol {
    /// The symbol of `name`; `None` when it is empty, longer than eight bytes or not printable
    /// ASCII.
    #[must_use]
    pub const fn new(name: &str) -> Option<Self> {
        let name = name.as_bytes();
        if name.is_empty() || name.len() > 8 {
            return None;
        }
        let mut bytes = [b' '; 8];
        let mut i = 0;
        while i < name.len() {
            if !name[i].is_ascii_graphic() {
                return None;
            }
            bytes[i] = name[i];
            i += 1;
        }
        Some(Self(bytes))
    }

    /// The bytes without the padding on the right.
    #[must_use]
    pub fn trimmed(&self) -> &[u8] {
        self.0.trim_ascii_end()
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trimmed().escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Symbol({self})")
    }
}

/// Declares a one-letter code as a newtype with constants.
macro_rules! code {
    ($(#[$doc:meta])* $name:ident { $($(#[$cdoc:meta])* $constant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub u8);

        impl $name {
            $($(#[$cdoc])* pub const $constant: Self = Self($value);)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.escape_ascii().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Field for $name {
            const SIZE: usize = 1;
            #[inline(always)]
            fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self {
                Self(bytes[at])
            }
            #[inline(always)]
            fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize) {
                bytes[at] = self.0;
            }
        }
    };
}

code! {
    /// Which side of the book an order rests on.
    Side {
        /// A bid.
        BUY = b'B',
        /// An offer.
        SELL = b'S',
    }
}

code! {
    /// What a system event marks.
    EventCode {
        /// Start of messages, the first message of a day.
        START_OF_MESSAGES = b'O',
        /// Start of system hours: orders are accepted.
        START_OF_SYSTEM_HOURS = b'S',
        /// Start of market hours.
        START_OF_MARKET_HOURS = b'Q',
        /// End of market hours.
        END_OF_MARKET_HOURS = b'M',
        /// End of system hours.
        END_OF_SYSTEM_HOURS = b'E',
        /// End of messages, the last message of a day.
        END_OF_MESSAGES = b'C',
    }
}

code! {
    /// Trading state of a stock on all markets.
    TradingState {
        /// Halted across all U.S. markets.
        HALTED = b'H',
        /// Paused across all U.S. markets.
        PAUSED = b'P',
        /// Quotation only, before trading resumes.
        QUOTATION_ONLY = b'Q',
        /// Trading on Nasdaq.
        TRADING = b'T',
    }
}

code! {
    /// What an operational halt message does.
    HaltAction {
        /// The market that the message names is halted for this stock.
        HALTED = b'H',
        /// The halt is lifted.
        RESUMED = b'T',
    }
}

/// How a value lies on the wire at a fixed offset of a message of `N` bytes.
///
/// Offsets are constants of the message table, so that no bounds check is left in the code.
pub trait Field: Copy {
    /// Bytes on the wire.
    const SIZE: usize;
    /// Reads the value at `at`.
    fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self;
    /// Writes the value at `at`.
    fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize);
}

/// The `SIZE` bytes at `at`. Only ever called with constants that the table has checked.
#[inline(always)]
fn bytes_at<const N: usize, const SIZE: usize>(bytes: &[u8; N], at: usize) -> [u8; SIZE] {
    let mut field = [0; SIZE];
    field.copy_from_slice(&bytes[at..at + SIZE]);
    field
}

/// Integers: big-endian.
macro_rules! integer_field {
    ($($integer:ty),*) => {$(
        impl Field for $integer {
            const SIZE: usize = size_of::<Self>();
            #[inline(always)]
            fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self {
                Self::from_be_bytes(bytes_at(bytes, at))
            }
            #[inline(always)]
            fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize) {
                bytes[at..at + Self::SIZE].copy_from_slice(&self.to_be_bytes());
            }
        }
    )*};
}
integer_field!(u8, u16, u32, u64);

/// Newtypes over a field.
macro_rules! newtype_field {
    ($($name:ident($inner:ty)),*) => {$(
        impl Field for $name {
            const SIZE: usize = <$inner as Field>::SIZE;
            #[inline(always)]
            fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self {
                Self(<$inner as Field>::get(bytes, at))
            }
            #[inline(always)]
            fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize) {
                self.0.put(bytes, at);
            }
        }
    )*};
}
newtype_field!(Price4(u32), Price8(u64), Symbol([u8; 8]));

impl<const SIZE: usize> Field for [u8; SIZE] {
    const SIZE: usize = SIZE;
    #[inline(always)]
    fn get<const N: usize>(bytes: &[u8; N], at: usize) -> Self {
        bytes_at(bytes, at)
    }
    #[inline(always)]
    fn put<const N: usize>(self, bytes: &mut [u8; N], at: usize) {
        bytes[at..at + SIZE].copy_from_slice(&self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn prices_print_their_implied_decimals() {
        assert_eq!(format!("{}", Price4(5_853_300)), "585.3300");
        assert_eq!(format!("{}", Price4(1)), "0.0001");
        assert_eq!(format!("{}", Price8(123_456_789)), "1.23456789");
    }

    #[test]
    fn symbols_are_padded_and_refuse_what_does_not_fit() {
        assert_eq!(Symbol::new("AAPL"), Some(Symbol(*b"AAPL    ")));
        assert_eq!(format!("{}", Symbol(*b"AAPL    ")), "AAPL");
        assert_eq!(Symbol::new(""), None);
        assert_eq!(Symbol::new("TOOLONGXY"), None);
        assert_eq!(Symbol::new("A B"), None);
        assert_eq!(format!("{}", Symbol(*b"A\x00\xffB    ")), "A\\x00\\xffB");
    }
}
