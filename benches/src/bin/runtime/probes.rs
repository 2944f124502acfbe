//! Probes: off, on with a stamp that somebody took, on with a look at the clock of their own.

use std::hint::black_box;

use anyhow::Result;
use core_runtime::clock::Clock;
use core_runtime::probe::Probes;
use hybrid_abi::probe::MASK_ALL;

use hybrid_benches::probed::{STEP, probes};
use hybrid_benches::race::{Bench, Group, SLICE};

/// On, stamped by the pass: what a loop around it costs is in it.
pub(crate) const STAMPED: &str = "probe: on, with the pass's stamp";
/// On, with its own look at the clock.
pub(crate) const OWN: &str = "probe: on, with its own stamp";
/// Off.
const OFF: &str = "probe: off";

pub(crate) struct Events {
    on: &'static Probes,
    off: &'static Probes,
}

impl Events {
    pub(crate) fn new(hz: u64) -> Result<Self> {
        Ok(Self { on: probes(Clock::tsc(hz), MASK_ALL)?, off: probes(Clock::tsc(hz), 0)? })
    }
}

/// A slice of events, each with what it needs and nothing else; how many were written.
fn slice(probes: &'static Probes, emit: impl Fn(&Probes, u32, u64)) -> (u64, u64) {
    let before = probes.written();
    for n in 0..u32::try_from(SLICE).unwrap_or(0) {
        emit(black_box(probes), n, n.into());
    }
    (SLICE, probes.written() - before)
}

impl Group for Events {
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()> {
        let (on, off) = (self.on, self.off);
        bench.alone(OFF, slices, &mut || slice(off, |probes, a, b| STEP.emit(probes, a, b, b)));
        let stamped = |probes: &Probes, a, b| STEP.emit_stamped(probes, a, b, b);
        bench.alone(STAMPED, slices, &mut || slice(on, stamped));
        bench.alone(OWN, slices, &mut || slice(on, |probes, a, b| STEP.emit(probes, a, b, b)));
        Ok(())
    }
}
