//! The suite's tables.

use hybrid_benches::hist::Hist;
use hybrid_benches::report::{Cell, Report, Sheet};

use crate::in_turn;
use crate::launch::{PhaseRun, Ran};
use crate::stepped_run::{EMPTY_POLL_GOAL, SteppedRun};
use crate::suite::us;
use crate::summary::{Cost, Load, Noise};
use crate::wire::{BATCH, BURST, CLOSED, FUTURES, HOT, OPEN, Phase, ZIPF};

/// One namespace's part of the suite.
pub(crate) struct Part<'a> {
    pub(crate) name: &'static str,
    /// Shapes of load and overload were measured too.
    pub(crate) all: bool,
    pub(crate) ran: &'a Ran,
    /// A cache line there and back, before and after the partition.
    pub(crate) echoes: &'a [Hist],
    /// What driver and device add to it has a bound: the device is ours and copies nothing.
    pub(crate) adds_goal: bool,
}

/// Most that our software may add to p99 of single reads, in microseconds.
const ADDS_GOAL_US: f64 = 1.0;

impl Part<'_> {
    /// The sheets' names are keys in JSON.
    fn sheet(&self, what: &str) -> String {
        format!("{what}, {}", self.name)
    }

    fn loads(&self, wanted: impl Fn(&Phase) -> bool) -> Vec<(&PhaseRun, Load)> {
        let runs = self.ran.phases.iter().filter(|run| wanted(&run.phase));
        runs.filter_map(|run| Some((run, Load::of(self.ran, run)?))).collect()
    }
}

/// What a phase is called in tables and figures.
pub(crate) fn phase_name(phase: &Phase) -> String {
    let how = match phase.kind {
        FUTURES => "futures".to_owned(),
        BATCH => format!("batches of {}", phase.batch),
        OPEN => format!("arrivals at {}x", phase.rate_of_capacity_ppm as f64 / 1e6),
        _ => match (phase.order, phase.reads) {
            (ZIPF, _) => format!("zipf {}", f64::from(phase.order_a) / 1e3),
            (HOT, _) => format!("hot spot {}/{}", phase.order_a, phase.order_b),
            (_, 65_536) => "raw queue".to_owned(),
            _ => "70/30 mix".to_owned(),
        },
    };
    let pairs = match phase.queues {
        0 | 1 => String::new(),
        n => format!(" over {n} pairs"),
    };
    let timed = if phase.stamped == 0 { "" } else { ", timed" };
    format!("{how}, depth {}{pairs}{timed}", phase.depth)
}

/// Adds all tables of a namespace; returns the best rate in millions a second.
pub(crate) fn add(report: &mut Report, part: &Part<'_>) -> Option<f64> {
    let best = rates(report, part);
    pairs(report, part);
    latencies(report, part);
    floor(report, part);
    bursts(report, part);
    if part.all {
        shapes(report, part);
        overload(report, part);
    }
    best
}

fn rates(report: &mut Report, part: &Part<'_>) -> Option<f64> {
    let titles = [
        "path",
        "depth",
        "M reads/s",
        "ticks/read",
        "reads/pass",
        "driver empty %",
        "model busy %",
        "reads/step",
        "full",
        "windows",
        "dropped",
    ];
    let mut sheet = Sheet::new(part.sheet("reads"), &titles);
    let mut best = None::<f64>;
    let single = |phase: &Phase| {
        phase.queues == 1 && (phase.kind == FUTURES && phase.stamped == 0 || is_plain(phase))
    };
    let mut seen = Vec::new();
    for (run, load) in part.loads(single) {
        let key = (run.phase.kind, run.phase.depth);
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let rate = load.iops.median().map(|iops| iops / 1e6);
        let hz = part.ran.clock.hz() as f64 / 1e6;
        sheet.row(vec![
            if run.phase.kind == FUTURES { "futures" } else { "raw queue" }.into(),
            u64::from(run.phase.depth).into(),
            Cell::maybe(rate, 2),
            Cell::maybe(rate.map(|rate| hz / rate), 0),
            Cell::maybe(load.per_pass, 1),
            Cell::maybe(load.empty_percent, 0),
            Cell::maybe(load.model_idle_percent.map(|idle| 100.0 - idle), 0),
            Cell::maybe(load.per_step, 1),
            load.full.into(),
            load.kept.into(),
            load.dropped.into(),
        ]);
        if run.phase.kind == CLOSED {
            best = rate.map_or(best, |rate| Some(best.map_or(rate, |best| best.max(rate))));
        }
    }
    sheet.note(
        "medians of repetitions; a window with 30 us without a completion is dropped (a core was \
         taken away); a repetition with fewer than 4 clean windows does not count",
    );
    sheet.note(
        "on a virtual machine the two CPUs may at times be threads of one core: depth 1 then takes \
         a third of the time; compare runs by it",
    );
    if let Some(step) = Noise::of(part.ran).and_then(|noise| noise.empty_step) {
        sheet.note(format!("a step of the model that finds nothing takes {step:.0} ticks"));
    }
    report.add(sheet);
    best
}

