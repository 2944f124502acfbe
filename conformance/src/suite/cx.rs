//! What a case is given, and the steps that most of them take.

use nvme_driver::{Controller, ControllerConfig, Failed, IoError, Lba, Namespace, WriteFlags};
use nvme_spec::registers::Cap;

use super::Skip;
use crate::backend::Backend;
use crate::oracle::{Oracle, fill, is_filled};
use crate::rig::Rig;

/// Bytes at the start of each namespace that no case touches: who runs the suite on a real drive
/// marks it there as one that may be overwritten.
pub const RESERVED_BYTES: u64 = 64 << 10;

/// Most bytes of a namespace that cases write, its last block aside.
const SPACE_BYTES: u64 = 16 << 20;

/// A rig as cases have it.
pub type Fixture<'a> = Rig<&'a dyn Backend>;

/// What a case is given.
pub struct Cx<'a> {
    /// The device.
    pub backend: &'a dyn Backend,
    /// Seed of everything random; the same makes the same operations.
    pub seed: u64,
    /// Counts of operations are divided by this; 1 on a fast device.
    pub scale: u64,
    /// The one namespace to be used, if not all.
    pub nsid: Option<u32>,
    /// Whether blocks may be overwritten.
    pub may_write: bool,
}

/// Blocks of a namespace that a case may use.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// The namespace.
    pub ns: &'static Namespace,
    /// The first block.
    pub first: u64,
    /// How many.
    pub blocks: u64,
}

impl<'a> Cx<'a> {
    /// A controller that is ready, with queues of 31 commands.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn rig(&self) -> Fixture<'a> {
        self.rig_with(ControllerConfig { queue_depth: 31, ..ControllerConfig::default() })
    }

    /// A controller that is ready.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn rig_with(&self, config: ControllerConfig) -> Fixture<'a> {
        let rig = self.new_rig(config);
        rig.bring_up().unwrap_or_else(|error| panic!("bring-up with {config:?}: {error}"));
        rig
    }

    /// A controller that is not brought up yet.
    ///
    /// # Panics
    /// If it cannot be had.
    #[must_use]
    pub fn new_rig(&self, config: ControllerConfig) -> Fixture<'a> {
        Rig::new(self.backend, config).unwrap_or_else(|error| panic!("{config:?}: {error}"))
    }

    /// `count` operations on a fast device, fewer on a slow one, and never fewer than 16.
    #[must_use]
    pub fn ops(&self, count: u64) -> u64 {
        (count / self.scale.max(1)).max(16).min(count)
    }

    /// The namespaces that may be used.
    ///
    /// # Errors
    /// [`Skip`] if there is none.
    pub fn spaces(&self, rig: &Fixture<'_>) -> Result<Vec<Space>, Skip> {
        let chosen = |ns: &&'static Namespace| self.nsid.is_none_or(|nsid| ns.nsid().0 == nsid);
        let spaces: Vec<_> =
            rig.controller.namespaces().filter(chosen).filter_map(Space::of).collect();
        if spaces.is_empty() {
            return Err(Skip("no namespace that can be used".to_owned()));
        }
        Ok(spaces)
    }

    /// The first of them.
    ///
    /// # Errors
    /// [`Skip`] if there is none.
    pub fn space(&self, rig: &Fixture<'_>) -> Result<Space, Skip> {
        Ok(self.spaces(rig)?[0])
    }

    /// Random I/O, checked, over the whole of a space.
    pub fn exercise(&self, rig: &Fixture<'_>, space: Space, window: usize, operations: u64) {
        space.oracle(window, self.seed).run(rig, self.ops(operations));
    }

    /// It still works, and nothing is left over.
    ///
    /// # Errors
    /// [`Skip`] if there is no namespace.
    pub fn works(&self, rig: &Fixture<'_>) -> Result<(), Skip> {
        self.exercise(rig, self.space(rig)?, 8, 60);
        rig.finish();
        Ok(())
    }
}

impl std::fmt::Debug for Cx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cx").field("seed", &self.seed).field("scale", &self.scale).finish()
    }
}

impl Space {
    /// What may be used of a namespace; `None` if that is less than 16 blocks.
    #[must_use]
    pub fn of(ns: &'static Namespace) -> Option<Self> {
        let lba_bytes = u64::from(ns.lba_bytes());
        let first = RESERVED_BYTES.div_ceil(lba_bytes);
        let blocks = ns.blocks().saturating_sub(first).min(SPACE_BYTES / lba_bytes);
        (blocks >= 16).then_some(Self { ns, first, blocks })
    }

