//! What a running partition's process is, as the kernel tells others.

use std::os::fd::AsRawFd;

use core_runtime::partition::StopReason;
use host_bridge::PartitionHandle;
use host_bridge::sys::usage::ThreadUsage;
use hybrid_conventions::testing::skipped;

use crate::common;
use crate::seen::{goes_round, pid, proc_file, start_on, status};
use crate::{Test, WORK};

pub(crate) const TESTS: &[Test] = &[
    ("sandbox::it_has_no_open_file_at_all", it_has_no_open_file_at_all),
    ("sandbox::it_has_no_capability_and_gets_none", it_has_no_capability_and_gets_none),
    ("sandbox::it_is_one_thread_on_one_core_under_seccomp", it_is_one_thread_on_one_core),
    ("sandbox::landlock_holds_it_where_the_kernel_has_it", landlock_holds_it),
    ("sandbox::it_takes_no_page_fault_and_all_its_memory_is_locked", it_takes_no_page_fault),
    ("sandbox::only_its_own_region_is_writable_of_the_two", only_its_own_region_is_writable),
];

fn at_work(check: impl FnOnce(&PartitionHandle)) {
    let Some(only) = common::runtime("a process at work") else { return };
    let handle = start_on(&only, WORK, common::model());
    goes_round(&handle, 1_000);
    check(&handle);
    handle.request_stop(StopReason::Finished);
    assert!(handle.join().exit.is_done());
}

fn it_has_no_open_file_at_all() {
    // One that a careless program has left open for all of its children.
    let careless =
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    let careless = careless.expect("it is there");
    assert!(careless.as_raw_fd() > 2);
    at_work(|handle| {
        let files = std::fs::read_dir(format!("/proc/{}/fd", pid(handle))).expect("procfs");
        let files: Vec<_> = files.flatten().map(|file| file.path().read_link()).collect();
        assert!(files.is_empty(), "{files:?}");
    });
}

fn it_has_no_capability_and_gets_none() {
    at_work(|handle| {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let value = u64::from_str_radix(&status(handle, set), 16);
            assert_eq!(value, Ok(0), "{set}");
        }
        if rustix::process::geteuid().is_root() {
            assert_eq!(u64::from_str_radix(&status(handle, "CapBnd"), 16), Ok(0));
        }
        assert_eq!(status(handle, "NoNewPrivs"), "1");
    });
}

fn it_is_one_thread_on_one_core() {
    at_work(|handle| {
        assert_eq!(status(handle, "Threads"), "1");
        assert_eq!(status(handle, "Seccomp"), "2", "a filter");
        assert_eq!(status(handle, "Cpus_allowed_list"), handle.cpu().to_string());
        assert_eq!(status(handle, "Name"), "p");
        let line = proc_file(handle, "cmdline").replace('\0', " ");
        assert!(line.contains("[partition p]"), "{line}");
    });
}

/// The ABI of this kernel's landlock, or why there is none.
fn landlock_abi() -> std::io::Result<i64> {
    const VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel takes no attributes, changes nothing and returns a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    if abi < 0 { Err(std::io::Error::last_os_error()) } else { Ok(abi) }
}

fn landlock_holds_it() {
    let mut held = None;
    at_work(|handle| held = Some(handle.process().expect("a process").has_landlock()));
    match (landlock_abi(), held) {
        // Said already: one CPU.
        (_, None) => {}
        (Ok(abi), Some(held)) => assert!(held, "this kernel has landlock, ABI {abi}"),
        (Err(error), Some(held)) => {
            assert!(!held, "{error}");
            let reason = format!("this kernel has no landlock: {error}");
            skipped("sandbox::landlock_holds_it_where_the_kernel_has_it", &reason);
        }
    }
}

fn it_takes_no_page_fault() {
    at_work(|handle| {
        let faults = || {
            let usage = ThreadUsage::of_process(pid(handle)).expect("procfs");
            (usage.minor_faults, usage.major_faults)
        };
        let before = faults();
        goes_round(handle, 50_000);
        assert_eq!(faults(), before);
        let kib = |field| {
            let value = status(handle, field);
            value.trim_end_matches(" kB").trim().parse::<u64>().expect("a number")
        };
        if rustix::process::geteuid().is_root() {
            assert!(kib("VmLck") * 10 >= kib("VmRSS") * 9, "all that is there is locked");
        }
        assert_eq!(kib("VmSwap"), 0);
    });
}

fn only_its_own_region_is_writable() {
    at_work(|handle| {
        let maps = proc_file(handle, "maps");
        let rights = |name: &str| {
            let line = maps.lines().find(|line| line.contains(name));
            line.and_then(|line| line.split(' ').nth(1)).expect(name).to_owned()
        };
        assert_eq!(rights("memfd:hybrid-partition"), "rw-s");
        assert_eq!(rights("memfd:hybrid-host"), "r--s");
        assert_eq!(rights("memfd:hybrid-dma"), "rw-s");
        let own = std::fs::read_to_string("/proc/self/maps").expect("procfs");
        let region = maps.lines().find(|line| line.contains("memfd:hybrid-partition"));
        let inode = region.and_then(|line| line.split_whitespace().nth(4)).expect("its number");
        let ours: Vec<_> = own.lines().filter(|line| line.contains(inode)).collect();
        assert!(!ours.is_empty() && ours.iter().all(|line| line.contains(" r--s ")), "{ours:?}");
        let writable_code = maps.lines().find(|line| line.contains(" rwx"));
        assert_eq!(writable_code, None);
    });
}
