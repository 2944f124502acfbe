//! Time on a partition's core: the time-stamp counter, its calibration and its oddities.
//!
//! [`Clock`] turns the counter into [`Instant`]s and converts between ticks and nanoseconds by one
//! multiplication and one shift. `host-bridge` measures the counter's frequency against
//! `CLOCK_MONOTONIC_RAW`, hands the readings to [`calibrate`], and gives the clock to the
//! partition; the scheduler, the timers and the driver's deadlines use it. [`JumpDetector`] notices
//! a counter that stopped or jumped, so that one jump does not fail every deadline at once.
//!
//! It reads no system clock, and it knows no wall-clock time.
//!
//! Units: a *tick* is one step of the source: of the time-stamp counter, or one nanosecond of a
//! [`ManualClock`]. All types here are plain values; any core may use them, but two cores' counters
//! are comparable only where [`has_invariant_tsc`] holds.
//!
//! Invariants, named in the SAFETY lines:
//! 1. Every x86-64 processor has `rdtsc` and `cpuid`, and Linux leaves both enabled in user mode.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};
use core::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds in a second.
const NS_PER_S: u64 = 1_000_000_000;

/// A duration in ticks of the clock that measured it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(u64);

impl Ticks {
    /// No time.
    pub const ZERO: Self = Self(0);
    /// The longest duration; as a budget it means "no limit".
    pub const MAX: Self = Self(u64::MAX);

    /// A duration of `ticks`.
    #[inline]
    #[must_use]
    pub const fn new(ticks: u64) -> Self {
        Self(ticks)
    }

    /// The number of ticks.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sum, or the longest duration where it does not fit.
    #[inline]
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or zero where `other` is longer.
    #[inline]
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A point in time: the clock's counter at that moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Before every other instant.
    pub const MIN: Self = Self(0);
    /// After every other instant: a deadline that never comes.
    pub const MAX: Self = Self(u64::MAX);

    /// The instant at which the counter stood at `ticks`.
    #[inline]
    #[must_use]
    pub const fn from_ticks(ticks: u64) -> Self {
        Self(ticks)
    }

    /// The counter's value.
    #[inline]
    #[must_use]
    pub const fn ticks(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if `earlier` is in fact later.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> Ticks {
        Ticks(self.0.saturating_sub(earlier.0))
    }

    /// This instant plus `ticks`, or `None` beyond the counter's range.
    #[inline]
    #[must_use]
    pub const fn checked_add(self, ticks: Ticks) -> Option<Self> {
        match self.0.checked_add(ticks.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

/// Saturates at [`Instant::MAX`], which as a deadline never comes.
impl Add<Ticks> for Instant {
    type Output = Self;

    #[inline]
    fn add(self, ticks: Ticks) -> Self {
        Self(self.0.saturating_add(ticks.0))
    }
}

impl AddAssign<Ticks> for Instant {
    #[inline]
    fn add_assign(&mut self, ticks: Ticks) {
        *self = *self + ticks;
    }
}

/// Saturates at [`Instant::MIN`].
impl Sub<Ticks> for Instant {
    type Output = Self;

    #[inline]
    fn sub(self, ticks: Ticks) -> Self {
        Self(self.0.saturating_sub(ticks.0))
    }
}

/// A ratio as a multiplier and a shift: `value * mult >> shift`, rounded to nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scale {
    mult: u64,
    shift: u32,
}

impl Scale {
    /// The ratio `to / from` with the finest multiplier that fits 64 bits.
    const fn new(from: u64, to: u64) -> Self {
        let whole = to / from;
        let shift = whole.leading_zeros();
        let exact = ((to as u128) << shift) / from as u128;
        let mult = if exact > u64::MAX as u128 { u64::MAX } else { low_half(exact) };
        Self { mult, shift }
    }

    #[inline(always)]
    const fn apply(self, value: u64) -> u64 {
        let half = (1_u128 << self.shift) >> 1;
        let scaled = (value as u128 * self.mult as u128 + half) >> self.shift;
        if scaled > u64::MAX as u128 { u64::MAX } else { low_half(scaled) }
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "callers compared it with u64::MAX")]
const fn low_half(value: u128) -> u64 {
    value as u64
}

/// A clock that stands still until it is told to move: one tick is one nanosecond.
///
/// For tests, Miri and simulations. Any thread may move it.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `ticks`.
    #[must_use]
    pub const fn new(ticks: u64) -> Self {
        Self(AtomicU64::new(ticks))
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant(self.0.load(Ordering::Relaxed))
    }

    /// Moves it on by `ticks`.
    pub fn advance(&self, ticks: u64) {
        self.0.fetch_add(ticks, Ordering::Relaxed);
    }

    /// Sets it, backwards too: that is a fault to be survived.
    pub fn set(&self, ticks: u64) {
        self.0.store(ticks, Ordering::Relaxed);
    }
}

/// A calibrated source of [`Instant`]s. A plain value: copy it where it is needed.
#[derive(Clone, Copy)]
pub struct Clock {
    to_ns: Scale,
    to_ticks: Scale,
    hz: u64,
    manual: Option<&'static ManualClock>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = if self.manual.is_some() { "manual" } else { "tsc" };
        write!(f, "Clock({source}, {} Hz)", self.hz)
    }
}

impl Clock {
    /// The time-stamp counter, which runs at `hz`.
    ///
    /// # Panics
    /// If `hz` is zero; [`calibrate`] never returns that.
    #[must_use]
    pub const fn tsc(hz: u64) -> Self {
        assert!(hz > 0, "a clock of 0 Hz");
        Self {
            to_ns: Scale::new(hz, NS_PER_S),
            to_ticks: Scale::new(NS_PER_S, hz),
            hz,
            manual: None,
        }
    }

