//! Asynchronous events: raised inside, reported when a request waits and the host wants them.
//!
//! After an event of a type was reported, further ones of that type wait until the host reads the
//! log page that clears it (NVMe Base 2.0, section 5.2).

use crate::engine::Outcome;
use crate::model::{Model, PENDING_EVENTS};
use nvme_spec::{AsyncEvent, AsyncEventConfig, LogPageId, QueueId, Status};

/// The event types whose mask a log page clears, a bit each.
pub(crate) const fn cleared_by(page: LogPageId) -> u8 {
    match page {
        LogPageId::ERROR => 1 << 0,
        LogPageId::SMART => 1 << 1,
        LogPageId::FIRMWARE | LogPageId::CHANGED_NAMESPACES => 1 << 2,
        _ => 0,
    }
}

impl Model {
    /// Remembers an event; the same one is not remembered twice.
    pub(crate) fn raise(&mut self, event: AsyncEvent) {
        let config = AsyncEventConfig::from(self.features.events);
        let pending = &mut self.events.pending;
        if config.wants(event) && pending.len() < PENDING_EVENTS && !pending.contains(&event) {
            pending.push_back(event);
        }
    }

    /// Completes requests with what is pending.
    #[inline]
    pub(crate) fn report_events(&mut self) {
        if self.events.requests.is_empty() {
            return;
        }
        if self.events.pending.is_empty() && self.events.storm.is_none() {
            return;
        }
        self.report_pending();
    }

    fn report_pending(&mut self) {
        while !self.events.requests.is_empty() {
            let Some(cq) = &self.cqs[0] else { return };
            if cq.space() == 0 {
                return;
            }
            let Some(event) = self.next_event() else { return };
            let Some(cid) = self.events.requests.pop_front() else { return };
            self.stats.events += 1;
            let outcome = Outcome { status: Status::SUCCESS, result: event.0 };
            self.post(QueueId::ADMIN, cid, outcome);
        }
    }

    fn next_event(&mut self) -> Option<AsyncEvent> {
        if let Some((event, left)) = self.events.storm {
            self.events.storm = (left > 1).then(|| (event, left - 1));
            if left > 0 {
                return Some(event);
            }
        }
        let masked = self.events.masked;
        let free = |event: &AsyncEvent| masked & (1 << event.event_type().0) == 0;
        let place = self.events.pending.iter().position(free)?;
        let event = self.events.pending.remove(place)?;
        self.events.masked |= 1 << event.event_type().0;
        Some(event)
    }
}
