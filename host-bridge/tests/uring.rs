//! io_uring on this kernel: rings as they are made here, what a filter forbids, and a partition on
//! storage of the host.

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use host_bridge::backend::{Backend, SqPollChoice, UringBackend, UringOptions};
use host_bridge::sys::uring::{Features, File, Op, Opcode, Ring, RingOptions, SqPoll};
use host_bridge::uring::reactor::{Desk, Reactor, Source};
use host_bridge::uring::rings::{Rings, RingsWish, SqPollWish, Which};
use hybrid_conventions::Exit;
use nvme_driver::{ControllerConfig, Device, DeviceParts, Lba, WriteFlags, spec::Nsid};
use rustix::io::Errno;

fn options(features: Features) -> RingOptions {
    let sqpoll = SqPoll { cpu: None, idle: Duration::from_secs(10), attach: None };
    RingOptions { entries: 8, completions: 32, features, sqpoll }
}

/// Results by number, once `count` have come.
fn results(ring: &mut Ring, count: usize) -> Vec<(u64, i32)> {
    let begun = Instant::now();
    let mut seen = Vec::new();
    while seen.len() < count {
        assert!(begun.elapsed() < Duration::from_secs(20), "{seen:?}");
        ring.submit().expect("submitted");
        ring.ask().expect("asked");
        ring.reap(32, |cqe| seen.push((cqe.user_data, cqe.result)));
        if seen.len() < count && !ring.features().contains(Features::SQPOLL) {
            ring.wait(Duration::from_millis(10)).expect("waited");
        }
    }
    seen.sort_unstable();
    seen
}

#[test]
fn every_kind_of_ring_that_is_made_here_answers() {
    let mut absent = Vec::new();
    for features in [
        Features::empty(),
        Features::SINGLE_ISSUER | Features::DEFER_TASKRUN,
        Features::SINGLE_ISSUER | Features::COOP_TASKRUN,
        Features::SQPOLL,
        Features::BIG,
        Features::BIG | Features::IOPOLL,
    ] {
        let mut ring = match Ring::new(&options(features)) {
            Ok(ring) => ring,
            // A flag that a kernel does not know; the plain ring has none.
            Err(Errno::INVAL) if !features.is_empty() => {
                absent.push(features);
                continue;
            }
            Err(error) => panic!("{features:?}: {error}"),
        };
        // A polled ring takes transfers only; that it is there is enough.
        if features.contains(Features::IOPOLL) {
            continue;
        }
        for number in 0..8 {
            ring.push(&Op::Nop, number).expect("eight entries");
        }
        assert!(ring.push(&Op::Nop, 9).is_err(), "full");
        let expected: Vec<_> = (0..8).map(|number| (number, 0)).collect();
        assert_eq!(results(&mut ring, 8), expected, "{features:?}");
        assert_eq!(ring.in_flight(), 0);
    }
    if !absent.is_empty() {
        let test = "every_kind_of_ring_that_is_made_here_answers";
        let reason = format!("not in this kernel: {absent:?}");
        hybrid_conventions::testing::skipped(test, &reason);
    }
}

#[test]
fn while_the_kernels_thread_polls_a_submission_is_no_system_call() {
    let Ok(mut ring) = Ring::new(&options(Features::SQPOLL)) else {
        let test = "while_the_kernels_thread_polls_a_submission_is_no_system_call";
        return hybrid_conventions::testing::skipped(test, "no SQPOLL in this kernel");
    };
    ring.push(&Op::Nop, 0).expect("room");
    results(&mut ring, 1);
    let before = ring.enters();
    for number in 0..5_000 {
        ring.push(&Op::Nop, number).expect("room");
        results(&mut ring, 1);
    }
    let entered = ring.enters() - before;
    assert!(entered < 10, "{entered} entries into the kernel for 5,000 submissions");
}