/// A closed loop of uniform reads without latencies.
fn is_plain(phase: &Phase) -> bool {
    phase.kind == CLOSED
        && phase.stamped == 0
        && phase.warm_up == 0
        && phase.reads == 65_536
        && !matches!(phase.order, ZIPF | HOT)
}

/// More queue pairs, each with as many in flight: what they bring, and what is full then.
fn pairs(report: &mut Report, part: &Part<'_>) {
    let titles = [
        "pairs",
        "depth of each",
        "M reads/s",
        "of one pair",
        "driver empty %",
        "model busy %",
        "full",
    ];
    let mut sheet = Sheet::new(part.sheet("queue pairs"), &titles);
    let mut seen = Vec::new();
    let mut one = None;
    let mut loads = part.loads(is_plain);
    loads.sort_by_key(|(run, _)| (run.phase.depth / run.phase.queues.max(1), run.phase.queues));
    let each = |phase: &Phase| phase.depth / phase.queues.max(1);
    for (run, load) in &loads {
        let key = (each(&run.phase), run.phase.queues);
        let scaled =
            loads.iter().any(|(other, _)| each(&other.phase) == key.0 && other.phase.queues > 1);
        if !scaled || seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let rate = load.iops.median().map(|iops| iops / 1e6);
        if run.phase.queues == 1 {
            one = rate;
        }
        let times = rate.zip(one).map(|(rate, one)| format!("{:.2} x", rate / one));
        sheet.row(vec![
            u64::from(key.1).into(),
            u64::from(key.0).into(),
            Cell::maybe(rate, 2),
            times.map_or(Cell::None, Cell::Text),
            Cell::maybe(load.empty_percent, 0),
            Cell::maybe(load.model_idle_percent.map(|idle| 100.0 - idle), 0),
            load.full.into(),
        ]);
    }
    sheet
        .note("full: the core whose polls, or steps, nearly all find work; see docs/benchmarks.md");
    report.add(sheet);
}

fn latencies(report: &mut Report, part: &Part<'_>) {
    let titles = ["depth", "p50 us", "p99 us", "p99.9 us", "max us", "samples", "all p99 us"];
    let mut sheet = Sheet::new(part.sheet("latency"), &titles);
    let timed = |phase: &Phase| {
        phase.kind == CLOSED
            && phase.stamped != 0
            && phase.reads == 65_536
            && !matches!(phase.order, ZIPF | HOT)
    };
    for (run, load) in part.loads(timed) {
        let mut row = vec![u64::from(run.phase.depth).into()];
        row.extend(quantiles(part.ran, &load.undisturbed()));
        let all = load.everything();
        row.push(us((all.count() != 0).then(|| part.ran.ns(all.quantile(990_000) as f64))));
        sheet.row(row);
    }
    sheet.note("of clean windows, from before the submit to after the reap; all: dropped ones too");
    report.add(sheet);
}

