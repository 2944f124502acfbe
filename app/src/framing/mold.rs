//! MoldUDP64 framing: packets with a session, a sequence number and length-prefixed messages.
//!
//! Called by whoever receives the datagrams (or reads them from a capture), one whole packet at a
//! time. A packet may come late, twice or never: a message whose number was passed already is
//! skipped and counted, a jump forward is told as [`MoldEvent::Gap`] and counted, and the messages
//! after it are delivered (asking for a retransmission is the caller's). Message numbers are the
//! sequence numbers; offsets count the bytes of all packets fed.

use super::{Frame, MAX_FRAME_BYTES};
use crate::error::{FrameError, FrameFault, Position, SessionName};

/// Bytes of a packet's header: session (10), sequence number (8), message count (2).
const HEADER_BYTES: usize = 20;

/// Message count of a packet that ends the session.
const END_OF_SESSION: u16 = 0xFFFF;

/// What packets tell besides messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoldEvent {
    /// Count 0: nothing new; `next` is the next sequence number.
    Heartbeat {
        /// Next sequence number.
        next: u64,
    },
    /// Messages are missing.
    Gap {
        /// Sequence number of the first one missing.
        expected: u64,
        /// Sequence number that came.
        received: u64,
    },
    /// Count FFFFh: the session is over.
    EndOfSession {
        /// Next sequence number, i.e. one more than the last.
        next: u64,
    },
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoldStats {
    /// Packets fed, heartbeats included.
    pub packets: u64,
    /// Messages delivered.
    pub messages: u64,
    /// Messages skipped because their numbers had passed.
    pub duplicates: u64,
    /// Jumps forward.
    pub gaps: u64,
    /// Messages missing in them.
    pub missing: u64,
}

/// Splits MoldUDP64 packets into messages.
#[derive(Clone, Debug, Default)]
pub struct MoldFramer {
    session: Option<SessionName>,
    /// Next sequence number wanted; 0 before the first packet.
    next: u64,
    offset: u64,
    ended: bool,
    stats: MoldStats,
}

impl MoldFramer {
    /// A framer that takes the first packet's session and sequence number as its start.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A framer that wants the session from its first message on: a late start shows as a gap.
    #[must_use]
    pub fn from_start() -> Self {
        Self { next: 1, ..Self::default() }
    }

    /// Feeds one packet.
    ///
    /// # Errors
    /// [`FrameError::ShortPacket`], [`FrameError::LongPacket`], [`FrameError::BadPacket`],
    /// [`FrameError::SessionChanged`], and what `visit` fails with. Messages before the malformed
    /// place were delivered.
    pub fn push<E: From<FrameFault>>(
        &mut self,
        packet: &[u8],
        mut visit: impl FnMut(Frame<'_>) -> Result<(), E>,
        mut event: impl FnMut(MoldEvent),
    ) -> Result<(), E> {
        let start = self.offset;
        let fail = |number, used: usize, error| {
            let at = Position { offset: start + used as u64, number };
            Err(E::from(FrameFault { at, error }))
        };
        self.offset += packet.len() as u64;
        self.stats.packets += 1;
        let Some((header, mut rest)) = packet.split_first_chunk::<HEADER_BYTES>() else {
            let have = packet.len() as u64;
            let need = HEADER_BYTES as u64;
            return fail(self.next, 0, FrameError::ShortPacket { have, need });
        };
        let (session, sequence, count) = read_header(header);
        let from = *self.session.get_or_insert(session);
        if from != session {
            return fail(sequence, 0, FrameError::SessionChanged { from, to: session });
        }
        let messages = if count == END_OF_SESSION { 0 } else { count };
        if sequence == 0 || sequence.checked_add(u64::from(messages)).is_none() {
            let error = FrameError::BadPacket { what: "its sequence number is out of range" };
            return fail(sequence, 0, error);
        }
        self.note_gap(sequence, &mut event);
        for number in sequence..sequence + u64::from(messages) {
            let used = packet.len() - rest.len();
            let have = packet.len() as u64;
            let Some((prefix, body)) = rest.split_first_chunk::<2>() else {
                let need = used as u64 + 2;
                return fail(number, used, FrameError::ShortPacket { have, need });
            };
            let length = u16::from_be_bytes(*prefix);
            let Some((bytes, after)) = body.split_at_checked(usize::from(length)) else {
                let need = used as u64 + 2 + u64::from(length);
                return fail(number, used, FrameError::ShortPacket { have, need });
            };
            if length == 0 {
                let error = FrameError::BadPacket { what: "it has a message of length zero" };
                return fail(number, used, error);
            }
            rest = after;
            if number < self.next {
                self.stats.duplicates += 1;
                continue;
            }
            self.next = number + 1;
            self.stats.messages += 1;
            let bytes = bytes.get(..MAX_FRAME_BYTES).unwrap_or(bytes);
            let at = Position { offset: start + used as u64, number };
            visit(Frame { bytes, length, at })?;
        }
        if !rest.is_empty() {
            let bytes = rest.len() as u64;
            return fail(self.next, packet.len() - rest.len(), FrameError::LongPacket { bytes });
        }
        match count {
            0 => event(MoldEvent::Heartbeat { next: sequence }),
            END_OF_SESSION => {
                self.ended = true;
                event(MoldEvent::EndOfSession { next: sequence });
            }
            _ => {}
        }
        Ok(())
    }

    /// Compares a packet's sequence number with the one wanted. Heartbeats and the end of the
    /// session carry the next number, so they show a gap at the feed's end too.
    fn note_gap(&mut self, sequence: u64, event: &mut impl FnMut(MoldEvent)) {
        if self.next == 0 {
            self.next = sequence;
        }
        if sequence > self.next {
            self.stats.gaps += 1;
            self.stats.missing += sequence - self.next;
            event(MoldEvent::Gap { expected: self.next, received: sequence });
            self.next = sequence;
        }
    }

    /// Whether the session has ended.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.ended
    }

