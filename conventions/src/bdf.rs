//! PCI addresses as `lspci` prints them, short and full, and globs over them.

use core::fmt;
use core::fmt::Write as _;
use core::str::FromStr;

use crate::number::parse_radix;
use crate::seen::Seen;

/// A PCI address: domain, bus, device, function.
///
/// Orders as `lspci` sorts. Prints in full, `0000:03:00.0`; `{:#}` leaves domain 0 out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// A PCI address or pattern that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BdfError {
    /// Not the form of an address.
    #[error("pci address {0} is not understood; write it as 0000:03:00.0 or 03:00.0")]
    Syntax(Seen),
    /// A device number above 1f.
    #[error("pci address {seen} has device {device:x}; devices are 00 to 1f")]
    Device {
        /// The text.
        seen: Seen,
        /// The device number.
        device: u64,
    },
    /// A function number above 7.
    #[error("pci address {seen} has function {function:x}; functions are 0 to 7")]
    Function {
        /// The text.
        seen: Seen,
        /// The function number.
        function: u64,
    },
    /// A pattern with a character that no address has.
    #[error("pci pattern {0} is not understood; write it as 0000:03:* or 03:00.?")]
    Pattern(Seen),
}

impl Bdf {
    /// An address from its numbers; [`None`] if the device exceeds 31 or the function 7.
    #[must_use]
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 0x1f || function > 7 {
            return None;
        }
        Some(Self { domain, bus, device, function })
    }

    /// The domain (segment); above ffff behind some volume managers.
    #[must_use]
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// The bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device on its bus, at most 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device
    }

    /// The function of its device, at most 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.function
    }
}

/// A field of two hexadecimal digits (`width` 2) or at most so many.
fn field(text: &str, lengths: core::ops::RangeInclusive<usize>) -> Option<u64> {
    if !lengths.contains(&text.len()) {
        return None;
    }
    parse_radix(text, 16).ok()
}

impl FromStr for Bdf {
    type Err = BdfError;

    fn from_str(text: &str) -> Result<Self, BdfError> {
        let seen = Seen::new(text);
        let syntax = BdfError::Syntax(seen);
        let (left, function) = text.trim().rsplit_once('.').ok_or(syntax)?;
        let (left, device) = left.rsplit_once(':').ok_or(syntax)?;
        let (domain, bus) = left.rsplit_once(':').unwrap_or(("0000", left));
        let domain = field(domain, 4..=8).ok_or(syntax)?;
        let bus = field(bus, 2..=2).ok_or(syntax)?;
        let device = field(device, 2..=2).ok_or(syntax)?;
        let function = field(function, 1..=1).ok_or(syntax)?;
        if device > 0x1f {
            return Err(BdfError::Device { seen, device });
        }
        if function > 7 {
            return Err(BdfError::Function { seen, function });
        }
        let narrow = |number: u64| u8::try_from(number).map_err(|_| syntax);
        Ok(Self {
            domain: u32::try_from(domain).map_err(|_| syntax)?,
            bus: narrow(bus)?,
            device: narrow(device)?,
            function: narrow(function)?,
        })
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() || self.domain != 0 {
            write!(f, "{:04x}:", self.domain)?;
        }
        write!(f, "{:02x}:{:02x}.{:x}", self.bus, self.device, self.function)
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bdf({self})")
    }
}

/// A glob over PCI addresses: `*` stands for any text, `?` for one character.
///
/// It must match the whole address, in its full or (domain 0) its short form: `03:*` and
/// `0000:03:*` say the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BdfPattern {
    text: Text<{ BdfPattern::CAPACITY }>,
}

impl BdfPattern {
    /// Longest pattern: the 16 characters of an address with an 8-digit domain, and a few `*`.
    pub const CAPACITY: usize = 24;

