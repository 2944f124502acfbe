//! Crash dumps as a host writes them: of a partition that panicked under load, and of one that was
//! killed and left no record.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use core_runtime::clock::{Clock, ManualClock};
use core_runtime::crash::{Cause, here, record};
use core_runtime::mem::{Bump, DmaRegion, Iova};
use core_runtime::partition::{
    Devices, Partition, PartitionConfig, PartitionParts, RingSizes, lay_out_host_region,
};
use core_runtime::region::RegionFacts;
use core_runtime::task::{SchedulerConfig, TaskOptions};
use host_bridge::backend::SteppedRegs;
use host_bridge::crash::{Collect, collect};
use hybrid_abi::crash::file::{END_SIGNALLED, FileHeader, HOST_FENCED, HostWords};
use hybrid_abi::crash::{REASON_KILLED, REASON_PANIC, SectionKind};
use hybrid_shm::{Span, leak_zeroed};
use nvme_driver::{Controller, ControllerConfig, ControllerParts, ControllerState, Lba};
use nvme_model::{FaultAction, FaultPlan, FaultRule, Model, ModelConfig, NamespaceConfig};
use nvme_spec::NvmOpcode;

const RINGS: RingSizes = RingSizes { events: 4096, commands: 4096 };

/// Reads that the device never answers: fewer than a queue has entries.
const UNANSWERED: u64 = 3;

/// A partition with a controller that reads.
struct Dying {
    partition: &'static Partition,
    controller: &'static Controller,
    model: Rc<RefCell<Model>>,
    clock: &'static ManualClock,
    region: Span<'static>,
    dma: Span<'static>,
}

/// The files, and the crash part that the second of them was read from: both slots, each as long as
/// half of an input.
pub(super) fn dumps() -> Vec<Vec<u8>> {
    let dying = Dying::under_load();
    let killed = dying.file();
    let cause = Cause {
        message: Some(format_args!("index out of bounds: the len is 4 but the index is 7")),
        location: Some(("src/main.rs", 12, 5)),
        frame: Some(here()),
        ..Cause::of(REASON_PANIC)
    };
    record(dying.partition, &cause);
    let panicked = dying.file();
    let slots = slots_of(&panicked);
    vec![killed, panicked, slots]
}

/// The record of a file, twice.
fn slots_of(file: &[u8]) -> Vec<u8> {
    let header = FileHeader::parse(file).expect("a dump");
    let mut sections = header.sections(file);
    let record = sections.find(|section| section.header.kind == SectionKind::RECORD);
    record.expect("a record").payload.repeat(2)
}

impl Dying {
    fn under_load() -> Self {
        let dying = Self::new();
        dying.partition.enter_running();
        for _ in 0..10_000 {
            if dying.controller.state() == ControllerState::Ready {
                break;
            }
            dying.pass();
        }
        let namespace = dying.controller.namespaces().next().expect("a namespace");
        for lba in 0..UNANSWERED {
            let buf = dying.partition.arena().alloc(512).expect("memory");
            let task = async move { drop(namespace.read(Lba(lba), buf).await) };
            let task = dying.partition.spawner().spawn(TaskOptions::normal("reader"), task);
            task.expect("room").detach();
        }
        (0..10).for_each(|_| dying.pass());
        dying
    }

    fn new() -> Self {
        let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1_000)));
        let facts = RegionFacts { partition: 5, tsc_hz: 1_000_000_000, ..RegionFacts::default() };
        let config = PartitionConfig {
            scheduler: SchedulerConfig { max_tasks: 4, ..SchedulerConfig::default() },
            ..PartitionConfig::default()
        };
        let host_region = leak_zeroed(RINGS.host_region_bytes());
        lay_out_host_region(host_region, facts, RINGS).expect("a region");
        let region = leak_zeroed(RINGS.region_bytes(&config));
        let dma = DmaRegion::leak(1 << 20, Iova(0x12_3400_0000));
        let parts = PartitionParts {
            cpu: 5,
            facts,
            clock: Clock::manual(clock),
            bump: Bump::leak(4 << 20),
            dma,
            region,
            host_region: host_region.read_only(),
            rings: RINGS,
            config,
        };
        let partition = parts.assemble(&[]).expect("a partition");
        let mut model = Model::new(ModelConfig {
            namespaces: vec![NamespaceConfig::memory(1, 64).lba_bytes(512)],
            faults: FaultPlan::none().with(FaultRule::io(NvmOpcode::READ, FaultAction::Drop)),
            ..ModelConfig::default()
        })
        .expect("a model");
        model.map_dma(dma).expect("a region");
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
        let config = ControllerConfig { queue_depth: 7, ..ControllerConfig::default() };
        let controller = Controller::new(parts.into(), partition.bump(), config);
        let controller = controller.expect("a controller");
        Self { partition, controller, model, clock, region, dma: dma.span }
    }

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

    fn file(&self) -> Vec<u8> {
        let words = HostWords {
            end: END_SIGNALLED,
            code: 9,
            flags: HOST_FENCED,
            pid: 77,
            noticed_unix_ns: 5,
            noticed_tsc: self.clock.now().ticks(),
        };
        let dump = collect(&Collect {
            region: self.region.read_only(),
            dma: Some(self.dma.read_only()),
            words,
            reason: REASON_KILLED,
            task_name: Some("reader"),
            line: "the heartbeat stood still for 1.2 s",
            program: Some(Path::new("/usr/bin/feed-handler")),
            now_unix_ns: 6,
        });
        dump.to_file_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LONGEST;

    #[test]
    fn the_files_have_every_kind_of_section_that_a_host_writes() {
        let files = dumps();
        for file in &files {
            assert!(file.len() <= LONGEST, "{}", file.len());
        }
        for (file, is_recorded) in [(&files[0], false), (&files[1], true)] {
            let header = FileHeader::parse(file).expect("a dump");
            let sections: Vec<_> = header.sections(file).collect();
            assert!(sections.iter().all(|section| section.intact));
            let kinds: Vec<_> = sections.iter().map(|section| section.header.kind).collect();
            for kind in [SectionKind::RECORD, SectionKind::HOST, SectionKind::QUEUE_IMAGE] {
                assert!(kinds.contains(&kind), "{kind:?} of {kinds:?}");
            }
            let record = sections[0].payload;
            let header = hybrid_abi::crash::CrashHeader::parse_record(record).expect("a record");
            let kinds: Vec<_> = header.sections(record).map(|s| s.header.kind).collect();
            assert!(kinds.contains(&SectionKind::COMMANDS), "{kinds:?}");
            assert_eq!(kinds.contains(&SectionKind::BACKTRACE), is_recorded, "{kinds:?}");
        }
    }
}
