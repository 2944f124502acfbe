//! What the driver says when its partition dies.
//!
//! Called by the crash handler only, at any instruction of the driver's own code, on its thread
//! ([`CrashSource`] says what that forbids). Everything here reads cells and queue memory as they
//! stand; no register is touched, nothing is borrowed that could be borrowed already, and an index
//! that makes no sense any more is left out. On the way of an I/O nothing is kept for it: a
//! command's age is known by its slot's epoch, exactly only where it was sampled.
//!
//! Units: epochs are eighths of a deadline; ages are microseconds of the driver's clock, which
//! stands still while the loop does (but for the time since the last housekeeping).

use core_runtime::clock::{Instant, Ticks};
use core_runtime::crash::{CrashSource, CrashSources, Recorder};
use core_runtime::mem::Iova;
use hybrid_abi::Name;
use hybrid_abi::crash::SectionKind;
use hybrid_abi::crash::device::{
    COMMAND_AGE_UNKNOWN, COMMAND_ANSWERED, COMMAND_BLOCKS, COMMAND_ENTRY_LOST, COMMAND_EVENT,
    COMMAND_EXPIRED, COMMAND_HELD, COMMAND_IN_FLIGHT, COMMAND_NOT_RUNG, CONTROLLER_FAILED,
    CONTROLLER_OFF, CONTROLLER_READY, CONTROLLER_RESETTING, CONTROLLER_SHUTTING_DOWN,
    CONTROLLER_STARTING, CommandRecord, CommandsHead, ControllerRecord, KNOWN_CC, KNOWN_CSTS,
    KNOWN_GONE, KNOWN_IDENTITY, NO_OFFSET, QueuePlace,
};
use nvme_spec::registers::Register;
use nvme_spec::{NvmOpcode, Sqe};

use crate::admin::AdminToken;
use crate::controller::{Controller, ControllerState};
use crate::lifecycle::{Phase, READY_NS};
use crate::queue::{EPOCHS_PER_DEADLINE, Outstanding, QueuePair};
use crate::requests::{INTERNAL, Requests};
use crate::slot::SlotState;

/// Where a controller's queues were published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    sources: &'static CrashSources,
    /// The admin queue's place; that of queue `n` is `n` behind it.
    first: usize,
}

/// An age and by how much it may be too small, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Age {
    us: u32,
    within_us: u32,
}

/// The queue that a command is on.
#[derive(Clone, Copy)]
struct Origin<'a> {
    queue: &'a Requests,
    is_admin: bool,
    is_raw: bool,
}

impl Controller {
    /// Registers the controller and publishes where its queues lie.
    pub(crate) fn join(&'static self, sources: &'static CrashSources) {
        let Some(number) = sources.register(self) else { return };
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        let first = self.publish(sources, number, &self.admin);
        for queue in &self.hub.queues {
            self.publish(sources, number, queue);
        }
        self.published.set(first.map(|first| Published { sources, first }));
    }

    fn publish(
        &self,
        sources: &'static CrashSources,
        controller: u16,
        queue: &Requests,
    ) -> Option<usize> {
        let qp = queue.qp();
        let (sq, cq) = qp.iovas();
        sources.publish_queue(QueuePlace {
            state: 0,
            entries: u32::from(qp.depth()).saturating_add(1),
            controller,
            qid: qp.qid().0,
            slot_mask: u32::from(qp.slot_mask()),
            sq_offset: self.offset_of(sq),
            cq_offset: self.offset_of(cq),
            shadow_offset: NO_OFFSET,
            indices: 0,
            reserved: [0; 2],
        })
    }

    /// Publishes all queues' indices, for a host that finds the partition killed.
    pub(crate) fn publish_indices(&self) {
        let Some(Published { sources, first }) = self.published.get() else { return };
        let io = self.hub.queues.iter().map(|queue| queue.qp());
        for qp in core::iter::once(self.admin.qp()).chain(io) {
            let place = first.saturating_add(usize::from(qp.qid().0));
            sources.publish_indices(place, qp.indices());
        }
    }

    /// Publishes that the I/O queues' tails are found in their shadow doorbells, or are not.
    pub(crate) fn publish_shadows(&self, taken: bool) {
        let Some(Published { sources, first }) = self.published.get() else { return };
        for queue in &self.hub.queues {
            let qid = queue.qp().qid().0;
            let shadow = self.shadows.filter(|_| taken).and_then(|shadows| shadows.tail_iova(qid));
            let offset = shadow.map_or(NO_OFFSET, |iova| self.offset_of(iova));
            sources.publish_shadow(first.saturating_add(usize::from(qid)), offset);
        }
    }

