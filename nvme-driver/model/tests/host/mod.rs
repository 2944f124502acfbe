//! A raw host: just enough of a driver to make every mistake that one can make.
//!
//! It writes entries, doorbells and registers itself and steps the model by hand. It shares nothing
//! with `nvme-driver`.
#![expect(dead_code, reason = "each test file uses a part of it")]

use core_runtime::mem::{DeviceSq, DmaRegion, DoorbellRegion, Iova};
use hybrid_shm::Span;
use nvme_model::{Model, ModelConfig, NamespaceConfig};
use nvme_spec::registers::{Acq, Aqa, Asq, Cc, Csts, Register, Shn};
use nvme_spec::{
    Cdw12Io, Cid, Cqe, CreateCq, CreateSq, Lba, Nsid, NvmOpcode, QueueId, Sqe, StatusCode,
};

pub(crate) const PAGE: usize = 4096;
/// Where the device sees the host's memory: no pointer's value.
pub(crate) const BASE: u64 = 0x40_0000_0000;
/// Bytes of host memory, unless a test asks for more.
pub(crate) const MEMORY: usize = 1 << 20;

/// A submission and completion queue of the same size, as the host holds them.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) qid: u16,
    pub(crate) entries: u32,
    pub(crate) sq_at: usize,
    pub(crate) cq_at: usize,
    pub(crate) tail: u32,
    pub(crate) head: u32,
    pub(crate) phase: bool,
}

pub(crate) struct Host {
    pub(crate) model: Model,
    pub(crate) memory: Span<'static>,
    pub(crate) region: DmaRegion,
    pub(crate) admin: Pair,
    next_free: usize,
    next_cid: u16,
    pub(crate) now_ns: u64,
    /// Doorbells to ring instead of the model's, when that one runs elsewhere.
    pub(crate) rings_at: Option<Span<'static>>,
}

/// Two namespaces with a hole between them: 64 blocks of 4 KiB, 1,000 of 512 bytes.
pub(crate) fn config() -> ModelConfig {
    ModelConfig {
        namespaces: vec![
            NamespaceConfig::memory(1, 64),
            NamespaceConfig::memory(3, 1000).lba_bytes(512),
        ],
        ..ModelConfig::default()
    }
}

impl Host {
    /// A host with a model that is still disabled.
    pub(crate) fn off(config: ModelConfig) -> Self {
        Self::with_memory(config, MEMORY)
    }

    /// As [`Host::off`], with so many bytes of memory.
    pub(crate) fn with_memory(config: ModelConfig, memory: usize) -> Self {
        let mut model = Model::new(config).expect("a good configuration");
        let region = DmaRegion::leak(memory, Iova(BASE));
        model.map_dma(region).expect("room");
        let admin =
            Pair { qid: 0, entries: 16, sq_at: 0, cq_at: PAGE, tail: 0, head: 0, phase: true };
        Self {
            model,
            memory: region.span,
            region,
            admin,
            next_free: 2 * PAGE,
            next_cid: 1,
            now_ns: 0,
            rings_at: None,
        }
    }

    /// A host whose controller is ready.
    pub(crate) fn on(config: ModelConfig) -> Self {
        let mut host = Self::off(config);
        host.enable();
        host
    }

    pub(crate) fn cc() -> Cc {
        Cc::new().with_en(true).with_iosqes(Cc::IOSQES).with_iocqes(Cc::IOCQES)
    }

    pub(crate) fn enable(&mut self) {
        self.memory.fill(self.admin.cq_at, PAGE, 0).expect("inside");
        (self.admin.tail, self.admin.head, self.admin.phase) = (0, 0, true);
        self.write32(Aqa::OFFSET, Aqa::of(16).into_raw());
        self.write64(Asq::OFFSET, BASE + self.admin.sq_at as u64);
        self.write64(Acq::OFFSET, BASE + self.admin.cq_at as u64);
        self.write32(Cc::OFFSET, Self::cc().into_raw());
    }

    pub(crate) fn disable(&mut self) {
        self.write32(Cc::OFFSET, Self::cc().with_en(false).into_raw());
    }

    pub(crate) fn shut_down(&mut self, shn: Shn) {
        self.write32(Cc::OFFSET, Self::cc().with_shn(shn).into_raw());
    }

    pub(crate) fn csts(&mut self) -> Csts {
        Csts::from_raw(self.read32(Csts::OFFSET))
    }

    pub(crate) fn read32(&mut self, offset: u32) -> u32 {
        u32::try_from(self.model.read_reg(offset, 4)).expect("four bytes")
    }

    pub(crate) fn write32(&mut self, offset: u32, value: u32) {
        self.model.write_reg(offset, 4, u64::from(value));
    }

    pub(crate) fn write64(&mut self, offset: u32, value: u64) {
        self.model.write_reg(offset, 8, value);
    }

    /// Page-aligned, zeroed host memory: its offset.
    pub(crate) fn alloc(&mut self, len: usize) -> usize {
        let at = self.next_free;
        self.next_free += len.next_multiple_of(PAGE);
        assert!(self.next_free <= self.memory.len(), "host memory is used up");
        at
    }

    pub(crate) fn iova(at: usize) -> u64 {
        BASE + at as u64
    }

    pub(crate) fn cid(&mut self) -> Cid {
        self.next_cid = self.next_cid.wrapping_add(1);
        Cid(self.next_cid)
    }

