//! Control registers and the life of the controller (NVMe Base 2.0, sections 3.1.3 and 3.5).
//!
//! ```text
//!              enable                 become_ready
//!   Disabled ─────────▶ Enabling ─────────────────▶ Ready
//!      ▲                   │ disable                  │ disable
//!      │ become_not_ready  ▼                          │
//!      └─────────────── Disabling ◀───────────────────┘
//! ```
//! CSTS.CFS and CSTS.SHST lie across these states and end with `disable`. A subsystem reset goes
//! to Disabled from anywhere. Times count from the last step.

use crate::config::ModelConfig;
use crate::fault::ControllerFault;
use crate::mistake::HostMistake;
use crate::model::{Features, Model, zero_based};
use crate::queues::{Cq, QueuePlace, Sq};
use crate::store::Store;
use core_runtime::mem::Iova;
use nvme_spec::registers::{
    Acq, Aqa, Asq, Cap, Cc, Crto, Csts, Intmc, Intms, Nssr, Register, Shn, Shst, Version,
};
use nvme_spec::{CQE_BYTES, QueueId, SQE_BYTES};

/// One past the last register that is defined for a controller without optional regions.
const END: u32 = 0x1000;

/// Where the controller is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Disabled,
    Enabling { since_ns: u64 },
    Ready,
    Disabling { since_ns: u64 },
}

/// Faults of the controller that last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Broken {
    pub(crate) all_ones: bool,
    pub(crate) all_zeros: bool,
    pub(crate) never_ready: bool,
    pub(crate) never_not_ready: bool,
    pub(crate) never_shut_down: bool,
}

/// The registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    cap: Cap,
    cc: Cc,
    csts: Csts,
    interrupt_mask: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    pub(crate) life: Life,
    shutdown_since_ns: u64,
    pub(crate) broken: Broken,
    /// It was reset by a fault and the host has not written to it since: doorbells that the host
    /// rings meanwhile are no mistake.
    pub(crate) behind_the_back: bool,
}

impl Registers {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let cap = Cap::new()
            .with_mqes_z(zero_based(config.max_queue_entries))
            .with_cqr(true)
            .with_to(config.timeout_500ms)
            .with_dstrd(config.dstrd)
            .with_nssrs(true)
            .with_css(Cap::CSS_NVM)
            .with_mpsmin(config.mpsmin)
            .with_mpsmax(config.mpsmax)
            .with_crwms(true);
        Self {
            cap: config.cap_override.map_or(cap, Cap::from_raw),
            cc: Cc::new(),
            csts: Csts::new(),
            interrupt_mask: 0,
            aqa: 0,
            asq: 0,
            acq: 0,
            life: Life::Disabled,
            shutdown_since_ns: 0,
            broken: Broken::default(),
            behind_the_back: false,
        }
    }

    pub(crate) const fn shst(&self) -> Shst {
        self.csts.shst()
    }

    /// CC.MPS in bytes.
    #[inline]
    pub(crate) const fn page_bytes(&self) -> usize {
        4096 << self.cc.mps()
    }

    /// Smallest page in bytes: the unit of MDTS.
    pub(crate) const fn min_page_bytes(&self) -> u32 {
        self.cap.min_page_bytes()
    }

    /// Entry sizes are what I/O queues need.
    pub(crate) const fn entry_sizes_set(&self) -> bool {
        self.cc.iosqes() == Cc::IOSQES && self.cc.iocqes() == Cc::IOCQES
    }

    /// Queues are served.
    #[inline]
    pub(crate) const fn serving(&self) -> bool {
        matches!(self.life, Life::Ready)
            && !self.csts.cfs()
            && matches!(self.csts.shst(), Shst::Normal)
            && !self.gone()
    }

    pub(crate) const fn gone(&self) -> bool {
        self.broken.all_ones || self.broken.all_zeros
    }

    pub(crate) fn set_fatal(&mut self) {
        self.csts.set_cfs(true);
    }

    /// The aligned 8 bytes that hold a register; `None` where there is none.
    fn load(&self, offset: u32) -> Option<u64> {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        Some(match offset & !7 {
            0x00 => self.cap.into_raw(),
            0x08 => pair(Version::of(2, 0, 0).into_raw(), self.interrupt_mask),
            0x10 => pair(self.interrupt_mask, self.cc.into_raw()),
            0x18 => pair(0, self.csts.into_raw()),
            0x20 => pair(0, self.aqa),
            0x28 => self.asq,
            0x30 => self.acq,
            0x68 => {
                // CRWMT in the same unit as CAP.TO.
                let crto = Crto::new().with_crwmt(u16::from(self.cap.to()));
                pair(crto.into_raw(), 0)
            }
            at if at < END => 0,
            _ => return None,
        })
    }
}

