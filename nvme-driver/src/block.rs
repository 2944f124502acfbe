//! A block device, whatever is behind it: a namespace of our driver, or the host's bridge.
//!
//! What an application holds instead of a [`Namespace`], so that the same tasks run on either. The
//! two are an enum, not a trait: no indirect call, and a match that the branch predictor knows.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use core_runtime::clock::Instant;
use core_runtime::mem::{Bump, DmaBuf};
use core_runtime::metrics::RuntimeMetrics;
use core_runtime::partition::Devices;
use nvme_spec::{DsmAttributes, DsmRange, Lba, Nsid};

use crate::bridge::{Bridge, BridgeCommand, BridgeIo, BridgeQueue};
use crate::config::ControllerConfig;
use crate::controller::{Controller, ControllerState, DeviceParts};
use crate::error::{ControllerError, Failed, IoError};
use crate::future::{CommandFuture, IoFuture};
use crate::latency::LatencyHistograms;
use crate::namespace::{Namespace, WriteFlags};
use crate::raw::{RawQueue, Target};
use crate::stats::{ControllerStats, QueueStats};

/// The device that a partition was given.
#[derive(Clone, Copy, Debug)]
pub enum Device {
    /// An NVMe controller that this partition drives.
    Nvme(&'static Controller),
    /// A device that the host drives.
    Bridge(&'static Bridge),
}

impl Device {
    /// Makes the driver's side of what the partition was given. A bridge takes depth, requests,
    /// deadlines and sampling of `config`.
    ///
    /// # Errors
    /// [`ControllerError`].
    pub fn open(
        parts: DeviceParts,
        bump: &Bump,
        config: ControllerConfig,
    ) -> Result<Self, ControllerError> {
        match parts {
            DeviceParts::Nvme(_) => Controller::new(parts, bump, config).map(Self::Nvme),
            DeviceParts::Bridge(bridge) => Bridge::new(bridge, bump, &config).map(Self::Bridge),
        }
    }

    /// The controller, where it is one.
    #[must_use]
    pub const fn controller(self) -> Option<&'static Controller> {
        match self {
            Self::Nvme(controller) => Some(controller),
            Self::Bridge(_) => None,
        }
    }

    /// Waits until I/O is taken.
    ///
    /// # Errors
    /// [`ControllerError`] if it will not be.
    pub async fn ready(self) -> Result<(), ControllerError> {
        match self {
            Self::Nvme(controller) => controller.ready().await,
            Self::Bridge(bridge) if bridge.is_gone() => Err(ControllerError::BridgeGone),
            Self::Bridge(_) => Ok(()),
        }
    }

    /// Ends it in order: what is in flight ends first.
    ///
    /// # Errors
    /// [`ControllerError`].
    pub async fn shutdown(self) -> Result<(), ControllerError> {
        match self {
            Self::Nvme(controller) => controller.shutdown().await,
            Self::Bridge(bridge) => bridge.shutdown().await,
        }
    }

    /// The block device behind namespace `nsid`; a bridge has one, whatever the number.
    #[must_use]
    pub fn block_device(self, nsid: Nsid) -> Option<BlockDevice> {
        match self {
            Self::Nvme(controller) => controller.namespace(nsid).map(BlockDevice::Nvme),
            Self::Bridge(bridge) => Some(BlockDevice::Bridge(bridge)),
        }
    }

    /// Most commands in flight on a queue.
    #[must_use]
    pub fn queue_depth(self) -> u16 {
        match self {
            Self::Nvme(controller) => controller.queue_depth(),
            Self::Bridge(bridge) => bridge.depth(),
        }
    }

    /// I/O queues that were granted; a bridge is one.
    #[must_use]
    pub fn io_queues(self) -> u16 {
        match self {
            Self::Nvme(controller) => controller.io_queues(),
            Self::Bridge(_) => 1,
        }
    }

    /// Where sampled latencies go.
    pub fn record_latencies_into(self, histograms: LatencyHistograms) {
        match self {
            Self::Nvme(controller) => controller.record_latencies_into(histograms),
            Self::Bridge(bridge) => bridge.record_latencies_into(histograms),
        }
    }

    /// Snapshot of the counters.
    #[must_use]
    pub fn stats(self) -> ControllerStats {
        match self {
            Self::Nvme(controller) => controller.stats(),
            Self::Bridge(bridge) => bridge.stats(),
        }
    }

    /// Queue `index` for use by hand, with room for `buffers`. Of a bridge there is one, which
    /// futures may use beside it. `None` if there is no such queue, it is taken already, it or its
    /// last holder has something in flight, or `bump` is full.
    #[must_use]
    pub fn take_queue(self, index: u16, buffers: u16, bump: &Bump) -> Option<BlockQueue> {
        match self {
            Self::Nvme(controller) => {
                controller.take_raw_queue(index, buffers, bump).map(BlockQueue::Nvme)
            }
            Self::Bridge(bridge) if index == 0 => {
                BridgeQueue::new(bridge, buffers, bump).ok().map(BlockQueue::Bridge)
            }
            Self::Bridge(_) => None,
        }
    }

    /// Whether it has failed for good, and as what.
    #[must_use]
    pub fn failure(self) -> Option<ControllerError> {
        match self {
            Self::Nvme(controller) => match controller.state() {
                ControllerState::Failed(error) => Some(error),
                _ => None,
            },
            Self::Bridge(bridge) => bridge.is_gone().then_some(ControllerError::BridgeGone),
        }
    }

    /// Takes completions; returns how many of I/O.
    #[inline]
    pub fn poll_io(self, now: Instant) -> (u32, bool) {
        match self {
            Self::Nvme(controller) => {
                let report = controller.poll(now);
                (report.reaped, !report.is_idle())
            }
            Self::Bridge(bridge) => {
                let taken = bridge.poll(now);
                (taken, taken != 0)
            }
        }
    }
}

impl Devices for Device {
    #[inline]
    fn poll(&mut self, now: Instant) -> bool {
        self.poll_io(now).1
    }

