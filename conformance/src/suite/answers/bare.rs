//! A controller by hand: nothing of the driver stands between a command and its answer.
//!
//! One command at a time, so that what is in flight is never in doubt; event requests may be left
//! with the device beside it. Waits end when the backend gives up.

use std::cell::{Cell, RefCell};

use core_runtime::mem::{CqMem, DmaStats, Doorbell, DoorbellRegion, Iova, SharedDma, SqMem};
use nvme_driver::{ControllerParts, DeviceParts};
use nvme_spec::registers::{Acq, Aqa, Asq, Cap, Cc, Csts, Register, Shn};
use nvme_spec::{Cid, Cqe, CreateCq, CreateSq, FeatureId, FeatureSelect, Nsid, QueueId, Sqe};

use super::super::Skip;
use crate::backend::Backend;

/// Entries of the admin queues.
const ADMIN_ENTRIES: u16 = 8;

/// Most entries of the I/O queues.
const IO_ENTRIES: u16 = 16;

/// A controller that is enabled, with admin queues and nothing else.
pub(super) struct Bare<'a> {
    backend: &'a dyn Backend,
    parts: ControllerParts,
    doorbells: DoorbellRegion,
    baseline: DmaStats,
    pub(super) cap: Cap,
    pub(super) admin: Ring,
}

/// A pair of queues with one command in it at most, but for event requests.
pub(super) struct Ring {
    qid: QueueId,
    sq: SqMem,
    cq: CqMem,
    tail: Doorbell,
    head: Doorbell,
    entries: u16,
    sq_at: Cell<u16>,
    cq_at: Cell<u16>,
    phase: Cell<bool>,
    sent: Cell<u16>,
    /// Commands that nobody waits for.
    left: RefCell<Vec<Cid>>,
}

impl Ring {
    fn new(
        parts: &ControllerParts,
        doorbells: DoorbellRegion,
        qid: QueueId,
        (entries, page): (u16, usize),
    ) -> Self {
        let memory = || parts.arena.alloc_shared(page, page).expect("memory of a queue");
        Self {
            qid,
            sq: SqMem::new(memory(), entries.into()).expect("a page holds it"),
            cq: CqMem::new(memory(), entries.into()).expect("a page holds it"),
            tail: doorbells.sq_tail(qid.0).expect("a doorbell"),
            head: doorbells.cq_head(qid.0).expect("a doorbell"),
            entries,
            sq_at: Cell::new(0),
            cq_at: Cell::new(0),
            phase: Cell::new(true),
            sent: Cell::new(0),
            left: RefCell::new(Vec::new()),
        }
    }

    fn clear(&self) {
        self.sq.clear();
        self.cq.clear();
        self.sq_at.set(0);
        self.cq_at.set(0);
        self.phase.set(true);
        self.left.borrow_mut().clear();
    }

    /// Rings a command in; its identifier.
    fn post(&self, sqe: Sqe) -> Cid {
        let sent = self.sent.get().wrapping_add(1) & 0x7fff;
        self.sent.set(sent);
        let (cid, at) = (Cid(sent), self.sq_at.get());
        self.sq.write(at, &sqe.with_cid(cid).0);
        self.sq_at.set((at + 1) % self.entries);
        self.tail.ring(self.sq_at.get().into());
        cid
    }

    /// The completion at the head, if the device has posted it.
    fn posted(&self) -> Option<Cqe> {
        let at = self.cq_at.get();
        let high = self.cq.high(at);
        let cqe = Cqe::from_words(0, high);
        (cqe.phase() == self.phase.get()).then(|| Cqe::from_words(self.cq.low(at), high))
    }

    /// Gives the entry at the head back.
    fn step(&self) {
        let next = (self.cq_at.get() + 1) % self.entries;
        self.cq_at.set(next);
        if next == 0 {
            self.phase.set(!self.phase.get());
        }
        self.head.ring(next.into());
    }