    /// What was counted so far.
    #[must_use]
    pub const fn stats(&self) -> MoldStats {
        self.stats
    }
}

fn read_header(header: &[u8; HEADER_BYTES]) -> (SessionName, u64, u16) {
    let [session @ .., a, b, c, d, e, f, g, h, high, low] = *header;
    let sequence = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    (SessionName(session), sequence, u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn packet(sequence: u64, count: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::from(*b"SESSION001");
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.extend_from_slice(&count.to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn feed(
        framer: &mut MoldFramer,
        packet: &[u8],
    ) -> Result<(Vec<u64>, Vec<MoldEvent>), FrameFault> {
        let (mut numbers, mut events) = (Vec::new(), Vec::new());
        let visit = |frame: Frame<'_>| {
            numbers.push(frame.at.number);
            Ok::<(), FrameFault>(())
        };
        framer.push(packet, visit, |event| events.push(event))?;
        Ok((numbers, events))
    }

    const TWO: &[u8] = b"\x00\x02ab\x00\x01c";

    #[test]
    fn gaps_and_doubles_show_by_their_sequence_numbers() {
        let mut framer = MoldFramer::new();
        assert_eq!(feed(&mut framer, &packet(7, 2, TWO)).unwrap().0, [7, 8]);
        let (numbers, events) = feed(&mut framer, &packet(12, 2, TWO)).unwrap();
        assert_eq!(numbers, [12, 13]);
        assert_eq!(events, [MoldEvent::Gap { expected: 9, received: 12 }]);
        assert_eq!(feed(&mut framer, &packet(13, 2, TWO)).unwrap().0, [14]);
        let heartbeat = feed(&mut framer, &packet(15, 0, b"")).unwrap().1;
        assert_eq!(heartbeat, [MoldEvent::Heartbeat { next: 15 }]);
        let end = feed(&mut framer, &packet(16, 0xFFFF, b"")).unwrap().1;
        let gap = MoldEvent::Gap { expected: 15, received: 16 };
        assert_eq!(end, [gap, MoldEvent::EndOfSession { next: 16 }]);
        assert!(framer.ended());
        let want = MoldStats { packets: 5, messages: 5, duplicates: 1, gaps: 2, missing: 4 };
        assert_eq!(framer.stats(), want);
    }

    #[test]
    fn a_late_start_is_a_gap_for_those_who_want_the_whole_session() {
        let (_, events) = feed(&mut MoldFramer::from_start(), &packet(3, 2, TWO)).unwrap();
        assert_eq!(events, [MoldEvent::Gap { expected: 1, received: 3 }]);
    }

    #[test]
    fn malformed_packets_are_errors_with_their_place() {
        let error = |bytes: &[u8]| feed(&mut MoldFramer::new(), bytes).unwrap_err();
        let short = error(&packet(1, 1, TWO)[..19]);
        assert_eq!(short.error, FrameError::ShortPacket { have: 19, need: 20 });
        let cut = error(&packet(5, 2, &TWO[..6]));
        assert_eq!(cut.error, FrameError::ShortPacket { have: 26, need: 27 });
        assert_eq!(cut.at, Position { offset: 24, number: 6 });
        let none = error(&packet(5, 3, TWO));
        assert_eq!(none.error, FrameError::ShortPacket { have: 27, need: 29 });
        let long = error(&packet(5, 1, TWO));
        assert_eq!(long.error, FrameError::LongPacket { bytes: 3 });
        let zero = error(&packet(5, 1, b"\0\0"));
        assert!(matches!(zero.error, FrameError::BadPacket { .. }));
        let wrap = error(&packet(u64::MAX, 2, TWO));
        assert!(matches!(wrap.error, FrameError::BadPacket { .. }));
        let mut framer = MoldFramer::new();
        feed(&mut framer, &packet(1, 2, TWO)).unwrap();
        let mut other = packet(3, 2, TWO);
        other[0] = b'X';
        let changed = feed(&mut framer, &other).unwrap_err();
        assert!(matches!(changed.error, FrameError::SessionChanged { .. }));
        assert_eq!(changed.at, Position { offset: 27, number: 3 });
    }
}
