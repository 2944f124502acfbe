//! What the driver says of its commands when the partition dies, against a model that is told what
//! to leave unanswered.

use std::cell::Cell;

use core_runtime::crash::{CrashSource, RecordHead, Recorder};
use core_runtime::mem::Bump;
use hybrid_abi::crash::device::*;
use hybrid_abi::crash::{CRASH_SLOT_BYTES, CrashHeader, SectionKind, elements};
use hybrid_conformance::{Backend, Rig, Stepped, quick};
use nvme_driver::{ControllerConfig, Lba, WriteFlags};
use nvme_model::{FaultAction, FaultPlan, FaultRule, ModelConfig, NamespaceConfig, When};
use nvme_spec::registers::Register;
use nvme_spec::{NvmOpcode, StatusCode};

struct Seen {
    controller: ControllerRecord,
    queues: Vec<QueueRecord>,
    total: u32,
    commands: Vec<CommandRecord>,
}

/// What the controller would leave in a record now.
fn dump(rig: &Rig<Stepped>) -> Seen {
    let slot = vec![Cell::new(0); CRASH_SLOT_BYTES];
    let head = RecordHead { reason: 1, sequence: 1, tsc: 0, incarnation: 1 };
    let store = &slot[..];
    let mut recorder = Recorder::begin(&store, head);
    rig.controller.record(3, &mut recorder);
    rig.controller.record_commands(3, &mut recorder);
    recorder.finish();
    let bytes: Vec<u8> = slot.iter().map(Cell::get).collect();
    let header = CrashHeader::parse_record(&bytes).expect("a record");
    let find = |kind| {
        let mut sections = header.sections(&bytes);
        sections.find(|section| section.header.kind == kind && section.intact).expect("a section")
    };
    let (head, commands) = find(SectionKind::COMMANDS).head::<CommandsHead>().expect("a head");
    Seen {
        controller: find(SectionKind::CONTROLLER).head().expect("a controller").0,
        queues: elements(find(SectionKind::QUEUES).payload).collect(),
        total: head.total,
        commands: elements(commands).collect(),
    }
}

fn config() -> ControllerConfig {
    ControllerConfig {
        queue_depth: 31,
        latency_sampling: 0,
        async_events: 1,
        ..ControllerConfig::default()
    }
}

fn model() -> ModelConfig {
    ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, 4096).lba_bytes(512)],
        ..ModelConfig::default()
    }
}

/// Leaves reads unanswered.
fn deaf() -> ModelConfig {
    let drop = FaultRule::io(NvmOpcode::READ, FaultAction::Drop);
    ModelConfig { faults: FaultPlan::none().with(drop), ..model() }
}

/// Those on I/O queues.
fn io(seen: &Seen) -> Vec<CommandRecord> {
    seen.commands.iter().filter(|command| command.qid != 0).copied().collect()
}

#[test]
fn commands_are_told_with_their_blocks_and_an_age_that_holds() {
    let rig = quick(deaf(), config());
    let begun = rig.backend.now();
    let first = rig.ns().read(Lba(100), rig.filled(4096, 1));
    rig.controller.ring();
    rig.wait_ns(1_700_000_000);
    let later = rig.backend.now();
    let second = rig.ns().read(Lba(200), rig.filled(512, 1));
    rig.controller.ring();
    rig.wait_ns(300_000_000);
    let not_rung = rig.ns().write(Lba(7), rig.filled(1024, 1), WriteFlags::empty());
    let seen = dump(&rig);
    let commands = io(&seen);
    let told: Vec<_> = commands.iter().map(|c| (c.opcode, c.nsid, c.slba, c.nlb())).collect();
    assert_eq!(told, [(2, 1, 100, 8), (2, 1, 200, 1), (1, 1, 7, 2)], "the oldest first");
    let now = rig.backend.now();
    for (command, posted) in commands.iter().zip([begun, later, now]) {
        let age = u32::try_from(now.since(posted).get() / 1_000).expect("small");
        let (least, most) = (command.age_us, command.age_us + command.age_within_us);
        assert!((least..=most).contains(&age), "{age}: {command:?}");
        assert!(command.age_within_us <= 625_000 + 50_000, "{command:?}");
    }
    assert!(commands.iter().all(|command| command.state == COMMAND_IN_FLIGHT));
    let flags: Vec<_> = commands.iter().map(|command| command.flags).collect();
    assert_eq!(flags, [COMMAND_BLOCKS, COMMAND_BLOCKS, COMMAND_BLOCKS | COMMAND_NOT_RUNG]);
    let event = seen.commands.iter().find(|command| command.qid == 0).expect("an event request");
    assert_eq!(event.flags & COMMAND_EVENT, COMMAND_EVENT);
    assert_eq!((seen.total, seen.commands.len()), (4, 4));
    drop((first, second, not_rung));
}

