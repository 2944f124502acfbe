//! The runtime's parts, each beside a public peer where there is a plain one: rings, scheduler,
//! memory, histograms, checksums.
//!
//! Both sides of a comparison run in turn in the same repetition. A peer of a part is what our
//! users would take instead; the peers here live in one process and trust their other end, ours
//! lie in shared memory and trust nobody.

#![forbid(unsafe_code)]

mod memory;
mod pair;
mod ring;
mod tasks;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use host_bridge::affinity::{allowed, pin_to};
use hybrid_benches::cli::{self, Args};
use hybrid_benches::figures::Series;
use hybrid_benches::report::{Cell, Report, Sheet};
use hybrid_benches::slices::Slices;

const TITLE: &str = "runtime: rings, scheduler, memory, histograms, checksums";

/// Operations of a slice: some 10 to 100 us, many times what two readings of the clock and of the
/// kernel's counters cost.
pub(crate) const SLICE: u64 = 4096;

fn main() -> ExitCode {
    cli::main(bench)
}

fn bench(args: &Args) -> Result<Report> {
    let mut report = Report::new("bench-runtime/1", TITLE, "memory");
    let cpus = allowed();
    let cpu = args.core.or_else(|| cpus.iter().last()).context("no cpu")?;
    let other = cpus.iter().find(|other| *other != cpu);
    pin_to(cpu)?;
    let hz = host_bridge::calibration::measure()?.hz;
    report.tsc(hz);
    let mut groups: Vec<Box<dyn Group>> = vec![
        Box::new(ring::Rings::new()?),
        Box::new(tasks::Tasks::new(hz)?),
        Box::new(memory::Memory::new()?),
    ];
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..args.repetitions() {
        for group in &mut groups {
            group.measure(args.size(200, 4), &mut Bench { rows: &mut rows, args })?;
        }
    }
    let mut sheet = Sheet::new(
        "one core",
        &["what", "ticks", "ns", "peer", "peer ticks", "ratio", "slices", "dropped"],
    );
    for row in &rows {
        sheet.row(row.cells(hz));
        report.checksum(row.checksum);
    }
    sheet.note(
        "an operation; medians of repetitions; a slice of 4096 in which the core was taken away is \
         dropped; ratio is the peer's ticks over ours",
    );
    report.add(sheet);
    if let Some(other) = other.filter(|_| args.wants("cross")) {
        report.add(pair::cross_core(args, cpu, other, hz)?);
    }
    Ok(report)
}

/// Parts that share their setup.
trait Group {
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()>;
}

/// One line of the sheet, over all repetitions.
struct Row {
    what: &'static str,
    peer: &'static str,
    ours: Series,
    theirs: Series,
    kept: u64,
    dropped: u64,
    checksum: u64,
}

impl Row {
    fn cells(&self, hz: u64) -> Vec<Cell> {
        let (ours, theirs) = (self.ours.median(), self.theirs.median());
        vec![
            self.what.into(),
            Cell::maybe(ours, 1),
            Cell::maybe(ours.map(|ticks| ticks * 1e9 / hz as f64), 2),
            self.peer.into(),
            Cell::maybe(theirs, 1),
            Cell::maybe(ours.zip(theirs).map(|(ours, theirs)| theirs / ours), 2),
            self.kept.into(),
            self.dropped.into(),
        ]
    }
}

/// Where groups put their figures.
struct Bench<'a> {
    rows: &'a mut Vec<Row>,
    args: &'a Args,
}

/// One side of a comparison: does a slice of operations and returns how many, and a checksum.
type Side<'a> = &'a mut dyn FnMut() -> (u64, u64);

impl Bench<'_> {
    /// Ours alone.
    fn alone(&mut self, what: &'static str, slices: u64, ours: Side<'_>) {
        self.race(what, "", slices, ours, &mut || (0, 0));
    }

    /// Ours and a peer's, slice by slice in turn.
    fn race(
        &mut self,
        what: &'static str,
        peer: &'static str,
        slices: u64,
        ours: Side<'_>,
        theirs: Side<'_>,
    ) {
        if !self.args.wants(what) {
            return;
        }
        let (mut mine, mut other) = (Slices::default(), Slices::default());
        let mut checksum = 0_u64;
        for _ in 0..slices {
            let mut sum = 0;
            mine.run(|| {
                let (count, part) = ours();
                sum = part;
                count
            });
            checksum = checksum.rotate_left(1) ^ sum;
            other.run(|| theirs().0);
        }
        let row = self.row(what, peer);
        row.ours.push(mine.ticks_each());
        row.theirs.push(other.ticks_each());
        row.kept += mine.kept;
        row.dropped += mine.dropped;
        row.checksum ^= checksum;
    }

    fn row(&mut self, what: &'static str, peer: &'static str) -> &mut Row {
        let found = self.rows.iter().position(|row| row.what == what && row.peer == peer);
        let index = found.unwrap_or_else(|| {
            self.rows.push(Row {
                what,
                peer,
                ours: Series::default(),
                theirs: Series::default(),
                kept: 0,
                dropped: 0,
                checksum: 0,
            });
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }
}