    /// Whether the address matches.
    #[must_use]
    pub fn matches(&self, bdf: Bdf) -> bool {
        let pattern = self.text.as_bytes();
        let mut form = Text::<16>::default();
        if write!(form, "{bdf}").is_ok() && glob(pattern, form.as_bytes()) {
            return true;
        }
        let mut short = Text::<16>::default();
        write!(short, "{bdf:#}").is_ok() && glob(pattern, short.as_bytes())
    }

    /// The one address that the pattern names, if it has no `*` or `?`.
    #[must_use]
    pub fn as_bdf(&self) -> Option<Bdf> {
        self.text.as_str().parse().ok()
    }
}

impl FromStr for BdfPattern {
    type Err = BdfError;

    fn from_str(text: &str) -> Result<Self, BdfError> {
        let seen = Seen::new(text);
        let trimmed = text.trim();
        if !trimmed.contains(['*', '?']) {
            let _: Bdf = trimmed.parse()?;
        }
        let allowed = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'*' | b'?');
        let mut pattern = Text::default();
        for byte in trimmed.bytes() {
            let lower = char::from(byte.to_ascii_lowercase());
            if !allowed(byte) || pattern.write_char(lower).is_err() {
                return Err(BdfError::Pattern(seen));
            }
        }
        Ok(Self { text: pattern })
    }
}

impl From<Bdf> for BdfPattern {
    fn from(bdf: Bdf) -> Self {
        let mut text = Text::default();
        // An address has at most 16 characters.
        let written = write!(text, "{bdf}");
        debug_assert!(written.is_ok());
        Self { text }
    }
}

impl fmt::Display for BdfPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text.as_str())
    }
}

impl fmt::Debug for BdfPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BdfPattern({self})")
    }
}

