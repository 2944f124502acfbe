//! The clock's frequency: readings for [`core_runtime::clock::calibrate`].
//!
//! Called once, when a runtime is made. It takes pairs of readings (time-stamp counter and
//! `CLOCK_MONOTONIC_RAW`) in two bursts, [`SPREAD`] apart, so that starting costs some 15 ms and the
//! frequency is still good to a few parts per million; a burst that was disturbed is repeated.

use std::time::Duration;

use core_runtime::clock::{
    Calibration, CalibrationError, Clock, ClockSample, calibrate, has_invariant_tsc, rdtsc,
};
use rustix::time::{ClockId, clock_gettime};

use crate::warnings::{WarningKind, Warnings};

/// Time between the two bursts: 12 ms keeps the start under 20 ms, and a reading that is uncertain
/// by 50 ns is then uncertain by 4 ppm of it.
pub const SPREAD: Duration = Duration::from_millis(12);

/// Readings of one burst: half of what `calibrate` looks at.
const BURST: usize = core_runtime::clock::MAX_CLOCK_SAMPLES / 2;

/// Tries before a disturbed machine is an error: the first two are 12 ms, the last ones longer.
const ATTEMPTS: u32 = 4;

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

fn readings(spread: Duration) -> [ClockSample; 2 * BURST] {
    let mut samples = [ClockSample::default(); 2 * BURST];
    let (first, second) = samples.split_at_mut(BURST);
    // The first call is slow (it maps in the vDSO's page): not one of the readings.
    let _ = reading();
    first.fill_with(reading);
    std::thread::sleep(spread);
    let _ = reading();
    second.fill_with(reading);
    samples
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
        std::thread::sleep(Duration::from_millis(100));
        let ours = clock.ticks_to_ns(clock.now().since(ours));
        let system = system.elapsed().as_nanos();
        let apart = system.abs_diff(u128::from(ours));
        // 0.5 %: the sleep may end late and the two readings lie apart; a wrong unit is far off.
        assert!(apart < system / 200, "{ours} ns against {system} ns");
    }
}
