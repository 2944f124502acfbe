//! Every way to die leaves a record, a line and a code, and the host goes on.

use host_bridge::process::{DUMP_SIGNAL, Death, code};
use hybrid_abi::crash::{
    REASON_ALLOCATION, REASON_ASKED, REASON_FAULT, REASON_PANIC, REASON_SYSCALL,
};

use crate::common::{self, OnlyOne};
use crate::seen::{Record, ended, start, until};
use crate::victims::{TASK, WAYS};
use crate::{Test, VICTIM};

pub(crate) const TESTS: &[Test] = &[
    ("deaths::a_panic_leaves_its_message_and_its_place", a_panic),
    ("deaths::each_fault_leaves_its_registers_and_where_it_was", faults),
    ("deaths::a_stack_that_overflows_is_called_so", an_overflow),
    ("deaths::a_heap_call_while_running_ends_it_with_who_called", allocations),
    ("deaths::each_system_call_is_named_with_its_arguments", system_calls),
    ("deaths::one_that_hangs_writes_a_record_when_asked", a_hang),
];

/// What a way to die must leave.
struct Expected {
    way: &'static str,
    reason: u32,
    code: i32,
    /// Parts of the line.
    says: &'static [&'static str],
    /// Whether the function that died is in the backtrace: not where it is left with a jump.
    traced: bool,
}

fn dies(only: &OnlyOne, expected: &Expected) -> Record {
    let Expected { way, reason, code, says, traced } = *expected;
    let (record, report) = ended(start(only, VICTIM, way));
    let record = record.unwrap_or_else(|| panic!("{way} left no record: {:?}", report.exit));
    assert_eq!(record.header.state, hybrid_abi::crash::CRASH_COMPLETE, "{way}: {record:?}");
    assert_eq!(record.header.reason, reason, "{way}: {record:?}");
    assert_eq!(report.death, Death::Exited { code }, "{way}: {:?}", report.exit);
    let (line, task) = (report.exit.text.as_str(), format!("in task {TASK}"));
    for word in says.iter().chain([&task.as_str()]) {
        assert!(line.contains(word), "{way}: {word} is not in: {line}");
        assert!(record.message.contains(word), "{way}: {word} is not in: {}", record.message);
    }
    assert_eq!(report.exit.code, u32::try_from(code).expect("positive"), "{way}");
    let (_, function) = WAYS.iter().find(|(name, _)| *name == way).expect("a way");
    let found = record.passes(*function as usize);
    assert!(found || !traced, "{way}: {:#x?}", record.backtrace);
    record
}

fn a_panic() {
    let Some(only) = common::runtime("a process panics") else { return };
    let (reason, code) = (REASON_PANIC, code::PANIC);
    let expected =
        Expected { way: "panic", reason, code, says: &["block 7 is torn"], traced: true };
    let record = dies(&only, &expected);
    assert!(record.location.contains("victims.rs"), "{}", record.location);
    let says = &["index out of bounds: the len is 3 but the index is 3"];
    dies(&only, &Expected { way: "index", says, ..expected });
}

fn faults() {
    let Some(only) = common::runtime("a process faults") else { return };
    let fault = |way, signal: i32, says| {
        let (reason, code) = (REASON_FAULT, code::SIGNAL + signal);
        let record = dies(&only, &Expected { way, reason, code, says, traced: true });
        let registers = record.registers.expect("registers");
        assert_eq!(registers.signal, u32::try_from(signal).expect("positive"));
        registers
    };
    let null = fault("null", libc::SIGSEGV, &["nothing is mapped at 0x18"]);
    assert_eq!(null.fault_address, 0x18);
    fault("text", libc::SIGSEGV, &["no permission at 0x"]);
    let nowhere = fault("nowhere", libc::SIGSEGV, &["nothing is mapped at 0x40"]);
    assert_eq!(nowhere.rip, 0x40);
    fault("illegal", libc::SIGILL, &["illegal instruction at 0x"]);
    fault("divide", libc::SIGFPE, &["arithmetic fault at 0x"]);
    fault("trap", libc::SIGTRAP, &["trap"]);
}

fn an_overflow() {
    let Some(only) = common::runtime("a process overflows its stack") else { return };
    let (reason, code) = (REASON_FAULT, code::SIGNAL + libc::SIGSEGV);
    let says = &["overflowed its stack of 2097152 bytes"];
    let record = dies(&only, &Expected { way: "overflow", reason, code, says, traced: true });
    assert!(record.backtrace.len() > 16, "{} frames", record.backtrace.len());
}

fn allocations() {
    let Some(only) = common::runtime("a process allocates") else { return };
    let (reason, code) = (REASON_ALLOCATION, code::ALLOCATION);
    for (way, says) in
        [("allocate", &["for 40 bytes"]), ("grow", &["for 32 bytes"]), ("free", &["for 8 bytes"])]
    {
        dies(&only, &Expected { way, reason, code, says, traced: true });
    }
}

fn system_calls() {
    let Some(only) = common::runtime("a process calls the kernel") else { return };
    let (reason, code) = (REASON_SYSCALL, code::SIGNAL + libc::SIGSYS);
    let calls: [(&'static str, &'static [&'static str], i64, u64); 6] = [
        ("socket", &["made system call socket (41)"], libc::SYS_socket, 2),
        ("execve", &["made system call execve (59)"], libc::SYS_execve, 0),
        ("mmap", &["made system call mmap (9)"], libc::SYS_mmap, 0),
        ("ptrace", &["made system call ptrace (101)"], libc::SYS_ptrace, 16),
        ("exit", &["made system call exit (60)"], libc::SYS_exit, 0),
        ("open", &["made system call openat (257)"], libc::SYS_openat, 0xffff_ff9c),
    ];
    for (way, says, number, first) in calls {
        // Closures of one call may be one function; `open` is its own.
        let traced = way == "open";
        let record = dies(&only, &Expected { way, reason, code, says, traced });
        let registers = record.registers.expect("registers");
        assert_eq!(registers.syscall, u64::try_from(number).expect("positive"), "{way}");
        if way != "execve" {
            assert_eq!(registers.syscall_args[0], first, "{way}");
        }
    }
    // The library's way: no allocation comes first, since the path is short. The C library keeps no
    // frame pointers, so that the walk ends there.
    let says = &["made system call openat (257)"];
    dies(&only, &Expected { way: "file", reason, code, says, traced: false });
}

fn a_hang() {
    let Some(only) = common::runtime("a process hangs") else { return };
    let handle = start(&only, VICTIM, "loop");
    until("it to hang", || {
        let before = handle.snapshot();
        before.task != 0 && before.heartbeat >= 100
    });
    handle.process().expect("a process").ask_for_dump().expect("it lives");
    let (record, report) = ended(handle);
    let record = record.expect("a record");
    assert_eq!(record.header.reason, REASON_ASKED);
    assert!(record.message.contains("was asked for a dump in task victim"), "{record:?}");
    assert_eq!(report.death, Death::Exited { code: code::SIGNAL + DUMP_SIGNAL });
    let (_, hangs) = WAYS.iter().find(|(name, _)| *name == "loop").expect("a way");
    assert!(record.passes(*hangs as usize), "{:#x?}", record.backtrace);
}
