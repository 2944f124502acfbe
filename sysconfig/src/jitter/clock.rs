//! What a tick is worth, and whether the counter may be believed.
//!
//! Read twice by [`super::run()`], before and after the measurement: the frequency comes from the
//! whole run, and a counter whose pace changed meanwhile is found out.

use rustix::time::{ClockId, clock_gettime};

use crate::root::Root;
use crate::sys::tsc::rdtsc;

/// Pairs that are read for one [`Reading`]; the narrowest is kept.
const TRIES: u32 = 64;

/// Shortest distance of two readings that gives a frequency: 40 ns of 20 ms are 2 ppm.
const SPREAD_NS: u64 = 20_000_000;

/// The counter and `CLOCK_MONOTONIC_RAW` at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) tsc: u64,
    pub(crate) raw_ns: u64,
}

impl Reading {
    /// The narrowest of several.
    pub(crate) fn now() -> Self {
        let mut best: Option<(u64, Self)> = None;
        for _ in 0..TRIES {
            let before = rdtsc();
            let raw_ns = raw_ns();
            let width = rdtsc().saturating_sub(before);
            if best.is_none_or(|(kept, _)| width < kept) {
                best = Some((width, Self { tsc: before + width / 2, raw_ns }));
            }
        }
        // TRIES is not zero.
        best.map_or(Self { tsc: 0, raw_ns: 0 }, |(_, reading)| reading)
    }
}

/// `CLOCK_MONOTONIC_RAW`, in nanoseconds.
pub(crate) fn raw_ns() -> u64 {
    let time = clock_gettime(ClockId::MonotonicRaw);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// Ticks a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frequency(pub(crate) u64);

impl Frequency {
    /// Measures for [`SPREAD_NS`].
    pub(crate) fn measure() -> Option<Self> {
        let first = Reading::now();
        while raw_ns().saturating_sub(first.raw_ns) < SPREAD_NS {
            std::hint::spin_loop();
        }
        Self::between(first, Reading::now())
    }

    /// From two readings; [`None`] if the counter stood still or went back.
    pub(crate) fn between(first: Reading, second: Reading) -> Option<Self> {
        let ticks = second.tsc.checked_sub(first.tsc).filter(|ticks| *ticks > 0)?;
        let ns = second.raw_ns.checked_sub(first.raw_ns).filter(|ns| *ns > 0)?;
        let hz = u128::from(ticks) * 1_000_000_000 / u128::from(ns);
        u64::try_from(hz).ok().filter(|hz| *hz > 0).map(Self)
    }

    /// Nanoseconds of so many ticks, rounded.
    pub(crate) fn ns(self, ticks: u64) -> u64 {
        let hz = u128::from(self.0.max(1));
        let ns = (u128::from(ticks) * 1_000_000_000 + hz / 2) / hz;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Ticks of so many nanoseconds, rounded up: what is longer than them is longer than these.
    pub(crate) fn ticks(self, ns: u64) -> u64 {
        let ticks = (u128::from(ns) * u128::from(self.0)).div_ceil(1_000_000_000);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Parts per million by which two frequencies differ.
    pub(crate) fn apart_ppm(self, other: Self) -> u64 {
        u64::try_from(u128::from(self.0.abs_diff(other.0)) * 1_000_000 / u128::from(self.0.max(1)))
            .unwrap_or(u64::MAX)
    }
}

/// Why the counter may not be believed; [`None`] if the processor and Linux both trust it.
pub(crate) fn distrust(root: &Root) -> Option<String> {
    let cpuinfo = root.read("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|known| known == flag);
    let source = root
        .read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        .unwrap_or_default();
    let source = source.trim();
    if !has("constant_tsc") || !has("nonstop_tsc") {
        return Some(
            "the processor does not call its time-stamp counter invariant (an emulator?)".into(),
        );
    }
    // Clocks of a hypervisor stand on the counter and correct it.
    let trusted = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "xen"];
    (!source.is_empty() && !trusted.contains(&source))
        .then(|| format!("Linux does not trust the time-stamp counter: its clock is {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_nanoseconds_convert_both_ways() {
        let clock = Frequency(2_500_000_000);
        assert_eq!(clock.ns(25), 10);
        assert_eq!(clock.ticks(10), 25);
        assert_eq!(clock.ticks(1), 3, "rounded up");
        assert_eq!(clock.ns(u64::MAX), 7_378_697_629_483_820_646);
        assert_eq!(clock.ticks(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_frequency_needs_two_readings_that_go_forward() {
        let at = |tsc, raw_ns| Reading { tsc, raw_ns };
        assert_eq!(Frequency::between(at(10, 0), at(30, 10)), Some(Frequency(2_000_000_000)));
        for (first, second) in [((10, 0), (10, 5)), ((10, 0), (9, 5)), ((10, 5), (20, 5))] {
            let (first, second) = (at(first.0, first.1), at(second.0, second.1));
            assert_eq!(Frequency::between(first, second), None);
        }
        assert_eq!(Frequency(1_000_000).apart_ppm(Frequency(1_000_250)), 250);
    }

    #[test]
    fn this_machine_has_a_counter() {
        let hz = Frequency::measure().expect("every x86-64 machine has one").0;
        assert!((500_000_000..20_000_000_000).contains(&hz), "{hz}");
    }

    #[test]
    fn a_counter_is_distrusted_for_its_flags_and_for_the_clock_that_linux_chose() {
        let tree = tempfile::tempdir().expect("a folder");
        let root = Root::at(tree.path());
        let put = |path: &str, text: &str| {
            let path = root.path(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        put("/proc/cpuinfo", "flags\t: fpu constant_tsc tsc\n");
        assert!(distrust(&root).is_some_and(|why| why.contains("invariant")));
        put("/proc/cpuinfo", "flags\t: fpu constant_tsc nonstop_tsc tsc\n");
        assert_eq!(distrust(&root), None);
        let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        put(source, "hpet\n");
        assert!(distrust(&root).is_some_and(|why| why.ends_with("its clock is hpet")));
        put(source, "tsc\n");
        assert_eq!(distrust(&root), None);
    }
}
