//! The state parts: what a partition says of itself, and what its host asks of it.
//!
//! Words are read and written in place, each by one writer: [`PartitionState`] lies in the
//! partition's region, [`HostState`] in the host's, each as the part of kind
//! [`PartKind::STATE`](crate::region::PartKind::STATE). The state word is stored with Release after
//! everything that belongs to it. The structures here are for snapshots and for the offsets.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::LINE_BYTES;

/// What the partition publishes. Its first line is written in every pass, the second one once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PartitionState {
    /// One of the `STATE_` constants of [`crate::event`]; 0 before the first.
    pub state: u32,
    /// Exit code that the entry chose; meaningful once the state is stopped or failed.
    pub code: u32,
    /// Passes of the loop.
    pub heartbeat: u64,
    /// TSC at the start of the last pass.
    pub heartbeat_tsc: u64,
    /// TSC when the current task was resumed.
    pub task_since_tsc: u64,
    /// Number of the task being polled, from 1; 0 for none.
    pub task: u32,
    /// Bytes of `text` that count; stored before the state.
    pub text_len: u32,
    /// TSC when the state became running.
    pub running_tsc: u64,
    /// TSC when the state became stopping, or failed.
    pub stopping_tsc: u64,
    /// Zero.
    pub reserved: [u8; 72],
    /// Why it failed: one line, UTF-8 where the writer was honest.
    pub text: [u8; STATE_TEXT_BYTES],
}

/// Bytes of a failure's line: with the words before it the part is four lines of 128 bytes.
pub const STATE_TEXT_BYTES: usize = 384;

const _: () = assert!(size_of::<PartitionState>() == 4 * LINE_BYTES);
const _: () = assert!(offset_of!(PartitionState, heartbeat) == 8);
const _: () = assert!(offset_of!(PartitionState, task) == 32);
const _: () = assert!(offset_of!(PartitionState, running_tsc) == 40);
const _: () = assert!(offset_of!(PartitionState, text) == LINE_BYTES);

/// What the host asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct HostState {
    /// 0, or one of the `STOP_` constants of [`crate::command`]: end in order.
    pub stop: u32,
    /// Zero.
    pub reserved: [u8; 124],
}

const _: () = assert!(size_of::<HostState>() == LINE_BYTES);
const _: () = assert!(offset_of!(HostState, stop) == 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partitions_state_has_its_golden_bytes() {
        let mut state = PartitionState {
            state: 2,
            code: 7,
            heartbeat: 0x0102,
            heartbeat_tsc: 0x0304,
            task_since_tsc: 0x0506,
            task: 9,
            text_len: 2,
            running_tsc: 0x0708,
            stopping_tsc: 0x090A,
            reserved: [0; 72],
            text: [0; STATE_TEXT_BYTES],
        };
        state.text[..2].copy_from_slice(b"no");
        #[rustfmt::skip]
        let mut golden = [
            2, 0, 0, 0, 7, 0, 0, 0,
            2, 1, 0, 0, 0, 0, 0, 0,
            4, 3, 0, 0, 0, 0, 0, 0,
            6, 5, 0, 0, 0, 0, 0, 0,
            9, 0, 0, 0, 2, 0, 0, 0,
            8, 7, 0, 0, 0, 0, 0, 0,
            10, 9, 0, 0, 0, 0, 0, 0,
        ].to_vec();
        golden.resize(128, 0);
        golden.extend(b"no");
        golden.resize(512, 0);
        assert_eq!(state.as_bytes(), golden);
    }

    #[test]
    fn the_hosts_state_has_its_golden_bytes() {
        let state = HostState { stop: 2, reserved: [0; 124] };
        let mut golden = [0; 128];
        golden[0] = 2;
        assert_eq!(state.as_bytes(), golden);
    }
}
