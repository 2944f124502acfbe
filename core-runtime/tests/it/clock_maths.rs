//! Conversions, calibration and jumps of the clock.

use core_runtime::clock::{
    CalibrationError, Clock, ClockSample, Instant, JumpDetector, MAX_CLOCK_SAMPLES, ManualClock,
    Passage, STOPPED_AFTER, Ticks, calibrate, has_invariant_tsc, rdtsc,
};
use hybrid_conventions::testing::Random;

const FREQUENCIES: [u64; 7] = [
    1_000_000,
    999_999_937,
    1_000_000_000,
    2_445_404_000,
    2_800_000_000,
    5_700_000_001,
    100_000_000_000,
];

/// `value * to / from`, rounded to nearest, exactly.
fn exact(value: u64, from: u64, to: u64) -> u64 {
    let product = u128::from(value) * u128::from(to) + u128::from(from / 2);
    u64::try_from(product / u128::from(from)).unwrap_or(u64::MAX)
}

#[test]
fn conversions_are_within_one_unit_of_exact() {
    let mut random = Random::new(3);
    for hz in FREQUENCIES {
        let clock = Clock::tsc(hz);
        assert_eq!(clock.hz(), hz);
        let edges = [0, 1, 2, 999, 1_000_000_000, 86_400_000_000_000];
        let random = core::iter::repeat_with(|| random.next() >> random.below(64)).take(2_000);
        for value in edges.into_iter().chain(random).filter(|v| *v < 1 << 53) {
            let ticks = clock.ns_to_ticks(value).get();
            let ns = clock.ticks_to_ns(Ticks::new(value));
            assert!(ticks.abs_diff(exact(value, 1_000_000_000, hz)) <= 1, "{hz} {value}");
            assert!(ns.abs_diff(exact(value, hz, 1_000_000_000)) <= 1, "{hz} {value}");
        }
        assert_eq!(clock.ns_to_ticks(1_000_000_000).get(), hz);
        assert_eq!(clock.ticks_to_ns(Ticks::new(hz)), 1_000_000_000);
    }
}

#[test]
fn conversions_saturate() {
    let fast = Clock::tsc(100_000_000_000);
    assert_eq!(fast.ns_to_ticks(u64::MAX), Ticks::MAX);
    let slow = Clock::tsc(1_000_000);
    assert_eq!(slow.ticks_to_ns(Ticks::MAX), u64::MAX);
}

#[test]
fn instants_do_not_overflow() {
    let late = Instant::from_ticks(u64::MAX - 1);
    assert_eq!(late + Ticks::new(5), Instant::MAX);
    assert_eq!(late.checked_add(Ticks::new(5)), None);
    assert_eq!(late.checked_add(Ticks::new(1)), Some(Instant::MAX));
    assert_eq!(Instant::MIN - Ticks::new(1), Instant::MIN);
    assert_eq!(Instant::MIN.since(late), Ticks::ZERO);
    assert_eq!(late.since(Instant::MIN).get(), u64::MAX - 1);
}

#[test]
fn a_manual_clock_shows_nanoseconds() {
    static MANUAL: ManualClock = ManualClock::new(5);
    let clock = Clock::manual(&MANUAL);
    assert_eq!(clock.now().ticks(), 5);
    MANUAL.advance(10);
    assert_eq!(clock.now().ticks(), 15);
    MANUAL.set(3);
    assert_eq!(clock.now().ticks(), 3);
    assert!(clock.is_manual());
    for value in [0, 1, 12_345_678_901, 1 << 60] {
        assert_eq!(clock.ticks_to_ns(Ticks::new(value)), value);
        assert_eq!(clock.ns_to_ticks(value).get(), value);
    }
}

#[test]
fn the_real_counter_goes_on() {
    let first = rdtsc();
    let mut last = first;
    for _ in 0..1_000 {
        let next = rdtsc();
        assert!(next >= last);
        last = next;
    }
    assert!(last > first);
    let _ = has_invariant_tsc();
}

/// Readings of a counter of `hz` every `step_ns`; `blur` ticks wide, placed at random inside.
fn readings(
    hz: u64,
    step_ns: u64,
    count: usize,
    blur: u64,
    random: &mut Random,
) -> Vec<ClockSample> {
    (0..count as u64)
        .map(|n| {
            let raw_ns = 77_000_000 + n * step_ns;
            let tsc = 9_000_000_000 + exact(raw_ns, 1_000_000_000, hz);
            let early = random.below(blur + 1);
            ClockSample { tsc_before: tsc - early, raw_ns, tsc_after: tsc + (blur - early) }
        })
        .collect()
}

