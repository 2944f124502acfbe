//! The two files between partition and host, as the partition reads them: the description of the
//! device, the ends of the rings, and what a completion says.

use core_runtime::ring::{Consumer, Producer, RingSpec};
use hybrid_abi::bridge::{
    BRIDGE_CANCELLED, BRIDGE_DONE, BRIDGE_ERRNO, BRIDGE_INFO_BYTES, BRIDGE_NVME, BRIDGE_READ,
    BRIDGE_REFUSED, BRIDGE_SHORT, BRIDGE_UNFLUSHED, BRIDGE_WRITE, BridgeCompletion, BridgeInfo,
    BridgeRequest,
};
use nvme_spec::{Lba, Status};

use super::{BridgeError, BridgeParts, BridgeRefused};
use crate::error::IoError;
use crate::latency::Kind;
use crate::shape::Shape;

/// What the host says of the device, and the partition's ends of both rings.
pub(super) fn open(
    parts: BridgeParts,
) -> Result<(BridgeInfo, Producer<BridgeRequest>, Consumer<BridgeCompletion>), BridgeRefused> {
    let mut bytes = [0; BRIDGE_INFO_BYTES];
    parts.peer.read(0, &mut bytes).map_err(BridgeRefused::Layout)?;
    let info = BridgeInfo::parse(&bytes).map_err(BridgeRefused::Info)?;
    let own = |(at, len)| parts.own.sub(at, len).map_err(BridgeRefused::Layout);
    let peer = |(at, len)| parts.peer.sub(at, len).map_err(BridgeRefused::Layout);
    let ring = |spec: Result<RingSpec, _>| {
        spec.map(|spec| spec.with_epoch(info.epoch)).map_err(BridgeRefused::Ring)
    };
    let request_spec = ring(RingSpec::fixed::<BridgeRequest>(info.ring_slots))?;
    let completion_spec = ring(RingSpec::fixed::<BridgeCompletion>(info.ring_slots))?;
    let (request_part, completion_part) =
        (own(info.requests_producer())?, own(info.completions_consumer())?);
    request_spec.make_producer_part(request_part).map_err(BridgeRefused::Ring)?;
    completion_spec.make_consumer_part(completion_part).map_err(BridgeRefused::Ring)?;
    let requests =
        Producer::<BridgeRequest>::new(request_part, peer(info.requests_consumer())?, request_spec);
    let completions = Consumer::<BridgeCompletion>::new(
        completion_part,
        peer(info.completions_producer())?,
        completion_spec,
    );
    let (requests, completions) =
        (requests.map_err(BridgeRefused::Ring)?, completions.map_err(BridgeRefused::Ring)?);
    Ok((info, requests, completions))
}

/// Which histogram a request's latency belongs in.
pub(super) const fn kind_of(op: u16) -> Kind {
    match op {
        BRIDGE_READ => Kind::Read,
        BRIDGE_WRITE => Kind::Write,
        _ => Kind::Other,
    }
}

/// The device's shape, as namespaces have theirs.
pub(super) const fn shape_of(info: &BridgeInfo) -> Shape {
    let lba_shift = info.lba_bytes.trailing_zeros();
    Shape {
        lba_bytes: info.lba_bytes,
        lba_shift,
        blocks: info.blocks,
        max_blocks: info.max_transfer_bytes >> lba_shift,
    }
}

/// How a request ended, in our words. `slba` is its first block.
pub(super) fn result_of(completion: &BridgeCompletion, slba: Lba) -> Result<(), IoError> {
    let detail = u32::try_from(completion.detail).unwrap_or(u32::MAX);
    Err(match completion.kind {
        BRIDGE_DONE => return Ok(()),
        BRIDGE_ERRNO => IoError::Bridge(BridgeError::Errno(detail)),
        BRIDGE_NVME => {
            let status = Status::from_bits(u16::try_from(detail & 0x7FFF).unwrap_or(0));
            IoError::Status { status, slba }
        }
        BRIDGE_REFUSED => IoError::Bridge(BridgeError::Refused(detail)),
        BRIDGE_SHORT => IoError::Bridge(BridgeError::Short),
        BRIDGE_UNFLUSHED => IoError::Bridge(BridgeError::Unflushed),
        BRIDGE_CANCELLED => IoError::TimedOut,
        kind => IoError::Bridge(BridgeError::Unknown(kind)),
    })
}
