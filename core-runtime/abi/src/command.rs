//! Records that the host sends to a partition, in the partition's command ring.
//!
//! Polled last in the partition's loop, a bounded number a pass. The tag of the record's header is
//! a sequence number, which the answer, an event, repeats.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::Record;

/// Kind of [`Stop`].
pub const KIND_STOP: u16 = 0x0101;
/// Kind of [`Ping`].
pub const KIND_PING: u16 = 0x0102;
/// Kind of [`Start`].
pub const KIND_START: u16 = 0x0103;

/// End in an orderly way: no new work, drain, flush, shut the controller down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Stop {
    /// Time until the host stops waiting, in nanoseconds, if that is less than the partition's
    /// configured grace time; 0 leaves that one.
    pub grace_ns: u64,
    /// Why, one of the `STOP_` constants.
    pub reason: u32,
    /// Zero.
    pub reserved: u32,
}

/// The work is done.
pub const STOP_FINISHED: u32 = 1;
/// A signal asked for it.
pub const STOP_SIGNAL: u32 = 2;
/// The host is in trouble of its own.
pub const STOP_HOST_FAILED: u32 = 3;

const _: () = assert!(size_of::<Stop>() == 16 && align_of::<Stop>() == 8);

impl Record for Stop {
    const KIND: u16 = KIND_STOP;
}

/// Answer with a [`crate::event::Pong`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Ping {
    /// TSC at which the host sent it.
    pub sent_tsc: u64,
}

const _: () = assert!(size_of::<Ping>() == 8 && align_of::<Ping>() == 8);

impl Record for Ping {
    const KIND: u16 = KIND_PING;
}

/// Begin the work for which the partition was prepared; the arguments are the entry's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Start {
    /// Arguments whose meaning the entry defines.
    pub arguments: [u64; 6],
}

const _: () = assert!(size_of::<Start>() == 48 && align_of::<Start>() == 8);

impl Record for Start {
    const KIND: u16 = KIND_START;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_has_its_golden_bytes() {
        let stop = Stop { grace_ns: 0x1122, reason: STOP_SIGNAL, reserved: 0 };
        let golden = [0x22, 0x11, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(stop.as_bytes(), golden);
        assert_eq!(Stop::parse(&golden), Ok(stop));
        assert!(Stop::parse(&golden[..15]).is_err());
    }
}