impl Model {
    /// Reads a register of 4 or 8 bytes. What cannot be read reads as zero and is a mistake.
    pub fn read_reg(&mut self, offset: u32, size: u32) -> u64 {
        let ones = if size == 4 { u64::from(u32::MAX) } else { u64::MAX };
        if self.regs.broken.all_ones {
            return ones;
        }
        if self.regs.broken.all_zeros {
            return 0;
        }
        let value = match size {
            4 | 8 if offset.is_multiple_of(size) => self.regs.load(offset),
            _ => None,
        };
        match value {
            Some(pair) if size == 4 => (pair >> ((offset & 4) * 8)) & ones,
            Some(pair) => pair,
            None => {
                self.mistakes.add(HostMistake::RegisterAccess { offset, size });
                0
            }
        }
    }

    /// Writes a register of 4 or 8 bytes.
    pub fn write_reg(&mut self, offset: u32, size: u32, value: u64) {
        if self.regs.gone() {
            return;
        }
        if !matches!(size, 4 | 8) || !offset.is_multiple_of(size) || offset >= END {
            self.mistakes.add(HostMistake::RegisterAccess { offset, size });
            return;
        }
        let low = (value & 0xffff_ffff) as u32;
        self.write_dword(offset, low);
        if size == 8 {
            self.write_dword(offset + 4, (value >> 32) as u32);
        }
    }

