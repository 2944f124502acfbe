//! End-to-end tests: the `feed-handler` binary, as its users meet it.
//!
//! Each test starts the program as a process of its own and judges by what comes out: standard
//! output, the one line on standard error, the exit code, the files. Runs that start a partition
//! take turns ([`machine::Machine`]), since each wants two processors for itself. A test that
//! cannot run on this machine says so and is counted as skipped.
#![expect(clippy::cast_possible_truncation, reason = "the tests' own numbers are small")]

mod admin;
mod bad_device;
mod bad_feed;
mod bad_machine;
mod bad_output;
mod command_line;
mod config;
mod deaths;
mod fallback;
mod fallback_record;
mod fallback_writes;
mod feeds;
mod images;
mod journal;
mod journal_chain;
mod journal_real;
mod json;
mod live;
mod machine;
mod options;
mod real_data;
mod run;
mod signals;
mod silence;
mod storm;
mod storm_outside;
mod supervision;
mod symbols;
mod telemetry;
mod temp;
mod uring;
mod vfio_user;