    /// Whether nobody waits for this one; it is not with the device any more.
    fn was_left(&self, cid: Cid) -> bool {
        let mut left = self.left.borrow_mut();
        let before = left.len();
        left.retain(|one| *one != cid);
        left.len() < before
    }
}

impl<'a> Bare<'a> {
    /// Brings the device up: CC.EN from whatever it is to 0, then 1, 0 and 1.
    ///
    /// # Errors
    /// [`Skip`] if it is no controller.
    ///
    /// # Panics
    /// If it does not come up.
    pub(super) fn up(backend: &'a dyn Backend) -> Result<Self, Skip> {
        let DeviceParts::Nvme(parts) = backend.parts() else {
            return Err(Skip("it is no NVMe controller".to_owned()));
        };
        let raw = parts.regs.read64(Cap::OFFSET).expect("CAP");
        let cap = Cap::checked(raw).expect("a device that is there");
        let doorbells = DoorbellRegion { span: parts.doorbells.span, dstrd: cap.dstrd() };
        let baseline = parts.arena.stats();
        let shape = (ADMIN_ENTRIES, cap.min_page_bytes() as usize);
        let admin = Ring::new(&parts, doorbells, QueueId::ADMIN, shape);
        let bare = Self { backend, parts, doorbells, baseline, cap, admin };
        bare.disable();
        bare.enable();
        bare.disable();
        bare.enable();
        Ok(bare)
    }

    /// Bytes of a memory page: CAP.MPSMIN.
    pub(super) fn page(&self) -> usize {
        self.cap.min_page_bytes() as usize
    }

    /// Memory that both sides may touch at any time, of whole pages, zeroed.
    pub(super) fn memory(&self, pages: usize) -> SharedDma {
        let page = self.page();
        let memory = self.parts.arena.alloc_shared(pages * page, page).expect("memory");
        memory.clear();
        memory
    }

    fn write32(&self, offset: u32, value: u32) {
        self.parts.regs.write32(offset, value).expect("a register is written");
    }

    fn csts(&self) -> Csts {
        let raw = self.parts.regs.read32(Csts::OFFSET).expect("CSTS");
        Csts::checked(raw).expect("a device that is there")
    }

    /// Passes until `done` has something; `None` if it never has.
    fn until<T>(&self, mut done: impl FnMut() -> Option<T>) -> Option<T> {
        let begun = self.backend.now();
        let mut passes = 0;
        while !self.backend.gives_up(begun, passes) {
            if let Some(found) = done() {
                return Some(found);
            }
            self.backend.pass(true);
            passes += 1;
        }
        None
    }

    /// Makes the device let go of all memory.
    ///
    /// # Panics
    /// If it does not.
    pub(super) fn disable(&self) {
        let cc = Cc::from_raw(self.parts.regs.read32(Cc::OFFSET).expect("CC"));
        if cc.en() {
            self.write32(Cc::OFFSET, cc.with_en(false).with_shn(Shn::None).into_raw());
        }
        let off = self.until(|| (!self.csts().rdy()).then_some(()));
        assert!(off.is_some(), "CSTS.RDY stays 1 after CC.EN = 0; CSTS is {:?}", self.csts());
    }

    fn enable(&self) {
        self.admin.clear();
        let only_others = self.cap.css() & (Cap::CSS_NVM | Cap::CSS_IOCSS) == Cap::CSS_IOCSS;
        let cc = Cc::new()
            .with_css(if only_others { 6 } else { 0 })
            .with_mps(self.cap.mpsmin())
            .with_iosqes(Cc::IOSQES)
            .with_iocqes(Cc::IOCQES);
        self.write32(Aqa::OFFSET, Aqa::of(ADMIN_ENTRIES).into_raw());
        let addresses = [(Asq::OFFSET, self.admin.sq.iova()), (Acq::OFFSET, self.admin.cq.iova())];
        for (offset, iova) in addresses {
            self.parts.regs.write64(offset, iova.0).expect("a register is written");
        }
        self.write32(Cc::OFFSET, cc.into_raw());
        self.write32(Cc::OFFSET, cc.with_en(true).into_raw());
        let on = self.until(|| {
            let csts = self.csts();
            assert!(!csts.cfs(), "CSTS.CFS is set after CC.EN = 1");
            csts.rdy().then_some(())
        });
        assert!(on.is_some(), "CSTS.RDY stays 0 after CC.EN = 1; CSTS is {:?}", self.csts());
    }