    fn offset_of(&self, iova: Iova) -> u64 {
        iova.0.wrapping_sub(self.hub.arena.region().iova.0)
    }

    /// The controller as far as the driver knows it.
    fn describe(&self, number: u32) -> ControllerRecord {
        let stats = self.watch.stats();
        let (csts, cc) = self.regs.last_seen();
        let flag = |is: bool, flag| if is { flag } else { 0 };
        let mut record = ControllerRecord {
            controller: number,
            state: match self.state() {
                ControllerState::Starting => CONTROLLER_STARTING,
                ControllerState::Ready => CONTROLLER_READY,
                ControllerState::Resetting => CONTROLLER_RESETTING,
                ControllerState::ShuttingDown => CONTROLLER_SHUTTING_DOWN,
                ControllerState::Off => CONTROLLER_OFF,
                ControllerState::Failed(_) => CONTROLLER_FAILED,
            },
            known: flag(csts.is_some(), KNOWN_CSTS)
                | flag(cc.is_some(), KNOWN_CC)
                | flag(self.regs.is_gone(), KNOWN_GONE),
            csts: csts.unwrap_or(0),
            cc: cc.unwrap_or(0),
            vs: self.version.into_raw(),
            cap: self.cap.into_raw(),
            csts_tsc: self.looked_at(),
            deadline_ns: self.config.deadline_ns,
            admin_deadline_ns: self.config.admin_deadline_ns,
            resets: stats.resets,
            queue_resets: stats.queue_resets,
            aborts: stats.aborts,
            deadlines: stats.deadlines,
            serial: Name::EMPTY,
            model: Name::EMPTY,
            firmware: Name::EMPTY,
            io_queues: self.hub.live.get(),
            namespaces: u16::try_from(self.namespaces().count()).unwrap_or(u16::MAX),
            phase: Name::lossy(phase_name(self.life.phase())),
        };
        if let Ok(identify) = self.identify.try_borrow() {
            // Serial number, model and firmware: bytes 4 to 71 of Identify Controller.
            let text = |from: usize, len: usize| {
                let bytes = identify.get(from..from.saturating_add(len)).unwrap_or_default();
                core::str::from_utf8(bytes).unwrap_or_default().trim_matches([' ', '\0'])
            };
            record.serial = Name::lossy(text(4, 20));
            record.model = Name::lossy(text(24, 40));
            record.firmware = Name::lossy(text(64, 8));
            record.known |= KNOWN_IDENTITY;
        }
        record
    }

    /// The TSC of the last look at CSTS. No look keeps a stamp of its own: while ready, looks are a
    /// period apart, else each housekeeping has one.
    fn looked_at(&self) -> u64 {
        let last = self.last_housekeeping().ticks();
        if self.life.phase() != Phase::Ready {
            return last;
        }
        let since = self.time().saturating_sub(self.last_look());
        last.saturating_sub(since)
    }