    /// A clock that the test moves; 10^9 Hz.
    #[must_use]
    pub const fn manual(clock: &'static ManualClock) -> Self {
        let mut this = Self::tsc(NS_PER_S);
        this.manual = Some(clock);
        this
    }

    /// The present instant. One `rdtsc`; not ordered against the memory accesses around it.
    #[inline(always)]
    #[must_use]
    pub fn now(&self) -> Instant {
        match self.manual {
            None => Instant(rdtsc()),
            Some(manual) => manual.now(),
        }
    }

    /// Nanoseconds as ticks, rounded to the nearest tick; saturates.
    #[inline]
    #[must_use]
    pub const fn ns_to_ticks(&self, ns: u64) -> Ticks {
        Ticks(self.to_ticks.apply(ns))
    }

    /// Ticks as nanoseconds, rounded to the nearest nanosecond; saturates.
    #[inline]
    #[must_use]
    pub const fn ticks_to_ns(&self, ticks: Ticks) -> u64 {
        self.to_ns.apply(ticks.0)
    }

    /// Ticks in a second.
    #[inline]
    #[must_use]
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// Whether this is a [`ManualClock`].
    #[must_use]
    pub const fn is_manual(&self) -> bool {
        self.manual.is_some()
    }
}

/// Reads the time-stamp counter. Not serialising: the processor may move it by a few instructions.
///
/// Miri has no such instruction; there it is a counter that grows by one a call.
#[inline(always)]
#[must_use]
pub fn rdtsc() -> u64 {
    #[cfg(not(miri))]
    {
        // SAFETY: invariant 1.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(miri)]
    {
        static FAKE: AtomicU64 = AtomicU64::new(1);
        FAKE.fetch_add(1, Ordering::Relaxed)
    }
}

/// As [`rdtsc`], but in order: what comes before has ended when the counter is read, and what comes
/// after has not begun. For measurements of a few instructions; costs about three times as much.
#[inline(always)]
#[must_use]
pub fn rdtsc_ordered() -> u64 {
    // SAFETY: invariant 1: a fence that the baseline of x86-64 has.
    #[cfg(not(miri))]
    unsafe {
        core::arch::x86_64::_mm_lfence();
    };
    let ticks = rdtsc();
    // SAFETY: invariant 1, as above.
    #[cfg(not(miri))]
    unsafe {
        core::arch::x86_64::_mm_lfence();
    };
    ticks
}

/// Whether the processor promises a counter of constant rate on every core and in every sleep state
/// (CPUID leaf 8000_0007h, EDX bit 8). Inside an emulator it is usually false.
#[must_use]
pub fn has_invariant_tsc() -> bool {
    #[cfg(not(miri))]
    {
        const POWER_LEAF: u32 = 0x8000_0007;
        let cpuid = |leaf| core::arch::x86_64::__cpuid(leaf);
        cpuid(0x8000_0000).eax >= POWER_LEAF && cpuid(POWER_LEAF).edx & (1 << 8) != 0
    }
    #[cfg(miri)]
    false
}

/// One reading of both clocks: the counter before and after a reading of `CLOCK_MONOTONIC_RAW`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockSample {
    /// The counter just before the system clock was read.
    pub tsc_before: u64,
    /// The system clock, in nanoseconds.
    pub raw_ns: u64,
    /// The counter just after.
    pub tsc_after: u64,
}

impl ClockSample {
    const fn width(&self) -> u64 {
        self.tsc_after.saturating_sub(self.tsc_before)
    }

