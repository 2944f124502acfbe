//! Every byte that another process, a file or a tool sees.
//!
//! Called by `core-runtime` (which writes and reads these layouts in shared memory), by `app` (the
//! feed store on a device), by `host-bridge` and by the tools. It touches no memory itself: a
//! layout here is a plain snapshot, copied out of shared memory or off a device and then checked.
//!
//! Rules that hold for every structure:
//! 1. Integers are little-endian and of fixed width; the crate refuses to build for a big-endian
//!    target, so that a plain `u64` is the wire form.
//! 2. No `usize`, `bool`, pointer, Rust `enum` or implicit padding. Reserved bytes are written as
//!    zero and ignored by readers.
//! 3. Codes that may grow are newtypes with constants; an unknown one is data, not an error.
//! 4. `parse` turns bytes into a checked structure. A newer version than [`ABI_VERSION`] is an
//!    error of its own, found before anything else but the magic is believed.
//! 5. Offsets count from the start of the region or part that names them. Lengths are in bytes.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_std)]

pub mod alert;
pub mod bridge;
pub mod command;
pub mod crash;
pub mod crc;
pub mod error;
pub mod event;
pub mod feed;
pub mod feed_job;
pub mod feed_journal;
pub mod handoff;
pub mod journal;
pub mod metrics;
pub mod name;
pub mod probe;
pub mod record;
pub mod region;
pub mod ring;
pub mod state;
pub mod state_memory;
pub mod tasks;
pub mod view;

pub use error::AbiError;
pub use name::Name;
pub use record::{Record, RecordHeader};

/// Version of every layout in this crate; raised when a reader of the old one would misread.
pub const ABI_VERSION: u32 = 1;

/// Bytes that one writer has to itself: two cache lines, because the adjacent-line prefetcher of
/// x86 pulls them in pairs.
pub const LINE_BYTES: usize = 128;

const _: () = assert!(cfg!(target_endian = "little"), "the layouts are little-endian");

/// Reads the version word of a layout; zero never was one.
pub(crate) const fn check_version(what: &'static str, found: u32) -> Result<(), AbiError> {
    if found > ABI_VERSION {
        return Err(AbiError::NewerVersion { what, found, known: ABI_VERSION });
    }
    if found == 0 {
        return Err(AbiError::Field {
            what,
            field: "version",
            found: 0,
            allowed: ABI_VERSION as u64,
        });
    }
    Ok(())
}

/// The first `size_of::<T>()` bytes of `bytes` as a `T`, whatever their alignment.
pub(crate) fn prefix<T: zerocopy::FromBytes>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, AbiError> {
    match T::read_from_prefix(bytes) {
        Ok((value, _)) => Ok(value),
        Err(_) => Err(AbiError::Short { what, found: bytes.len(), needed: size_of::<T>() }),
    }
}
