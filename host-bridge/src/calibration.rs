//! The clock's frequency: readings for [`core_runtime::clock::calibrate`].
//!
//! Called once, when a runtime is made. It reads pairs (time-stamp counter and
//! `CLOCK_MONOTONIC_RAW`) without a pause for [`SPREAD`], cut into as many slots as `calibrate`
//! looks at, and keeps the narrowest pair of each slot: a thread that is interrupted now and then
//! still has good readings all over the time. Starting costs 12 ms, and the frequency is good to a
//! few parts per million; on a machine that is too busy for that it tries again for longer.

use std::time::Duration;

use core_runtime::clock::{
    Calibration, CalibrationError, Clock, ClockSample, MAX_CLOCK_SAMPLES, calibrate,
    has_invariant_tsc, rdtsc,
};
use rustix::time::{ClockId, clock_gettime};

use crate::warnings::{WarningKind, Warnings};

/// Time of the readings: 12 ms keeps the start under 20 ms, and a reading that is uncertain by 40
/// ns is then uncertain by 7 ppm of half of it, the distance of the readings that are compared.
pub const SPREAD: Duration = Duration::from_millis(12);

/// Tries before a disturbed machine is an error: 12, 24, 48 ms and so on up to 6 s, in which the
/// gaps of an emulator on a crowded machine (some 10 ms) are below the error that is allowed.
const ATTEMPTS: u32 = 10;

/// Measures the time-stamp counter against `CLOCK_MONOTONIC_RAW`.
///
/// # Errors
/// [`CalibrationError`] if the last of several attempts was still too noisy.
pub fn measure() -> Result<Calibration, CalibrationError> {
    let mut spread = SPREAD;
    let mut attempt = 1;
    loop {
        let result = calibrate(&readings(spread));
        if result.is_ok() || attempt == ATTEMPTS {
            return result;
        }
        attempt += 1;
        spread *= 2;
    }
}

/// A calibrated clock, with a warning where the processor does not promise a constant counter.
///
/// # Errors
/// As [`measure`].
pub fn clock(warnings: &Warnings) -> Result<(Clock, Calibration), CalibrationError> {
    let calibration = measure()?;
    if !has_invariant_tsc() {
        warnings.say(WarningKind::Clock, || {
            "the processor does not call its time-stamp counter invariant (an emulator?): \
             times may be wrong; on a hypervisor pass the flag through (qemu: -cpu host,+invtsc)"
                .into()
        });
    }
    Ok((Clock::tsc(calibration.hz), calibration))
}

/// The narrowest reading of each slot.
fn readings(spread: Duration) -> [ClockSample; MAX_CLOCK_SAMPLES] {
    let slot_ns = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX) / MAX_CLOCK_SAMPLES as u64;
    // The first call is slow (it maps in the vDSO's page): only its time counts.
    let mut slot_end_ns = reading().raw_ns;
    std::array::from_fn(|_| {
        slot_end_ns = slot_end_ns.saturating_add(slot_ns);
        let mut best = reading();
        loop {
            let next = reading();
            if width(&next) < width(&best) {
                best = next;
            }
            if next.raw_ns >= slot_end_ns {
                return best;
            }
        }
    })
}

const fn width(sample: &ClockSample) -> u64 {
    sample.tsc_after.saturating_sub(sample.tsc_before)
}

fn reading() -> ClockSample {
    let tsc_before = rdtsc();
    let now = clock_gettime(ClockId::MonotonicRaw);
    let tsc_after = rdtsc();
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    ClockSample { tsc_before, raw_ns: seconds * 1_000_000_000 + nanos, tsc_after }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_measured_clock_agrees_with_the_system_over_a_longer_time() {
        let calibration = measure().expect("a clock");
        let clock = Clock::tsc(calibration.hz);
        let (system, ours) = (Instant::now(), clock.now());
        while system.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        let ours = clock.ticks_to_ns(clock.now().since(ours));
        let system = system.elapsed().as_nanos();
        let apart = system.abs_diff(u128::from(ours));
        // 0.5 %: the sleep may end late and the two readings lie apart; a wrong unit is far off.
        assert!(apart < system / 200, "{ours} ns against {system} ns");
    }
}