/// ASCII text of at most `N` bytes; writing more is an error.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Text<N> {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Matches the whole text; remembers the last `*` and lets it swallow one more on a mismatch.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after, from)) = star else {
                    return false;
                };
                star = Some((after, from + 1));
                (p, t) = (after + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bdf(text: &str) -> Bdf {
        text.parse().expect(text)
    }

    #[test]
    fn short_and_full_addresses_are_the_same() {
        for text in ["03:00.0", "0000:03:00.0", "00000000:03:00.0", " 03:00.0\n"] {
            assert_eq!(text.parse(), Ok(Bdf::new(0, 3, 0, 0).expect("in range")), "{text:?}");
        }
        assert_eq!(bdf("10000:aF:1f.7"), Bdf::new(0x10000, 0xaf, 0x1f, 7).expect("in range"));
        assert_eq!(bdf("ffffffff:ff:1f.7").to_string(), "ffffffff:ff:1f.7");
    }

    #[test]
    fn addresses_print_in_full_and_short_on_demand() {
        assert_eq!(bdf("AF:1F.7").to_string(), "0000:af:1f.7");
        assert_eq!(format!("{:#}", bdf("AF:1F.7")), "af:1f.7");
        assert_eq!(format!("{:#}", bdf("0001:03:00.0")), "0001:03:00.0");
        assert_eq!(format!("{:?}", bdf("03:00.0")), "Bdf(0000:03:00.0)");
    }

    #[test]
    fn refused_addresses_say_why() {
        for (text, message) in [
            ("3", "pci address \"3\" is not understood; write it as 0000:03:00.0 or 03:00.0"),
            ("03:20.0", "pci address \"03:20.0\" has device 20; devices are 00 to 1f"),
            ("03:00.8", "pci address \"03:00.8\" has function 8; functions are 0 to 7"),
        ] {
            assert_eq!(text.parse::<Bdf>().expect_err(text).to_string(), message);
        }
        for text in [
            "",
            ".",
            ":",
            "03:00",
            "03.00.0",
            "3:00.0",
            "003:00.0",
            "03:0.0",
            "03:00.00",
            "03:00.",
            "000:03:00.0",
            "000000000:03:00.0",
            "0:0000:03:00.0",
            "03:00.g",
            "+3:00.0",
            "0x3:00.0",
            "0000-03-00.0",
            "03:00.*",
        ] {
            assert!(matches!(text.parse::<Bdf>(), Err(BdfError::Syntax(_))), "{text:?}");
        }
    }

    #[test]
    fn addresses_sort_as_lspci_sorts() {
        let sorted = ["00:1f.7", "01:00.0", "01:00.1", "01:01.0", "0001:00:00.0"].map(bdf);
        assert!(sorted.is_sorted());
    }

    #[test]
    fn patterns_match_both_forms() {
        for (pattern, address, expected) in [
            ("03:00.0", "0000:03:00.0", true),
            ("0000:03:00.0", "03:00.0", true),
            ("03:00.0", "0001:03:00.0", false),
            ("0000:03:*", "03:1f.7", true),
            ("0000:03:*", "04:00.0", false),
            ("0000:03:*", "0001:03:00.0", false),
            ("03:*", "03:00.1", true),
            ("03:*", "0001:03:00.1", false),
            ("*", "0001:03:00.1", true),
            ("*.0", "ff:00.0", true),
            ("*.0", "ff:00.1", false),
            ("*:03:*", "0001:03:00.1", true),
            ("03:00.?", "03:00.7", true),
            ("0?:00.0", "13:00.0", false),
            ("AF:*", "af:00.0", true),
            ("**", "af:00.0", true),
            ("*0*0*", "10:10.0", true),
            ("?", "10:10.0", false),
        ] {
            let parsed: BdfPattern = pattern.parse().expect(pattern);
            assert_eq!(parsed.matches(bdf(address)), expected, "{pattern} on {address}");
        }
    }

    #[test]
    fn patterns_without_a_wildcard_are_addresses() {
        let pattern: BdfPattern = "03:00.0".parse().expect("an address");
        assert_eq!(pattern.as_bdf(), Some(bdf("03:00.0")));
        assert_eq!(BdfPattern::from(bdf("03:00.0")).to_string(), "0000:03:00.0");
        let glob: BdfPattern = "03:00.*".parse().expect("a pattern");
        assert_eq!(glob.as_bdf(), None);
        assert!(matches!("03:00".parse::<BdfPattern>(), Err(BdfError::Syntax(_))));
        for text in ["03:00.*x", "[0-3]:*", "0000:03:00.0*************", "é*"] {
            let error = text.parse::<BdfPattern>().expect_err(text);
            assert!(matches!(error, BdfError::Pattern(_)), "{text:?}: {error}");
        }
    }

    prop_compose! {
        fn any_bdf()(domain in prop_oneof![Just(0_u32), any::<u32>()], bus: u8,
                     device in 0_u8..32, function in 0_u8..8) -> Bdf {
            Bdf::new(domain, bus, device, function).expect("in range")
        }
    }

    proptest! {
        #[test]
        fn what_prints_parses_back(bdf in any_bdf()) {
            prop_assert_eq!(bdf.to_string().parse(), Ok(bdf));
            prop_assert_eq!(format!("{bdf:#}").parse(), Ok(bdf));
        }

        #[test]
        fn an_address_with_stars_in_it_matches_itself(bdf in any_bdf(), from in 0_usize..16,
                                                      len in 0_usize..16) {
            let mut text = bdf.to_string();
            let from = from.min(text.len());
            text.replace_range(from..(from + len).min(text.len()), "*");
            let pattern: BdfPattern = text.parse().expect("a pattern");
            prop_assert!(pattern.matches(bdf));
            prop_assert!(BdfPattern::from(bdf).matches(bdf));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f:.*?]{0,26}|\\PC*", bdf in any_bdf()) {
            let _ = text.parse::<Bdf>();
            if let Ok(pattern) = text.parse::<BdfPattern>() {
                let _ = pattern.matches(bdf);
            }
        }
    }
}
