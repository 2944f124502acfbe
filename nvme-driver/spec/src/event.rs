//! Asynchronous events: DW0 of a completed Asynchronous Event Request
//! (NVMe Base 2.0, section 5.2.1).

use crate::log::LogPageId;
use core::fmt;

/// Asynchronous event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct AsyncEventType(pub u8);

impl AsyncEventType {
    /// Error status.
    pub const ERROR: Self = Self(0);
    /// SMART or health status.
    pub const SMART: Self = Self(1);
    /// Notice.
    pub const NOTICE: Self = Self(2);
    /// I/O command set specific status.
    pub const COMMAND_SET: Self = Self(6);
    /// Vendor specific.
    pub const VENDOR: Self = Self(7);
}

/// An event: its type, what happened, and the log page to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct AsyncEvent(pub u32);

impl AsyncEvent {
    /// A doorbell of a queue that does not exist was written.
    pub const INVALID_DOORBELL_REGISTER: Self =
        Self::new(AsyncEventType::ERROR, 0, LogPageId::ERROR);
    /// A doorbell got a value out of range.
    pub const INVALID_DOORBELL_VALUE: Self = Self::new(AsyncEventType::ERROR, 1, LogPageId::ERROR);
    /// Diagnostic failure.
    pub const DIAGNOSTIC_FAILURE: Self = Self::new(AsyncEventType::ERROR, 2, LogPageId::ERROR);
    /// Persistent internal error.
    pub const PERSISTENT_ERROR: Self = Self::new(AsyncEventType::ERROR, 3, LogPageId::ERROR);
    /// Transient internal error.
    pub const TRANSIENT_ERROR: Self = Self::new(AsyncEventType::ERROR, 4, LogPageId::ERROR);
    /// The subsystem's reliability is degraded.
    pub const SMART_RELIABILITY: Self = Self::new(AsyncEventType::SMART, 0, LogPageId::SMART);
    /// A temperature passed its threshold.
    pub const SMART_TEMPERATURE: Self = Self::new(AsyncEventType::SMART, 1, LogPageId::SMART);
    /// Spare is below its threshold.
    pub const SMART_SPARE: Self = Self::new(AsyncEventType::SMART, 2, LogPageId::SMART);
    /// Attributes of a namespace changed.
    pub const NAMESPACE_ATTRIBUTE_CHANGED: Self =
        Self::new(AsyncEventType::NOTICE, 0, LogPageId::CHANGED_NAMESPACES);
    /// A firmware activation starts.
    pub const FIRMWARE_ACTIVATION: Self = Self::new(AsyncEventType::NOTICE, 1, LogPageId::FIRMWARE);

    /// From its parts; three bits of the type count.
    #[must_use]
    pub const fn new(event_type: AsyncEventType, info: u8, log_page: LogPageId) -> Self {
        Self((event_type.0 & 7) as u32 | (info as u32) << 8 | (log_page.0 as u32) << 16)
    }

    /// Event type.
    #[must_use]
    pub const fn event_type(self) -> AsyncEventType {
        AsyncEventType((self.0 & 7) as u8)
    }

    /// Event information: what happened, by type.
    #[must_use]
    pub const fn info(self) -> u8 {
        ((self.0 >> 8) & 0xff) as u8
    }

    /// Log page that tells more and whose reading clears the event.
    #[must_use]
    pub const fn log_page(self) -> LogPageId {
        LogPageId(((self.0 >> 16) & 0xff) as u8)
    }

    /// Text for an event that is known here.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match (self.event_type(), self.info()) {
            (AsyncEventType::ERROR, 0) => Some("write to an invalid doorbell register"),
            (AsyncEventType::ERROR, 1) => Some("invalid doorbell value"),
            (AsyncEventType::ERROR, 2) => Some("diagnostic failure"),
            (AsyncEventType::ERROR, 3) => Some("persistent internal error"),
            (AsyncEventType::ERROR, 4) => Some("transient internal error"),
            (AsyncEventType::ERROR, 5) => Some("firmware image load error"),
            (AsyncEventType::SMART, 0) => Some("subsystem reliability"),
            (AsyncEventType::SMART, 1) => Some("temperature threshold"),
            (AsyncEventType::SMART, 2) => Some("spare below threshold"),
            (AsyncEventType::NOTICE, 0) => Some("namespace attribute changed"),
            (AsyncEventType::NOTICE, 1) => Some("firmware activation starting"),
            (AsyncEventType::NOTICE, 2) => Some("telemetry log changed"),
            (AsyncEventType::NOTICE, 3) => Some("asymmetric namespace access change"),
            _ => None,
        }
    }
}

impl fmt::Display for AsyncEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "event type {} info {:#04x}", self.event_type().0, self.info()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_doorbell_event_has_the_bits_of_the_specification() {
        assert_eq!(AsyncEvent::INVALID_DOORBELL_VALUE.0, 0x0001_0100);
        assert_eq!(AsyncEvent::SMART_SPARE.0, 0x0002_0201);
        assert_eq!(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.0, 0x0004_0002);
    }

    #[test]
    fn unknown_events_are_printed_as_numbers() {
        let event = AsyncEvent(0x00c0_7707);
        assert_eq!(std::format!("{event}"), "event type 7 info 0x77");
        assert_eq!(event.log_page(), LogPageId(0xc0));
    }
}
