//! io_uring: a reactor of three rings, what storage it drives, and the bridge that serves a
//! partition with it.
//!
//! Started by [`crate::backend::uring`] for `--device uring:PATH` and `uring-cmd:/dev/ngXnY`, and
//! by `storage-bench`. A [`Reactor`](reactor::Reactor) belongs to one thread and to one core of the
//! host; it never runs on a partition's core.
//!
//! | module | what |
//! |---|---|
//! | [`features`] | what a kernel may refuse, in which order it is gone without, and its price |
//! | [`rings`] | the three rings: latency, main, poll |
//! | [`reactor`] | one bounded turn over rings and sources; blocks on the main ring |
//! | [`pool`] | registered buffers, handed out without an allocation |
//! | [`target`] | files, block devices and NVMe nodes, with limits that were probed |
//! | [`bridge`] | requests of a partition, checked and carried out |
//! | [`datagrams`] | a UDP socket on the latency ring |
//! | [`thread`] | the reactor's thread, and its end |
//!
//! Deliberately absent: futures (a reactor turns, as a partition's loop does), `epoll` beside the
//! rings, and more than one reactor a core.

pub mod bridge;
pub mod datagrams;
pub mod error;
pub mod features;
pub mod pool;
pub mod reactor;
pub mod rings;
pub mod target;
pub mod thread;

pub use error::UringError;
