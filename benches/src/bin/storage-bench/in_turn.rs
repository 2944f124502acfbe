//! `suite --only cost`: what it costs to submit and to reap a 4 KiB read, set-up by set-up in turn.
//!
//! Each round measures every set-up once: driver and model stepped on one core; the model polling
//! on a thread on the other core; the model behind our own vfio-user server, polling there; and
//! what `--race-device` names. Every second round goes through them backwards, so that none always
//! follows the same. All but the stepped one are begun anew, so that one device at a time polls the
//! other core; before and after it a bare cache line goes there and back, which says how far apart
//! the cores are then.
//!
//! Stepped it is as `--stepped` measures, net of the clock; the others are bursts as `--burst` has
//! them, two readings of the clock included.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use host_bridge::affinity::pin_to;
use host_bridge::sys::alloc_guard;
use host_bridge::sys::signals::StopSignal;
use host_bridge::topology::Topology;
use hybrid_benches::figures::Series;
use hybrid_benches::hist::Hist;
use hybrid_benches::report::{Report, Sheet};
use serde_json::{Value, json};

use crate::cli::SuiteArgs;
use crate::failure::Failure;
use crate::launch::Ran;
use crate::stepped::Stepped;
use crate::stepped_run::{EMPTY_POLL_GOAL, allocations, goal};
use crate::suite::{self, Asked, Place};
use crate::summary::{BY_GATE, Cost, Figure, counted};
use crate::wire::{BURST, Phase};

/// Reads submitted and reaped at once.
pub(crate) const READS: [u16; 6] = [1, 4, 8, 32, 64, 128];

/// Of each of them, in a round: bursts, and reads of the stepped model.
const BURSTS: u64 = 100;
const STEPPED: u64 = 100_000;
const STEPPED_QUICK: u64 = 256;

/// Round trips of a cache line, before and after a set-up.
const ECHOES: u64 = 20_000;

/// Time that a device warms up in each round.
const WARM_NS: u64 = 20_000_000;

/// One size, one value a round, in ticks a read.
#[derive(Clone, Debug, Default)]
struct Row {
    submit: Series,
    reap: Series,
    sum: Series,
}

impl Row {
    fn push(&mut self, submit: Option<f64>, reap: Option<f64>) {
        self.submit.push(submit);
        self.reap.push(reap);
        self.sum.push(submit.zip(reap).map(|(submit, reap)| submit + reap));
    }

    /// `submit + reap = sum (least to greatest)`, each a median of its own.
    fn cell(&self) -> String {
        let parts = [&self.submit, &self.reap, &self.sum].map(Series::median);
        let [Some(submit), Some(reap), Some(sum)] = parts else { return "-".to_owned() };
        let sum = spread(&self.sum).unwrap_or_else(|| ticks(sum));
        format!("{} + {} = {sum}", ticks(submit), ticks(reap))
    }
}

/// What was measured of one set-up.
#[derive(Debug)]
struct SetUp {
    name: &'static str,
    /// What its figures are of: the word that stands beside every claim.
    on: &'static str,
    rows: [Row; READS.len()],
    empty_poll: Series,
    /// Medians of a bare cache line's way there and back, in nanoseconds: twice a round.
    line: Series,
    /// Bursts left out: a core was taken away, or the device took longer than the pause.
    dropped: u64,
}

impl SetUp {
    fn new(name: &'static str, on: &'static str) -> Self {
        let (rows, empty_poll, line) = Default::default();
        Self { name, on, rows, empty_poll, line, dropped: 0 }
    }

    fn take_stepped(&mut self, round: &Round) {
        for (row, (submit, reap)) in self.rows.iter_mut().zip(round.costs) {
            row.push(Some(submit), Some(reap));
        }
        self.empty_poll.push(Some(round.empty_poll));
    }

