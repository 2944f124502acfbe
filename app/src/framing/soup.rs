//! SoupBinTCP framing: a byte stream of packets, each a length, a type and a payload.
//!
//! Called by whoever reads the TCP connection. Sequenced (`S`) and unsequenced (`U`) data carry
//! one message each; the server's other packets are events. The login and the client's heartbeats
//! are the caller's. Message numbers count the sequenced messages of this connection from 1; the
//! sequence number that the login was accepted with is told by [`SoupEvent::LoginAccepted`].

use super::{Call, Frame, OnFrame, OnPiece, Piece, PrefixStream};
use crate::error::{FrameError, FrameFault, Position, SessionName};

/// What a server sends besides messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoupEvent<'a> {
    /// `A`: logged in.
    LoginAccepted {
        /// The session.
        session: SessionName,
        /// Sequence number of the next sequenced message, as sent: ASCII, padded on the left.
        sequence: [u8; 20],
    },
    /// `H`: the server is alive.
    Heartbeat,
    /// `+`: text for humans, cut to one frame.
    Debug(&'a [u8]),
    /// `U`: an unsequenced message.
    Unsequenced(Frame<'a>),
    /// `Z`: the session is over.
    EndOfSession,
}

/// Splits a SoupBinTCP stream, cut into slices anywhere, into messages.
#[derive(Clone, Debug)]
pub struct SoupFramer {
    stream: PrefixStream,
    /// Sequenced messages so far.
    sequenced: u64,
    ended: bool,
}

impl Default for SoupFramer {
    fn default() -> Self {
        Self::new()
    }
}

impl SoupFramer {
    /// A framer at the start of a connection.
    #[must_use]
    pub const fn new() -> Self {
        Self { stream: PrefixStream::new(), sequenced: 0, ended: false }
    }

    /// Feeds the next bytes from the server: `visit` gets sequenced messages, `event` the rest.
    ///
    /// # Errors
    /// [`FrameError::PacketType`], [`FrameError::BadPacket`], [`FrameError::LoginRejected`],
    /// [`FrameError::AfterEnd`], and what `visit` fails with.
    pub fn push<E: From<FrameFault>>(
        &mut self,
        slice: &[u8],
        visit: impl FnMut(Frame<'_>) -> Result<(), E>,
        mut event: impl FnMut(SoupEvent<'_>),
    ) -> Result<(), E> {
        let Self { stream, sequenced, ended } = self;
        let mut packets = Packets { sequenced, ended, visit: &mut Call(visit), event: &mut event };
        stream.push(slice, &mut packets)?;
        Ok(())
    }

    /// The connection was closed.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when it was closed inside a packet.
    pub fn finish(&self) -> Result<(), FrameFault> {
        self.stream.finish().map_err(|fault| FrameFault {
            at: Position { number: self.sequenced + 1, ..fault.at },
            ..fault
        })
    }

    /// Sequenced messages so far.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.sequenced
    }

    /// Whether the server ended the session.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.ended
    }
}

/// What is done with each packet.
struct Packets<'a, V, S> {
    sequenced: &'a mut u64,
    ended: &'a mut bool,
    visit: &'a mut V,
    event: &'a mut S,
}