    /// Sends a command and waits for its completion, which must be its own.
    ///
    /// # Errors
    /// What came instead, in words; the queue is of no use then.
    pub(super) fn send(&self, ring: &Ring, sqe: Sqe) -> Result<Cqe, String> {
        let cid = ring.post(sqe);
        let next = ring.sq_at.get();
        let cqe = loop {
            let answer = self.until(|| ring.posted());
            let cqe = answer.ok_or_else(|| format!("no answer; CSTS is {:?}", self.csts()))?;
            ring.step();
            // An event is no answer.
            if !ring.was_left(cqe.cid()) {
                break cqe;
            }
        };
        let seen = (cqe.cid(), cqe.sqid(), cqe.sqhd());
        match seen == (cid, ring.qid, next) {
            true => Ok(cqe),
            false => Err(format!(
                "a completion of cid {}, queue {}, head {}, for cid {cid}, queue {}, head {next}",
                seen.0, seen.1, seen.2, ring.qid
            )),
        }
    }

    /// Leaves `most` event requests with the device.
    ///
    /// # Panics
    /// If they do not stay there.
    pub(super) fn leave_event_requests(&self, most: usize) {
        let get = FeatureId::NUMBER_OF_QUEUES;
        let get = Sqe::get_feature(Cid(0), Nsid::NONE, get, FeatureSelect::Current);
        // An event that there is takes one of them away.
        for _ in 0..2 * most {
            let cid = self.admin.post(Sqe::async_event_request(Cid(0)));
            self.admin.left.borrow_mut().push(cid);
            // Whose completion says that both were fetched.
            self.ask("number of queues beside event requests", get);
            if self.admin.left.borrow().len() == most {
                return;
            }
        }
        panic!("{} of {most} event requests stay", self.admin.left.borrow().len());
    }

    /// Sends an admin command that must succeed; DW0 of its completion.
    ///
    /// # Panics
    /// If it does not.
    pub(super) fn ask(&self, what: &str, sqe: Sqe) -> u32 {
        let cqe = self.send(&self.admin, sqe).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert!(cqe.status().is_success(), "{what}: {}", cqe.status());
        cqe.result()
    }

    /// I/O queues of identifier 1.
    ///
    /// # Panics
    /// If they are refused.
    pub(super) fn io(&self) -> Ring {
        let qid = QueueId(1);
        let entries = IO_ENTRIES.min(self.cap.mqes_z().saturating_add(1));
        let ring = Ring::new(&self.parts, self.doorbells, qid, (entries, self.page()));
        ring.clear();
        let size_z = entries - 1;
        let cq = CreateCq { qid, size_z, contiguous: true, interrupts: false, vector: 0 };
        self.ask("create CQ 1", Sqe::create_cq(Cid(0), ring.cq.iova().0, cq));
        let sq = CreateSq { qid, size_z, contiguous: true, priority: 0, cqid: qid };
        self.ask("create SQ 1", Sqe::create_sq(Cid(0), ring.sq.iova().0, sq));
        ring
    }

    /// Gives the memory back and checks that nothing is missing; after [`Bare::disable`], and when
    /// all else that was taken is gone.
    ///
    /// # Panics
    /// If something is.
    pub(super) fn finish(self) {
        let Self { parts, baseline, admin, .. } = self;
        drop(admin);
        let now = parts.arena.stats();
        assert_eq!(now.live, baseline.live, "buffers are missing or left over");
        assert_eq!(now.quarantined, baseline.quarantined, "buffers are quarantined");
    }
}

/// `offset` bytes on.
pub(super) const fn plus(iova: Iova, offset: u64) -> u64 {
    iova.0 + offset
}
