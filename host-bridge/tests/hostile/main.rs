//! Shared memory as a hostile peer writes it: bit flips, wild and stale words, truncated records,
//! headers and directories that lie, answers that nobody asked for. A million cases in all.
//!
//! Each case damages memory that lies between two pages without access, so that one byte beyond it
//! ends the test, lets our side look at it, and repairs it. What counts as passed: no panic, no
//! access outside, a bounded amount of work, and either a value or a typed error; counters prove
//! that both came up. Seeded (`HYBRID_SEED`), longer in `cargo xtask soak`.

mod host_side;
mod memory;
mod partition_side;
mod peers;
mod small;
