//! System calls that Rust's types do not cover: the only unsafe code of this crate.
//!
//! Each module wraps one family of calls, starts with its numbered invariants, and gives the rest
//! of the crate a safe interface (or an `unsafe fn` where only the caller can know). What `rustix`
//! offers as a safe function is called from outside, directly.

pub mod alloc_guard;
pub mod ancillary;
pub mod bar;
pub mod dying;
pub mod fixed_stack;
pub mod iommufd;
pub mod mapping;
pub mod memfd;
pub mod mesh_memory;
pub mod numa;
pub mod partition_memory;
pub mod perf;
pub mod realtime;
pub mod resident;
pub mod sandbox;
pub mod signals;
pub mod spawn;
pub mod state_memory;
pub mod syscall_guard;
pub mod syscall_names;
pub mod uring;
pub mod usage;
pub mod vfio;
pub mod window;
