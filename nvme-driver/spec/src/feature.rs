//! Features: identifiers and the values that both sides interpret
//! (NVMe Base 2.0, section 5.27.1).

use crate::event::AsyncEvent;
use bitfield_struct::bitfield;

/// Feature identifier (FID).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct FeatureId(pub u8);

impl FeatureId {
    /// Arbitration.
    pub const ARBITRATION: Self = Self(0x01);
    /// Power management.
    pub const POWER_MANAGEMENT: Self = Self(0x02);
    /// Temperature threshold.
    pub const TEMPERATURE_THRESHOLD: Self = Self(0x04);
    /// Error recovery.
    pub const ERROR_RECOVERY: Self = Self(0x05);
    /// Volatile write cache.
    pub const VOLATILE_WRITE_CACHE: Self = Self(0x06);
    /// Number of queues.
    pub const NUMBER_OF_QUEUES: Self = Self(0x07);
    /// Interrupt coalescing.
    pub const INTERRUPT_COALESCING: Self = Self(0x08);
    /// Interrupt vector configuration.
    pub const INTERRUPT_VECTOR: Self = Self(0x09);
    /// Write atomicity normal.
    pub const WRITE_ATOMICITY: Self = Self(0x0a);
    /// Asynchronous event configuration.
    pub const ASYNC_EVENT_CONFIG: Self = Self(0x0b);
    /// Timestamp.
    pub const TIMESTAMP: Self = Self(0x0e);
}

/// Which value of a feature is asked for (SEL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FeatureSelect {
    /// The one in effect.
    Current = 0,
    /// The one after a reset without a saved value.
    Default = 1,
    /// The saved one.
    Saved = 2,
    /// What can be done with the feature: saveable, per namespace, changeable.
    Capabilities = 3,
}

impl FeatureSelect {
    /// From the field's 3 bits; `None` where they are reserved.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Current),
            1 => Some(Self::Default),
            2 => Some(Self::Saved),
            3 => Some(Self::Capabilities),
            _ => None,
        }
    }
}

/// Value of the arbitration feature.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Arbitration {
    /// Commands taken at a time from one queue, as a power of two; 7 is no limit.
    #[bits(3)]
    pub burst: u8,
    #[bits(5)]
    __: u8,
    /// Low priority weight, counted from zero.
    pub low_weight_z: u8,
    /// Medium priority weight, counted from zero.
    pub medium_weight_z: u8,
    /// High priority weight, counted from zero.
    pub high_weight_z: u8,
}

/// Value of the volatile write cache feature.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct VolatileWriteCacheFeature {
    /// The cache is enabled.
    pub enabled: bool,
    #[bits(31)]
    __: u32,
}

/// Queues asked for by Set Features, Number of Queues (CDW11).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NumberOfQueues {
    /// I/O submission queues, counted from zero; 65,535 is not allowed.
    pub sqs_z: u16,
    /// I/O completion queues, counted from zero; 65,535 is not allowed.
    pub cqs_z: u16,
}

impl NumberOfQueues {
    /// `pairs` of each, 1 to 65,535; 0 counts as 1.
    #[must_use]
    pub const fn pairs(pairs: u16) -> Self {
        let count_z = pairs.saturating_sub(1);
        Self::new().with_sqs_z(count_z).with_cqs_z(count_z)
    }

    /// I/O submission queues asked for.
    #[must_use]
    pub const fn sqs(self) -> u32 {
        self.sqs_z() as u32 + 1
    }

    /// I/O completion queues asked for.
    #[must_use]
    pub const fn cqs(self) -> u32 {
        self.cqs_z() as u32 + 1
    }
}

/// Value of the asynchronous event configuration: which notices are wanted.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AsyncEventConfig {
    /// Critical warnings of the SMART log, bit by bit.
    pub critical_warnings: u8,
    /// Namespace attribute notices.
    pub namespace_attributes: bool,
    /// Firmware activation notices.
    pub firmware_activation: bool,
    /// Telemetry log notices.
    pub telemetry: bool,
    /// Asymmetric namespace access notices.
    pub ana_change: bool,
    #[bits(20)]
    __: u32,
}

impl AsyncEventConfig {
    /// Whether `event` may be reported under this configuration; errors always are.
    #[must_use]
    pub const fn wants(self, event: AsyncEvent) -> bool {
        use crate::event::AsyncEventType;
        match (event.event_type(), event.info()) {
            (AsyncEventType::SMART, info) => {
                let bit = match info {
                    0 => 1 << 2, // reliability
                    1 => 1 << 1, // temperature
                    _ => 1 << 0, // spare
                };
                self.critical_warnings() & bit != 0
            }
            (AsyncEventType::NOTICE, 0) => self.namespace_attributes(),
            (AsyncEventType::NOTICE, 1) => self.firmware_activation(),
            (AsyncEventType::NOTICE, 2) => self.telemetry(),
            (AsyncEventType::NOTICE, 3) => self.ana_change(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_counts_are_zero_based_in_both_halves() {
        assert_eq!(u32::from(NumberOfQueues::pairs(8)), 0x0007_0007);
        assert_eq!(u32::from(NumberOfQueues::pairs(0)), 0);
        assert_eq!(NumberOfQueues::from(0x0003_fffe).sqs(), 65_535);
    }

    #[test]
    fn write_cache_and_event_bits_are_where_the_specification_puts_them() {
        assert_eq!(u32::from(VolatileWriteCacheFeature::new().with_enabled(true)), 1);
        let config = AsyncEventConfig::new().with_namespace_attributes(true);
        assert_eq!(u32::from(config), 0x100);
        assert!(config.wants(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED));
        assert!(!config.wants(AsyncEvent::SMART_RELIABILITY));
        assert!(config.wants(AsyncEvent::INVALID_DOORBELL_VALUE));
        let spare = AsyncEventConfig::new().with_critical_warnings(1);
        assert!(spare.wants(AsyncEvent::SMART_SPARE));
    }
}