#[test]
fn a_restricted_ring_takes_what_was_named_and_nothing_else() {
    let features = Features::RESTRICTED;
    let mut ring = Ring::new(&options(features)).expect("restrictions");
    ring.restrict(&[Opcode::Nop, Opcode::Sync]).expect("restricted");
    let file = fs::File::open("/dev/null").expect("there");
    ring.push(&Op::Nop, 1).expect("room");
    ring.push(&Op::PollReadable { file: File::Fd(file.as_raw_fd()) }, 2).expect("room");
    assert_eq!(results(&mut ring, 2), [(1, 0), (2, -libc::EACCES)]);
    assert!(ring.register_files(&[file.as_raw_fd()]).is_err(), "nor any registration");
}

#[test]
fn what_is_linked_does_not_begin_when_the_first_fails() {
    let mut ring = Ring::new(&options(Features::empty())).expect("a ring");
    let bad = File::Fd(-1);
    let (first, second) = (Op::Sync { file: bad, data_only: true }, Op::Nop);
    ring.push_linked((&first, 1), (&second, 2)).expect("room");
    assert_eq!(results(&mut ring, 2), [(1, -libc::EBADF), (2, -libc::ECANCELED)]);
}

#[test]
fn an_operation_that_waits_is_cancelled() {
    let mut ring = Ring::new(&options(Features::empty())).expect("a ring");
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    ring.push(&Op::PollReadable { file: File::Fd(reader.as_raw_fd()) }, 1).expect("room");
    ring.submit().expect("submitted");
    ring.push(&Op::Cancel { user_data: 1 }, 2).expect("room");
    assert_eq!(results(&mut ring, 2), [(1, -libc::ECANCELED), (2, 0)]);
}

/// Waits for a pipe on the latency ring.
struct Waits {
    file: File,
    pushed: bool,
    heard: bool,
}

impl Source for Waits {
    fn turn(&mut self, desk: &mut Desk<'_>) -> bool {
        if self.pushed {
            return false;
        }
        self.pushed = true;
        desk.push(Which::Latency, &Op::PollReadable { file: self.file }, 7).expect("room");
        true
    }

    fn complete(
        &mut self,
        which: Which,
        token: u64,
        _cqe: host_bridge::sys::uring::Cqe,
        _desk: &mut Desk<'_>,
    ) {
        assert_eq!((which, token), (Which::Latency, 7));
        self.heard = true;
    }
}

#[test]
fn an_urgent_completion_ends_the_wait_on_the_main_ring() {
    let sqpoll = SqPollWish { cpu: None, idle: Duration::from_millis(5) };
    for sqpoll in [None, Some(sqpoll)] {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let rings = Rings::new(&RingsWish { sqpoll, ..RingsWish::default() }).expect("rings");
        let file = File::Fd(reader.as_raw_fd());
        let source = Waits { file, pushed: false, heard: false };
        let mut reactor = Reactor::new(rings, vec![source]);
        reactor.turn();
        let begun = Instant::now();
        let sender = std::thread::spawn(move || {
            writer.write_all(b"x").expect("written");
            writer
        });
        while !reactor.sources()[0].heard {
            reactor.wait(Duration::from_secs(30));
            reactor.turn();
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it was not woken");
        sender.join().expect("sent");
    }
}

#[test]
fn memory_that_cannot_be_registered_is_a_visible_step() {
    // The kernel takes at most 1 GiB a buffer, and none without bytes.
    let nothing = hybrid_shm::leak_aligned(4096, 4096).sub(0, 0).expect("inside");
    let wish = RingsWish { buffers: vec![nothing], ..RingsWish::default() };
    let rings = Rings::new(&wish).expect("rings without it");
    assert!(!rings.fixed_buffers);
    assert_eq!(rings.steps.len(), 1, "{:?}", rings.steps);
    assert!(rings.steps[0].to_string().contains("without registered buffers"));
}

#[test]
fn a_filter_that_forbids_io_uring_is_named_with_its_fix() {
    // A filter of this thread only.
    let refused = std::thread::spawn(|| {
        forbid_io_uring();
        UringBackend::new("/tmp", UringOptions::default()).look().expect_err("forbidden")
    });
    let error = refused.join().expect("joined");
    let line = error.to_string();
    assert!(line.contains("seccomp") && line.starts_with("device uring:/tmp: "), "{line}");
    assert_eq!(error.exit(), Exit::Missing);
}

/// `io_uring_setup` returns EPERM from here on, as in a container.
fn forbid_io_uring() {
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7FFF_0000;
    const ERRNO: u32 = 0x0005_0000;
    const IO_URING_SETUP: u32 = 425;
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        line(LOAD, 0, 0, 0),
        line(JUMP_EQUAL, 0, 1, IO_URING_SETUP),
        line(RETURN, 0, 0, ERRNO | libc::EPERM.unsigned_abs()),
        line(RETURN, 0, 0, ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: numbers, and a program that lives across the calls.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter), 0);
    }
}