    #[inline]
    fn ring(&mut self) {
        if let Self::Nvme(controller) = self {
            controller.ring();
        }
    }

    fn publish(&mut self, metrics: &RuntimeMetrics) {
        match self {
            Self::Nvme(controller) => Devices::publish(controller, metrics),
            Self::Bridge(bridge) => {
                let stats = bridge.stats();
                metrics.io_submitted.set(stats.io.submitted);
                metrics.io_completed.set(stats.io.completed.saturating_sub(stats.io.failed));
                metrics.io_bytes.set(stats.io.bytes);
                metrics.io_failed.set(stats.io.failed + stats.io.lost);
                metrics.io_repeated.set(stats.reads_repeated);
                metrics.queue_depth.set(stats.io.in_flight.into());
                metrics.queue_depth_high_water.set(stats.io.high_water.into());
            }
        }
    }
}

/// Blocks that are read and written. Belongs to one core.
#[derive(Clone, Copy, Debug)]
pub enum BlockDevice {
    /// A namespace of our driver.
    Nvme(&'static Namespace),
    /// The host's bridge.
    Bridge(&'static Bridge),
}

macro_rules! both {
    ($self:expr, |$device:ident| $body:expr) => {
        match $self {
            Self::Nvme($device) => $body,
            Self::Bridge($device) => $body,
        }
    };
}

impl BlockDevice {
    /// Block size in bytes; 0 if it cannot be used any more.
    #[must_use]
    pub fn lba_bytes(self) -> u32 {
        both!(self, |device| device.lba_bytes())
    }

    /// Size in blocks; 0 if it cannot be used any more.
    #[must_use]
    pub fn blocks(self) -> u64 {
        both!(self, |device| device.blocks())
    }

    /// Largest transfer that the device takes at once; longer requests are cut.
    #[must_use]
    pub fn max_transfer_bytes(self) -> u32 {
        both!(self, |device| device.max_transfer_bytes())
    }

    /// What submissions by hand need.
    ///
    /// # Errors
    /// [`IoError::NamespaceChanged`] if it cannot be used.
    pub fn target(self) -> Result<Target, IoError> {
        match self {
            Self::Nvme(namespace) => namespace.target(),
            Self::Bridge(bridge) => Ok(bridge.target()),
        }
    }

    /// Reads `buf.len()` bytes from block `slba`; the output is the buffer. Waits for room.
    #[inline]
    pub fn read(self, slba: Lba, buf: DmaBuf) -> BlockIo {
        match self {
            Self::Nvme(namespace) => BlockIo::Nvme(namespace.read(slba, buf)),
            Self::Bridge(bridge) => BlockIo::Bridge(bridge.read(slba, buf)),
        }
    }

    /// Writes `buf.len()` bytes to block `slba`; the output is the buffer. Waits for room.
    #[inline]
    pub fn write(self, slba: Lba, buf: DmaBuf, flags: WriteFlags) -> BlockIo {
        match self {
            Self::Nvme(namespace) => BlockIo::Nvme(namespace.write(slba, buf, flags)),
            Self::Bridge(bridge) => BlockIo::Bridge(bridge.write(slba, buf, flags)),
        }
    }

    /// Counts a read that is repeated, and may be so often more.
    pub(crate) fn count_repeat(self, slba: Lba, left: u8) {
        both!(self, |device| device.count_repeat(slba, left));
    }

    /// Like [`BlockDevice::read`], but does not wait for room.
    ///
    /// # Errors
    /// [`IoError::QueueFull`], or why the request is refused; the buffer comes back.
    pub fn try_read(self, slba: Lba, buf: DmaBuf) -> Result<BlockIo, Failed> {
        match self {
            Self::Nvme(namespace) => namespace.try_read(slba, buf).map(BlockIo::Nvme),
            Self::Bridge(bridge) => bridge.try_read(slba, buf).map(BlockIo::Bridge),
        }
    }

    /// Like [`BlockDevice::write`], but does not wait for room.
    ///
    /// # Errors
    /// As for [`BlockDevice::try_read`].
    pub fn try_write(self, slba: Lba, buf: DmaBuf, flags: WriteFlags) -> Result<BlockIo, Failed> {
        match self {
            Self::Nvme(namespace) => namespace.try_write(slba, buf, flags).map(BlockIo::Nvme),
            Self::Bridge(bridge) => bridge.try_write(slba, buf, flags).map(BlockIo::Bridge),
        }
    }

    /// Makes durable what was written and completed before. A flush that fails is never repeated:
    /// everything written since the last good one is unknown.
    pub fn flush(self) -> BlockCommand {
        match self {
            Self::Nvme(namespace) => BlockCommand::Nvme(namespace.flush()),
            Self::Bridge(bridge) => BlockCommand::Bridge(bridge.flush()),
        }
    }

    /// Sets `nlb` blocks from `slba` to zero, without a transfer.
    pub fn write_zeroes(self, slba: Lba, nlb: u64, flags: WriteFlags) -> BlockCommand {
        match self {
            Self::Nvme(namespace) => BlockCommand::Nvme(namespace.write_zeroes(slba, nlb, flags)),
            Self::Bridge(bridge) => BlockCommand::Bridge(bridge.write_zeroes(slba, nlb, flags)),
        }
    }

    /// Gives `nlb` blocks from `slba` back; what they read as afterwards is the device's affair.
    pub fn discard(self, slba: Lba, nlb: u32) -> BlockCommand {
        match self {
            Self::Nvme(namespace) => {
                let range = DsmRange { attributes: 0, blocks: nlb, slba: slba.0 };
                BlockCommand::Nvme(namespace.dsm(&[range], DsmAttributes::DEALLOCATE))
            }
            Self::Bridge(bridge) => BlockCommand::Bridge(bridge.discard(slba, nlb.into())),
        }
    }
}

/// A read or a write: the buffer, or the error and the buffer (which is missing only if the device
/// may still write to it).
#[derive(Debug)]
#[must_use = "futures do nothing more than start unless polled"]
pub enum BlockIo {
    /// By our driver.
    Nvme(IoFuture),
    /// Over the bridge.
    Bridge(BridgeIo),
}

impl Future for BlockIo {
    type Output = Result<DmaBuf, Failed>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Nvme(io) => Pin::new(io).poll(cx),
            Self::Bridge(io) => Pin::new(io).poll(cx),
        }
    }
}

/// A flush, write zeroes or discard.
#[derive(Debug)]
#[must_use = "futures do nothing more than start unless polled"]
pub enum BlockCommand {
    /// By our driver.
    Nvme(CommandFuture),
    /// Over the bridge.
    Bridge(BridgeCommand),
}

impl Future for BlockCommand {
    type Output = Result<(), IoError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Nvme(command) => Pin::new(command).poll(cx),
            Self::Bridge(command) => Pin::new(command).poll(cx),
        }
    }
}