    /// Calls `f` for each command of the admin queue and of all I/O queues that is not over, with
    /// its age at `now`.
    fn each_command(&self, now: Instant, mut f: impl FnMut(Origin<'_>, Outstanding, Age)) {
        // Ticks of the driver's clock; since the last housekeeping it is the partition's.
        let time = self.time().saturating_add(now.since(self.last_housekeeping()).get());
        let admin = Origin { queue: &self.admin, is_admin: true, is_raw: false };
        let io = self.hub.queues.iter().zip(0..).map(|(queue, i)| Origin {
            queue,
            is_admin: false,
            is_raw: self.hub.is_raw(i),
        });
        for from in core::iter::once(admin).chain(io) {
            let deadline_ns = match from.is_admin {
                true => self.config.admin_deadline_ns,
                false => self.config.deadline_ns,
            };
            let epoch = self.ticks(deadline_ns / u64::from(EPOCHS_PER_DEADLINE)).max(1);
            let begun = self.next_epoch(from.is_admin).saturating_sub(epoch);
            let into = time.saturating_sub(begun);
            let us = |ticks| self.us(ticks);
            from.queue.qp().each_outstanding(|command| {
                let age = match (command.stamped, command.epochs) {
                    (Some(at), _) => Age { us: us(now.since(at).get()), within_us: 0 },
                    (None, 0) => Age { us: 0, within_us: us(into) },
                    (None, epochs) => {
                        let whole = epoch.saturating_mul(u64::from(epochs).saturating_sub(1));
                        // Each epoch may have begun a housekeeping late.
                        let late = self.ticks(READY_NS).saturating_mul(u64::from(epochs));
                        let within_us = us(epoch.saturating_add(late));
                        Age { us: us(whole.saturating_add(into)), within_us }
                    }
                };
                f(from, command, age);
            });
        }
    }

    fn us(&self, ticks: u64) -> u32 {
        let us = self.clock.ticks_to_ns(Ticks::new(ticks)) / 1_000;
        u32::try_from(us).unwrap_or(u32::MAX)
    }

    /// Calls `f` for each command, the oldest first; until it returns false. Commands of one age
    /// are found together: each round looks for the greatest age below the last one.
    fn each_by_age(&self, now: Instant, mut f: impl FnMut(CommandRecord) -> bool) {
        let mut below = None;
        loop {
            let mut oldest: Option<u32> = None;
            self.each_command(now, |_, _, age| {
                if below.is_none_or(|below| age.us < below) {
                    oldest = oldest.max(Some(age.us));
                }
            });
            let Some(oldest) = oldest else { return };
            let mut goes_on = true;
            self.each_command(now, |from, command, age| {
                if goes_on && age.us == oldest {
                    goes_on = f(describe(from, &command, age));
                }
            });
            if !goes_on {
                return;
            }
            below = Some(oldest);
        }
    }
}

impl CrashSource for Controller {
    fn record(&self, number: u32, recorder: &mut Recorder<'_>) {
        recorder.section(SectionKind::CONTROLLER, usize::MAX, |section| {
            section.head(&self.describe(number));
        });
        recorder.section(SectionKind::QUEUES, usize::MAX, |section| {
            section.element(&self.admin.qp().crash_record(number));
            for queue in &self.hub.queues {
                section.element(&queue.qp().crash_record(number));
            }
        });
    }

