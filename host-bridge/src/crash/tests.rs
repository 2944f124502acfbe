//! Dumps of partitions on the heap, with a driver and the model behind them.

use std::cell::RefCell;
use std::mem::offset_of;
use std::rc::Rc;

use core_runtime::clock::{Clock, ManualClock};
use core_runtime::crash::{Cause, record};
use core_runtime::mem::{Bump, DmaRegion, Iova};
use core_runtime::partition::{
    Devices, Partition, PartitionConfig, PartitionParts, RingSizes, lay_out_host_region,
};
use core_runtime::region::RegionFacts;
use core_runtime::task::{SchedulerConfig, TaskOptions};
use hybrid_abi::crash::device::{COMMAND_AGE_UNKNOWN, COMMAND_BLOCKS, CommandRecord, CommandsHead};
use hybrid_abi::crash::file::{END_SIGNALLED, HOST_FENCED};
use hybrid_abi::crash::{CRASH_MAGIC, CRASH_WRITING, REASON_KILLED, REASON_PANIC, elements};
use hybrid_abi::probe::{ProbeRecord, entries, parse_groups, probe_id};
use hybrid_shm::{Span, leak_zeroed};
use nvme_driver::{Controller, ControllerConfig, ControllerParts, ControllerState, Lba};
use nvme_model::{FaultAction, FaultPlan, FaultRule, Model, ModelConfig, NamespaceConfig};
use nvme_spec::NvmOpcode;
use proptest::prelude::*;

use super::*;
use crate::backend::SteppedRegs;
use crate::facts::build_id;
use crate::probes::ProbeSwitch;

const RINGS: RingSizes = RingSizes { events: 4096, commands: 4096 };

struct Rig {
    partition: &'static Partition,
    controller: &'static Controller,
    model: Rc<RefCell<Model>>,
    clock: &'static ManualClock,
    region: Span<'static>,
    dma: Span<'static>,
}

/// A partition whose device leaves reads from block 100 on unanswered.
fn rig() -> Rig {
    let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1_000)));
    let facts = RegionFacts {
        partition: 5,
        incarnation: 2,
        tsc_hz: 1_000_000_000,
        // Its probes are those of this program.
        build_id: build_id(),
        ..RegionFacts::default()
    };
    let config = PartitionConfig {
        scheduler: SchedulerConfig { max_tasks: 8, ..SchedulerConfig::default() },
        ..PartitionConfig::default()
    };
    let host_region = leak_zeroed(RINGS.host_region_bytes());
    let host = lay_out_host_region(host_region, facts, RINGS).unwrap();
    let switch = ProbeSwitch::new(host.probes, Clock::manual(clock));
    switch.set_mask(parse_groups("driver,sched").unwrap());
    let region = leak_zeroed(RINGS.region_bytes(&config));
    let dma = DmaRegion::leak(4 << 20, Iova(0x12_3400_0000));
    let parts = PartitionParts {
        cpu: 5,
        facts,
        clock: Clock::manual(clock),
        bump: Bump::leak(8 << 20),
        dma,
        region,
        host_region: host_region.read_only(),
        rings: RINGS,
        config,
    };
    let partition = parts.assemble(&[]).unwrap();
    let deaf = FaultRule::io(NvmOpcode::READ, FaultAction::Drop).lbas(100..=u64::MAX);
    let mut model = Model::new(ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, 4096)],
        faults: FaultPlan::none().with(deaf),
        ..ModelConfig::default()
    })
    .unwrap();
    model.map_dma(dma).unwrap();
    let doorbells = model.doorbells();
    let model = Rc::new(RefCell::new(model));
    let parts = ControllerParts {
        regs: SteppedRegs::leak(&model),
        doorbells,
        arena: partition.arena(),
        clock: partition.clock(),
        crash: Some(partition.crash_sources()),
        probes: Some(partition.probes()),
    };
    let config = ControllerConfig { queue_depth: 31, ..ControllerConfig::default() };
    let controller = Controller::new(parts.into(), partition.bump(), config).unwrap();
    let rig = Rig { partition, controller, model, clock, region, dma: dma.span };
    partition.enter_running();
    rig.passes(|rig| rig.controller.state() == ControllerState::Ready);
    rig
}