fn quantiles(ran: &Ran, hist: &Hist) -> Vec<Cell> {
    if hist.count() == 0 {
        return vec![Cell::None, Cell::None, Cell::None, Cell::None, Cell::Int(0)];
    }
    let at = |ppm| us(Some(ran.ns(hist.quantile(ppm) as f64)));
    let max = us(Some(ran.ns(hist.max() as f64)));
    vec![at(500_000), at(990_000), at(999_000), max, hist.count().into()]
}

/// Depth-1 reads beside what two cores and this machine take by themselves.
fn floor(report: &mut Report, part: &Part<'_>) {
    let titles = ["what", "p50 us", "p99 us", "p99.9 us", "max us", "samples"];
    let name = part.sheet("depth 1 beside the floor");
    let mut sheet = Sheet::new(name, &titles);
    let single = |phase: &Phase| phase.kind == CLOSED && phase.depth == 1 && phase.stamped != 0;
    let Some((_, load)) = part.loads(single).into_iter().next() else { return };
    let reads = load.everything();
    let mut row = |what: &str, hist: &Hist| {
        let mut cells: Vec<Cell> = vec![what.into()];
        cells.extend(quantiles(part.ran, hist));
        sheet.row(cells);
    };
    row("reads, all windows", &reads);
    for (echo, when) in part.echoes.iter().zip(["before", "after"]) {
        row(&format!("a bare cache line there and back, {when}"), echo);
    }
    let echo = |ppm| {
        let seen = part.echoes.iter().filter(|echo| echo.count() != 0);
        let best = seen.map(|echo| echo.quantile(ppm)).min();
        best.map(|ticks| part.ran.ns(ticks as f64))
    };
    let read = |ppm| part.ran.ns(reads.quantile(ppm) as f64);
    let median = read(500_000);
    let gaps = Noise::of(part.ran);
    let gap = |ppm| gaps.as_ref().map(|noise| noise.floor_ns(part.ran, median, ppm));
    let stolen = |ppm| us(gap(ppm));
    // The floor: the bare line at this quantile, or at its median with the core's own gaps.
    let adds = |ppm| {
        let floor = echo(ppm)?.max(echo(500_000)? + gap(ppm)?);
        Some(read(ppm) - floor)
    };
    if part.adds_goal {
        let what = format!("us that driver and device add at p99 to depth-1 reads, {}", part.name);
        let measured = (reads.count() != 0).then(|| adds(990_000)).flatten();
        report.goal_most(what, measured.map(|ns| ns / 1e3), ADDS_GOAL_US);
    }
    sheet.row(vec![
        "our core's own gaps add".into(),
        stolen(500_000),
        stolen(990_000),
        stolen(999_000),
        us(gaps.as_ref().map(|noise| noise.longest_ns)),
        gaps.as_ref().map_or(0, |noise| noise.gaps).into(),
    ]);
    sheet.row(vec![
        "driver and device add to the greater of both".into(),
        us(adds(500_000)),
        us(adds(990_000)),
        us(adds(999_000)),
        Cell::None,
        Cell::None,
    ]);
    sheet.note(
        "a read needs two such ways and a half at least: doorbell, entry, data and completion; the \
         gaps are those of the same core, spinning alone in the same repetitions: the floor is the \
         line's quantile, or its median and the gaps'",
    );
    report.add(sheet);
}

fn bursts(report: &mut Report, part: &Part<'_>) {
    let titles = [
        "reads",
        "doorbells",
        "submit ticks",
        "reap ticks",
        "sum",
        "submit ns",
        "reap ns",
        "empty poll",
        "bursts",
        "dropped",
    ];
    let mut sheet = Sheet::new(part.sheet("bursts"), &titles);
    for run in part.ran.phases.iter().filter(|run| run.phase.kind == BURST) {
        let Some(cost) = Cost::of(run) else { continue };
        let (submit, reap) = (cost.submit.median(), cost.reap.median());
        let ns = |ticks: Option<f64>| Cell::maybe(ticks.map(|ticks| part.ran.ns(ticks)), 0);
        sheet.row(vec![
            u64::from(cost.size).into(),
            if run.phase.doorbell_each == 0 { "one" } else { "each" }.into(),
            Cell::maybe(submit, 0),
            Cell::maybe(reap, 0),
            Cell::maybe(submit.zip(reap).map(|(submit, reap)| submit + reap), 0),
            ns(submit),
            ns(reap),
            Cell::maybe(cost.empty_poll.median(), 1),
            cost.kept.into(),
            cost.dropped.into(),
        ]);
    }
    sheet.note(
        "a read; medians of bursts, then of repetitions: N submits, 100 us left alone, one reap; \
         two readings of the clock included",
    );
    report.add(sheet);
}