    fn record_commands(&self, number: u32, recorder: &mut Recorder<'_>) {
        let now = self.clock.now();
        let mut total = 0_u32;
        self.each_command(now, |_, _, _| total = total.saturating_add(1));
        let most = recorder.room_for_commands();
        recorder.section(SectionKind::COMMANDS, most, |section| {
            section.head(&CommandsHead { controller: number, total });
            self.each_by_age(now, |command| section.element(&command));
        });
    }
}

/// One command, with what its entry and its completion say.
fn describe(from: Origin<'_>, command: &Outstanding, age: Age) -> CommandRecord {
    let qp = from.queue.qp();
    // A raw queue's tokens are its holder's.
    let request = (!from.is_raw).then_some(command.token);
    let mut record = CommandRecord {
        slba: 0,
        nsid: 0,
        age_us: age.us,
        age_within_us: age.within_us,
        nlb_z: 0,
        cid: command.cid,
        qid: qp.qid().0,
        status: 0,
        opcode: 0,
        state: match command.state {
            SlotState::Expired => COMMAND_EXPIRED,
            SlotState::Held => COMMAND_HELD,
            SlotState::Free | SlotState::InFlight => COMMAND_IN_FLIGHT,
        },
        flags: 0,
        tries: request.map_or(0, |token| from.queue.tries(token)),
    };
    // A held one's entry is an old one: it will be written again.
    let entry = match command.state {
        SlotState::Held => None,
        _ => qp.entry_of(command.cid),
    };
    match entry.or_else(|| from.queue.words_of(request?)) {
        Some(words) => describe_entry(&mut record, qp, words),
        None => record.flags |= COMMAND_ENTRY_LOST,
    }
    let internal = from.is_admin && command.token & INTERNAL != 0;
    if internal && AdminToken::unpack(command.token) == AdminToken::Event {
        // Its age starts again with each look at it.
        record.flags |= COMMAND_EVENT | COMMAND_AGE_UNKNOWN;
    }
    if command.state != SlotState::Held {
        if !qp.is_rung(command.cid) {
            record.flags |= COMMAND_NOT_RUNG;
        }
        if let Some(status) = qp.answer_to(command.cid) {
            record.flags |= COMMAND_ANSWERED;
            record.status = status.bits();
        }
    }
    record
}

fn describe_entry(record: &mut CommandRecord, qp: &QueuePair, words: [u64; 8]) {
    let sqe = Sqe(words);
    record.opcode = sqe.opcode();
    record.nsid = sqe.nsid().0;
    record.slba = words[5];
    let has_blocks = matches!(
        NvmOpcode(record.opcode),
        NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE | NvmOpcode::WRITE_ZEROES
    );
    if qp.qid().0 != 0 && has_blocks {
        record.flags |= COMMAND_BLOCKS;
        #[expect(clippy::cast_possible_truncation, reason = "NLB is the low half of dword 12")]
        let nlb_z = words[6] as u16;
        record.nlb_z = nlb_z;
    }
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Start => "start",
        Phase::AwaitReady => "await ready",
        Phase::Disabling => "disabling",
        Phase::Settling => "settling",
        Phase::Resting => "resting",
        Phase::Enabling => "enabling",
        Phase::Admin(_) => "admin commands of the bring-up",
        Phase::Ready => "ready",
        Phase::QueueReset(..) => "queue reset",
        Phase::Draining => "draining",
        Phase::Deleting(_) => "deleting queues",
        Phase::ShutdownWait => "waiting for the shutdown",
        Phase::FinalDisable => "final disable",
        Phase::Off => "off",
        Phase::Dead => "dead",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regs::{ControlRegs, RegsError};
    use crate::{ControllerConfig, ControllerParts};
    use core::cell::Cell;
    use core_runtime::clock::{Clock, ManualClock};
    use core_runtime::crash::RecordHead;
    use core_runtime::mem::{Bump, DmaArena, DoorbellRegion};
    use hybrid_abi::crash::{CRASH_SLOT_BYTES, CrashHeader};
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    extern crate std;

    /// A controller of which only CAP and VS were read.
    struct Silent;

    impl ControlRegs for Silent {
        fn read32(&self, _: u32) -> Result<u32, RegsError> {
            Ok(0x0001_0400)
        }
        fn read64(&self, _: u32) -> Result<u64, RegsError> {
            Ok(0x0000_0020_0f01_07ff)
        }
        fn write32(&self, _: u32, _: u32) -> Result<(), RegsError> {
            Ok(())
        }
        fn write64(&self, _: u32, _: u64) -> Result<(), RegsError> {
            Ok(())
        }
    }

    fn controller() -> &'static Controller {
        let clock = Clock::manual(Box::leak(Box::new(ManualClock::new(1_000))));
        let doorbells = DoorbellRegion { span: hybrid_shm::leak_zeroed(4096), dstrd: 0 };
        let arena = DmaArena::leak(1 << 20, Iova(0x1_0000)).expect("an arena");
        let parts =
            ControllerParts { regs: &Silent, doorbells, arena, clock, crash: None, probes: None };
        let config = ControllerConfig { queue_depth: 15, ..ControllerConfig::default() };
        Controller::new(parts.into(), &Bump::leak(1 << 20), config).expect("one")
    }

    fn recorded(controller: &Controller) -> ControllerRecord {
        // The interpreter looks at each cell whenever it sees a reference to them.
        let room = if cfg!(miri) { 2048 } else { CRASH_SLOT_BYTES };
        let slot = vec![Cell::new(0); room];
        let head = RecordHead { reason: 1, sequence: 1, tsc: 0, incarnation: 1 };
        let store = &slot[..];
        let mut recorder = Recorder::begin(&store, head);
        controller.record(0, &mut recorder);
        controller.record_commands(0, &mut recorder);
        recorder.finish();
        let bytes: Vec<u8> = slot.iter().map(Cell::get).collect();
        let header = CrashHeader::parse_record(&bytes).expect("a record");
        let first = header.sections(&bytes).next().expect("a section");
        first.head().expect("a controller").0
    }

    #[test]
    fn what_is_borrowed_at_that_moment_is_left_out() {
        let controller = controller();
        controller.identify.borrow_mut()[4..6].copy_from_slice(b"S1");
        let record = recorded(controller);
        assert_eq!((record.known, record.serial.as_str()), (KNOWN_IDENTITY, "S1"));
        assert_eq!((record.state, record.phase.as_str()), (CONTROLLER_STARTING, "start"));
        let borrowed = controller.identify.borrow_mut();
        let record = recorded(controller);
        assert_eq!((record.known, record.serial.as_str()), (0, ""));
        drop(borrowed);
    }
}
