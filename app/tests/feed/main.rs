//! Tests of the feed library from outside: golden bytes, oracles, real data, damage.
#![expect(clippy::cast_possible_truncation, reason = "the tests' own numbers are small")]

mod against_oracle;
mod damage;
mod flow;
mod golden;
mod oracle;
mod orders;
mod peer;
mod real_data;
mod resume;
mod slicing;
mod steps;
mod support;
mod wild;
