//! Alerts: errors that a partition survives, told to its host.
//!
//! [`Partition::alert`] is called by tasks and by the entry. An alert goes to the host through the
//! event ring; one that finds the ring full waits here and is written by a later pass. What waits
//! is the oldest of the worst: others are counted, and the gap in the numbers tells the host so.

use core::cell::{Cell, RefCell};
use core::fmt::{self, Write};

use hybrid_abi::Name;
use hybrid_abi::alert::{ALERT_TEXT_BYTES, Alert, Severity};

use super::Partition;

/// A partition's alerts.
#[derive(Debug)]
pub(super) struct Alerts {
    raised: Cell<u32>,
    lost: Cell<u32>,
    waits: Cell<bool>,
    waiting: RefCell<Option<Alert>>,
}

impl Alerts {
    pub(super) const fn new() -> Self {
        Self {
            raised: Cell::new(0),
            lost: Cell::new(0),
            waits: Cell::new(false),
            waiting: RefCell::new(None),
        }
    }
}

/// Text cut at its field, at a character's border.
struct Line {
    bytes: [u8; ALERT_TEXT_BYTES],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut bytes = [0; 4];
            let encoded = character.encode_utf8(&mut bytes).as_bytes();
            let end = self.len.saturating_add(encoded.len());
            let Some(place) = self.bytes.get_mut(self.len..end) else { return Err(fmt::Error) };
            place.copy_from_slice(encoded);
            self.len = end;
        }
        Ok(())
    }
}

impl Partition {
    /// Tells the host of an error that this partition survives. Returns whether the host can see
    /// it already; if not, it is written as soon as the event ring has room. Only one waits for
    /// that: the worst, and of those the oldest. Another is counted, and its number is missing in
    /// what the host gets.
    pub fn alert(&self, severity: Severity, code: u32, line: fmt::Arguments<'_>) -> bool {
        let alerts = &self.alerts;
        let number = alerts.raised.get().wrapping_add(1);
        alerts.raised.set(number);
        let mut text = Line { bytes: [0; ALERT_TEXT_BYTES], len: 0 };
        // An error says that it was cut.
        let _ = text.write_fmt(line);
        let task = self.scheduler.current().map_or("", |task| task.name);
        let alert = Alert {
            tsc: self.clock.now().ticks(),
            code,
            severity,
            number,
            text_len: u32::try_from(text.len).unwrap_or(0),
            task: Name::lossy(task),
            text: text.bytes,
        };
        self.send_waiting_alert();
        if alerts.waits.get() {
            alerts.lost.set(alerts.lost.get().saturating_add(1));
            let mut waiting = alerts.waiting.borrow_mut();
            if waiting.as_ref().is_some_and(|other| severity.is_worse_than(other.severity)) {
                *waiting = Some(alert);
            }
            return false;
        }
        let sent = self.events.send(&alert).is_ok();
        if !sent {
            *alerts.waiting.borrow_mut() = Some(alert);
            alerts.waits.set(true);
        }
        sent
    }

    /// Alerts raised, and those of them that found no room even to wait.
    #[must_use]
    pub const fn alert_counts(&self) -> (u32, u32) {
        (self.alerts.raised.get(), self.alerts.lost.get())
    }

    /// One more try for what found the ring full.
    #[inline]
    pub(super) fn send_waiting_alert(&self) {
        if self.alerts.waits.get() {
            self.retry_alert();
        }
    }

    #[cold]
    fn retry_alert(&self) {
        let mut waiting = self.alerts.waiting.borrow_mut();
        let fits = self.events.has_room(size_of::<Alert>()).unwrap_or(false);
        if fits && waiting.as_ref().is_some_and(|alert| self.events.send(alert).is_ok()) {
            *waiting = None;
            self.alerts.waits.set(false);
        }
    }
}
