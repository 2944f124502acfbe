//! The queues' images, found by what the partition published when it made them.
//!
//! Both the places and the rings are hostile: each number is checked against the DMA memory before
//! a byte is copied, and what the copies say is read by [`hybrid_abi::crash::rings`].

use core_runtime::region::RegionReader;
use hybrid_abi::crash::device::{NO_OFFSET, PLACE_VALID, QueuePlace};
use hybrid_abi::crash::elements;
use hybrid_abi::crash::file::{QueueImageHead, TAIL_UNKNOWN};
use hybrid_abi::crash::rings::{MAX_RING_ENTRIES, Rings};
use hybrid_shm::ReadSpan;
use zerocopy::IntoBytes;

/// A queue pair's rings, copied.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) head: QueueImageHead,
    rings: Vec<u8>,
}

impl Image {
    pub(super) fn rings(&self) -> Option<Rings<'_>> {
        Rings::new(&self.head, &self.rings)
    }

    pub(super) fn into_payload(self) -> Vec<u8> {
        let mut payload = self.head.as_bytes().to_vec();
        payload.extend(self.rings);
        payload
    }
}

/// All that can be read.
pub(super) fn images(region: &RegionReader, dma: ReadSpan<'static>) -> Vec<Image> {
    let places = super::places_of(region).unwrap_or_default();
    elements::<QueuePlace>(&places)
        .filter(|place| place.state == PLACE_VALID)
        .filter_map(|place| image(place, dma))
        .collect()
}

fn image(place: QueuePlace, dma: ReadSpan<'static>) -> Option<Image> {
    if !(2..=MAX_RING_ENTRIES).contains(&place.entries) {
        return None;
    }
    let entries = place.entries as usize;
    let mut rings = vec![0; entries * (64 + 16)];
    let (sq, cq) = rings.split_at_mut(entries * 64);
    dma.read(usize::try_from(place.sq_offset).ok()?, sq).ok()?;
    dma.read(usize::try_from(place.cq_offset).ok()?, cq).ok()?;
    let shadow = usize::try_from(place.shadow_offset).ok();
    let shadow = shadow.filter(|_| place.shadow_offset != NO_OFFSET);
    let tail = shadow.and_then(|at| dma.load32(at).ok()).filter(|tail| *tail < place.entries);
    let head = QueueImageHead {
        controller: place.controller,
        qid: place.qid,
        entries: place.entries,
        slot_mask: place.slot_mask,
        tail: tail.unwrap_or(TAIL_UNKNOWN),
        indices: place.indices,
    };
    Some(Image { head, rings })
}