#[test]
fn calibration_finds_the_frequency_within_its_bound() {
    for seed in 1..200 {
        let mut random = Random::new(seed);
        let hz = FREQUENCIES[usize::try_from(seed).unwrap() % 6].max(10_000_000);
        let count = 4 + usize::try_from(random.below(80)).unwrap();
        // A reading of the system clock takes about 40 ns.
        let samples = readings(hz, 2_000_000, count, 1 + hz / 25_000_000, &mut random);
        let found = calibrate(&samples).expect("good readings");
        let off = u128::from(found.hz.abs_diff(hz)) * 1_000_000_000 / u128::from(hz);
        assert!(off <= u128::from(found.error_ppb), "seed {seed}: {found:?} for {hz}");
        assert_eq!(found.used, count.min(MAX_CLOCK_SAMPLES));
        assert_eq!(found.rejected, 0);
    }
}

#[test]
fn interrupted_readings_are_rejected() {
    let mut random = Random::new(8);
    let hz = 2_445_404_000;
    let mut samples = readings(hz, 2_000_000, 40, 60, &mut random);
    for index in [3, 17, 18, 31] {
        // An interrupt between the two readings of the counter.
        samples[index].tsc_after += 50_000;
    }
    // One that goes backwards, and one whose ends are the wrong way round.
    samples[25].raw_ns = 1;
    samples[26].tsc_after = samples[26].tsc_before - 1;
    let found = calibrate(&samples).expect("enough are left");
    assert_eq!((found.used, found.rejected), (34, 6));
    assert!(found.hz.abs_diff(hz) < hz / 100_000, "{found:?}");
}

#[test]
fn a_counter_that_changes_its_rate_is_refused() {
    let mut random = Random::new(5);
    let mut samples = readings(2_000_000_000, 2_000_000, 16, 60, &mut random);
    let bend = samples[7].tsc_after;
    for sample in &mut samples[8..] {
        sample.tsc_before += (sample.tsc_before - bend) / 2;
        sample.tsc_after = sample.tsc_before + 60;
    }
    let error = calibrate(&samples).expect_err("no constant rate");
    assert!(matches!(error, CalibrationError::TooNoisy { .. }), "{error}");
}

#[test]
fn too_few_readings_are_named() {
    let mut random = Random::new(5);
    let samples = readings(2_000_000_000, 2_000_000, 3, 60, &mut random);
    let error = calibrate(&samples).expect_err("three");
    assert_eq!(error.to_string(), "3 clock readings out of 3 are good, 4 are needed");
    assert!(calibrate(&[]).is_err());
    assert!(calibrate(&[ClockSample::default(); 10]).is_err(), "a stopped clock");
}

#[test]
fn garbage_readings_never_panic() {
    let mut random = Random::new(11);
    for _ in 0..20_000 / if cfg!(miri) { 200 } else { 1 } {
        let shift = random.below(64);
        let samples: [ClockSample; 8] = core::array::from_fn(|_| ClockSample {
            tsc_before: random.next() >> shift,
            raw_ns: random.next() >> shift,
            tsc_after: random.next() >> shift,
        });
        let _ = calibrate(&samples);
    }
    let all = [ClockSample { tsc_before: u64::MAX, raw_ns: u64::MAX, tsc_after: u64::MAX }; 8];
    let _ = calibrate(&all);
}

#[test]
fn jumps_are_told_apart() {
    let mut detector = JumpDetector::new(Instant::from_ticks(100), Ticks::new(50));
    let mut see = |ticks| detector.observe(Instant::from_ticks(ticks));
    assert_eq!(see(150), Passage::Steady);
    assert_eq!(see(201), Passage::Forward { excess: Ticks::new(1) });
    assert_eq!(see(1_201), Passage::Forward { excess: Ticks::new(950) });
    assert_eq!(see(1_200), Passage::Backward { by: Ticks::new(1) });
    assert_eq!(see(1_210), Passage::Steady);
    for _ in 1..STOPPED_AFTER {
        assert_eq!(see(1_210), Passage::Steady);
    }
    assert_eq!(see(1_210), Passage::Stopped);
    assert_eq!(see(1_211), Passage::Steady);
    assert_eq!(detector.skipped().get(), 951);
}
