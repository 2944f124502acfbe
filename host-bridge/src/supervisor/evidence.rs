//! What an incarnation left behind, for its dump and its line.
//!
//! Called behind the fence. The record is the one that the partition wrote while it died, or is
//! composed from what it had published ([`crate::crash`]); here it becomes a line.

use std::time::{SystemTime, UNIX_EPOCH};

use core_runtime::clock::rdtsc;
use hybrid_abi::crash::file::{
    END_EXITED, END_SIGNALLED, END_UNKNOWN, HOST_FENCED, HOST_SENT_IT, HostWords,
};
use hybrid_abi::crash::{
    REASON_ALLOCATION, REASON_ASKED, REASON_FAULT, REASON_KILLED, REASON_PANIC, REASON_SYSCALL,
    reason_name,
};

use super::incarnation::Evidence;
use super::policy::{Cause, Ending};
use super::supervised::ending;
use crate::PartitionHandle;
use crate::crash::{Collect, Headline};
use crate::process::{DUMP_SIGNAL, Death, PartitionProcess, code};

/// Reads it. `fenced`: its device is quiet.
pub(super) fn collect(
    handle: &mut PartitionHandle,
    fenced: bool,
    killed: Option<Cause>,
) -> Evidence {
    let seen = handle.snapshot();
    let death = handle.death();
    let ending = ending(death, seen.state, seen.code);
    let mut line = words(death, killed);
    let last = handle.last_words();
    if !last.is_empty() {
        line = format!("{line}: {last}");
    }
    let flag = |on: bool, flag| if on { flag } else { 0 };
    let flags = flag(fenced, HOST_FENCED) | flag(killed.is_some(), HOST_SENT_IT);
    let name = handle.task_name(seen.task);
    let own = std::env::current_exe().ok();
    let program = handle.process().map_or(own.as_deref(), PartitionProcess::program);
    let dma = handle.dma_memory().filter(|_| fenced);
    let dump = crate::crash::collect(&Collect {
        region: handle.region(),
        dma: dma.map(|dma| dma.mapped.read_span()),
        words: host_words(handle, death, flags),
        line: &line,
        reason: reason_of(death),
        task_name: name.as_deref(),
        program,
        now_unix_ns: unix_ns(),
    });
    let headline = dump.headline();
    let died = matches!(ending, Ending::Crashed | Ending::Killed);
    if headline.composed && !died {
        return Evidence {
            ending,
            reason: ending.word().to_owned(),
            what: last.as_str().to_owned(),
            task: None,
            dump: None,
        };
    }
    let told = || reason_name(headline.reason).replace(' ', "-");
    // What we accused it of is why it ended, unless it ended by itself just then.
    let ours = headline.composed || headline.reason == REASON_ASKED;
    let reason = killed.filter(|_| ours).map_or_else(told, |cause| cause.word().to_owned());
    let what = if headline.composed { line } else { said(headline) };
    let task = headline.task.as_ref().map(|(_, name, age)| (name.clone(), *age));
    Evidence { ending, reason, what, task, dump: Some(dump.to_file_bytes()) }
}

/// How it ended, as its host saw it.
fn words(death: Death, killed: Option<Cause>) -> String {
    let by_us = killed.map_or("", |_| ", by its supervisor");
    match death {
        Death::Killed { signal } => format!("killed by signal {signal}{by_us}"),
        Death::Exited { code } => format!("its process ended with code {code}"),
        Death::Thread => "its thread ended".to_owned(),
        Death::Lost => "its process was lost".to_owned(),
    }
}

/// What the way of its end says, where it wrote no record of it.
const fn reason_of(death: Death) -> u32 {
    const DUMPED: i32 = code::SIGNAL + DUMP_SIGNAL;
    const SYSCALL: i32 = code::SIGNAL + libc::SIGSYS;
    match death {
        Death::Exited { code: code::PANIC } => REASON_PANIC,
        Death::Exited { code: code::ALLOCATION } => REASON_ALLOCATION,
        Death::Exited { code: DUMPED } => REASON_ASKED,
        Death::Exited { code: SYSCALL } => REASON_SYSCALL,
        Death::Exited { code } if code > code::SIGNAL => REASON_FAULT,
        _ => REASON_KILLED,
    }
}

fn host_words(handle: &PartitionHandle, death: Death, flags: u32) -> HostWords {
    let (end, code) = match death {
        Death::Exited { code } => (END_EXITED, code),
        Death::Killed { signal } => (END_SIGNALLED, signal),
        Death::Thread | Death::Lost => (END_UNKNOWN, 0),
    };
    let pid = handle.process().and_then(|process| u32::try_from(process.pid()).ok());
    HostWords {
        end,
        code: code.unsigned_abs(),
        flags,
        pid: pid.unwrap_or(0),
        noticed_unix_ns: unix_ns(),
        noticed_tsc: rdtsc(),
    }
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What a record says, for a line. Of one that was asked for the cause says more.
fn said(headline: &Headline) -> String {
    if headline.reason == REASON_ASKED {
        return String::new();
    }
    let mut what = reason_name(headline.reason).to_owned();
    if !headline.message.is_empty() {
        what = format!("{what}: {}", headline.message);
    }
    if let Some((file, line, _)) = &headline.location {
        what = format!("{what}, at {file}:{line}");
    }
    what
}
