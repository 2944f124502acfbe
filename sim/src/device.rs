//! The controller's side: the model on the virtual clock, its registers, its memory map, and what
//! its faults mean to the oracle.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use core_runtime::clock::Clock;
use core_runtime::mem::{DmaArena, DmaRegion, DoorbellRegion, Iova};
use nvme_driver::{ControlRegs, ControllerParts, RegsError};
use nvme_model::{
    AbortPolicy, CqeFault, DataFault, FaultAction, FaultNote, FaultPlan, LatencyModel, Model,
    ModelConfig, NamespaceConfig, Patch, Rng,
};
use nvme_spec::{NvmOpcode, QueueId};

use crate::catalogue::{Deed, SLOT_BITS, Trigger};
use crate::plan::Plan;
use crate::planted::Plant;
use crate::shared::Shared;
use crate::tape::{What, Who};

/// DMA memory of an incarnation: queues, lists, and a buffer of 32 KiB for each task.
const DMA_BYTES: usize = 2 << 20;

/// Registers that reach the model directly, and sometimes are not answered.
#[derive(Debug)]
pub(crate) struct Regs {
    pub(crate) model: RefCell<Option<Model>>,
    /// Accesses that are not answered.
    pub(crate) silent: Cell<u32>,
    /// They are not there any more.
    gone: Cell<bool>,
}

impl Regs {
    pub(crate) const fn new(model: Model) -> Self {
        let model = RefCell::new(Some(model));
        Self { model, silent: Cell::new(0), gone: Cell::new(false) }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Model) -> R) -> Result<R, RegsError> {
        if self.gone.get() {
            return Err(RegsError::Gone);
        }
        let silent = self.silent.get();
        if silent != 0 {
            self.silent.set(silent - 1);
            return Err(RegsError::TimedOut);
        }
        // Only a device that was dropped has no model.
        self.model.borrow_mut().as_mut().map(f).ok_or(RegsError::TimedOut)
    }
}

impl ControlRegs for Regs {
    fn read32(&self, offset: u32) -> Result<u32, RegsError> {
        self.with(|model| u32::try_from(model.read_reg(offset, 4)).unwrap_or(u32::MAX))
    }

    fn read64(&self, offset: u32) -> Result<u64, RegsError> {
        self.with(|model| model.read_reg(offset, 8))
    }

    fn write32(&self, offset: u32, value: u32) -> Result<(), RegsError> {
        self.with(|model| model.write_reg(offset, 4, value.into()))
    }

    fn write64(&self, offset: u32, value: u64) -> Result<(), RegsError> {
        self.with(|model| model.write_reg(offset, 8, value))
    }
}

/// The controller of a run.
pub(crate) struct Device {
    regs: &'static Regs,
    doorbells: DoorbellRegion,
    /// The memory of the incarnation that owns it.
    mapped: Option<DmaRegion>,
    incarnations: u64,
    /// Its namespace claims to be smaller.
    resized: bool,
    /// Faults of the plan that did not strike yet, by index: admin queue, I/O queues.
    coming: [VecDeque<usize>; 2],
    lba_bytes: u32,
    /// Flushes of this incarnation that were answered with an error, and stray completions in it
    /// which named a slot: queue and CID of each. One of these may have ended one of those early,
    /// which its driver can't see; each pair of the kind is struck out.
    refused: Vec<(QueueId, u16)>,
    strays: Vec<(QueueId, u16)>,
    plant: Plant,
    shared: Rc<Shared>,
}

/// What a second namespace says wrongly of itself (NVM Command Set 1.0, figure 97).
fn lie(kind: u8) -> Option<Patch> {
    let (offset, bytes) = match kind {
        // NSZE of 0, and of more than 64 bits of bytes.
        1 => (0, vec![0; 8]),
        2 => (0, vec![0xff; 8]),
        // FLBAS names a format that is not listed.
        3 => (26, vec![0x0f]),
        // Protection information.
        4 => (29, vec![1]),
        // LBADS of the first format: 2^64 and 2^3 bytes.
        5 => (130, vec![64]),
        6 => (130, vec![3]),
        _ => return None,
    };
    Some(Patch { offset, bytes })
}

