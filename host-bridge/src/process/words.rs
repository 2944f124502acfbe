//! The few messages between host and partition before the sandbox closes.
//!
//! Each is one packet of a socket pair: a letter, then its fields. Both ends are one program, so
//! that the layout is no interface; still nothing of a packet is believed without a look.

use std::os::fd::{AsFd, OwnedFd};

use hybrid_conventions::Exit;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::sys::memfd::PageSize;
use crate::sys::usage::ThreadUsage;
use crate::warnings::WarningKind;

/// Longest packet: a line of text.
const MOST_BYTES: usize = 4096;

/// What a partition says before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Something that the user should know; it goes on.
    Warning(WarningKind, String),
    /// It is assembled and waits.
    Ready(Ready),
    /// It cannot be; the line and the exit code for the user.
    Refused(Exit, String),
    /// It cannot be, because its device cannot be had.
    NoDevice(Exit, String),
}

/// What is known of a partition that is assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    /// Bytes of its private memory.
    pub(super) private_bytes: u64,
    /// The pages it is made of.
    pub(super) private_page: PageSize,
    /// Whether the kernel has landlock.
    pub(super) landlock: bool,
    /// Whether an allocation ends it.
    pub(super) guarded: bool,
    /// What the start has cost.
    pub(super) usage: ThreadUsage,
}

impl Ready {
    /// Before it has said anything.
    pub(super) const NOTHING: Self = Self {
        private_bytes: 0,
        private_page: PageSize::Small4K,
        landlock: false,
        guarded: false,
        usage: ThreadUsage::NOTHING,
    };
}

/// One end.
#[derive(Debug)]
pub(super) struct Line(OwnedFd);

impl Line {
    /// Both ends.
    pub(super) fn pair() -> Result<(Self, Self), Errno> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(ours), Self(theirs)))
    }

    pub(super) const fn adopt(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(super) const fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Says a word. Nobody hears it where the other end is gone.
    pub(super) fn say(&self, word: &Word) {
        let mut packet = word.to_bytes();
        packet.truncate(MOST_BYTES);
        let _ = rustix::net::send(&self.0, &packet, SendFlags::NOSIGNAL);
    }

    /// The next word, waiting for it; `None` when the other end is gone or says what makes no
    /// sense.
    pub(super) fn hear(&self) -> Option<Word> {
        Word::from_bytes(&self.packet()?)
    }

    /// Lets the partition go.
    pub(super) fn go(&self) -> bool {
        rustix::net::send(self.0.as_fd(), b"G", SendFlags::NOSIGNAL) == Ok(1)
    }

    /// Waits until it may go; false when the host has given up.
    pub(super) fn wait_for_go(&self) -> bool {
        self.packet().is_some_and(|packet| packet == b"G")
    }

    fn packet(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0; MOST_BYTES];
        loop {
            match rustix::net::recv(&self.0, &mut packet[..], RecvFlags::empty()) {
                Ok((_, 0)) => return None,
                Ok((len, _)) => {
                    packet.truncate(len);
                    return Some(packet);
                }
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Kinds of warnings that a partition's start may have.
const KINDS: [WarningKind; 2] = [WarningKind::SmallPages, WarningKind::Unlocked];
/// Exit codes that a start may end with.
const EXITS: [Exit; 2] = [Exit::Error, Exit::Missing];

impl Word {
    fn to_bytes(&self) -> Vec<u8> {
        let number = |index: Option<usize>| u8::try_from(index.unwrap_or(0)).unwrap_or(0);
        match self {
            Self::Warning(kind, line) => {
                let kind = number(KINDS.iter().position(|known| known == kind));
                [&[b'W', kind], line.as_bytes()].concat()
            }
            Self::Refused(exit, line) => {
                let exit = number(EXITS.iter().position(|known| known == exit));
                [&[b'E', exit], line.as_bytes()].concat()
            }
            Self::NoDevice(exit, line) => {
                let exit = number(EXITS.iter().position(|known| known == exit));
                [&[b'D', exit], line.as_bytes()].concat()
            }
            Self::Ready(ready) => {
                let flags = u8::from(ready.landlock) | u8::from(ready.guarded) << 1;
                let ThreadUsage {
                    minor_faults,
                    major_faults,
                    voluntary_switches,
                    involuntary_switches,
                } = ready.usage;
                let numbers = [
                    ready.private_bytes,
                    ready.private_page.bytes() as u64,
                    minor_faults,
                    major_faults,
                    voluntary_switches,
                    involuntary_switches,
                ];
                let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
                [b'R', flags].into_iter().chain(numbers).collect()
            }
        }
    }

    fn from_bytes(packet: &[u8]) -> Option<Self> {
        let [letter, kind, rest @ ..] = packet else { return None };
        let line = || String::from_utf8_lossy(rest).replace('\n', " ");
        match letter {
            b'W' => Some(Self::Warning(*KINDS.get(usize::from(*kind))?, line())),
            b'E' => Some(Self::Refused(*EXITS.get(usize::from(*kind))?, line())),
            b'D' => Some(Self::NoDevice(*EXITS.get(usize::from(*kind))?, line())),
            b'R' => {
                let mut numbers = rest
                    .chunks_exact(8)
                    .filter_map(|eight| eight.try_into().ok().map(u64::from_le_bytes));
                let mut next = || numbers.next();
                Some(Self::Ready(Ready {
                    private_bytes: next()?,
                    private_page: PageSize::of_bytes(next()?)?,
                    landlock: kind & 1 != 0,
                    guarded: kind & 2 != 0,
                    usage: ThreadUsage {
                        minor_faults: next()?,
                        major_faults: next()?,
                        voluntary_switches: next()?,
                        involuntary_switches: next()?,
                    },
                }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_cross_and_nonsense_is_none() {
        let (host, partition) = Line::pair().expect("a socket pair");
        let usage = ThreadUsage { minor_faults: 7, ..ThreadUsage::default() };
        let ready = Ready {
            private_bytes: 5 << 20,
            private_page: PageSize::Huge2M,
            landlock: true,
            guarded: false,
            usage,
        };
        for word in [
            Word::Warning(WarningKind::Unlocked, "memory is not locked".to_owned()),
            Word::Refused(Exit::Missing, "no such group".to_owned()),
            Word::NoDevice(Exit::Error, "it is busy".to_owned()),
            Word::Ready(ready),
        ] {
            partition.say(&word);
            assert_eq!(host.hear(), Some(word));
        }
        for nonsense in [&b""[..], b"R", b"R\0short", b"W\x09", b"X\0", b"E\x02line"] {
            assert_eq!(Word::from_bytes(nonsense), None, "{nonsense:?}");
        }
        assert!(host.go() && partition.wait_for_go());
        drop(host);
        assert!(!partition.wait_for_go());
    }
}