    fn take_bursts(&mut self, ran: &Ran, echoes: &[Hist]) {
        let bursts = ran.phases.iter().filter(|run| run.phase.kind == BURST);
        for cost in bursts.filter_map(Cost::of) {
            self.dropped += cost.dropped;
            self.empty_poll.push(cost.empty_poll.median());
            let size = READS.iter().position(|reads| u32::from(*reads) == cost.size);
            if let Some(row) = size.and_then(|index| self.rows.get_mut(index)) {
                row.push(cost.submit.median(), cost.reap.median());
            }
        }
        for echo in echoes.iter().filter(|echo| echo.count() != 0) {
            self.line.push(Some(ran.ns(echo.quantile(500_000) as f64)));
        }
    }

    fn json(&self) -> Value {
        let row = |(reads, row): (&u16, &Row)| {
            json!({
                "reads": reads,
                "submit_ticks": series(&row.submit),
                "reap_ticks": series(&row.reap),
                "sum_ticks": series(&row.sum),
            })
        };
        json!({
            "name": self.name,
            "on": self.on,
            "rows": READS.iter().zip(&self.rows).map(row).collect::<Vec<_>>(),
            "empty_poll_ticks": series(&self.empty_poll),
            "line_there_and_back_ns": series(&self.line),
            "bursts_dropped": self.dropped,
        })
    }

    fn figures(&self) -> Vec<Figure> {
        let of = |(reads, row): (&u16, &Row)| {
            let name = |what| format!("in turn, {}: {what} of bursts of {reads}", self.name);
            let figures = [("submit", &row.submit), ("complete", &row.reap)];
            figures.map(|(what, series)| Figure::time(name(what), "ticks", series))
        };
        READS.iter().zip(&self.rows).flat_map(of).filter(|f| !f.values.is_empty()).collect()
    }
}

/// All set-ups.
#[derive(Debug)]
pub(crate) struct InTurn {
    setups: Vec<SetUp>,
    rounds: u32,
    hz: u64,
    /// A mix of what was read.
    done: u64,
    /// What ended it before its last round.
    pub(crate) signal: Option<StopSignal>,
}

/// Measures all of them, round by round.
pub(crate) fn measure(args: &SuiteArgs) -> Result<InTurn, Failure> {
    let topology = Topology::read();
    let cpu = args.core.or(topology.suggested_core());
    let cpu = cpu.ok_or_else(|| Failure::error("one cpu stays for linux; this needs another"))?;
    let hz = host_bridge::calibration::measure().map_err(Failure::error)?.hz;
    let operations = if args.quick { STEPPED_QUICK } else { STEPPED };
    let stepped = Worker::start(cpu, hz, operations);
    let theirs = args.race_device.as_deref().map(Place::Theirs);
    let places: Vec<Option<Place<'_>>> = [None, Some(Place::Null), Some(Place::VfioUser)]
        .into_iter()
        .chain(theirs.map(Some))
        .collect();
    let setup = |place: &Option<Place<'_>>| match place {
        None => SetUp::new("stepped on one core", "model"),
        Some(Place::VfioUser) => SetUp::new("vfio-user, our server", "vfio-user target"),
        Some(Place::Theirs(_)) => SetUp::new("race device", "race device"),
        Some(_) => SetUp::new("the model's thread", "model"),
    };
    let setups = places.iter().map(setup).collect();
    let mut run = InTurn { setups, rounds: 0, hz, done: 0, signal: None };
    for round in 0..suite::repetitions(args) {
        for index in order(round, places.len()) {
            let Some(place) = places[index] else {
                run.setups[index].take_stepped(&stepped.round()?);
                allocations(alloc_guard::hot_report(), "the stepped loop")?;
                continue;
            };
            let (ran, echoes) = suite::on_two_cores(args, place, &asked(args))?;
            ran.check_allocations()?;
            run.done = run.done.rotate_left(7) ^ ran.found.checksum;
            run.setups[index].on = ran.on.name();
            run.setups[index].take_bursts(&ran, &echoes);
            if ran.signal.is_some() {
                run.signal = ran.signal;
                return Ok(run);
            }
        }
        run.rounds += 1;
    }
    Ok(run)
}