impl<E, V, S> OnPiece<E> for Packets<'_, V, S>
where
    E: From<FrameFault>,
    V: OnFrame<E>,
    S: FnMut(SoupEvent<'_>),
{
    fn piece(&mut self, piece: Piece<'_>) -> Result<bool, E> {
        let at = |offset| Position { offset, number: *self.sequenced + 1 };
        let packet = match piece {
            Piece::Message(packet) => packet,
            Piece::Zero(zero) => {
                let error = FrameError::BadPacket { what: "its length is zero" };
                return Err(FrameFault { at: at(zero.offset), error }.into());
            }
        };
        let at = at(packet.at.offset);
        if *self.ended {
            let error = FrameError::AfterEnd { bytes: u64::from(packet.length) + 2 };
            return Err(FrameFault { at, error }.into());
        }
        match read_packet(&packet, at)? {
            Packet::Sequenced(frame) => {
                *self.sequenced += 1;
                self.visit.frame(frame)?;
            }
            Packet::Event(what) => {
                *self.ended = what == SoupEvent::EndOfSession;
                (self.event)(what);
            }
        }
        Ok(true)
    }
}

/// A packet, read.
enum Packet<'a> {
    Sequenced(Frame<'a>),
    Event(SoupEvent<'a>),
}

fn read_packet<'a>(packet: &Frame<'a>, at: Position) -> Result<Packet<'a>, FrameFault> {
    let fail = |error| Err(FrameFault { at, error });
    let Some((&kind, payload)) = packet.bytes.split_first() else {
        return fail(FrameError::BadPacket { what: "its length is zero" });
    };
    let frame = Frame { bytes: payload, length: packet.length - 1, at };
    if matches!(kind, b'S' | b'U') && payload.is_empty() {
        return fail(FrameError::BadPacket { what: "it carries no message" });
    }
    Ok(Packet::Event(match kind {
        b'S' => return Ok(Packet::Sequenced(frame)),
        b'U' => SoupEvent::Unsequenced(frame),
        b'H' => SoupEvent::Heartbeat,
        b'Z' => SoupEvent::EndOfSession,
        b'+' => SoupEvent::Debug(payload),
        b'A' => match payload.split_first_chunk::<10>() {
            Some((session, rest)) if rest.len() == 20 => SoupEvent::LoginAccepted {
                session: SessionName(*session),
                sequence: *rest.first_chunk().unwrap_or(&[b' '; 20]),
            },
            _ => {
                let have = payload.len() as u64;
                return fail(FrameError::ShortPacket { have, need: 30 });
            }
        },
        b'J' => {
            let code = payload.first().copied().unwrap_or(b' ');
            return fail(FrameError::LoginRejected { code });
        }
        _ => return fail(FrameError::PacketType { kind }),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A session by hand: login, heartbeat, two sequenced messages, debug text, end.
    fn session() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(b"\x00\x1fA123456789A                   1");
        bytes.extend_from_slice(b"\x00\x01H");
        bytes.extend_from_slice(b"\x00\x0dSS\0\0\0\0\0\0\0\0\0\x01O");
        bytes.extend_from_slice(b"\x00\x03+hi");
        bytes.extend_from_slice(b"\x00\x0dSS\0\0\0\0\0\0\0\0\0\x02S");
        bytes.extend_from_slice(b"\x00\x01Z");
        bytes
    }

    type Run = (Vec<(u64, u64, Vec<u8>)>, usize, bool);

    fn run(bytes: &[u8], step: usize) -> Run {
        let mut framer = SoupFramer::new();
        let mut messages = Vec::new();
        let mut events = 0;
        for slice in bytes.chunks(step) {
            let visit = |frame: Frame<'_>| {
                messages.push((frame.at.offset, frame.at.number, frame.bytes.to_vec()));
                Ok::<(), FrameFault>(())
            };
            framer.push(slice, visit, |_| events += 1).unwrap();
        }
        framer.finish().unwrap();
        (messages, events, framer.ended())
    }

    #[test]
    fn a_session_gives_its_messages_however_it_is_cut() {
        let bytes = session();
        let (messages, events, ended) = run(&bytes, bytes.len());
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].0, messages[0].1), (36, 1));
        assert_eq!((messages[1].0, messages[1].1), (56, 2));
        assert_eq!(messages[1].2, b"S\0\0\0\0\0\0\0\0\0\x02S");
        assert_eq!((events, ended), (4, true));
        for step in 1..bytes.len() {
            assert_eq!(run(&bytes, step), (messages.clone(), events, ended));
        }
    }

    #[test]
    fn what_a_server_never_sends_is_an_error_with_its_place() {
        let error = |bytes: &[u8]| {
            let mut framer = SoupFramer::new();
            let result = framer.push(bytes, |_| Ok::<(), FrameFault>(()), |_| ());
            result.and_then(|()| framer.finish()).unwrap_err()
        };
        let at = |offset| Position { offset, number: 1 };
        let zero = error(b"\x00\x01H\x00\x00");
        assert_eq!(zero.at, at(3));
        assert!(matches!(zero.error, FrameError::BadPacket { .. }));
        assert_eq!(error(b"\x00\x01L").error, FrameError::PacketType { kind: b'L' });
        assert_eq!(error(b"\x00\x02JS").error, FrameError::LoginRejected { code: b'S' });
        assert_eq!(error(b"\x00\x03Axx").error, FrameError::ShortPacket { have: 2, need: 30 });
        assert_eq!(error(b"\x00\x01Z\x00\x01H").error, FrameError::AfterEnd { bytes: 3 });
        assert_eq!(error(b"\x00\x09S").error, FrameError::Truncated { have: 3, need: 11 });
    }
}
