//! The memory of a bridge and the host's ends of both of its rings.

use core_runtime::mem::DmaRegion;
use core_runtime::ring::{Consumer, PopError, Producer, RingError, RingSpec};
use hybrid_abi::bridge::{
    BRIDGE_CAN_DISCARD, BRIDGE_CAN_WRITE, BRIDGE_CAN_ZERO, BRIDGE_WRITE_CACHE, BridgeCompletion,
    BridgeInfo, BridgeRequest,
};
use hybrid_shm::{ReadSpan, Span};
use zerocopy::IntoBytes;

use super::flight::Outcome;
use crate::uring::target::Target;

/// The memory of a bridge, laid out by the host.
#[derive(Clone, Copy, Debug)]
pub struct BridgeMemory {
    /// The host's file.
    pub own: Span<'static>,
    /// The partition's file.
    pub peer: ReadSpan<'static>,
    /// DMA memory.
    pub dma: DmaRegion,
}

/// What the partition is told of its device.
#[must_use]
pub fn info_of(target: &Target, depth: u32, epoch: u64) -> BridgeInfo {
    let limits = target.limits();
    let mut info = BridgeInfo::new(limits.lba_bytes, limits.blocks, depth, epoch);
    info.max_transfer_bytes = limits.max_transfer_bytes;
    info.buffer_align = limits.buffer_align;
    let bit = |has: bool, bit: u32| if has { bit } else { 0 };
    info.capabilities = bit(target.writable(), BRIDGE_CAN_WRITE)
        | bit(limits.zeroes.is_some(), BRIDGE_CAN_ZERO)
        | bit(limits.discard.is_some(), BRIDGE_CAN_DISCARD)
        | bit(limits.write_cache, BRIDGE_WRITE_CACHE);
    info
}

/// Lays out the host's file: what the partition is told, and the host's parts of both rings.
///
/// # Errors
/// [`RingError`] if it is too short.
pub fn lay_out(own: Span<'static>, info: &BridgeInfo) -> Result<(), RingError> {
    let (requests, completions) = specs(info)?;
    let part = |(at, len)| own.sub(at, len);
    completions.make_producer_part(part(info.completions_producer())?)?;
    requests.make_consumer_part(part(info.requests_consumer())?)?;
    own.write(8, info.as_bytes().split_at(8).1)?;
    own.word64(0)?.store_release(info.magic);
    Ok(())
}

pub(super) fn specs(info: &BridgeInfo) -> Result<(RingSpec, RingSpec), RingError> {
    let requests = RingSpec::fixed::<BridgeRequest>(info.ring_slots)?.with_epoch(info.epoch);
    let completions = RingSpec::fixed::<BridgeCompletion>(info.ring_slots)?.with_epoch(info.epoch);
    Ok((requests, completions))
}

/// Both rings' ends.
pub(super) enum Ends {
    /// The partition has not made its parts yet.
    Waiting,
    Open(Consumer<BridgeRequest>, Producer<BridgeCompletion>),
    /// For this reason.
    Closed(String),
}

impl Ends {
    /// Opens them once the partition has made its parts.
    pub(super) fn open(&mut self, memory: &BridgeMemory, info: &BridgeInfo) {
        if !matches!(self, Self::Waiting) {
            return;
        }
        let parts = || -> Result<_, RingError> {
            let (request_spec, completion_spec) = specs(info)?;
            let own = |(at, len)| memory.own.sub(at, len);
            let peer = |(at, len)| memory.peer.sub(at, len);
            let requests = Consumer::<BridgeRequest>::new(
                own(info.requests_consumer())?,
                peer(info.requests_producer())?,
                request_spec,
            )?;
            let completions = Producer::<BridgeCompletion>::new(
                own(info.completions_producer())?,
                peer(info.completions_consumer())?,
                completion_spec,
            )?;
            Ok((requests, completions))
        };
        match parts() {
            Ok((requests, completions)) => *self = Self::Open(requests, completions),
            Err(RingError::PeerNotReady) => {}
            Err(error) => *self = Self::Closed(error.to_string()),
        }
    }

    /// The next request, if there is one and room for its answer beside `owed` others.
    pub(super) fn take(&mut self, owed: u32) -> Option<BridgeRequest> {
        let Self::Open(requests, completions) = &*self else { return None };
        match completions.has_room(owed + 1) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(closed) => {
                *self = Self::Closed(closed.to_string());
                return None;
            }
        }
        match requests.pop() {
            Ok(request) => Some(request),
            Err(PopError::Empty) => None,
            Err(error) => {
                *self = Self::Closed(error.to_string());
                None
            }
        }
    }

    pub(super) fn answer(&self, cid: u32, (kind, detail): Outcome) {
        let completion = BridgeCompletion { cid, kind, reserved: 0, detail };
        if let Self::Open(_, completions) = self {
            // There is room, unless the partition broke its index: closed then.
            let _ = completions.try_push(&completion);
        }
    }

    /// Ends the traffic, so that the partition sees it at its next look.
    pub(super) fn close(&mut self, why: String) {
        if let Self::Open(requests, completions) = &*self {
            requests.close();
            completions.close();
        }
        if !matches!(self, Self::Closed(_)) {
            *self = Self::Closed(why);
        }
    }

    pub(super) fn closed(&self) -> Option<&str> {
        match self {
            Self::Closed(why) => Some(why),
            Self::Waiting | Self::Open(..) => None,
        }
    }
}