/// Forwards, and backwards in every second round.
fn order(round: u32, setups: usize) -> Vec<usize> {
    match round % 2 {
        0 => (0..setups).collect(),
        _ => (0..setups).rev().collect(),
    }
}

fn asked(args: &SuiteArgs) -> Asked {
    let quick = args.quick;
    let phases = move |base: &Phase| {
        let warm =
            Phase { depth: 32, warm_up: 1, duration_ns: base.duration_ns.min(WARM_NS), ..*base };
        let burst = |reads: u16| {
            let batch = u32::from(reads);
            Phase { kind: BURST, depth: 1, batch, count: BURSTS, ..*base }
        };
        std::iter::once(warm).chain(READS.map(burst)).collect()
    };
    let most = u32::from(READS[READS.len() - 1]);
    Asked {
        repetitions: 1,
        queues: 1,
        slots: most,
        echoes: if quick { suite::ECHOES_QUICK } else { ECHOES },
        phases: Box::new(phases),
    }
}

impl InTurn {
    /// The table and its goals.
    pub(crate) fn report(&self, report: &mut Report) {
        let mut titles = vec!["reads"];
        titles.extend(self.setups.iter().map(|setup| setup.name));
        let mut sheet = Sheet::new(SHEET, &titles);
        report.tsc(self.hz);
        for (index, reads) in READS.iter().enumerate() {
            let mut row = vec![u64::from(*reads).into()];
            row.extend(self.setups.iter().map(|setup| setup.rows[index].cell().into()));
            sheet.row(row);
        }
        let rest = |f: &dyn Fn(&SetUp) -> Option<String>| {
            self.setups
                .iter()
                .map(|setup| f(setup).unwrap_or_else(|| "-".to_owned()).into())
                .collect()
        };
        let mut row = |what: &str, cells: Vec<_>| {
            sheet.row([vec![what.into()], cells].concat());
        };
        row("empty poll", rest(&|setup| spread(&setup.empty_poll)));
        row("a line there and back, ns", rest(&|setup| spread(&setup.line)));
        row("on", rest(&|setup| Some(setup.on.to_owned())));
        sheet.note(format!(
            "submit + reap = sum (least to greatest) in TSC ticks a read, medians of {} \
             alternating rounds, each median for itself",
            self.rounds
        ));
        sheet.note(
            "stepped: net of the clock; the others: N submits, one doorbell, 100 us left alone, \
             one reap of all N, two readings of the clock included",
        );
        sheet.note(instructions());
        report.add(sheet);
        self.goals(report);
        report.checksum(self.done);
    }

    /// Goal (a) is about the pure software.
    fn goals(&self, report: &mut Report) {
        let Some(stepped) = self.setups.first() else { return };
        for (reads, row) in READS.iter().zip(&stepped.rows) {
            if let Some(goal) = goal(*reads) {
                let what =
                    format!("ticks to submit and reap a read, stepped in turn, depth {reads}");
                report.goal_most(what, row.sum.median(), goal);
            }
        }
        let poll = stepped.empty_poll.median();
        report.goal_most("ticks an empty poll, stepped in turn", poll, EMPTY_POLL_GOAL);
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "rounds": self.rounds,
            "setups": self.setups.iter().map(SetUp::json).collect::<Vec<_>>(),
        })
    }

    pub(crate) fn figures(&self) -> Vec<Figure> {
        self.setups.iter().flat_map(SetUp::figures).collect()
    }
}

/// The sheet's name.
const SHEET: &str = "submit + reap of a 4 KiB read, set-ups in turn";

