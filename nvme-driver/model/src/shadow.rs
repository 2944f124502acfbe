//! Shadow doorbells as the controller sees them (NVMe Base 2.0, section 5.8).
//!
//! A queue whose doorbell has a shadow is *awake* while its index moves: then the shadow alone is
//! read. When it stands still the controller asks, by the event word, to be told by register, looks
//! once more, and goes to sleep: from then on only the register wakes it. A host that skips a
//! register write that was asked for, or stores and looks in the wrong order, hangs here as it
//! would on a controller that really sleeps.

use crate::mistake::HostMistake;
use crate::model::Model;
use core_runtime::mem::Iova;
use hybrid_shm::{Span, Word32};
use nvme_spec::{QueueId, Sqe, Status, StatusCode};
use std::sync::atomic::{Ordering, fence};

/// What the controller leaves in a doorbell register when it goes to sleep: no index.
const ASLEEP: u32 = u32::MAX - 1;

/// Both pages, as the host gave them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shadows {
    shadow: Span<'static>,
    event: Span<'static>,
}

impl Shadows {
    /// The words at an offset from the first doorbell; `None` beyond the pages.
    fn at(&self, offset: usize) -> Option<Shadow> {
        let shadow = self.shadow.word32(offset).ok()?;
        let event = self.event.word32(offset).ok()?;
        Some(Shadow { shadow, event, awake: true })
    }
}

/// One doorbell's shadow.
#[derive(Debug)]
pub(crate) struct Shadow {
    shadow: Word32<'static>,
    event: Word32<'static>,
    awake: bool,
}

impl Shadow {
    /// The index as far as the controller may know it; `known` is what it was.
    // SYNC shadow: pairs with `ShadowDoorbell::store`.
    #[inline]
    pub(crate) fn look(&mut self, doorbell: Word32<'static>, known: u32) -> u32 {
        if !self.awake {
            if doorbell.load_acquire() == ASLEEP {
                return known;
            }
            self.awake = true;
        }
        let index = self.shadow.load_acquire();
        if index != known {
            return index;
        }
        // A register write that this overwrites came after its shadow, which is seen below.
        doorbell.store(ASLEEP);
        self.event.store(known);
        fence(Ordering::SeqCst);
        let again = self.shadow.load_acquire();
        self.awake = again != known;
        again
    }
}

impl Model {
    /// Doorbell Buffer Config.
    pub(crate) fn doorbell_buffer_config(&mut self, sqe: &Sqe) -> Status {
        let page = self.regs.page_bytes();
        let words = |iova: u64| {
            let aligned = iova & (page as u64 - 1) == 0;
            self.dma.translate(Iova(iova), page).ok().filter(|_| aligned)
        };
        let (Some(shadow), Some(event)) = (words(sqe.prp1()), words(sqe.prp2())) else {
            let reason = "shadow doorbells that are not mapped, or not page aligned";
            self.mistakes.add(HostMistake::QueueCreate { qid: QueueId::ADMIN, reason });
            return self.refuse(sqe, StatusCode::INVALID_FIELD);
        };
        self.shadows = Some(Shadows { shadow, event });
        for index in 1..self.sqs.len() {
            let (tail, head) = (self.shadow(index, false), self.shadow(index, true));
            if let Some(sq) = &mut self.sqs[index] {
                sq.set_shadow(tail);
            }
            if let Some(cq) = &mut self.cqs[index] {
                cq.set_shadow(head);
            }
        }
        Status::SUCCESS
    }

    /// The shadow of a queue's doorbell. The admin queue's registers are written whatever its
    /// shadows say, so that they are not looked at.
    pub(crate) fn shadow(&self, index: usize, cq: bool) -> Option<Shadow> {
        let stride = 4_usize << self.config.dstrd;
        self.shadows.filter(|_| index != 0)?.at((2 * index + usize::from(cq)) * stride)
    }

    /// A shadow that does not start at 0 would be taken for commands.
    pub(crate) fn new_shadow(&mut self, index: usize, cq: bool) -> Option<Shadow> {
        let shadow = self.shadow(index, cq)?;
        if shadow.shadow.load() != 0 {
            let qid = QueueId(u16::try_from(index).unwrap_or(u16::MAX));
            let reason = "its shadow doorbell is not 0";
            self.mistakes.add(HostMistake::QueueCreate { qid, reason });
        }
        Some(shadow)
    }
}
