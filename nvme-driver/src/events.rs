//! Asynchronous events: asked for, recorded, their log page read so that they may come again, and
//! limited, so that a controller that never stops telling cannot keep us busy.
//!
//! Part of the controller's housekeeping. Invariant: at most as many requests are outstanding as
//! AERL and the configuration allow; beyond `events_per_second` the next one is asked for only when
//! the second is over.

use core::cell::{Cell, RefCell};

use nvme_spec::{
    AdminOpcode, AsyncEvent, AsyncEventType, Cid, GetLogPage, LogPageId, Nsid, Sqe, Status,
    StatusCode,
};

use crate::admin::AdminToken;
use crate::controller::Controller;
use crate::lifecycle::is_unknown;
use crate::stats::Count;

/// Events kept for the users; older ones give way. They are rare, and their counts are kept.
const KEPT: usize = 16;

/// Bytes of a log page that are read to clear an event: SMART's 512, enough for every page's head.
const LOG_BYTES: u32 = 512;

/// Log pages whose reading clears an event, as bits of [`Events::to_read`].
const LOGS: [LogPageId; 4] =
    [LogPageId::ERROR, LogPageId::SMART, LogPageId::FIRMWARE, LogPageId::CHANGED_NAMESPACES];

#[derive(Debug)]
pub(crate) struct Events {
    recent: RefCell<heapless::Deque<AsyncEvent, KEPT>>,
    received: Count,
    held_back: Count,
    outstanding: Cell<u32>,
    limit: Cell<u32>,
    /// Events taken in this second, and when it ends (the driver's clock).
    in_window: Cell<u32>,
    window_end: Cell<u64>,
    paused: Cell<bool>,
    /// Log pages to read, by index in [`LOGS`].
    to_read: Cell<u8>,
    reading: Cell<Option<LogPageId>>,
    /// How often that reading failed, and when it is tried again, on the driver's clock.
    log_tries: Cell<u8>,
    log_at: Cell<u64>,
    warning: Cell<u8>,
    wants_reset: Cell<bool>,
    reset_allowed_at: Cell<u64>,
}

impl Events {
    pub(crate) const fn new() -> Self {
        Self {
            recent: RefCell::new(heapless::Deque::new()),
            received: Count::new(),
            held_back: Count::new(),
            outstanding: Cell::new(0),
            limit: Cell::new(0),
            in_window: Cell::new(0),
            window_end: Cell::new(0),
            paused: Cell::new(false),
            to_read: Cell::new(0),
            reading: Cell::new(None),
            log_tries: Cell::new(0),
            log_at: Cell::new(0),
            warning: Cell::new(0),
            wants_reset: Cell::new(false),
            reset_allowed_at: Cell::new(0),
        }
    }

    pub(crate) fn set_limit(&self, limit: u32) {
        self.limit.set(limit);
    }

    /// A request was answered.
    pub(crate) fn arrived(&self, result: Result<u32, Status>) {
        self.outstanding.set(self.outstanding.get().saturating_sub(1));
        let dw0 = match result {
            Ok(dw0) => dw0,
            Err(status)
                if status.dnr()
                    || is_unknown(status)
                    || status.code() == StatusCode::AER_LIMIT_EXCEEDED =>
            {
                // Too many for it, or not supported: ask for fewer from now on.
                self.limit.set(self.outstanding.get());
                return;
            }
            Err(_) => {
                // Asked for again, as often as there may be events.
                self.in_window.set(self.in_window.get().saturating_add(1));
                return;
            }
        };
        let event = AsyncEvent(dw0);
        self.received.add(1);
        self.in_window.set(self.in_window.get().saturating_add(1));
        if let Ok(mut recent) = self.recent.try_borrow_mut() {
            if recent.is_full() {
                recent.pop_front();
            }
            let _ = recent.push_back(event);
        }
        if let Some(i) = LOGS.iter().position(|lid| *lid == event.log_page()) {
            self.to_read.set(self.to_read.get() | 1 << i);
        }
        // Invalid doorbell writes and persistent internal errors: the queues cannot be trusted.
        if event.event_type() == AsyncEventType::ERROR && matches!(event.info(), 0 | 1 | 3) {
            self.wants_reset.set(true);
        }
    }