fn ticks(value: f64) -> String {
    if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Median, least and greatest.
fn spread(series: &Series) -> Option<String> {
    let (median, least, greatest) = range(series)?;
    Some(format!("{} ({} to {})", ticks(median), ticks(least), ticks(greatest)))
}

fn range(series: &Series) -> Option<(f64, f64, f64)> {
    let least = series.0.iter().copied().reduce(f64::min)?;
    let greatest = series.0.iter().copied().reduce(f64::max)?;
    Some((series.median()?, least, greatest))
}

fn series(series: &Series) -> Value {
    range(series).map_or(Value::Null, |(median, least, greatest)| {
        json!({ "median": median, "least": least, "greatest": greatest, "values": series.0 })
    })
}

/// What the gate counted for this source.
fn instructions() -> String {
    let all = counted();
    let count = |name: &str| {
        let name = format!("instructions of {name}{BY_GATE}");
        let figure = all.iter().find(|figure| figure.name == name);
        figure.and_then(|figure| figure.values.first()).copied().unwrap_or(0.0)
    };
    format!(
        "instructions, counted by callgrind for this source: {:.0} + {:.0} at 1, {:.0} + {:.0} at \
         32, {:.0} an empty poll",
        count("raw-submit-1"),
        count("raw-reap-1"),
        count("raw-submit-32"),
        count("raw-reap-32"),
        count("raw-empty-reap"),
    )
}

/// What the stepped model gave in one round, in ticks a read.
struct Round {
    costs: [(f64, f64); READS.len()],
    empty_poll: f64,
}

/// Driver and model on one core: on a thread that waits while other set-ups have the core.
struct Worker {
    ask: SyncSender<()>,
    heard: Receiver<Result<Round, String>>,
}

impl Worker {
    fn start(cpu: u32, hz: u64, operations: u64) -> Self {
        let ((ask, asked), (tell, heard)) = (sync_channel(0), sync_channel(1));
        std::thread::spawn(move || {
            let mut stepped = None;
            while asked.recv().is_ok() {
                let made = match stepped.take() {
                    Some(stepped) => Ok(stepped),
                    None => begin(cpu, hz),
                };
                let round = made.and_then(|made| {
                    let made = stepped.insert(made);
                    round(made, operations).map_err(|error| format!("{error:#}"))
                });
                if tell.send(round).is_err() {
                    return;
                }
            }
        });
        Self { ask, heard }
    }

    fn round(&self) -> Result<Round, Failure> {
        let gone = || Failure::error("the thread of the stepped loop has ended");
        self.ask.send(()).map_err(|_| gone())?;
        self.heard.recv().map_err(|_| gone())?.map_err(Failure::error)
    }
}

fn begin(cpu: u32, hz: u64) -> Result<Stepped, String> {
    pin_to(cpu).map_err(|error| error.to_string())?;
    Stepped::new(hz, suite::SEED).map_err(|error| format!("{error:#}"))
}

fn round(stepped: &mut Stepped, operations: u64) -> anyhow::Result<Round> {
    stepped.batches(32, (operations / 200).max(4))?; // warm
    let mut costs = [(0.0, 0.0); READS.len()];
    for (reads, cost) in READS.iter().zip(&mut costs) {
        let measured = stepped.batches(*reads, (operations / u64::from(*reads)).max(1))?;
        *cost = (measured.submit, measured.reap);
    }
    Ok(Round { costs, empty_poll: stepped.empty_poll((operations / 200).clamp(10, 1000)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_round_goes_backwards() {
        assert_eq!(order(0, 3), [0, 1, 2]);
        assert_eq!(order(1, 3), [2, 1, 0]);
        assert_eq!(order(2, 3), order(0, 3));
    }

    #[test]
    fn a_cell_has_the_median_of_each_and_how_far_the_sum_went() {
        let mut row = Row::default();
        assert_eq!(row.cell(), "-");
        for (submit, reap) in [(20.0, 12.0), (22.0, 11.0), (24.0, 100.0)] {
            row.push(Some(submit), Some(reap));
        }
        row.push(Some(21.0), None);
        assert_eq!(row.cell(), "21.0 + 12.0 = 33.0 (32.0 to 124)");
        assert_eq!(series(&row.sum)["greatest"], 124.0);
        assert_eq!(series(&Series::default()), Value::Null);
    }

    #[test]
    fn the_counts_of_the_gate_are_named() {
        let line = instructions();
        assert!(!line.contains(" 0 "), "{line}");
    }
}
