//! Where a file's framing stands, as plain bytes: for who goes on with it in another process.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{FileFramer, MAX_FRAME_BYTES, PREFIX_BYTES, PrefixStream};
use crate::error::Position;

/// What [`FileFramer::resume`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FramerMark {
    carried: u64,
    seen: u64,
    offset: u64,
    number: u64,
    /// Where the end mark stands; its number is 0 while none was seen.
    end_offset: u64,
    end_number: u64,
    carry: [u8; PREFIX_BYTES + MAX_FRAME_BYTES],
    reserved: [u8; 6],
}

const _: () = assert!(size_of::<FramerMark>() == 48 + 72);

impl FileFramer {
    /// Where it stands.
    #[must_use]
    pub fn mark(&self) -> FramerMark {
        let PrefixStream { carry, carried, seen, offset, number } = self.stream;
        let end = self.end.unwrap_or(Position { offset: 0, number: 0 });
        FramerMark {
            carried: carried as u64,
            seen: seen as u64,
            offset,
            number,
            end_offset: end.offset,
            end_number: end.number,
            carry,
            reserved: [0; 6],
        }
    }

    /// A framer that stands there; `None` where none can.
    #[must_use]
    pub fn resume(mark: &FramerMark) -> Option<Self> {
        let carried = usize::try_from(mark.carried).ok()?;
        let seen = usize::try_from(mark.seen).ok()?;
        // What is carried was seen; more than that only of a message that does not fit.
        let full = carried == mark.carry.len() && seen >= carried;
        if carried > mark.carry.len() || (seen != carried && !full) || mark.seen > 0xFFFF + 2 {
            return None;
        }
        let stream = PrefixStream {
            carry: mark.carry,
            carried,
            seen,
            offset: mark.offset,
            number: mark.number,
        };
        let end = Position { offset: mark.end_offset, number: mark.end_number };
        let end = (mark.end_number != 0).then_some(end);
        Some(Self { stream, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FrameFault;
    use std::vec::Vec;

    fn message(length: u16) -> Vec<u8> {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend((0..length).map(|index| u8::try_from(index % 251).expect("small")));
        bytes
    }

    /// Lengths and places of what a framer finds that is replaced at every byte by its own mark.
    fn found(feed: &[u8], replace: bool) -> Vec<(u16, u64, u64)> {
        let mut framer = FileFramer::new();
        let mut found = Vec::new();
        for byte in feed {
            let result = framer.push(&[*byte], |frame| {
                found.push((frame.length, frame.at.offset, frame.at.number));
                Ok::<(), FrameFault>(())
            });
            result.expect("a feed");
            if replace {
                framer = FileFramer::resume(&framer.mark()).expect("its own mark");
            }
        }
        found
    }

    #[test]
    fn a_framer_that_is_replaced_at_every_byte_finds_the_same() {
        // A system event comes first, as in every feed; then short, long and odd ones, and the end.
        let mut feed = [&[0, 12, b'S'][..], &[0; 11]].concat();
        for length in [1, 2, 63, 64, 65, 300] {
            feed.extend(message(length));
        }
        feed.extend([0, 0]);
        let whole = found(&feed, false);
        assert_eq!(whole.len(), 7);
        assert_eq!(found(&feed, true), whole);
    }

    #[test]
    fn marks_that_no_framer_makes_are_refused() {
        let good = FileFramer::new().mark();
        assert!(FileFramer::resume(&good).is_some());
        for bad in [
            FramerMark { carried: 67, seen: 67, ..good },
            FramerMark { carried: 3, seen: 2, ..good },
            FramerMark { carried: 66, seen: 65, ..good },
            FramerMark { carried: u64::MAX, ..good },
            FramerMark { carried: 66, seen: 70_000, ..good },
        ] {
            assert!(FileFramer::resume(&bad).is_none(), "{bad:?}");
        }
    }
}