/// Mixes, hot spots, batches.
fn shapes(report: &mut Report, part: &Part<'_>) {
    let titles = ["load", "M/s", "p50 us", "p99 us", "p99.9 us", "max us", "samples"];
    let mut sheet = Sheet::new("shapes of load, memory", &titles);
    let shaped = |phase: &Phase| {
        phase.kind == BATCH
            || phase.kind == CLOSED
                && phase.stamped != 0
                && (phase.reads != 65_536 || matches!(phase.order, ZIPF | HOT))
    };
    for (run, load) in part.loads(shaped) {
        let rate = load.iops.median().map(|iops| iops / 1e6);
        let mut row = vec![phase_name(&run.phase).into(), Cell::maybe(rate, 2)];
        row.extend(quantiles(part.ran, &load.undisturbed()));
        sheet.row(row);
    }
    sheet.note("of batches the time is that of a whole batch, at most 32 in flight");
    report.add(sheet);
}

/// Arrivals at half of and at twice what a closed loop can do.
fn overload(report: &mut Report, part: &Part<'_>) {
    let titles = [
        "arrivals",
        "M/s",
        "served M/s",
        "turned away %",
        "waited at most",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "samples",
        "bound us",
    ];
    let mut sheet = Sheet::new("open loop, memory", &titles);
    for (run, load) in part.loads(|phase| phase.kind == OPEN) {
        let Some(open) = &load.open else { continue };
        let mut row = vec![
            format!("{}x", run.phase.rate_of_capacity_ppm as f64 / 1e6).into(),
            Cell::Float(open.rate / 1e6, 2),
            Cell::Float(load.wall_iops / 1e6, 2),
            Cell::Float(100.0 * open.rejected as f64 / open.arrivals.max(1) as f64, 1),
            open.backlog_most.into(),
        ];
        row.extend(quantiles(part.ran, &load.everything()));
        row.push(us(Some(open.bound_ns)));
        sheet.row(row);
    }
    sheet.note(
        "multiples of the closed loop's rate just before; Poisson; latency from the intended \
         start, nothing dropped; 128 may wait before 32 in flight; bound: all of them at \
         the rate served, which a core that was taken away adds its absence to",
    );
    report.add(sheet);
}

/// Driver and model on one core.
pub(crate) fn stepped(report: &mut Report, run: &SteppedRun, goals: bool) {
    let titles = ["batch", "submit ticks", "reap ticks", "sum", "goal", "model ticks"];
    let mut sheet = Sheet::new("stepped on one core", &titles);
    report.tsc(run.hz);
    for row in &run.rows {
        sheet.row(vec![
            u64::from(row.size).into(),
            Cell::maybe(row.submit.median(), 1),
            Cell::maybe(row.reap.median(), 1),
            Cell::maybe(row.sum(), 1),
            Cell::maybe(row.goal(), 0),
            Cell::maybe(row.model.median(), 1),
        ]);
        // A size that is not measured in turn has its goal here always.
        let here = goals || !in_turn::READS.contains(&row.size);
        if let Some(goal) = row.goal().filter(|_| here) {
            report.goal_most(format!("ticks a read, stepped, batch {}", row.size), row.sum(), goal);
        }
    }
    let poll = run.empty_poll.median();
    if goals {
        report.goal_most("ticks an empty poll, stepped", poll, EMPTY_POLL_GOAL);
    }
    sheet.note(format!(
        "a read, null namespace, completions posted before the reap; net of {:.0} ticks that two \
         readings of the clock take; an empty poll takes {:.1} ticks",
        run.stamp.median().unwrap_or(0.0),
        poll.unwrap_or(0.0)
    ));
    report.add(sheet);
}