// ---- a partition on the host's storage -----------------------------------------------------

/// Writes, flushes, reads back.
fn blocks(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    let parts = device.expect("a device");
    let opened = Device::open(parts, partition.bump(), ControllerConfig::default());
    let device = match opened {
        Ok(device) => device,
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    };
    let work = async move {
        let outcome = work(partition, device).await;
        let off = device.shutdown().await;
        partition.finish(match (outcome, off) {
            (Ok(()), Ok(())) => PartitionExit::done(),
            (Err(line), _) => PartitionExit::failed(1, format_args!("{line}")),
            (_, Err(error)) => PartitionExit::failed(1, format_args!("{error}")),
        });
    };
    partition.spawner().spawn(TaskOptions::normal("blocks"), work).expect("room").detach();
    run_until_stopped(partition, device)
}

async fn work(partition: &'static Partition, device: Device) -> Result<(), &'static str> {
    device.ready().await.map_err(|_| "not ready")?;
    let block = device.block_device(Nsid(1)).ok_or("no device")?;
    for round in 0..50_u8 {
        let lba = Lba(u64::from(round) % block.blocks());
        let mut buf = partition.arena().alloc(block.lba_bytes() as usize).map_err(|_| "memory")?;
        buf.as_mut_slice().fill(round);
        let buf = block.write(lba, buf, WriteFlags::empty()).await.map_err(|_| "write")?;
        block.flush().await.map_err(|_| "flush")?;
        let buf = block.read(lba, buf).await.map_err(|_| "read")?;
        if buf.as_slice().iter().any(|byte| *byte != round) {
            return Err("other bytes than were written");
        }
    }
    Ok(())
}

#[test]
fn a_partition_writes_and_reads_a_file_of_the_host() {
    let Some(one) = common::runtime("a_partition_writes_and_reads_a_file_of_the_host") else {
        return;
    };
    let cpu = one.runtime.housekeeping().iter().next().expect("two CPUs");
    let on = SqPollChoice::Cpu(cpu);
    let has_sqpoll = Ring::new(&options(Features::SQPOLL)).is_ok();
    for (sqpoll, fixed) in [(SqPollChoice::Off, true), (SqPollChoice::Off, false), (on, true)] {
        let path = std::env::temp_dir().join(format!("host-bridge-uring-{}", std::process::id()));
        fs::File::create(&path).and_then(|file| file.set_len(1 << 20)).expect("a file");
        let options = UringOptions { sqpoll, fixed, ..UringOptions::default() };
        let backend = UringBackend::new(path.to_str().expect("text"), options);
        backend.look().expect("there");
        let spec = common::spec("blocks", blocks).with_device(backend);
        let partition = one.runtime.spawn(spec).expect("started");
        let report = partition.join();
        assert!(report.exit.is_done(), "{}", report.exit.text);
        let device = report.device.expect("a device");
        assert_eq!(device.mistakes, [""; 0]);
        assert_eq!(device.problem, None);
        assert!(device.description.contains("registered files"), "{}", device.description);
        assert_eq!(device.description.contains("registered buffers"), fixed);
        let submits = sqpoll == on && has_sqpoll;
        assert_eq!(device.description.contains("SQPOLL"), submits, "{}", device.description);
        let kept = fs::read(&path).expect("still there");
        assert!(kept[49 * 4096..50 * 4096].iter().all(|byte| *byte == 49));
        fs::remove_file(&path).expect("removed");
    }
}
