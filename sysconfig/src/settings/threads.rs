//! Threads of the kernel and of programs move to the housekeeping CPUs.
//!
//! A kernel thread that serves one CPU can't move, and a thread that may run on isolated CPUs only
//! was put there on purpose: a partition. Both stay.

use crate::config::Config;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::place::{Place, State};
use crate::threads::Thread;
use crate::wish::{Wish, Wishes};

/// Names in a note; more are counted.
const NAMED: usize = 3;

/// Every thread that can move.
pub(super) fn wishes(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    if config.isolated.is_empty() {
        return Ok(wishes);
    }
    let mut there = Vec::new();
    let me = std::process::id();
    for thread in Thread::all(&machine.root) {
        let left = thread.cpus.difference(config.isolated);
        if thread.bound || (machine.root.is_live() && thread.tid == me) {
            continue;
        }
        if left.is_empty() {
            there.push(format!("{} ({})", thread.tid, thread.name));
            continue;
        }
        let Thread { tid, started, name, .. } = thread;
        let wish = Wish::new(Place::Thread { tid, started, name }, State::cpus(left));
        wishes.push(wish.may_refuse().off(config.isolated));
    }
    if !there.is_empty() {
        let more = there.len().saturating_sub(NAMED);
        let and = if more > 0 { format!(" and {more} more") } else { String::new() };
        there.truncate(NAMED);
        wishes.note(format!("on isolated cpus on purpose, left there: {}{and}", there.join(", ")));
    }
    Ok(wishes)
}
