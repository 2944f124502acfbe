//! Before anything is measured: the namespace, its limits, its blocks, and whether reads are right.

use core::cell::Cell;

use hybrid_benches::pick::{Order, Pick};
use hybrid_benches::rng::{Rng, mix};
use nvme_driver::{BlockDevice, IoError, Lba, WriteFlags, spec::Nsid};
use nvme_model::null_header;
use zerocopy::IntoBytes;

use super::desk::{Bench, Desk};
use super::lane::Lane;
use super::{DRAWS, Stopped};
use crate::wire::{Found, HOT, KIND_FOUND, Phase, SEQUENTIAL, UNIFORM, VERIFY, ZIPF};

/// Bytes of a write that fills the device.
const FILL_BYTES: usize = 128 << 10;

/// Blocks whose data is compared before anything is measured.
const PATTERN_BLOCKS: u64 = 1000;

impl Desk {
    pub(crate) async fn prepare(&self) -> Result<Bench, Stopped> {
        self.device.ready().await.map_err(|_| IoError::NotReady)?;
        let plan = self.plan;
        let block = self.device.block_device(Nsid(plan.nsid));
        let block = block.ok_or(Stopped::NoNamespace(plan.nsid))?;
        self.check(block)?;
        let mut found = self.found(block);
        if plan.fill != 0 {
            self.fill(block).await?;
        }
        if plan.fill != 0 || plan.null_pattern != 0 {
            found.checksum = self.compare(block).await?;
        }
        self.send(KIND_FOUND, 0, found.as_bytes()).await;
        let bump = self.partition.bump();
        let memory = (self.partition.arena(), bump);
        let lanes = Lane::all(self.device, plan, memory)?;
        let has = |wanted: &dyn Fn(&Phase) -> bool| self.phases.iter().any(wanted);
        let room = |count| bump.slice_with(count, |_| Cell::new(0)).map_err(|_| IoError::NoMemory);
        let draws = room(if has(&|phase| phase.order == ZIPF) { DRAWS } else { 1 })?;
        let versions = room(if has(&|phase| phase.kind == VERIFY) { super::PLACES } else { 1 })?;
        Ok(Bench { block, lanes, draws, versions })
    }

    fn check(&self, block: BlockDevice) -> Result<(), Stopped> {
        let plan = self.plan;
        let granted = self.device.io_queues();
        if u32::from(granted) < plan.queues {
            return Err(Stopped::Queues(plan.queues, granted));
        }
        let depth = self.device.queue_depth();
        if u32::from(depth) < plan.slots {
            return Err(Stopped::Depth(plan.slots, depth));
        }
        let (lba_bytes, most) = (block.lba_bytes(), block.max_transfer_bytes());
        for phase in self.phases.iter().filter(|phase| phase.bytes != 0) {
            if !phase.bytes.is_multiple_of(lba_bytes.max(1)) {
                return Err(Stopped::BadSize(phase.bytes, lba_bytes));
            }
            if phase.bytes > most {
                return Err(Stopped::TooLong(phase.bytes, most));
            }
            if self.places(block, phase) == 0 {
                return Err(Stopped::TooSmall(phase.bytes));
            }
        }
        Ok(())
    }

    fn found(&self, block: BlockDevice) -> Found {
        let mut found = Found {
            blocks: block.blocks(),
            lba_bytes: block.lba_bytes(),
            max_transfer: block.max_transfer_bytes(),
            queues: self.device.io_queues().into(),
            queue_depth: self.device.queue_depth().into(),
            ..Found::default()
        };
        // 40 bytes, as a controller's model number.
        let model = match self.device.controller() {
            Some(controller) => controller.identify().mn,
            None => *b"storage of the host's kernel            ",
        };
        for (to, from) in found.model.iter_mut().zip(model.chunks_exact(8)) {
            *to = from.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        }
        found
    }

