//! A disk that remembers what of it is durable.
//!
//! `seen` is what reads return, the cache included; `durable` is what a power failure leaves at
//! least. `loose` are the writes between the two: submitted, completed or not, and not yet covered
//! by a flush that ended well. A crash takes any of them, whole, in part, or not at all.

use std::future::{Future, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use journal::{Medium, Promise};
use nvme_driver::IoError;

pub(crate) const LBA: usize = 512;

/// A write that a power failure may undo.
#[derive(Clone, Debug)]
pub(crate) struct Loose {
    pub(crate) id: u64,
    pub(crate) at: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) done: bool,
}

/// The disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) seen: Vec<u8>,
    /// As long as `seen`, or empty: then it is only looked at.
    pub(crate) durable: Vec<u8>,
    pub(crate) loose: Vec<Loose>,
    pub(crate) promise: Promise,
    /// After so many more writes and flushes of a [`Medium`] the power is gone.
    pub(crate) power: u64,
    next_id: u64,
}

/// Runs a future that never waits.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing in here waits"),
    }
}

impl Disk {
    pub(crate) fn new(bytes: u64, promise: Promise) -> Self {
        let bytes = usize::try_from(bytes).expect("a small disk");
        Self { durable: vec![0; bytes], ..Self::only_seen(vec![0; bytes], promise) }
    }

    fn only_seen(seen: Vec<u8>, promise: Promise) -> Self {
        let (durable, loose) = (Vec::new(), Vec::new());
        Self { seen, durable, loose, promise, power: u64::MAX, next_id: 0 }
    }

    /// Looks at `image` as at a disk, and does not copy it: what costs the time of a million crash
    /// points is what is copied.
    pub(crate) fn look<T>(
        image: &mut Vec<u8>,
        promise: Promise,
        look: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let mut disk = Self::only_seen(std::mem::take(image), promise);
        let outcome = look(&mut disk);
        *image = disk.seen;
        outcome
    }

    /// Submits a write; what is seen until it ends is the new state, which is as good as any.
    pub(crate) fn submit(&mut self, lba: u64, bytes: &[u8]) -> u64 {
        assert_eq!(self.durable.len(), self.seen.len(), "who only looks writes nothing");
        let at = usize::try_from(lba).expect("an address") * LBA;
        self.seen[at..at + bytes.len()].copy_from_slice(bytes);
        self.next_id += 1;
        let (id, bytes) = (self.next_id, bytes.to_vec());
        self.loose.push(Loose { id, at, bytes, done: false });
        id
    }

    /// A write completed; without a cache it is durable.
    pub(crate) fn complete(&mut self, id: u64) {
        let cached = self.promise.cached;
        let at = self.loose.iter().position(|loose| loose.id == id).expect("it was submitted");
        self.loose[at].done = true;
        if !cached {
            let loose = self.loose.remove(at);
            self.durable[loose.at..loose.at + loose.bytes.len()].copy_from_slice(&loose.bytes);
        }
    }

    /// Every write that was submitted completes, as it does before a device is reset.
    pub(crate) fn settle(&mut self) {
        for id in self.loose.iter().map(|loose| loose.id).collect::<Vec<_>>() {
            self.complete(id);
        }
    }

    /// Writes that a flush which is submitted now covers.
    pub(crate) fn flushable(&self) -> Vec<u64> {
        self.loose.iter().filter(|loose| loose.done).map(|loose| loose.id).collect()
    }

    /// A flush of these writes ended well.
    pub(crate) fn flushed(&mut self, ids: &[u64]) {
        let (covered, rest) =
            std::mem::take(&mut self.loose).into_iter().partition(|loose| ids.contains(&loose.id));
        self.loose = rest;
        for loose in covered {
            self.durable[loose.at..loose.at + loose.bytes.len()].copy_from_slice(&loose.bytes);
        }
    }

    /// A flush of these writes failed: the cache shows them, and will never write them.
    pub(crate) fn lost(&mut self, ids: &[u64]) {
        self.loose.retain(|loose| !ids.contains(&loose.id));
    }

    /// What a power failure leaves that keeps of each loose write the blocks of which `keep` says
    /// so.
    pub(crate) fn crashed(&self, mut keep: impl FnMut(usize, usize) -> bool) -> Self {
        let mut seen = self.durable.clone();
        for (index, loose) in self.loose.iter().enumerate() {
            for (block, bytes) in loose.bytes.chunks(LBA).enumerate() {
                if keep(index, block) {
                    let at = loose.at + block * LBA;
                    seen[at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
        Self { durable: seen.clone(), ..Self::only_seen(seen, self.promise) }
    }

    /// A byte decays.
    pub(crate) fn flip(&mut self, at: usize) {
        self.seen[at] ^= 0x10;
        self.durable[at] ^= 0x10;
    }

    /// One more write or flush, while there is power.
    fn work(&mut self) -> Result<(), IoError> {
        self.power = self.power.checked_sub(1).ok_or(IoError::Gone)?;
        Ok(())
    }
}

impl Medium for Disk {
    fn lba_bytes(&self) -> u32 {
        512
    }

    fn blocks(&self) -> u64 {
        (self.seen.len() / LBA) as u64
    }

    fn promise(&self) -> Promise {
        self.promise
    }

    fn chunk_bytes(&self) -> usize {
        6144
    }

    async fn read(&mut self, lba: u64, bytes: usize) -> Result<&[u8], IoError> {
        let at = usize::try_from(lba).expect("an address") * LBA;
        ready(Ok(&self.seen[at..at + bytes])).await
    }

    async fn write(
        &mut self,
        lba: u64,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), IoError> {
        self.work()?;
        let mut buf = vec![0xEE; bytes];
        fill(&mut buf);
        let id = self.submit(lba, &buf);
        self.complete(id);
        Ok(())
    }

    async fn write_back(&mut self, lba: u64, bytes: usize) -> Result<(), IoError> {
        let read = self.read(lba, bytes).await?.to_vec();
        self.write(lba, bytes, |buf| buf.copy_from_slice(&read)).await
    }

    async fn flush(&mut self) -> Result<(), IoError> {
        self.work()?;
        let ids = self.flushable();
        self.flushed(&ids);
        Ok(())
    }
}