    const fn middle(&self) -> u64 {
        self.tsc_before + self.width() / 2
    }
}

/// What [`calibrate`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// Ticks in a second.
    pub hz: u64,
    /// Bound of its error, in parts per billion: the larger of what the width of the readings
    /// permits and of how far the slopes lie apart.
    pub error_ppb: u64,
    /// Readings that were used.
    pub used: usize,
    /// Readings that were rejected: interrupted while they were taken, or out of order.
    pub rejected: usize,
}

/// Why no frequency came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalibrationError {
    /// Too few readings were left.
    #[error("{good} clock readings out of {given} are good, {needed} are needed")]
    TooFew {
        /// Readings handed in.
        given: usize,
        /// Readings that were not rejected.
        good: usize,
        /// Readings that are needed.
        needed: usize,
    },
    /// The readings disagree: the counter is not constant, or the machine is too busy.
    #[error("clock readings disagree by {error_ppb} parts per billion, {allowed_ppb} are allowed")]
    TooNoisy {
        /// What was found.
        error_ppb: u64,
        /// [`MAX_CALIBRATION_ERROR_PPB`].
        allowed_ppb: u64,
    },
}

/// Readings that [`calibrate`] looks at; more are ignored. 64 readings over 50 ms are far below
/// 1 ppm, and the scratch space stays at 1.5 KiB of stack.
pub const MAX_CLOCK_SAMPLES: usize = 64;

/// Readings that must be good: two slopes, so that they can disagree.
pub const MIN_CLOCK_SAMPLES: usize = 4;

/// 500 ppm: NTP's limit for a crystal. Worse is not a clock.
pub const MAX_CALIBRATION_ERROR_PPB: u64 = 500_000;

/// Frequencies that are believed, in Hz: from an emulator's 1 MHz to 100 GHz.
const BELIEVED_HZ: core::ops::RangeInclusive<u64> = 1_000_000..=100_000_000_000;

/// The counter's frequency from readings taken in the order of time, best spread over 50 ms or
/// more.
///
/// A reading that took more than twice the quickest one was interrupted and is rejected, as is one
/// that goes backwards. Each reading of the first half is paired with its partner in the second;
/// the frequency is the median slope of the pairs.
///
/// # Errors
/// [`CalibrationError::TooFew`] or [`CalibrationError::TooNoisy`].
pub fn calibrate(samples: &[ClockSample]) -> Result<Calibration, CalibrationError> {
    let given = samples.len().min(MAX_CLOCK_SAMPLES);
    let mut good = [ClockSample::default(); MAX_CLOCK_SAMPLES];
    let count = keep_good(&samples[..given], &mut good);
    let too_few = |good| CalibrationError::TooFew { given, good, needed: MIN_CLOCK_SAMPLES };
    if count < MIN_CLOCK_SAMPLES {
        return Err(too_few(count));
    }
    let half = count / 2;
    let mut slopes = [0_u64; MAX_CLOCK_SAMPLES / 2];
    let mut pairs = 0;
    let mut width_ppb = 0;
    for index in 0..half {
        let (first, second) = (&good[index], &good[count - half + index]);
        let Some(hz) = slope_hz(first, second) else {
            continue;
        };
        slopes[pairs] = hz;
        pairs += 1;
        let blur = u128::from(first.width() / 2 + second.width() / 2 + 1);
        let base = u128::from(second.middle() - first.middle()).max(1);
        let ppb = blur * u128::from(NS_PER_S) / base;
        width_ppb = width_ppb.max(low_half(ppb.min(u128::from(u64::MAX))));
    }
    if pairs < MIN_CLOCK_SAMPLES / 2 {
        return Err(too_few(2 * pairs));
    }
    slopes[..pairs].sort_unstable();
    let hz = slopes[pairs / 2];
    let spread = (slopes[pairs - 1] - hz).max(hz - slopes[0]);
    let spread_ppb = low_half(u128::from(spread) * u128::from(NS_PER_S) / u128::from(hz));
    let error_ppb = spread_ppb.max(width_ppb);
    if error_ppb > MAX_CALIBRATION_ERROR_PPB {
        return Err(CalibrationError::TooNoisy {
            error_ppb,
            allowed_ppb: MAX_CALIBRATION_ERROR_PPB,
        });
    }
    Ok(Calibration { hz, error_ppb, used: count, rejected: given - count })
}