impl Rig {
    fn pass(&self) {
        self.clock.advance(200_000);
        let now = self.partition.begin_pass();
        self.controller.poll(now);
        self.partition.scheduler().tick(now);
        self.controller.ring();
        self.model.borrow_mut().step(self.clock.now().ticks());
        self.partition.publish(now);
        Devices::publish(&mut { self.controller }, self.partition.metrics());
    }

    fn passes(&self, done: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if done(self) {
                return;
            }
            self.pass();
        }
        panic!("it never happens: {:?}", self.controller.state());
    }

    /// Reads blocks `lbas` by a task each.
    fn read(&self, lbas: impl IntoIterator<Item = u64>) {
        for lba in lbas {
            let namespace = self.controller.namespaces().next().unwrap();
            let buf = self.partition.arena().alloc(4096).unwrap();
            let task = async move { drop(namespace.read(Lba(lba), buf).await) };
            let options = TaskOptions::normal("reader");
            self.partition.spawner().spawn(options, task).unwrap().detach();
        }
    }

    fn collect(&self, dma: bool) -> Dump {
        let words = HostWords {
            end: END_SIGNALLED,
            code: 9,
            flags: if dma { HOST_FENCED } else { 0 },
            pid: 77,
            noticed_unix_ns: 5,
            noticed_tsc: self.clock.now().ticks(),
        };
        collect(&Collect {
            region: self.region.read_only(),
            dma: dma.then(|| self.dma.read_only()),
            words,
            reason: REASON_KILLED,
            task_name: Some("reader"),
            line: "the heartbeat stood still for 1.2 s",
            program: Some(Path::new("/usr/bin/feed-handler")),
            now_unix_ns: 6,
        })
    }
}

/// Kind and payload of each section of a file; all must be intact.
fn file_sections(file: &[u8]) -> Vec<(SectionKind, Vec<u8>)> {
    let header = FileHeader::parse(file).expect("a header");
    assert_eq!(header.file_bytes, file.len() as u64);
    owned(header.sections(file))
}

fn owned(mut walk: Sections<'_>) -> Vec<(SectionKind, Vec<u8>)> {
    let sections = walk
        .by_ref()
        .map(|section| {
            assert!(section.intact, "{section:?}");
            (section.header.kind, section.payload.to_vec())
        })
        .collect();
    assert_eq!(walk.damaged_at(), None);
    sections
}

fn of_kind(sections: &[(SectionKind, Vec<u8>)], kind: SectionKind) -> Vec<&[u8]> {
    sections.iter().filter(|(found, _)| *found == kind).map(|(_, payload)| &payload[..]).collect()
}

fn record_of(file: &[u8]) -> (CrashHeader, Vec<(SectionKind, Vec<u8>)>) {
    let sections = file_sections(file);
    let [record] = of_kind(&sections, SectionKind::RECORD)[..] else { panic!("one record") };
    let header = CrashHeader::parse_record(record).expect("a record");
    (header, owned(header.sections(record)))
}

fn commands_of(record: &[(SectionKind, Vec<u8>)]) -> (u32, Vec<CommandRecord>) {
    let commands = of_kind(record, SectionKind::COMMANDS);
    let [commands] = commands[..] else { panic!("one section: {}", commands.len()) };
    let (head, rest) = commands.split_at(size_of::<CommandsHead>());
    let total = u32::from_le_bytes(head[4..8].try_into().unwrap());
    (total, elements(rest).collect())
}

/// First blocks of the submissions among the events of a record, which are in order.
fn submitted(record: &[(SectionKind, Vec<u8>)]) -> Vec<u64> {
    let [events] = of_kind(record, SectionKind::PROBE)[..] else { panic!("one section") };
    let events: Vec<ProbeRecord> = elements(events).collect();
    assert!(events.is_sorted_by_key(|event| event.tsc), "{events:?}");
    let submit = probe_id("driver.submit");
    let last = events.iter().filter(|event| event.id == submit && event.a >> 16 == 1);
    last.map(|event| event.b).collect()
}