    fn write_dword(&mut self, offset: u32, value: u32) {
        const ASQ_HIGH: u32 = Asq::OFFSET + 4;
        const ACQ_HIGH: u32 = Acq::OFFSET + 4;
        if core::mem::take(&mut self.regs.behind_the_back) {
            self.clear_doorbells();
        }
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            Intms::OFFSET => self.regs.interrupt_mask |= value,
            Intmc::OFFSET => self.regs.interrupt_mask &= !value,
            Cc::OFFSET => self.write_cc(value),
            Csts::OFFSET => {
                if Csts::from_raw(value).nssro() {
                    self.regs.csts.set_nssro(false);
                }
            }
            Nssr::OFFSET => {
                if value == Nssr::MAGIC {
                    self.subsystem_reset();
                }
            }
            Aqa::OFFSET | Asq::OFFSET | ASQ_HIGH | Acq::OFFSET | ACQ_HIGH => {
                if self.regs.cc.en() {
                    self.mistakes.add(HostMistake::AdminQueueWhileEnabled { offset });
                }
                match offset {
                    Aqa::OFFSET => self.write_aqa(value),
                    Asq::OFFSET => self.regs.asq = low(self.regs.asq),
                    ASQ_HIGH => self.regs.asq = high(self.regs.asq),
                    Acq::OFFSET => self.regs.acq = low(self.regs.acq),
                    _ => self.regs.acq = high(self.regs.acq),
                }
            }
            _ => self.mistakes.add(HostMistake::ReadOnlyRegister { offset }),
        }
    }

    fn write_aqa(&mut self, value: u32) {
        if value & Aqa::RESERVED != 0 {
            let offset = Aqa::OFFSET;
            self.mistakes.add(HostMistake::RegisterReserved { offset, value });
        }
        self.regs.aqa = value & !Aqa::RESERVED;
    }

    fn write_cc(&mut self, value: u32) {
        if value & Cc::RESERVED != 0 {
            let offset = Cc::OFFSET;
            self.mistakes.add(HostMistake::RegisterReserved { offset, value });
        }
        let (old, new) = (self.regs.cc, Cc::from_raw(value & !Cc::RESERVED));
        self.regs.cc = new;
        match (old.en(), new.en()) {
            (false, true) => self.enable(new),
            (true, false) => self.disable(),
            (true, true) => self.check_fixed_fields(old, new),
            (false, false) => {}
        }
        if new.shn() != old.shn() && matches!(new.shn(), Shn::Normal | Shn::Abrupt) {
            self.shut_down(new.shn());
        }
    }

    /// NVMe Base 2.0, section 3.1.3.5: what may change only with EN = 0; the entry sizes, only
    /// while there are no I/O queues.
    fn check_fixed_fields(&mut self, old: Cc, new: Cc) {
        let fixed = |cc: Cc| (cc.css(), cc.mps(), cc.ams(), cc.crime());
        let sizes = |cc: Cc| (cc.iosqes(), cc.iocqes());
        let has_queues = self.cqs.iter().skip(1).any(Option::is_some);
        if fixed(old) != fixed(new) || (sizes(old) != sizes(new) && has_queues) {
            let (old_raw, new_raw) = (old.into_raw(), new.into_raw());
            self.mistakes.add(HostMistake::CcChangedWhileEnabled { old: old_raw, new: new_raw });
            self.regs.cc = old.with_shn(new.shn());
        }
    }

    fn enable(&mut self, cc: Cc) {
        self.check_doorbells_while_down();
        if self.regs.csts.rdy() {
            self.mistakes.add(HostMistake::EnabledWhileReady);
            self.become_not_ready();
        }
        match self.make_admin_queues(cc) {
            Ok(()) => {
                self.regs.life = Life::Enabling { since_ns: self.now_ns };
                self.advance_life();
            }
            Err(reason) => {
                let cc = cc.into_raw();
                self.mistakes.add(HostMistake::EnableRefused { cc, reason });
                self.regs.life = Life::Enabling { since_ns: self.now_ns };
                self.regs.set_fatal();
            }
        }
    }

    fn make_admin_queues(&mut self, cc: Cc) -> Result<(), &'static str> {
        let cap = self.regs.cap;
        if cc.css() != 0 {
            return Err("CC.CSS names a command set that CAP.CSS does not");
        }
        if cc.mps() < cap.mpsmin() || cc.mps() > cap.mpsmax() {
            return Err("CC.MPS is outside CAP.MPSMIN to CAP.MPSMAX");
        }
        if cc.ams() != 0 {
            return Err("CC.AMS names an arbitration that CAP.AMS does not");
        }
        if cc.crime() {
            return Err("CC.CRIME without CAP.CRMS");
        }
        let aqa = Aqa::from_raw(self.regs.aqa);
        if aqa.sq_entries() < 2 || aqa.cq_entries() < 2 {
            return Err("AQA gives a queue of one entry");
        }
        let (asq, acq) = (self.regs.asq, self.regs.acq);
        if asq & 0xfff != 0 || acq & 0xfff != 0 {
            return Err("ASQ or ACQ is not page aligned");
        }
        let place = |iova: u64, len: usize, cq: bool| {
            let span = self.dma.translate(Iova(iova), len).ok()?;
            let doorbell = self.doorbell(0, cq)?;
            Some(QueuePlace { span, iova: Iova(iova), doorbell })
        };
        let sq_place = place(asq, aqa.sq_entries() as usize * SQE_BYTES, false);
        let cq_place = place(acq, aqa.cq_entries() as usize * CQE_BYTES, true);
        let (Some(sq_place), Some(cq_place)) = (sq_place, cq_place) else {
            return Err("ASQ or ACQ is not mapped");
        };
        let admin = QueueId::ADMIN;
        let paranoid = self.config.paranoid;
        let mut cq = Cq::new(admin, aqa.cq_entries(), cq_place, paranoid);
        if let Some(index) = cq.stale_phase() {
            self.mistakes.add(HostMistake::CqNotZeroed { qid: admin, index });
        }
        cq.sqs = 1;
        sq_place.doorbell.store(0);
        cq_place.doorbell.store(0);
        self.sqs[0] = Some(Sq::new(admin, admin, aqa.sq_entries(), sq_place, paranoid));
        self.cqs[0] = Some(cq);
        self.active.push(admin);
        Ok(())
    }

    fn disable(&mut self) {
        let timeout_ns = u64::from(self.regs.cap.timeout_ms()) * 1_000_000;
        if let Life::Enabling { since_ns } = self.regs.life
            && !self.regs.csts.cfs()
            && !self.regs.broken.never_ready
            && self.now_ns - since_ns < timeout_ns.min(self.config.ready_delay_ns)
        {
            self.mistakes.add(HostMistake::DisabledBeforeReady);
        }
        if self.regs.life == Life::Ready && self.regs.csts.shst() == Shst::Normal {
            self.stats.resets += 1;
        }
        self.freeze_doorbells();
        self.regs.csts = self.regs.csts.with_cfs(false).with_shst(Shst::Normal);
        self.regs.life = Life::Disabling { since_ns: self.now_ns };
        self.advance_life();
    }

    /// RDY = 0: queues and commands are forgotten. Commands that were still there may have
    /// transferred their data until now, which a host must be ready for.
    fn become_not_ready(&mut self) {
        if self.config.not_ready_delay_ns > 0 {
            self.transfer_late();
        }
        self.check_doorbells_while_down();
        self.check_memory();
        for queue in &mut self.sqs {
            *queue = None;
        }
        for queue in &mut self.cqs {
            *queue = None;
        }
        self.active.clear();
        self.shadows = None;
        self.turn = 0;
        self.flights.clear();
        self.events.forget();
        self.features = Features::new(&self.config);
        self.paused_until_ns = 0;
        self.clear_doorbells();
        self.regs.csts.set_rdy(false);
        self.regs.life = Life::Disabled;
    }

    fn subsystem_reset(&mut self) {
        self.become_not_ready();
        self.regs.cc = Cc::new();
        self.regs.aqa = 0;
        (self.regs.asq, self.regs.acq) = (0, 0);
        self.regs.csts = Csts::new().with_nssro(true);
        self.stats.resets += 1;
    }

    /// A reset of the whole function from outside, as a kernel does it when the owner of the device
    /// is gone: as after power-on, lasting faults healed. What the namespaces hold stays.
    pub fn function_reset(&mut self) {
        self.heal();
        self.subsystem_reset();
        self.regs.csts = Csts::new();
        self.regs.behind_the_back = true;
    }

    /// The power goes and comes back: a function reset, and of what was written and not made
    /// durable since, any part may be lost, in any order. Writes of at most
    /// [`crate::ModelConfig::atomic_write_blocks_power_fail`] blocks are lost whole or not at all.
    /// Needs [`crate::ModelConfig::power_cuts`]; without it nothing is lost. Returns how many
    /// pieces of writes were kept and lost.
    pub fn power_cut(&mut self) -> (u64, u64) {
        // What is in flight may still move, or not.
        self.transfer_late();
        self.function_reset();
        let (mut kept, mut lost) = (0, 0);
        for ns in &mut self.namespaces {
            if let (Some(cache), Store::Memory(memory)) = (&mut ns.cache, &mut ns.store) {
                let (k, l) = cache.cut(&mut self.rng, memory);
                (kept, lost) = (kept + k, lost + l);
            }
        }
        (kept, lost)
    }

    /// What a device may do after a flush that failed: of what was not durable any part is lost for
    /// ever, while it still reads as written until the power goes.
    pub fn lose_unflushed(&mut self) {
        for ns in &mut self.namespaces {
            if let Some(cache) = &mut ns.cache {
                cache.lose(&mut self.rng);
            }
        }
    }

    fn shut_down(&mut self, shn: Shn) {
        if self.regs.life == Life::Ready {
            self.freeze_doorbells();
        }
        if shn == Shn::Normal {
            // A failed sync has no place to be reported; the host's flush would have shown it.
            let _ = self.flush_images();
        } else {
            self.logs.unsafe_shutdowns += 1;
        }
        self.regs.csts.set_shst(Shst::Occurring);
        self.regs.shutdown_since_ns = self.now_ns;
        self.advance_life();
    }

    /// Takes the steps of the controller's life that time brings.
    pub(crate) fn advance_life(&mut self) {
        let broken = self.regs.broken;
        let passed =
            |since_ns: u64, delay_ns: u64| self.now_ns.saturating_sub(since_ns) >= delay_ns;
        match self.regs.life {
            Life::Enabling { since_ns }
                if !broken.never_ready
                    && !self.regs.csts.cfs()
                    && passed(since_ns, self.config.ready_delay_ns) =>
            {
                self.regs.csts.set_rdy(true);
                self.regs.life = Life::Ready;
            }
            Life::Disabling { since_ns }
                if !broken.never_not_ready && passed(since_ns, self.config.not_ready_delay_ns) =>
            {
                self.become_not_ready();
            }
            _ => {}
        }
        if self.regs.csts.shst() == Shst::Occurring
            && !broken.never_shut_down
            && self.now_ns.saturating_sub(self.regs.shutdown_since_ns)
                >= self.config.shutdown_delay_ns
        {
            self.regs.csts.set_shst(Shst::Complete);
        }
    }

    /// Makes the controller as a whole fail, or raises events.
    pub fn inject(&mut self, fault: ControllerFault) {
        match fault {
            ControllerFault::Fatal => self.regs.set_fatal(),
            ControllerFault::AllOnes => self.regs.broken.all_ones = true,
            ControllerFault::AllZeros => self.regs.broken.all_zeros = true,
            ControllerFault::NeverReady => self.regs.broken.never_ready = true,
            ControllerFault::NeverNotReady => self.regs.broken.never_not_ready = true,
            ControllerFault::NeverShutDown => self.regs.broken.never_shut_down = true,
            ControllerFault::SubsystemReset => {
                self.subsystem_reset();
                self.regs.behind_the_back = true;
            }
            ControllerFault::PauseNs(ns) => {
                self.paused_until_ns = self.now_ns.saturating_add(ns);
            }
            ControllerFault::Event(event) => self.raise(event),
            ControllerFault::CriticalWarning(bits) => self.set_critical_warning(bits),
            ControllerFault::EventStorm(event, count) => {
                self.events.storm = Some((event, count));
            }
        }
    }

    /// Ends the lasting faults that [`Model::inject`] made; CSTS.CFS stays until a reset.
    pub fn heal(&mut self) {
        self.regs.broken = Broken::default();
    }
}
