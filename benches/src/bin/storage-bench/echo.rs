//! A cache line there and back between two cores: what any exchange with another core costs, by
//! itself. No driver, no device, no protocol.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use core_runtime::clock::rdtsc;
use host_bridge::affinity::pin_to;
use hybrid_benches::hist::Hist;

/// Alone on its line, and on the one that is fetched with it.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// `rounds` round trips from `cpu` to `other` and back, in ticks: a word each way. Both threads are
/// new ones; the caller's place is left alone.
pub(crate) fn round_trips(cpu: u32, other: u32, rounds: u64) -> Hist {
    let (there, back, stop) = (Line::default(), Line::default(), AtomicBool::new(false));
    let mut hist = Hist::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A CPU that was allowed a moment ago; elsewhere it would only be slower.
            let _ = pin_to(other);
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let seen = there.0.load(Ordering::Acquire);
                if seen != last {
                    last = seen;
                    back.0.store(seen, Ordering::Release);
                }
            }
        });
        let timed = scope.spawn(|| {
            let _ = pin_to(cpu);
            let mut hist = Hist::new();
            // The first ones wait for the other thread to be there.
            for round in 1..=rounds + rounds / 10 + 1 {
                let begin = rdtsc();
                there.0.store(round, Ordering::Release);
                while back.0.load(Ordering::Acquire) != round {
                    std::hint::spin_loop();
                }
                if round > rounds / 10 + 1 {
                    hist.record(rdtsc().saturating_sub(begin));
                }
            }
            stop.store(true, Ordering::Relaxed);
            hist
        });
        // A panic there is a bug of ours; an empty histogram is printed as nothing.
        hist = timed.join().unwrap_or_default();
    });
    hist
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_comes_back() {
        let cpus: Vec<u32> = host_bridge::affinity::allowed().iter().collect();
        let (cpu, other) = (cpus[0], cpus[cpus.len() - 1]);
        assert_eq!(round_trips(cpu, other, 100).count(), 100);
    }
}