    /// Everything outstanding was lost in a reset.
    pub(crate) fn lost(&self) {
        self.outstanding.set(0);
        self.reading.set(None);
        self.log_tries.set(0);
        self.log_at.set(0);
        self.to_read.set(0);
        // The reset that it asked for has been, whoever asked for it.
        self.wants_reset.set(false);
    }

    pub(crate) fn take(&self) -> Option<AsyncEvent> {
        self.recent.try_borrow_mut().ok()?.pop_front()
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    pub(crate) fn held_back(&self) -> u64 {
        self.held_back.get()
    }

    pub(crate) fn critical_warning(&self) -> u8 {
        self.warning.get()
    }
}

impl Controller {
    /// Asks for events and reads log pages; part of housekeeping while ready. Returns whether an
    /// event asks for a reset.
    pub(crate) fn serve_events(&self) -> bool {
        const SECOND_NS: u64 = 1_000_000_000;
        let events = &self.events;
        let now = self.time();
        if now >= events.window_end.get() {
            events.window_end.set(self.time_in(SECOND_NS));
            events.in_window.set(0);
            events.paused.set(false);
        }
        if events.in_window.get() >= self.config.events_per_second {
            if !events.paused.replace(true) {
                events.held_back.add(1);
            }
        } else {
            while events.outstanding.get() < events.limit.get()
                && self.post_admin(AdminToken::Event, Sqe::async_event_request(Cid(0)))
            {
                events.outstanding.set(events.outstanding.get() + 1);
            }
        }
        self.read_event_log();
        // One reset for such an event in ten seconds: a controller that keeps telling is not
        // helped by more.
        if events.wants_reset.replace(false) && now >= events.reset_allowed_at.get() {
            events.reset_allowed_at.set(self.time_in(10 * SECOND_NS));
            return true;
        }
        false
    }

    fn read_event_log(&self) {
        let events = &self.events;
        let pending = events.to_read.get();
        let waits = self.time() < events.log_at.get();
        if pending == 0 || waits || events.reading.get().is_some() {
            return;
        }
        let index = pending.trailing_zeros();
        let Some(lid) = LOGS.get(index as usize).copied() else {
            return;
        };
        let nsid = match lid {
            LogPageId::FIRMWARE => Nsid::NONE,
            _ => Nsid::ALL,
        };
        let page = GetLogPage::first(lid, LOG_BYTES);
        let sqe = Sqe::admin(AdminOpcode::GET_LOG_PAGE, Cid(0), nsid)
            .with_prps(self.scratch.iova().0, 0)
            .with_cdw(10, page.cdw10())
            .with_cdw(11, page.cdw11());
        if self.post_admin(AdminToken::EventLog, sqe) {
            events.to_read.set(pending & !(1 << index));
            events.reading.set(Some(lid));
        }
    }

    /// The log page of an event was read.
    pub(crate) fn event_log_read(&self, result: Result<u32, Status>) {
        let lid = self.events.reading.take();
        let tries = self.events.log_tries.take();
        if let Err(status) = result
            && !status.dnr()
            && tries < self.config.retries
            && let Some(i) = LOGS.iter().position(|log| Some(*log) == lid)
        {
            // Unread, the event would not come again.
            self.events.log_tries.set(tries + 1);
            self.events.log_at.set(self.time_in(self.retry_delay_ns(status.crd())));
            self.events.to_read.set(self.events.to_read.get() | 1 << i);
        }
        if lid == Some(LogPageId::SMART) && result.is_ok() {
            let mut first = [0; 4];
            if self.scratch.span().read(0, &mut first).is_ok() {
                self.events.warning.set(first[0]);
            }
        }
    }
}