/// A queue for use by hand: submit, ring, reap.
pub enum BlockQueue {
    /// A queue pair of our driver.
    Nvme(RawQueue),
    /// Over the bridge.
    Bridge(BridgeQueue),
}

impl BlockQueue {
    /// Takes a buffer and returns the number that submissions name it by, from 0.
    ///
    /// # Errors
    /// The buffer, if there is no room.
    pub fn adopt(&self, buf: DmaBuf) -> Result<u16, DmaBuf> {
        both!(self, |queue| queue.adopt(buf))
    }

    /// Calls `f` with the bytes of a buffer; `None` while something is in flight on it.
    pub fn with_buf<R>(&self, index: u16, f: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        both!(self, |queue| queue.with_buf(index, f))
    }

    /// Submits a read.
    ///
    /// # Errors
    /// As [`RawQueue::submit_read`].
    #[inline(always)]
    pub fn submit_read(
        &self,
        target: &Target,
        slba: Lba,
        nlb: u32,
        buf: u16,
        token: u32,
    ) -> Result<(), IoError> {
        match self {
            Self::Nvme(queue) => queue.submit_read(target, slba, nlb, buf, token),
            Self::Bridge(queue) => queue.submit_read(slba, nlb, buf, token),
        }
    }

    /// Submits a write.
    ///
    /// # Errors
    /// As [`RawQueue::submit_read`].
    #[inline(always)]
    pub fn submit_write(
        &self,
        target: &Target,
        slba: Lba,
        nlb: u32,
        buf: u16,
        token: u32,
    ) -> Result<(), IoError> {
        match self {
            Self::Nvme(queue) => queue.submit_write(target, slba, nlb, buf, token),
            Self::Bridge(queue) => queue.submit_write(slba, nlb, buf, token),
        }
    }

    /// Rings the doorbell, where there is one.
    #[inline(always)]
    pub fn ring(&self) {
        if let Self::Nvme(queue) = self {
            queue.ring();
        }
    }

    /// Takes up to `limit` completions; `f` may submit. Returns how often it was called.
    #[inline(always)]
    pub fn reap(&self, limit: u16, f: impl FnMut(u32, Result<(), IoError>)) -> u16 {
        both!(self, |queue| queue.reap(limit, f))
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        both!(self, |queue| queue.is_idle())
    }

    /// Most submissions in flight.
    #[must_use]
    pub fn depth(&self) -> u16 {
        both!(self, |queue| queue.depth())
    }

    /// Snapshot of the counters.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        both!(self, |queue| queue.stats())
    }
}