fn model_config(plan: &Plan) -> ModelConfig {
    let torn = Plant::of(plan.plant) == Plant::TornCut;
    let us = |us: u32| u64::from(us) * 1_000;
    let scheduled = |trigger| {
        let faults = plan.faults.iter().filter(|fault| fault.kind().trigger == trigger);
        let deeds = faults.filter_map(|fault| match fault.deed() {
            Deed::Device(action) => Some((fault.at, action)),
            Deed::World(_) | Deed::Kernel(_) => None,
        });
        deeds.collect()
    };
    let faults = FaultPlan::none()
        .scheduled(true, scheduled(Trigger::Admin))
        .scheduled(false, scheduled(Trigger::Io));
    let namespace = NamespaceConfig::memory(1, plan.blocks.into()).lba_bytes(plan.lba_bytes);
    let liar = lie(plan.liar).map(|patch| NamespaceConfig {
        identify_patches: vec![patch],
        ..NamespaceConfig::memory(2, 8)
    });
    ModelConfig {
        namespaces: core::iter::once(namespace).chain(liar).collect(),
        shadow_doorbells: plan.shadow,
        mdts: plan.mdts,
        max_queue_entries: plan.max_queue_entries,
        max_io_queues: plan.device_queues,
        dstrd: plan.dstrd,
        timeout_500ms: plan.cap_to,
        mpsmax: 0,
        volatile_write_cache: plan.write_cache,
        atomic_write_blocks: plan.awun,
        atomic_write_blocks_power_fail: if torn { 1 } else { plan.awupf },
        retry_delays_100ms: [1, 2, 3],
        shutdown_limit_us: 50_000,
        ready_delay_ns: us(plan.ready_delay_us),
        not_ready_delay_ns: us(plan.not_ready_delay_us),
        shutdown_delay_ns: us(plan.shutdown_delay_us),
        latency: match plan.latency_max_ns {
            0 => LatencyModel::None,
            max => LatencyModel::UniformNs { min: plan.latency_min_ns.into(), max: max.into() },
        },
        out_of_order: plan.out_of_order,
        burst: plan.burst,
        paranoid: plan.paranoid,
        power_cuts: plan.write_cache,
        seed: plan.seed ^ 0xDE71CE,
        faults,
        ..ModelConfig::default()
    }
}

impl Device {
    pub(crate) fn new(plan: &Plan, shared: Rc<Shared>) -> Result<Self, String> {
        let model = Model::new(model_config(plan)).map_err(|error| error.to_string())?;
        let doorbells = model.doorbells();
        let regs = Regs::new(model);
        let of = |trigger| {
            let faults = (0..plan.faults.len()).filter(|at| {
                let fault = &plan.faults[*at];
                fault.kind().trigger == trigger && matches!(fault.deed(), Deed::Device(_))
            });
            faults.collect()
        };
        Ok(Self {
            regs: Box::leak(Box::new(regs)),
            doorbells,
            mapped: None,
            incarnations: 0,
            resized: false,
            coming: [of(Trigger::Admin), of(Trigger::Io)],
            lba_bytes: plan.lba_bytes,
            refused: Vec::new(),
            strays: Vec::new(),
            plant: Plant::of(plan.plant),
            shared,
        })
    }

