//! What a drive says of its health, passed on to the host.
//!
//! Called where a partition publishes its counters. The driver reads the SMART log when the drive
//! raises an event for it; here each warning that was not there before becomes one alert.

use core_runtime::partition::Partition;
use hybrid_abi::alert::Severity;
use nvme_spec::CriticalWarning;

use crate::block::Device;

/// Code of the alerts.
const ALERT_CODE: u32 = 3;

/// Warnings that were passed on.
#[derive(Debug)]
pub struct HealthWatch {
    told: CriticalWarning,
}

impl Default for HealthWatch {
    fn default() -> Self {
        Self { told: CriticalWarning::empty() }
    }
}

impl HealthWatch {
    /// Raises an alert for each new warning of the drive; the warnings that stand now. A bridge has
    /// none: what is behind it is watched by its kernel.
    pub fn look(&mut self, here: &Partition, device: Device) -> CriticalWarning {
        let Device::Nvme(controller) = device else {
            return CriticalWarning::empty();
        };
        let now = CriticalWarning::from_bits_retain(controller.critical_warning());
        if now != self.told {
            // One that went and comes again is told again.
            let new = now.difference(self.told);
            self.told = now;
            tell(here, new, now);
        }
        now
    }
}

#[cold]
fn tell(here: &Partition, new: CriticalWarning, all: CriticalWarning) {
    for warning in new.iter() {
        let (severity, what) = meaning(warning);
        let bits = all.bits();
        let line = format_args!("the drive warns: {what} (SMART critical warning {bits:#04x})");
        here.alert(severity, ALERT_CODE, line);
    }
}

/// How bad one warning is, and what it says.
const fn meaning(warning: CriticalWarning) -> (Severity, &'static str) {
    match warning {
        CriticalWarning::SPARE => (Severity::WARNING, "its spare blocks are below their threshold"),
        CriticalWarning::TEMPERATURE => {
            (Severity::WARNING, "its temperature is beyond a threshold; expect throttling")
        }
        CriticalWarning::RELIABILITY => {
            (Severity::ERROR, "its reliability is degraded by media or internal errors; replace it")
        }
        CriticalWarning::READ_ONLY => (Severity::ERROR, "its media are read only; replace it"),
        CriticalWarning::BACKUP_FAILED => {
            (Severity::ERROR, "the backup of its volatile memory failed; a power cut loses writes")
        }
        CriticalWarning::PMR_UNRELIABLE => {
            (Severity::WARNING, "its persistent memory region is read only or unreliable")
        }
        _ => (Severity::WARNING, "of something that this version has no name for"),
    }
}
