//! What is known of a partition when it has ended.

use std::time::Duration;

use core_runtime::partition::PartitionExit;

use crate::backend::DeviceReport;
use crate::process::Death;
use crate::sys::alloc_guard::AllocReport;
use crate::sys::syscall_guard::SyscallReport;
use crate::sys::syscall_names::syscall_name;
use crate::sys::usage::ThreadUsage;

/// How a partition ended, and how it behaved.
#[derive(Debug)]
pub struct PartitionReport {
    /// Its name.
    pub name: String,
    /// The CPU it ran on.
    pub cpu: u32,
    /// How it ended: what the entry returned, or the panic.
    pub exit: PartitionExit,
    /// How its process ended, if it was one.
    pub death: Death,
    /// Passes of its loop.
    pub passes: u64,
    /// Time between *running* and *stopping*.
    pub ran: Duration,
    /// Heap calls while running; `None`: this program has no counting allocator.
    pub allocations: Option<AllocReport>,
    /// System calls while running; `None`: not asked for.
    pub syscalls: Option<SyscallReport>,
    /// Page faults and context switches from the entry's begin to its end.
    pub usage: ThreadUsage,
    /// The device's last words.
    pub device: Option<DeviceReport>,
}

impl PartitionReport {
    /// Whether the promise was kept, as far as it was checked: no allocation and no system call
    /// between running and stopping, and no page fault that waits for a disk from the entry's begin
    /// to its end (the kernel counts them for the whole thread). The line says what broke it.
    ///
    /// # Errors
    /// One line with the first offender.
    pub fn check_silence(&self) -> Result<(), String> {
        if let Some(AllocReport { calls: calls @ 1.., first_bytes }) = self.allocations {
            return Err(format!(
                "partition {} called the allocator {calls} times while running, first for \
                 {first_bytes} bytes",
                self.name
            ));
        }
        if let Some(SyscallReport { calls: calls @ 1.., first }) = &self.syscalls {
            let names: Vec<_> =
                first.iter().map(|nr| format!("{} ({nr})", syscall_name(*nr))).collect();
            return Err(format!(
                "partition {} made {calls} system calls while running, first {}",
                self.name,
                names.join(", ")
            ));
        }
        Ok(())
    }

    /// Whether the partition never waited for a page from a disk, from its entry's begin to its
    /// end. Apart from [`PartitionReport::check_silence`]: that promise is the program's own, this
    /// one the machine's too, which may be short of memory.
    ///
    /// # Errors
    /// One line with the number of times.
    pub fn check_resident(&self) -> Result<(), String> {
        if let ThreadUsage { major_faults: faults @ 1.., .. } = self.usage {
            return Err(format!(
                "partition {} waited {faults} times for a page from a disk: memory is short, or \
                 its pages could not be locked",
                self.name
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> PartitionReport {
        PartitionReport {
            name: "p".into(),
            cpu: 1,
            exit: PartitionExit::done(),
            death: Death::Thread,
            passes: 0,
            ran: Duration::ZERO,
            allocations: Some(AllocReport::default()),
            syscalls: None,
            usage: ThreadUsage::default(),
            device: None,
        }
    }

    #[test]
    fn what_was_not_checked_breaks_no_promise_and_what_was_seen_is_named() {
        assert_eq!(report().check_silence(), Ok(()));
        let allocations = Some(AllocReport { calls: 3, first_bytes: 48 });
        let line = PartitionReport { allocations, ..report() }.check_silence();
        assert!(line.unwrap_err().ends_with("3 times while running, first for 48 bytes"));
        let syscalls = Some(SyscallReport { calls: 2, first: vec![1, 9999] });
        let line = PartitionReport { syscalls, ..report() }.check_silence().unwrap_err();
        assert!(line.ends_with("first write (1), system call (9999)"), "{line}");
        let usage = ThreadUsage { major_faults: 2, minor_faults: 9, ..ThreadUsage::default() };
        let report = PartitionReport { usage, ..report() };
        assert_eq!(report.check_silence(), Ok(()));
        let line = report.check_resident().unwrap_err();
        assert!(line.starts_with("partition p waited 2 times for a page from a disk"), "{line}");
    }
}
