//! A critical alert: an error that a partition survives and its host must hear of.
//!
//! A partition raises it (`Partition::alert`), the host's handle takes it out of the event ring and
//! hands it to whoever watches the partition. It is an event like any other, so that a program that
//! reads the ring itself finds it there too.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Name;
use crate::record::Record;

/// Kind of [`Alert`].
pub const KIND_ALERT: u16 = 0x0207;

/// How bad an alert is. Others than these are data of a newer writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Severity(pub u32);

impl Severity {
    /// The partition goes on and its work is whole; someone should look.
    pub const WARNING: Self = Self(1);
    /// The partition goes on and some of its work is lost or late.
    pub const ERROR: Self = Self(2);
    /// The partition goes on and cannot be relied on any longer: the host treats it as it treats
    /// one that died.
    pub const CRITICAL: Self = Self(3);

    /// A word for it; what is not known counts as critical, since a newer writer may mean worse.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::WARNING => "warning",
            Self::ERROR => "error",
            _ => "critical",
        }
    }

    /// Whether this one is to be told of before `other`.
    #[must_use]
    pub const fn is_worse_than(self, other: Self) -> bool {
        self.0 > other.0
    }

    /// Whether the host is to treat the partition as one that died.
    #[must_use]
    pub const fn is_critical(self) -> bool {
        !matches!(self, Self::WARNING | Self::ERROR)
    }
}

/// Bytes of an alert's text: with the fields before it the record is as long as the longest other.
pub const ALERT_TEXT_BYTES: usize = 192;

/// An error that the partition survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Alert {
    /// TSC at which it was raised.
    pub tsc: u64,
    /// A code that the entry defines.
    pub code: u32,
    /// How bad it is.
    pub severity: Severity,
    /// Counts the partition's alerts from 1: a gap says that some found no room.
    pub number: u32,
    /// Bytes of `text` that count.
    pub text_len: u32,
    /// The task that raised it; empty outside of one.
    pub task: Name<32>,
    /// What happened: one line, UTF-8 where the writer was honest.
    pub text: [u8; ALERT_TEXT_BYTES],
}

const _: () = assert!(size_of::<Alert>() == 248 && align_of::<Alert>() == 8);
const _: () = assert!(offset_of!(Alert, number) == 16 && offset_of!(Alert, task) == 24);
const _: () = assert!(offset_of!(Alert, text) == 56);

impl Record for Alert {
    const KIND: u16 = KIND_ALERT;
}

impl Alert {
    /// The part of the text that is valid UTF-8, from its start.
    #[must_use]
    pub fn line(&self) -> &str {
        let len = (self.text_len as usize).min(ALERT_TEXT_BYTES);
        let bytes = self.text.get(..len).unwrap_or_default();
        let valid = match core::str::from_utf8(bytes) {
            Ok(_) => bytes.len(),
            Err(error) => error.valid_up_to(),
        };
        bytes.get(..valid).and_then(|valid| core::str::from_utf8(valid).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert() -> Alert {
        let mut text = [0; ALERT_TEXT_BYTES];
        text[..3].copy_from_slice(b"bad");
        Alert {
            tsc: 0x0102_0304,
            code: 7,
            severity: Severity::CRITICAL,
            number: 2,
            text_len: 3,
            task: Name::lossy("journal"),
            text,
        }
    }

    #[test]
    fn an_alert_has_its_golden_bytes() {
        let mut golden = vec![4, 3, 2, 1, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0];
        golden.extend([3, 0, 0, 0]);
        golden.extend(b"journal");
        golden.resize(56, 0);
        golden.extend(b"bad");
        golden.resize(248, 0);
        assert_eq!(alert().as_bytes(), golden);
        assert_eq!(Alert::parse(&golden), Ok(alert()));
        assert!(Alert::parse(&golden[..247]).is_err());
    }

    #[test]
    fn a_line_is_read_up_to_its_first_bad_byte_and_never_beyond_its_field() {
        let mut alert = alert();
        alert.text_len = u32::MAX;
        assert!(alert.line().starts_with("bad"));
        assert_eq!(alert.line().len(), ALERT_TEXT_BYTES);
        alert.text[1] = 0xFF;
        assert_eq!(alert.line(), "b");
    }

    #[test]
    fn an_unknown_severity_is_taken_for_the_worst() {
        for (severity, word) in [(1, "warning"), (2, "error"), (3, "critical"), (9, "critical")] {
            let severity = Severity(severity);
            assert_eq!((severity.word(), severity.is_critical()), (word, word == "critical"));
        }
    }
}