/// Copies the readings that were not interrupted and do not go backwards; returns their number.
fn keep_good(samples: &[ClockSample], good: &mut [ClockSample; MAX_CLOCK_SAMPLES]) -> usize {
    let forward = |sample: &&ClockSample| sample.tsc_after >= sample.tsc_before;
    let quickest = samples.iter().filter(forward).map(ClockSample::width).min();
    let widest = quickest.unwrap_or(0).saturating_mul(2);
    let mut count = 0;
    let mut last = (0, 0);
    for sample in samples.iter().filter(forward) {
        let here = (sample.tsc_before, sample.raw_ns);
        let later = here.0 >= last.0 && here.1 >= last.1;
        if sample.width() <= widest && later {
            good[count] = *sample;
            count += 1;
            last = (sample.tsc_after, sample.raw_ns);
        }
    }
    count
}

/// Ticks a second between two readings, if it is believable.
fn slope_hz(first: &ClockSample, second: &ClockSample) -> Option<u64> {
    let ns = second.raw_ns.checked_sub(first.raw_ns)?;
    let ticks = second.middle().checked_sub(first.middle())?;
    let hz = (u128::from(ticks) * u128::from(NS_PER_S)).checked_div(u128::from(ns))?;
    let hz = u64::try_from(hz).ok()?;
    BELIEVED_HZ.contains(&hz).then_some(hz)
}

/// What [`JumpDetector::observe`] saw between two passes of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Time went on as it should.
    Steady,
    /// More time passed than a pass may take: deadlines should be moved on by `excess`, because
    /// the core, not the device, was away.
    Forward {
        /// The time beyond the limit.
        excess: Ticks,
    },
    /// The counter went back.
    Backward {
        /// By how much.
        by: Ticks,
    },
    /// The counter has shown the same value for [`STOPPED_AFTER`] observations or more.
    Stopped,
}

/// Observations without progress after which the counter counts as stopped. One takes at least 20
/// ticks of a running counter, so that two equal ones are already suspicious; a coarse emulated
/// counter may need a few hundred.
pub const STOPPED_AFTER: u32 = 10_000;

/// Notices a counter that jumped or stopped; fed with one instant a pass. Core-local. For loops of
/// one's own: the standard loop does not use it, its gaps are in the scheduler's figures.
#[derive(Clone, Copy, Debug)]
pub struct JumpDetector {
    last: Instant,
    limit: Ticks,
    skipped: Ticks,
    unmoved: u32,
}

impl JumpDetector {
    /// A detector that accepts `limit` between two observations, the first of which is at `start`.
    #[must_use]
    pub const fn new(start: Instant, limit: Ticks) -> Self {
        Self { last: start, limit, skipped: Ticks::ZERO, unmoved: 0 }
    }

    /// Judges the time since the last call.
    #[inline]
    pub fn observe(&mut self, now: Instant) -> Passage {
        let last = self.last;
        self.last = now;
        if now == last {
            self.unmoved = self.unmoved.saturating_add(1);
            return if self.unmoved >= STOPPED_AFTER { Passage::Stopped } else { Passage::Steady };
        }
        self.unmoved = 0;
        if now < last {
            return Passage::Backward { by: last.since(now) };
        }
        let gap = now.since(last);
        if gap <= self.limit {
            return Passage::Steady;
        }
        let excess = gap.saturating_sub(self.limit);
        self.skipped = self.skipped.saturating_add(excess);
        Passage::Forward { excess }
    }

    /// All time that was beyond the limit so far.
    #[must_use]
    pub const fn skipped(&self) -> Ticks {
        self.skipped
    }
}
