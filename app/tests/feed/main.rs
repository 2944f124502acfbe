//! Tests of the feed library from outside: golden bytes, oracles, real data, damage.

mod real_data;
mod support;
