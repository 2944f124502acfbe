//! Parts of the runtime, each beside a peer where it has one, slice by slice in turn.

use anyhow::{Context as _, Result, bail};
use host_bridge::affinity::{allowed, pin_to};

use crate::cli::Args;
use crate::cross::{Maker, cross_core};
use crate::figures::Series;
use crate::report::{Cell, Report, Sheet};
use crate::slices::Slices;

/// Operations of a slice: some 10 to 100 us, many times what two readings of the clock and of the
/// kernel's counters cost.
pub const SLICE: u64 = 4096;

/// Parts that share their setup.
pub trait Group {
    /// Measures its parts: `slices` of each.
    ///
    /// # Errors
    /// Whatever keeps it from measuring.
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()>;
}

/// Name of the part that needs two cores, for `--only`.
const CROSS: &str = "cross-core rings";

/// What a benchmark of such parts gave.
#[derive(Debug)]
pub struct Measured {
    /// Its sheets.
    pub report: Report,
    /// Ticks a second.
    pub hz: u64,
    /// Ticks of an operation of ours, by the part's name.
    pub ticks: Vec<(&'static str, Option<f64>)>,
    /// Of the first ring: p99 of a message to the other core, in nanoseconds, if it was wanted and
    /// there are two cores.
    pub message_p99_ns: Option<Option<f64>>,
}

/// A whole benchmark: the groups that `groups` makes for a clock's frequency, on one core, then the
/// rings of `makers` across two.
///
/// # Errors
/// What a part could not do, or that `--only` names none.
pub fn run(
    args: &Args,
    mut report: Report,
    groups: impl FnOnce(u64) -> Result<Vec<Box<dyn Group>>>,
    makers: &mut [Maker<'_>],
) -> Result<Measured> {
    let cpus = allowed();
    let cpu = args.core.or_else(|| cpus.iter().last()).context("no cpu")?;
    let other = cpus.iter().find(|other| *other != cpu);
    pin_to(cpu)?;
    let hz = host_bridge::calibration::measure()?.hz;
    report.tsc(hz);
    let mut bench = Bench::new(args);
    bench.measure(&mut groups(hz)?)?;
    let cross = args.wants(CROSS);
    if bench.rows.is_empty() && !cross {
        let only = args.only.as_deref().unwrap_or_default();
        let parts = bench.parts.join(", ");
        bail!("--only {only}: no part has it in its name; there are: {parts}, {CROSS}");
    }
    if !bench.rows.is_empty() {
        bench.report(hz, &mut report);
    }
    let mut message_p99_ns = None;
    match other {
        Some(other) if cross => {
            let sheet = cross_core(args, (cpu, other), hz, makers)?;
            message_p99_ns = Some(sheet.number("way", "one way", "p99 ns"));
            report.add(sheet);
        }
        None if cross => report.line("across cores: not measured, this process may use one cpu"),
        _ => {}
    }
    let ticks = bench.rows.iter().map(|row| (row.what, row.ours.median())).collect();
    Ok(Measured { report, hz, ticks, message_p99_ns })
}

/// One line of the sheet, over all repetitions.
#[derive(Debug)]
struct Row {
    what: &'static str,
    peer: &'static str,
    ours: Series,
    theirs: Series,
    /// Slices of both sides.
    kept: u64,
    dropped: u64,
    peer_kept: u64,
    peer_dropped: u64,
    checksum: u64,
}

impl Row {
    fn cells(&self, hz: u64) -> Vec<Cell> {
        let (ours, theirs) = (self.ours.median(), self.theirs.median());
        let of_peer = |count: u64| match self.peer {
            "" => Cell::None,
            _ => count.into(),
        };
        vec![
            self.what.into(),
            Cell::maybe(ours, 1),
            Cell::maybe(ours.map(|ticks| ticks * 1e9 / hz as f64), 2),
            self.peer.into(),
            Cell::maybe(theirs, 1),
            Cell::maybe(ours.zip(theirs).map(|(ours, theirs)| theirs / ours), 2),
            self.kept.into(),
            self.dropped.into(),
            of_peer(self.peer_kept),
            of_peer(self.peer_dropped),
        ]
    }
}

/// Where groups put their figures, over all repetitions.
#[derive(Debug)]
pub struct Bench<'a> {
    rows: Vec<Row>,
    /// The names of all parts, wanted or not.
    parts: Vec<&'static str>,
    args: &'a Args,
}

/// One side of a comparison: does a slice of operations and returns how many, and a checksum.
pub type Side<'a> = &'a mut dyn FnMut() -> (u64, u64);

impl<'a> Bench<'a> {
    /// No figures yet.
    #[must_use]
    pub const fn new(args: &'a Args) -> Self {
        Self { rows: Vec::new(), parts: Vec::new(), args }
    }

    /// All groups, in turn in each repetition.
    ///
    /// # Errors
    /// What a group could not do.
    pub fn measure(&mut self, groups: &mut [Box<dyn Group>]) -> Result<()> {
        for _ in 0..self.args.repetitions() {
            for group in &mut *groups {
                group.measure(self.args.size(200, 4), self)?;
            }
        }
        Ok(())
    }

    /// Adds the figures and the checksums of the work to a report.
    pub fn report(&self, hz: u64, report: &mut Report) {
        let mut sheet = Sheet::new(
            "one core",
            &[
                "what",
                "ticks",
                "ns",
                "peer",
                "peer ticks",
                "ratio",
                "slices",
                "dropped",
                "peer's",
                "peer's dropped",
            ],
        );
        for row in &self.rows {
            sheet.row(row.cells(hz));
            report.checksum(row.checksum);
        }
        sheet.note(
            "an operation; medians of repetitions; a slice of 4096 in which the core was taken \
             away is dropped; ratio is the peer's ticks over ours",
        );
        report.add(sheet);
    }

    /// Ours alone.
    pub fn alone(&mut self, what: &'static str, slices: u64, ours: Side<'_>) {
        self.race(what, "", slices, ours, &mut || (0, 0));
    }

    /// Ours and a peer's, slice by slice in turn.
    pub fn race(
        &mut self,
        what: &'static str,
        peer: &'static str,
        slices: u64,
        ours: Side<'_>,
        theirs: Side<'_>,
    ) {
        if !self.parts.contains(&what) {
            self.parts.push(what);
        }
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
        row.peer_kept += other.kept;
        row.peer_dropped += other.dropped;
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
                peer_kept: 0,
                peer_dropped: 0,
                checksum: 0,
            });
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }
}