#[test]
fn the_controller_and_its_queues_are_told_as_they_stood() {
    let rig = quick(deaf(), config());
    let read = rig.ns().read(Lba(1), rig.filled(512, 1));
    rig.controller.ring();
    rig.wait_ns(50_000_000);
    let seen = dump(&rig);
    let controller = seen.controller;
    assert_eq!((controller.controller, controller.state), (3, CONTROLLER_READY));
    assert_eq!(controller.known, KNOWN_CSTS | KNOWN_CC | KNOWN_IDENTITY);
    assert_eq!((controller.csts, controller.cc & 1), (1, 1), "ready and enabled");
    assert_eq!(controller.cap, rig.controller.capabilities().into_raw());
    let looked = rig.backend.now().ticks() - controller.csts_tsc;
    assert!(looked <= 2 * 10_000_000, "CSTS was looked at {looked} ns ago");
    assert!(!controller.model.as_str().is_empty() && !controller.serial.as_str().is_empty());
    assert_eq!((controller.io_queues, controller.namespaces), (1, 1));
    assert_eq!(seen.queues.len(), 2);
    let queue = seen.queues[1];
    assert_eq!((queue.qid, queue.entries, queue.mode), (1, 32, QUEUE_OPEN));
    assert_eq!((queue.sq_tail, queue.sq_rung, queue.in_flight), (1, 1, 1));
    assert_eq!((queue.submitted, queue.completed, queue.unreaped), (1, 0, 0));
    drop(read);
}

#[test]
fn an_answer_that_nobody_took_is_told() {
    let rig = quick(model(), config());
    let read = rig.ns().read(Lba(5), rig.filled(512, 1));
    let beyond = rig.ns().read(Lba(6), rig.filled(512, 1));
    rig.controller.ring();
    for _ in 0..10 {
        let now = rig.backend.now().ticks();
        rig.backend.with_model(move |model| model.step(now));
    }
    let seen = dump(&rig);
    assert_eq!(seen.queues[1].unreaped, 2);
    for command in io(&seen) {
        assert_eq!(command.flags, COMMAND_BLOCKS | COMMAND_ANSWERED, "{command:?}");
        assert_eq!(command.status, 0);
    }
    rig.run(read).expect("it was only not taken yet");
    rig.run(beyond).expect("likewise");
    assert!(io(&dump(&rig)).is_empty());
    rig.finish();
}

#[test]
fn a_sampled_commands_age_is_exact() {
    let rig = quick(deaf(), ControllerConfig { latency_sampling: 1, ..config() });
    let read = rig.ns().read(Lba(5), rig.filled(512, 1));
    let posted = rig.backend.now();
    rig.controller.ring();
    rig.wait_ns(77_000_000);
    let seen = dump(&rig);
    let age = rig.backend.now().since(posted).get() / 1_000;
    let [command] = io(&seen)[..] else { panic!("one command") };
    assert_eq!((u64::from(command.age_us), command.age_within_us), (age, 0));
    drop(read);
}

#[test]
fn a_raw_queues_commands_are_told_from_their_entries() {
    let rig = quick(deaf(), config());
    let raw = rig.controller.take_raw_queue(0, 4, &Bump::leak(16 << 10)).expect("a queue");
    let target = rig.ns().target().expect("usable");
    for buf in 0..3_u16 {
        assert_eq!(raw.adopt(rig.filled(4096, 1)).expect("room"), buf);
        // A token that would be nonsense as a request's.
        let slba = Lba(u64::from(buf) * 8);
        raw.submit_read(&target, slba, 8, buf, u32::MAX - 1).expect("room");
    }
    raw.ring();
    rig.pass();
    let commands = io(&dump(&rig));
    let told: Vec<_> = commands.iter().map(|c| (c.opcode, c.slba, c.nlb(), c.tries)).collect();
    assert_eq!(told, [(2, 0, 8, 0), (2, 8, 8, 0), (2, 16, 8, 0)]);
}

#[test]
fn commands_past_their_deadline_and_those_that_wait_for_a_retry_are_told_apart() {
    let busy = StatusCode::NAMESPACE_NOT_READY.status().with_crd(1);
    let fail = FaultRule::io(NvmOpcode::WRITE, FaultAction::Status(busy)).when(When::First(1));
    let deaf = FaultRule::io(NvmOpcode::READ, FaultAction::Drop);
    let faults = FaultPlan::none().with(deaf).with(fail);
    let model = ModelConfig { faults, retry_delays_100ms: [1, 0, 0], ..model() };
    let rig = quick(model, config());
    let read = rig.ns().read(Lba(5), rig.filled(512, 1));
    let write = rig.ns().write(Lba(9), rig.filled(512, 1), WriteFlags::empty());
    rig.controller.ring();
    rig.until(|controller| controller.stats().io.failed == 1);
    let held = io(&dump(&rig)).into_iter().find(|command| command.state == COMMAND_HELD);
    let held = held.expect("an answer that is worth another try");
    assert_eq!((held.opcode, held.slba, held.nlb(), held.flags), (1, 9, 1, COMMAND_BLOCKS));
    rig.run(write).expect("the second try");
    let aborted = Cell::new(None);
    rig.until(|controller| {
        let late = controller.stats().deadlines == 1;
        if late {
            aborted.set(io(&dump(&rig)).into_iter().find(|c| c.state == COMMAND_EXPIRED));
        }
        late
    });
    let expired = aborted.get().expect("its deadline passes");
    assert!(expired.age_us + expired.age_within_us >= 5_000_000, "{expired:?}");
    assert_eq!((expired.opcode, expired.slba), (2, 5));
    drop(read);
}