#[test]
fn a_record_that_the_partition_wrote_is_taken_as_it_is() {
    let rig = rig();
    rig.read([100, 101]);
    rig.pass();
    let cause = Cause {
        message: Some(format_args!("block 7 is torn")),
        location: Some(("src/a.rs", 3, 4)),
        ..Cause::of(REASON_PANIC)
    };
    record(rig.partition, &cause);
    let dump = rig.collect(true);
    let headline = dump.headline();
    assert_eq!((headline.reason, headline.message.as_str()), (REASON_PANIC, "block 7 is torn"));
    assert_eq!(headline.location, Some(("src/a.rs".to_owned(), 3, 4)));
    assert!(headline.complete && !headline.composed);
    let file = dump.to_file_bytes();
    let (header, record) = record_of(&file);
    assert_eq!((header.reason, header.incarnation), (REASON_PANIC, 2));
    let (total, commands) = commands_of(&record);
    let reads: Vec<_> = commands.iter().filter(|c| c.qid == 1).map(|c| c.slba).collect();
    assert_eq!(reads, [100, 101]);
    assert_eq!(total as usize, commands.len());
    assert_eq!(submitted(&record), [100, 101]);
    let sections = file_sections(&file);
    let host = of_kind(&sections, SectionKind::HOST)[0];
    assert!(host.ends_with(b"the heartbeat stood still for 1.2 s"));
    assert_eq!(of_kind(&sections, SectionKind::PROGRAM_PATH), [b"/usr/bin/feed-handler"]);
    let [names] = of_kind(&sections, SectionKind::PROBE_NAMES)[..] else { panic!("one section") };
    let named: Vec<u32> = entries(names).map(|entry| entry.id).collect();
    let [events] = of_kind(&record, SectionKind::PROBE)[..] else { panic!("one section") };
    let mut used: Vec<u32> = elements::<ProbeRecord>(events).map(|event| event.id).collect();
    assert!(used.iter().all(|id| named.contains(id)), "every event has its name");
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), named.len(), "and no other name is there");
    assert_eq!(of_kind(&sections, SectionKind::STATE)[0].len(), 512);
    assert_eq!(of_kind(&sections, SectionKind::QUEUE_IMAGE).len(), 2);
}

#[test]
fn a_record_that_was_cut_behind_its_header_does_not_hide_what_the_host_knows() {
    let rig = rig();
    rig.read([100]);
    rig.pass();
    record(rig.partition, &Cause::of(REASON_PANIC));
    let bytes = copy(rig.region);
    let magic = CRASH_MAGIC.to_le_bytes();
    let slot = bytes.windows(8).position(|bytes| bytes == magic).expect("a slot");
    let word = |at| rig.region.word32(slot + at).expect("in the slot");
    word(offset_of!(CrashHeader, state)).store(CRASH_WRITING);
    assert!(!rig.collect(true).headline().composed, "what was committed is said");
    word(offset_of!(CrashHeader, committed)).store(0);
    let dump = rig.collect(true);
    assert!(dump.headline().composed);
    assert_eq!(dump.headline().reason, REASON_KILLED);
}

#[test]
fn a_killed_partitions_unanswered_commands_are_found_in_its_rings() {
    let rig = rig();
    // Some hundred answered ones first: the rings have gone round several times.
    for round in 0..20 {
        rig.read((0..7).map(|i| round * 7 % 90 + i));
        let done = (round + 1) * 7;
        rig.passes(|rig| rig.controller.stats().io.completed == done);
    }
    rig.read([200, 5, 201, 300]);
    rig.passes(|rig| rig.controller.stats().io.completed == 141);
    // Posted and rung; the device does not come to it any more.
    rig.read([400]);
    let now = rig.partition.begin_pass();
    rig.partition.scheduler().tick(now);
    rig.controller.ring();
    Devices::publish(&mut { rig.controller }, rig.partition.metrics());
    let dump = rig.collect(true);
    let headline = dump.headline();
    assert_eq!(headline.reason, REASON_KILLED);
    assert_eq!(headline.message, "killed by signal 9 (SIGKILL) while running");
    assert!(headline.composed && headline.complete);
    let file = dump.to_file_bytes();
    let (header, record) = record_of(&file);
    assert_eq!((header.reason, header.incarnation), (REASON_KILLED, 2));
    let (_, commands) = commands_of(&record);
    let reads: Vec<_> = commands.iter().filter(|c| c.qid == 1).collect();
    let slbas: Vec<_> = reads.iter().map(|command| command.slba).collect();
    assert_eq!(slbas, [200, 201, 300, 400]);
    for read in reads {
        assert_eq!((read.opcode, read.nlb(), read.nsid), (2, 1, 1));
        assert_eq!(read.flags, COMMAND_AGE_UNKNOWN | COMMAND_BLOCKS);
    }
    assert!(submitted(&record).ends_with(&[200, 5, 201, 300, 400]), "it was a ring of many more");
    let current = of_kind(&record, SectionKind::CURRENT_TASK);
    assert_eq!(current.len(), 1);
    assert!(!of_kind(&record, SectionKind::METRICS).is_empty());
    let missing = of_kind(&record, SectionKind::MISSING);
    let missing: Vec<_> = missing.into_iter().map(text).collect();
    assert_eq!(missing, ["registers, backtrace, tasks: known to the partition alone"]);
}

