//! The log on a disk that loses power, tears writes, forgets, lies and decays.
//!
//! The engine, the recovery and the readers are those that ship; only the disk is made up. Every
//! state that a power failure may leave behind is a *crash point*: a prefix of the events, and of
//! each write that was not yet durable the blocks that made it. At each one, what was acknowledged
//! is recovered, what was not appended is not found, and nothing is called damaged.

mod bad_input;
mod chain;
mod crash;
mod damage;
mod disk;
mod rng;
mod sizes;
mod world;