    /// Bytes of a block.
    #[must_use]
    pub fn lba_bytes(&self) -> usize {
        self.ns.lba_bytes() as usize
    }

    /// Bytes of all its blocks.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.ns.lba_bytes())
    }

    /// Block `at` of the space, as the namespace counts.
    #[must_use]
    pub const fn lba(&self, at: u64) -> Lba {
        Lba(self.first + at)
    }

    /// An oracle over all of it.
    #[must_use]
    pub fn oracle(&self, window: usize, seed: u64) -> Oracle {
        Oracle::within(self.ns, self.first..self.first + self.blocks, window, seed)
    }

    /// Writes `bytes` from block `at` on, each block stamped with its address and `version`.
    ///
    /// # Panics
    /// If that fails.
    pub fn write(&self, rig: &Fixture<'_>, at: u64, bytes: usize, version: u64) {
        let buf = self.stamped(rig, at, bytes, version);
        let written = rig.run(self.ns.write(self.lba(at), buf, WriteFlags::empty()));
        drop(written.unwrap_or_else(|failed| panic!("write of {bytes} bytes: {failed}")));
    }

    /// A buffer of stamped blocks.
    ///
    /// # Panics
    /// If there is no memory.
    #[must_use]
    pub fn stamped(
        &self,
        rig: &Fixture<'_>,
        at: u64,
        bytes: usize,
        version: u64,
    ) -> core_runtime::mem::DmaBuf {
        let mut buf = rig.arena.alloc(bytes).expect("memory");
        let blocks = buf.as_mut_slice().chunks_exact_mut(self.lba_bytes());
        for (lba, block) in (self.lba(at).0..).zip(blocks) {
            fill(block, lba, version);
        }
        buf
    }

    /// Reads `bytes` from block `at` on and checks the stamps; version 0 is zeros.
    ///
    /// # Panics
    /// If that fails, or a block is not what was written.
    pub fn holds(&self, rig: &Fixture<'_>, at: u64, bytes: usize, version: u64) {
        let buf = rig.filled(bytes, 0xEE);
        let read = rig.run(self.ns.read(self.lba(at), buf));
        let buf = read.unwrap_or_else(|failed| panic!("read of {bytes} bytes: {failed}"));
        self.check(&buf, at, version);
    }

    /// Checks the stamps of blocks that were read.
    ///
    /// # Panics
    /// If one is not what was written.
    pub fn check(&self, bytes: &[u8], at: u64, version: u64) {
        for (lba, block) in (self.lba(at).0..).zip(bytes.chunks_exact(self.lba_bytes())) {
            assert!(
                is_filled(block, lba, version),
                "block {lba} of namespace {} is not what version {version} wrote ({} bytes from \
                 block {}); it starts with {:02x?}",
                self.ns.nsid().0,
                bytes.len(),
                self.lba(at).0,
                &block[..16]
            );
        }
    }

    /// Skips unless the space has so many bytes.
    ///
    /// # Errors
    /// [`Skip`].
    pub fn at_least(&self, bytes: u64) -> Result<(), Skip> {
        if self.bytes() >= bytes {
            return Ok(());
        }
        let nsid = self.ns.nsid().0;
        Err(Skip(format!("namespace {nsid} has {} bytes to use of {bytes}", self.bytes())))
    }
}

/// Queue depth that CAP.MQES and the driver allow at most.
pub(super) fn deepest(cap: Cap) -> u16 {
    cap.mqes_z().min(nvme_driver::MAX_SLOTS)
}

/// Skips where a command is not offered; every other error is a failure.
pub(super) fn offered<T>(result: Result<T, IoError>) -> Result<T, Skip> {
    match result {
        Ok(value) => Ok(value),
        Err(IoError::Unsupported(what)) => {
            Err(Skip(format!("the controller does not offer {what}")))
        }
        Err(error) => panic!("{error}"),
    }
}

/// The error of something that must be refused and must give its buffer back.
pub(super) fn refused<T>(result: Result<T, Failed>) -> IoError {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(failed) => {
            assert!(failed.buf.is_some(), "its buffer is gone: {failed}");
            failed.error
        }
    }
}

/// Commands in flight on all I/O queues.
pub(super) fn in_flight(controller: &Controller) -> u32 {
    controller.stats().io.in_flight
}