#[test]
fn without_the_fence_and_without_a_region_it_says_what_is_missing() {
    let rig = rig();
    let (_, record) = record_of(&rig.collect(false).to_file_bytes());
    let missing = of_kind(&record, SectionKind::MISSING);
    assert_eq!(text(missing[1]), "queues and commands: the device was not fenced");
    let empty = Collect {
        region: leak_zeroed(4096).read_only(),
        dma: None,
        words: HostWords { end: END_SIGNALLED, code: 11, ..HostWords::default() },
        reason: REASON_KILLED,
        task_name: None,
        line: "",
        program: None,
        now_unix_ns: 1,
    };
    let dump = collect(&empty);
    let said = "killed by signal 11 before its memory was laid out";
    assert_eq!(dump.headline().message, said);
    let (_, record) = record_of(&dump.to_file_bytes());
    assert!(text(of_kind(&record, SectionKind::MISSING)[0]).starts_with("everything: "));
}

fn copy(span: Span<'static>) -> Vec<u8> {
    let mut bytes = vec![0; span.len()];
    span.read(0, &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever stands in region and DMA memory: a dump comes out that is one.
    #[test]
    fn damaged_memory_gives_a_dump_that_can_be_read(
        writes in proptest::collection::vec((any::<u32>(), any::<u64>(), 1_usize..9), 1..40),
        dma_writes in proptest::collection::vec((any::<u32>(), any::<u64>()), 0..20),
        zeroed in proptest::option::of(any::<u32>()),
    ) {
        thread_local! {
            static RIG: (Rig, Vec<u8>, Vec<u8>) = {
                let rig = rig();
                rig.read([100, 7, 102]);
                rig.pass();
                record(rig.partition, &Cause::of(hybrid_abi::crash::REASON_ASKED));
                let (region, dma) = (copy(rig.region), copy(rig.dma));
                (rig, region, dma)
            };
        }
        RIG.with(|(rig, region, dma)| {
            rig.region.write(0, region).unwrap();
            rig.dma.write(0, dma).unwrap();
            for (at, value, len) in &writes {
                // Half of them where it hurts: header, directory, the last parts.
                let at = match at % 3 {
                    0 => (at / 3) as usize % 4096,
                    1 => region.len() - 1 - (at / 3) as usize % (150 << 10),
                    _ => (at / 3) as usize % region.len(),
                };
                let at = at.min(region.len() - 8);
                rig.region.write(at, &value.to_le_bytes()[..*len]).unwrap();
            }
            for (at, value) in &dma_writes {
                let at = *at as usize % (256 << 10);
                rig.dma.write(at, &value.to_le_bytes()).unwrap();
            }
            if let Some(at) = zeroed {
                let at = at as usize % (region.len() - 64);
                rig.region.fill(at, 64, 0).unwrap();
            }
            let dump = rig.collect(true);
            let file = dump.to_file_bytes();
            let sections = file_sections(&file);
            let record = of_kind(&sections, SectionKind::RECORD)[0];
            CrashHeader::parse_record(record).expect("a record that can be believed");
        });
    }
}