    pub(crate) fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(at, &mut bytes).expect("inside");
        bytes
    }

    pub(crate) fn put(&self, at: usize, bytes: &[u8]) {
        self.memory.write(at, bytes).expect("inside");
    }

    /// Writes an entry at the tail and moves it, without a doorbell.
    pub(crate) fn post(&self, pair: &mut Pair, sqe: Sqe) {
        let at = pair.sq_at + pair.tail as usize * 64;
        for (word, value) in sqe.0.iter().enumerate() {
            self.memory.word64(at + word * 8).expect("inside").store(*value);
        }
        pair.tail = (pair.tail + 1) % pair.entries;
    }

    fn doorbells(&self) -> DoorbellRegion {
        let mut region = self.model.doorbells();
        region.span = self.rings_at.unwrap_or(region.span);
        region
    }

    pub(crate) fn ring_sq(&self, qid: u16, value: u32) {
        self.doorbells().sq_tail(qid).expect("inside").ring(value);
    }

    pub(crate) fn ring_cq(&self, qid: u16, value: u32) {
        self.doorbells().cq_head(qid).expect("inside").ring(value);
    }

    /// Takes the next completion, if there is one, without a doorbell.
    pub(crate) fn reap(&self, pair: &mut Pair) -> Option<Cqe> {
        let at = pair.cq_at + pair.head as usize * 16;
        let high = self.memory.word64(at + 8).expect("inside").load_acquire();
        let cqe = Cqe::from_words(self.memory.word64(at).expect("inside").load(), high);
        if cqe.phase() != pair.phase {
            return None;
        }
        pair.head += 1;
        if pair.head == pair.entries {
            (pair.head, pair.phase) = (0, !pair.phase);
        }
        Some(cqe)
    }

    pub(crate) fn step(&mut self) {
        self.model.step(self.now_ns);
    }

    /// Takes all completions that come within some steps, and releases them.
    pub(crate) fn drain(&mut self, pair: &mut Pair) -> Vec<Cqe> {
        let mut all = vec![];
        for _ in 0..40 {
            self.step();
            let before = all.len();
            while let Some(cqe) = self.reap(pair) {
                all.push(cqe);
            }
            if all.len() != before {
                self.ring_cq(pair.qid, pair.head);
            }
        }
        all
    }

    /// One command and its completion.
    pub(crate) fn run(&mut self, pair: &mut Pair, sqe: Sqe) -> Cqe {
        self.post(pair, sqe);
        self.ring_sq(pair.qid, pair.tail);
        let cqes = self.drain(pair);
        assert_eq!(cqes.len(), 1, "completions of {sqe:?}: {cqes:?}");
        assert_eq!(cqes[0].cid(), sqe.cid());
        assert_eq!(cqes[0].sqid(), QueueId(pair.qid));
        cqes[0]
    }

    /// One admin command and its completion.
    pub(crate) fn admin(&mut self, sqe: Sqe) -> Cqe {
        let mut pair = self.admin.clone();
        let cqe = self.run(&mut pair, sqe);
        self.admin = pair;
        cqe
    }

    pub(crate) fn admin_code(&mut self, sqe: Sqe) -> StatusCode {
        self.admin(sqe).status().code()
    }

    pub(crate) fn create_cq_sqe(&mut self, qid: u16, entries: u32, at: usize) -> Sqe {
        let queue = CreateCq {
            qid: QueueId(qid),
            size_z: u16::try_from(entries - 1).expect("65536 at most"),
            contiguous: true,
            interrupts: false,
            vector: 0,
        };
        Sqe::create_cq(self.cid(), Self::iova(at), queue)
    }

    pub(crate) fn create_sq_sqe(&mut self, qid: u16, entries: u32, cqid: u16, at: usize) -> Sqe {
        let queue = CreateSq {
            qid: QueueId(qid),
            size_z: u16::try_from(entries - 1).expect("65536 at most"),
            contiguous: true,
            priority: 0,
            cqid: QueueId(cqid),
        };
        Sqe::create_sq(self.cid(), Self::iova(at), queue)
    }

    /// Creates an I/O queue pair.
    pub(crate) fn pair(&mut self, qid: u16, entries: u32) -> Pair {
        let sq_at = self.alloc(entries as usize * 64);
        let cq_at = self.alloc(entries as usize * 16);
        let sqe = self.create_cq_sqe(qid, entries, cq_at);
        assert_eq!(self.admin_code(sqe), StatusCode::SUCCESS);
        let sqe = self.create_sq_sqe(qid, entries, qid, sq_at);
        assert_eq!(self.admin_code(sqe), StatusCode::SUCCESS);
        Pair { qid, entries, sq_at, cq_at, tail: 0, head: 0, phase: true }
    }

    /// A read or write of one or two pages at most, or as `prp2` says.
    pub(crate) fn io(
        &mut self,
        op: NvmOpcode,
        nsid: u32,
        slba: u64,
        blocks: u32,
        prp1: u64,
        prp2: u64,
    ) -> Sqe {
        let nlb_z = u16::try_from(blocks - 1).expect("65536 at most");
        let flags = Cdw12Io::empty();
        Sqe::io(op, self.cid(), Nsid(nsid), Lba(slba), nlb_z, flags).with_prps(prp1, prp2)
    }
}

/// The low byte of a number, for patterns.
pub(crate) fn byte(n: usize) -> u8 {
    n.to_le_bytes()[0]
}

/// Keeps the device-side view in use, so that the host's layout and the device's are one.
pub(crate) fn entry(memory: Span<'static>, pair: &Pair, index: u32) -> [u64; 8] {
    let span = memory.sub(pair.sq_at, pair.entries as usize * 64).expect("inside");
    DeviceSq::new(span).read(index).expect("inside")
}
