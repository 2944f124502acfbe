//! ITCH 5.0 feed handling: framing, decoding, order books and a synthetic day.
//!
//! This is the library half of `feed-handler`. It is `no_std`, allocates nothing and has no
//! `unsafe`: a partition gives it bytes and memory, it gives back events. Who prints, who reads a
//! device and who owns the ring is the binary's business.
//!
//! ```text
//!  chunks ──► framing ──► message::dispatch ──► book ──► Sink (BBO, trades, status)
//!             (bytes)      (typed views)         (fixed memory)
//!  └──────────────────────── pipeline::Pipeline ────────────────────┘
//! ```
//!
//! - [`framing`]: where one message ends and the next begins (file, MoldUDP64, SoupBinTCP).
//! - [`message`]: all 23 message types as views over the bytes, no copies.
//! - [`orders`]: the order messages in one shape, for who wants them and no book; [`flow`]: a whole
//!   feed that way.
//! - [`encode`]: the same types to be written, for generators and tests.
//! - [`book`]: price levels and FIFO queues for every symbol in memory given at start.
//! - [`pipeline`]: the three above in one call for each chunk.
//! - [`synth`]: a seeded, realistic trading day, made faster than it is decoded.
//!
//! Bytes are allegations here: a feed can be wrong in any way, and ends in one typed error with
//! its position ([`error::FeedError`]), or is counted and passed over ([`pipeline::Policy`]).
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod book;
pub mod encode;
pub mod error;
pub mod field;
pub mod flow;
pub mod framing;
pub mod handler;
pub mod message;
pub mod orders;
pub mod pipeline;
pub mod synth;
