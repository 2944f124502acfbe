//! Asynchronous events: asked for, recorded, their log page read so that they may come again, and
//! limited, so that a controller that never stops telling cannot keep us busy. After the event that
//! a namespace changed, each one in use is identified again: the list in the log page is not relied
//! upon.
//!
//! Part of the controller's housekeeping. Invariant: at most as many requests are outstanding as
//! AERL and the configuration allow; beyond `events_per_second` the next one is asked for only when
//! the second is over.

use core::cell::{Cell, RefCell};

use nvme_spec::{
    AdminOpcode, AsyncEvent, AsyncEventType, Cid, Cns, GetLogPage, LogPageId, Nsid, Sqe, Status,
    StatusCode,
};

use crate::admin::AdminToken;
use crate::controller::Controller;
use crate::lifecycle::is_unknown;
use crate::namespace::Namespace;
use crate::stats::Count;

/// Events kept for the users; older ones give way. They are rare, and their counts are kept.
const KEPT: usize = 16;

/// Bytes of a log page that are read to clear an event: SMART's 512, enough for every page's head.
const LOG_BYTES: u32 = 512;

/// Log pages whose reading clears an event, as bits of [`Events::to_read`].
const LOGS: [LogPageId; 4] =
    [LogPageId::ERROR, LogPageId::SMART, LogPageId::FIRMWARE, LogPageId::CHANGED_NAMESPACES];

/// What events have us read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// A log page, by its index in [`LOGS`].
    Log(usize),
    /// Identify of the namespace at this place.
    Namespace(usize),
}

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
    /// Place of the namespace that is looked at next; `None` if none is to be.
    look_at: Cell<Option<usize>>,
    /// What is on its way into the scratch memory.
    reading: Cell<Option<Reading>>,
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
            look_at: Cell::new(None),
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
        // The next bring-up looks at each namespace.
        self.look_at.set(None);
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
        let waits = self.time() < events.log_at.get();
        if waits || events.reading.get().is_some() {
            return;
        }
        let pending = events.to_read.get();
        if pending == 0 {
            self.look_at_namespaces();
            return;
        }
        let index = pending.trailing_zeros() as usize;
        let Some(lid) = LOGS.get(index).copied() else {
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
            events.reading.set(Some(Reading::Log(index)));
        }
    }

    /// The log page of an event was read.
    pub(crate) fn event_log_read(&self, result: Result<u32, Status>) {
        let Some(Reading::Log(index)) = self.events.reading.take() else {
            return;
        };
        let lid = LOGS.get(index).copied();
        if self.reads_again(result) {
            // Unread, the event would not come again.
            self.events.to_read.set(self.events.to_read.get() | 1 << index);
        }
        if lid == Some(LogPageId::SMART) && result.is_ok() {
            let mut first = [0; 4];
            if self.scratch.span().read(0, &mut first).is_ok() {
                self.events.warning.set(first[0]);
            }
        }
        if lid == Some(LogPageId::CHANGED_NAMESPACES) {
            self.events.look_at.set(Some(0));
        }
    }

    /// Whether what was read is to be read again, after the delay asked for: it failed, and may
    /// succeed.
    fn reads_again(&self, result: Result<u32, Status>) -> bool {
        let tries = self.events.log_tries.take();
        match result {
            Err(status) if !status.dnr() && tries < self.config.retries => {
                self.events.log_tries.set(tries + 1);
                self.events.log_at.set(self.time_in(self.retry_delay_ns(status.crd())));
                true
            }
            _ => false,
        }
    }

    /// Identifies the next namespace in use, if any is to be looked at.
    fn look_at_namespaces(&self) {
        let events = &self.events;
        let Some(from) = events.look_at.get() else {
            return;
        };
        let mut places = self.namespaces.iter().enumerate().skip(from);
        let Some((place, namespace)) = places.find(|(_, n)| n.was_usable()) else {
            events.look_at.set(None);
            return;
        };
        let page = self.scratch.iova().0;
        let sqe = Sqe::identify(Cid(0), Cns::NAMESPACE, namespace.nsid(), page, 0);
        if self.post_admin(AdminToken::Namespace, sqe) {
            events.look_at.set(Some(place + 1));
            events.reading.set(Some(Reading::Namespace(place)));
        }
    }

    /// Identify of a namespace was answered.
    pub(crate) fn namespace_looked_at(&self, result: Result<u32, Status>) {
        let Some(Reading::Namespace(place)) = self.events.reading.take() else {
            return;
        };
        let Some(namespace) = self.namespaces.get(place) else {
            return;
        };
        if self.reads_again(result) {
            self.events.look_at.set(Some(place));
            return;
        }
        self.compare(namespace, result);
    }

    /// A namespace that is another one now, or none, is refused from here on. Of one that cannot
    /// be identified nothing is known; the next bring-up asks again.
    fn compare(&self, namespace: &Namespace, result: Result<u32, Status>) {
        match result {
            // An inactive one is all zeros, and of no size.
            Ok(_) => {
                if let Ok((page, checked)) = self.identified_namespace() {
                    namespace.fill(namespace.nsid().0, checked, &page);
                }
            }
            Err(status) if status.code() == StatusCode::INVALID_NAMESPACE => namespace.lose(),
            Err(_) => {}
        }
    }
}
