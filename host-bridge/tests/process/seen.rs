//! What tests look at: a partition's process, its `/proc` files, its crash record.

use std::time::{Duration, Instant};

use core_runtime::crash::load_base;
use core_runtime::partition::CRASH_PART;
use core_runtime::region::RegionReader;
use host_bridge::backend::Backend;
use host_bridge::{Entry, Isolation, PartitionHandle, PartitionReport, PartitionSpec};
use hybrid_abi::crash::program::{BacktraceHead, Program, Registers};
use hybrid_abi::crash::{CrashHeader, SectionKind, elements, newest, slot, text};
use hybrid_abi::region::PartKind;
use zerocopy::FromBytes;

use crate::common::{self, OnlyOne};

/// Longest wait of a test for anything: far above what a crowded machine takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A small partition that is a process of this program.
pub(crate) fn spec(name: &'static str, entry: Entry) -> PartitionSpec {
    let mut spec = common::spec(name, common::idle);
    spec.entry = entry;
    spec.isolation = Isolation::Process;
    spec
}

pub(crate) fn start(only: &OnlyOne, entry: Entry, args: &str) -> PartitionHandle {
    only.runtime.spawn(spec("p", entry).with_args(args)).expect("a partition")
}

pub(crate) fn start_on(
    only: &OnlyOne,
    entry: Entry,
    device: impl Backend + 'static,
) -> PartitionHandle {
    only.runtime.spawn(spec("p", entry).with_device(device)).expect("a partition")
}

/// Waits until `done`, looking again and again.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "no {what} within {LIMIT:?}");
        std::thread::yield_now();
    }
}

/// Waits until its loop has gone round some more times.
pub(crate) fn goes_round(handle: &PartitionHandle, passes: u64) {
    let from = handle.snapshot().heartbeat;
    until("passes", || handle.snapshot().heartbeat >= from + passes);
}

/// Its number.
pub(crate) fn pid(handle: &PartitionHandle) -> i32 {
    handle.process().expect("a process").pid()
}

/// A file of its in `/proc`.
pub(crate) fn proc_file(handle: &PartitionHandle, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{file}", pid(handle))).expect("procfs")
}

/// A field of `/proc/PID/status`.
pub(crate) fn status(handle: &PartitionHandle, field: &str) -> String {
    let status = proc_file(handle, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field} in\n{status}")).trim().to_owned()
}

/// A crash record, whole and intact.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) header: CrashHeader,
    pub(crate) message: String,
    pub(crate) location: String,
    pub(crate) registers: Option<Registers>,
    /// Return addresses, from the start of the program's file.
    pub(crate) backtrace: Vec<u64>,
}

impl Record {
    /// The newest one of a partition.
    pub(crate) fn of(handle: &PartitionHandle) -> Option<Self> {
        let region = RegionReader::new(handle.region()).expect("a region");
        let part = region.part(PartKind::CRASH, CRASH_PART).expect("a crash part");
        let mut bytes = vec![0; part.len()];
        part.read(0, &mut bytes).expect("inside");
        let (index, header) = newest(&bytes)?;
        let mut record = Self {
            header,
            message: String::new(),
            location: String::new(),
            registers: None,
            backtrace: Vec::new(),
        };
        let mut base = 0;
        for section in header.sections(slot(&bytes, index)) {
            assert!(section.intact, "{:?}", section.header);
            match section.header.kind {
                SectionKind::MESSAGE => record.message = text(section.payload).to_owned(),
                SectionKind::LOCATION => record.location = text(section.payload).to_owned(),
                SectionKind::REGISTERS => {
                    record.registers = Registers::read_from_bytes(section.payload).ok();
                }
                SectionKind::BACKTRACE => {
                    let (_, rest) = section.head::<BacktraceHead>().expect("its head");
                    record.backtrace = elements::<u64>(rest).collect();
                }
                SectionKind::PROGRAM => {
                    base = section.head::<Program>().expect("the program").0.load_base;
                }
                _ => {}
            }
        }
        record.backtrace.iter_mut().for_each(|address| *address = address.wrapping_sub(base));
        Some(record)
    }

    /// Whether the walk came through the function at `address` of this very program.
    pub(crate) fn passes(&self, address: usize) -> bool {
        /// Longer than any function of `victims`, shorter than what lies between two.
        const LONG: u64 = 400;
        let at = (address as u64).wrapping_sub(load_base());
        self.backtrace.iter().any(|return_address| (at..at + LONG).contains(return_address))
    }
}

/// Waits for the end, takes the record, and then the report.
pub(crate) fn ended(mut handle: PartitionHandle) -> (Option<Record>, PartitionReport) {
    handle.wait(Duration::from_millis(10), |_| std::ops::ControlFlow::Continue(()));
    (Record::of(&handle), handle.join())
}