    /// Operations of a phase that fit the device.
    pub(crate) fn places(&self, block: BlockDevice, phase: &Phase) -> u64 {
        let each = u64::from(phase.bytes / block.lba_bytes().max(1)).max(1);
        let blocks = match self.plan.blocks {
            0 => block.blocks(),
            limit => limit.min(block.blocks()),
        };
        blocks / each
    }

    /// The phase's way through the namespace; makes its zipf draws.
    pub(crate) fn pick(&self, bench: &Bench, phase: &Phase) -> Pick {
        let mut places = self.places(bench.block, phase);
        if phase.kind == VERIFY {
            places = places.min(super::PLACES as u64);
        }
        let order = match phase.order {
            UNIFORM => Order::Uniform,
            SEQUENTIAL => Order::Sequential,
            ZIPF => {
                let theta = f64::from(phase.order_a) / 1000.0;
                hybrid_benches::pick::fill_zipf(bench.draws, places, theta, phase.seed);
                Order::Table(bench.draws)
            }
            HOT | 4.. => {
                let hot = (places * u64::from(phase.order_a) / 100).clamp(1, places.max(2) - 1);
                Order::Hot { hot, accesses: phase.order_b * 65_536 / 100 }
            }
        };
        let each = u64::from(phase.bytes / bench.block.lba_bytes().max(1)).max(1);
        Pick::new(order, places, each, phase.reads, phase.seed)
    }

    // ---- right data ------------------------------------------------------------------------

    /// Writes every block, so that no page behind it is the kernel's zero page.
    async fn fill(&self, block: BlockDevice) -> Result<(), IoError> {
        let arena = self.partition.arena();
        let most = usize::try_from(block.max_transfer_bytes()).unwrap_or(FILL_BYTES);
        let lba_bytes = usize::try_from(block.lba_bytes()).unwrap_or(4096);
        let mut buf = arena.alloc(FILL_BYTES.min(most)).map_err(|_| IoError::NoMemory)?;
        let step = (buf.len() / lba_bytes) as u64;
        for first in (0..block.blocks()).step_by(buf.len() / lba_bytes) {
            let left = (block.blocks() - first).min(step);
            let _ = buf.set_len(usize::try_from(left).unwrap_or(0) * lba_bytes);
            for (lba, block) in (first..).zip(buf.as_mut_slice().chunks_exact_mut(lba_bytes)) {
                for (word, bytes) in (0_u64..).zip(block.chunks_exact_mut(8)) {
                    bytes.copy_from_slice(&content(lba, word).to_le_bytes());
                }
            }
            let written = block.write(Lba(first), buf, WriteFlags::empty()).await;
            buf = written.map_err(|failed| failed.error)?;
        }
        Ok(())
    }

    /// Reads blocks through the futures and compares what should be there.
    async fn compare(&self, block: BlockDevice) -> Result<u64, Stopped> {
        let arena = self.partition.arena();
        let lba_bytes = usize::try_from(block.lba_bytes()).unwrap_or(4096);
        let mut rng = Rng::new(1);
        let mut buf = arena.alloc(lba_bytes).map_err(|_| IoError::NoMemory)?;
        let mut checksum = 0;
        for _ in 0..PATTERN_BLOCKS {
            let lba = rng.below(block.blocks());
            buf.as_mut_slice().fill(0xa5);
            let read = block.read(Lba(lba), buf).await;
            buf = read.map_err(|failed| failed.error)?;
            if !self.is_right(lba, &buf) {
                return Err(Stopped::WrongData(lba));
            }
            let first = buf.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            checksum = mix(checksum ^ first ^ lba);
        }
        Ok(checksum)
    }

    fn is_right(&self, lba: u64, bytes: &[u8]) -> bool {
        let mut words = bytes
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()));
        if self.plan.null_pattern == 0 {
            return words.zip(0..).all(|(seen, word)| seen == content(lba, word));
        }
        let header = null_header(lba, self.plan.null_pattern.into());
        [words.next(), words.next()] == header.map(Some)
    }
}

/// Word `word` of block `lba`.
fn content(lba: u64, word: u64) -> u64 {
    mix(lba + 1).wrapping_add(word)
}
