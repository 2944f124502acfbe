//! Between running and stopping a partition neither allocates nor calls the kernel: proven by a
//! counting allocator and by the kernel itself, and the proof is proven by planted offences.

mod common;

use core_runtime::partition::{Partition, PartitionExit};
use host_bridge::PartitionReport;
use host_bridge::sys::alloc_guard::{AllocReport, CountingAllocator};
use host_bridge::sys::syscall_guard::SyscallReport;
use host_bridge::{EntryFn, RuntimeError};
use nvme_driver::DeviceParts;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::system();

fn run(test: &str, entry: EntryFn) -> Option<PartitionReport> {
    let only = common::runtime(test)?;
    let mut spec = common::spec("silent", entry).with_device(common::model());
    spec.check_syscalls = true;
    match only.runtime.spawn(spec) {
        Ok(handle) => Some(handle.join()),
        Err(RuntimeError::Guard(error)) => {
            hybrid_conventions::testing::skipped(test, &error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// 20,000 commands, some milliseconds of telemetry, bring-up and shutdown: all while running.
fn quiet(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    common::work(partition, device, 10_000, common::no_plant)
}

fn allocates(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    common::work(partition, device, 100, || {
        std::hint::black_box(Box::new([0_u8; 40]));
    })
}

fn calls(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    common::work(partition, device, 100, || {
        std::hint::black_box(rustix::process::getppid());
    })
}

#[test]
fn a_running_partition_neither_allocates_nor_calls_the_kernel() {
    let Some(report) = run("silence", quiet) else { return };
    assert!(report.exit.is_done(), "{:?}", report.exit);
    assert_eq!(report.allocations, Some(AllocReport::default()));
    assert_eq!(report.syscalls, Some(SyscallReport::default()));
    assert_eq!(report.check_silence(), Ok(()));
}

#[test]
fn a_planted_allocation_is_found() {
    let Some(report) = run("planted allocation", allocates) else { return };
    assert!(report.exit.is_done(), "{:?}", report.exit);
    // One to get it, one to give it back.
    assert_eq!(report.allocations, Some(AllocReport { calls: 2, first_bytes: 40 }));
    let line = report.check_silence().expect_err("an offence");
    assert_eq!(
        line,
        "partition silent called the allocator 2 times while running, first for 40 bytes"
    );
}

#[test]
fn a_planted_system_call_is_found_and_named() {
    let Some(report) = run("planted system call", calls) else { return };
    assert!(report.exit.is_done(), "{:?}", report.exit);
    assert_eq!(report.allocations, Some(AllocReport::default()));
    let syscalls = report.syscalls.as_ref().expect("checked");
    assert_eq!(syscalls.calls, 1);
    let line = report.check_silence().expect_err("an offence");
    assert!(line.contains("made 1 system calls while running, first getppid (110)"), "{line}");
}