    /// Does something with the model.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Model) -> R) -> Option<R> {
        self.regs.model.borrow_mut().as_mut().map(f)
    }

    /// The next accesses to registers are not answered.
    pub(crate) fn be_silent(&self, accesses: u32) {
        self.regs.silent.set(accesses);
    }

    /// The registers are not there any more, until the next incarnation.
    pub(crate) fn be_gone(&self) {
        self.regs.gone.set(true);
    }

    /// Its namespace claims half of its blocks, or the truth again. Whether that is a change.
    pub(crate) fn resize(&mut self, plan: &Plan, resized: bool) -> bool {
        let claim = resized.then_some(u64::from(plan.blocks / 2));
        self.with(|model| model.claim_blocks(1, claim));
        core::mem::replace(&mut self.resized, resized) != resized
    }

    /// Whether its namespace claims to be smaller.
    pub(crate) const fn is_resized(&self) -> bool {
        self.resized
    }

    /// The IOMMU stops the controller at its own queues; what it needs is mapped again at once. Of
    /// what the model takes for its host's mistakes the host has made none.
    pub(crate) fn iommu_fault(&self) -> Result<(), String> {
        let Some(region) = self.mapped else { return Ok(()) };
        let mapped = self.with(|model| {
            model.unmap(region.iova);
            model.take_mistakes();
            model.map_dma(region)
        });
        mapped.unwrap_or(Ok(())).map_err(|error| error.to_string())
    }

    /// New memory for an incarnation, at addresses never used before; what the one before it had is
    /// not the device's any more. With `controller` the new one is.
    pub(crate) fn memory(&mut self, controller: bool) -> Result<&'static DmaArena, String> {
        self.be_silent(0);
        self.regs.gone.set(false);
        self.refused.clear();
        self.strays.clear();
        self.incarnations += 1;
        let iova = Iova(0x10_0000_0000 * self.incarnations);
        let arena = DmaArena::leak(DMA_BYTES, iova).map_err(|error| error.to_string())?;
        let new = controller.then(|| arena.region());
        let old = core::mem::replace(&mut self.mapped, new);
        let mapped = self.with(|model| {
            if let Some(old) = old {
                model.unmap(old.iova);
            }
            new.map_or(Ok(()), |new| model.map_dma(new))
        });
        mapped.ok_or("no model")?.map_err(|error| error.to_string())?;
        Ok(arena)
    }

    /// What a controller's driver gets.
    pub(crate) fn parts(&self, arena: &'static DmaArena) -> ControllerParts {
        ControllerParts {
            regs: self.regs,
            doorbells: self.doorbells,
            arena,
            clock: Clock::manual(self.shared.clock),
            crash: None,
            probes: None,
        }
    }

    /// Lets the controller work; whether it did anything.
    pub(crate) fn step(&mut self, plan: &Plan) -> bool {
        let now = self.shared.clock.now().ticks();
        let step = |model: &mut Model| (model.step(now), model.is_paused());
        let (stepped, paused) = self.with(step).unwrap_or_default();
        if stepped.commands != 0 || stepped.completions != 0 {
            let numbers = [stepped.commands.into(), stepped.completions.into(), 0];
            self.shared.event(Who::Device, What::Step, numbers);
        }
        while let Some(note) = self.with(Model::take_fault).flatten() {
            self.note(plan, note);
        }
        // A pause is nothing to spin on.
        !(stepped.idle || paused && stepped.commands == 0)
    }

    /// When a command is due.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        self.with(|model| model.next_due_ns()).flatten()
    }

    /// Mistakes of the driver that nothing excuses.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mistakes = self.with(Model::take_mistakes).unwrap_or_default();
        mistakes.iter().map(ToString::to_string).collect()
    }

    /// Aborts are refused, or answered with a lie, or served again.
    pub(crate) fn change_aborts(&self, choice: u64) {
        let policy = match choice % 3 {
            0 => AbortPolicy::Honest,
            1 => AbortPolicy::Refuse,
            _ => AbortPolicy::Lie,
        };
        self.with(|model| model.reconfigure(|config| config.abort = policy));
    }

    /// No more faults.
    pub(crate) fn heal(&self) {
        self.be_silent(0);
        self.regs.gone.set(false);
        self.with(|model| {
            model.heal();
            model.reconfigure(|config| {
                config.faults = FaultPlan::none();
                config.abort = AbortPolicy::Honest;
            });
        });
    }

    /// A fault struck: tells the tape and the oracle.
    fn note(&mut self, plan: &Plan, note: FaultNote) {
        let sqe = note.sqe;
        let io = note.sqid != QueueId::ADMIN;
        let (slba, nlb) = (sqe.slba().0, u64::from(sqe.nlb()));
        if note.done {
            self.spoil(note, slba, nlb);
            return;
        }
        let Some(at) = self.coming[usize::from(io)].pop_front() else {
            self.shared.violate(|| format!("a fault that the plan does not have: {note:?}"));
            return;
        };
        let fault = &plan.faults[at];
        let numbers = [fault.kind as u64, sqe.cid().0.into(), sqe.opcode().into()];
        self.shared.event(Who::Device, What::Fault, numbers);
        self.shared.strike(fault);
        if let FaultAction::Status(status) | FaultAction::StatusAfter(status) = note.action {
            let flush = io && NvmOpcode(sqe.opcode()) == NvmOpcode::FLUSH;
            self.shared.note_status(if flush || !io { 0 } else { slba }, status.code());
            if flush {
                let flush = (note.sqid, sqe.cid().0);
                match self.strays.iter().position(|stray| *stray == flush) {
                    Some(at) => {
                        self.strays.swap_remove(at);
                    }
                    None => self.refused.push(flush),
                }
                self.with(Model::lose_unflushed);
                self.shared.oracle.borrow_mut().doubt();
            }
        }
    }

    /// Flushes of this incarnation that were answered with an error, which its driver saw.
    pub(crate) fn refused_flushes(&self) -> u64 {
        self.refused.len() as u64
    }

    /// A transfer or a completion was spoilt just now.
    fn spoil(&mut self, note: FaultNote, slba: u64, nlb: u64) {
        if self.plant == Plant::Silent {
            return;
        }
        let mut oracle = self.shared.oracle.borrow_mut();
        match note.action {
            FaultAction::Cqe(CqeFault::WrongCid(bits) | CqeFault::Extra(bits))
                if bits & SLOT_BITS != 0 =>
            {
                oracle.suspect_everything();
                let stray = (note.sqid, note.sqe.cid().0 ^ bits);
                match self.refused.iter().position(|flush| *flush == stray) {
                    Some(at) => {
                        self.refused.swap_remove(at);
                    }
                    None => self.strays.push(stray),
                }
            }
            FaultAction::Data(fault) => match NvmOpcode(note.sqe.opcode()) {
                NvmOpcode::READ => oracle.excuse_reads(slba, nlb),
                NvmOpcode::WRITE => {
                    oracle.damage(slba, nlb);
                    if let DataFault::WrongLba(far) = fault {
                        let last = u64::from(oracle.blocks()).saturating_sub(nlb);
                        oracle.damage(slba.saturating_add_signed(far).min(last), nlb);
                    }
                }
                _ => {}
            },
            _ => {}
        }
        drop(oracle);
        let numbers = [note.sqe.cid().0.into(), slba, nlb];
        self.shared.event(Who::Device, What::Spoilt, numbers);
    }

    /// A hash of what the namespace holds.
    pub(crate) fn content_hash(&self, blocks: u32) -> u64 {
        let mut block = vec![0; self.lba_bytes as usize];
        let mut hash = 0_u64;
        for lba in 0..u64::from(blocks) {
            self.with(|model| model.peek_block(1, lba, &mut block));
            let (words, _) = block.as_chunks::<8>();
            for word in words {
                let word = u64::from_le_bytes(*word);
                hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
        }
        hash
    }

    /// A number that differs where states differ.
    pub(crate) fn digest(&self) -> u64 {
        let stats = self.with(|model| *model.stats()).unwrap_or_default();
        let words = [stats.io, stats.completions, stats.bytes_written, stats.resets, stats.faults];
        words.iter().fold(0, |sum: u64, word| {
            (sum.rotate_left(11) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }
}

/// The model's memory goes with the run; only its registers' few words stay.
impl Drop for Device {
    fn drop(&mut self) {
        self.regs.model.borrow_mut().take();
    }
}

/// A delay that depends on a fault's choice: mostly short, sometimes long.
pub(crate) fn span_ns(choice: u64, longest_ns: u64) -> u64 {
    let mut rng = Rng::new(choice);
    let shift = rng.below(20);
    1 + rng.below((longest_ns >> shift).max(1))
}
