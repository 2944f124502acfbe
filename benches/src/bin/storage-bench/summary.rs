//! From samples to figures: what text, JSON, CSV and the page are made of.

use hybrid_benches::figures::Series;
use hybrid_benches::hist::Hist;

use crate::device::On;
use crate::launch::{PhaseRun, Ran};
use crate::wire::{
    ALL_READS, ALL_WRITES, BATCH, BURST, CLEAN_READS, CLEAN_WRITES, CLOSED, EXTRA, LEAST_CLEAN,
    NOISE, OPEN, Sample,
};

/// Below this share without work a side is full, in per cent.
const FULL_PERCENT: f64 = 10.0;

/// Percentiles that are printed, in millionths.
pub(crate) const PERCENTILES: [(u32, &str); 12] = [
    (10_000, "1"),
    (100_000, "10"),
    (250_000, "25"),
    (500_000, "50"),
    (750_000, "75"),
    (900_000, "90"),
    (950_000, "95"),
    (980_000, "98"),
    (990_000, "99"),
    (999_000, "99.9"),
    (999_900, "99.99"),
    (999_990, "99.999"),
];

/// A load's figures: closed, open, batches, futures.
pub(crate) struct Load {
    /// Operations a second in clean windows, one figure a repetition.
    pub(crate) iops: Series,
    /// Operations a second, everything counted.
    pub(crate) wall_iops: f64,
    pub(crate) write_share: f64,
    /// Of each repetition, in nanoseconds: average and quantiles.
    pub(crate) average_ns: Series,
    pub(crate) p50_ns: Series,
    pub(crate) p99_ns: Series,
    pub(crate) p999_ns: Series,
    /// Reads and writes of clean windows, and of all, in ticks.
    pub(crate) clean: [Hist; 2],
    pub(crate) all: [Hist; 2],
    pub(crate) kept: u64,
    pub(crate) dropped: u64,
    pub(crate) per_pass: Option<f64>,
    pub(crate) empty_percent: Option<f64>,
    pub(crate) model_idle_percent: Option<f64>,
    pub(crate) per_step: Option<f64>,
    pub(crate) full: &'static str,
    pub(crate) gaps: u64,
    pub(crate) stolen_ns: f64,
    pub(crate) longest_gap_ns: f64,
    /// Of an open loop.
    pub(crate) open: Option<OpenFigures>,
}

/// How the name of an instruction count ends that the gate took from the source.
pub(crate) const BY_GATE: &str = ", counted by the gate";

/// What an open loop adds.
pub(crate) struct OpenFigures {
    pub(crate) rate: f64,
    pub(crate) arrivals: u64,
    pub(crate) rejected: u64,
    pub(crate) backlog_most: u64,
    /// From the submission on, in ticks.
    pub(crate) service: Hist,
    /// What a full backlog in front of a full queue takes at the rate that was served.
    pub(crate) bound_ns: f64,
}

/// The core alone.
pub(crate) struct Noise {
    pub(crate) ns: f64,
    pub(crate) stolen_ns: f64,
    pub(crate) gaps: u64,
    pub(crate) longest_ns: f64,
    /// Of gaps, in ticks.
    pub(crate) hist: Hist,
    /// A step of the model that finds nothing, in ticks.
    pub(crate) empty_step: Option<f64>,
}

/// Our own cost, of bursts.
pub(crate) struct Cost {
    pub(crate) size: u32,
    /// Ticks an operation, one figure a repetition.
    pub(crate) submit: Series,
    pub(crate) reap: Series,
    pub(crate) empty_poll: Series,
    pub(crate) kept: u64,
    pub(crate) dropped: u64,
}

impl Load {
    pub(crate) fn of(ran: &Ran, run: &PhaseRun) -> Option<Self> {
        let samples = &run.samples;
        if samples.is_empty() {
            return None;
        }
        let enough = if run.phase.kind == CLOSED { LEAST_CLEAN } else { 1 };
        let good: Vec<&Sample> = samples.iter().filter(|s| s.kept >= enough).collect();
        let mut load = Self::sums(ran, run);
        for sample in &good {
            load.iops.push(rate(ran, sample.done, sample.ticks));
            load.latencies(ran, run, sample);
        }
        let figure = |f: &dyn Fn(&Sample) -> f64| {
            let all: Vec<f64> = good.iter().filter(|s| s.passes != 0).map(|s| f(s)).collect();
            hybrid_benches::figures::median(&all)
        };
        load.per_pass = figure(&|s| s.done as f64 / s.passes as f64);
        load.empty_percent = figure(&|s| 100.0 * s.empty as f64 / (s.empty + s.passes) as f64);
        if let Some(step) = Noise::of(ran).and_then(|noise| noise.empty_step) {
            load.model_idle_percent =
                figure(&|s| (100.0 * s.model_empty as f64 * step / s.ticks as f64).min(100.0));
            load.per_step = figure(&|s| s.done as f64 / s.model_busy.max(1) as f64);
        }
        load.full = full(ran.on, load.model_idle_percent, load.empty_percent);
        load.open = (run.phase.kind == OPEN).then(|| open(run, load.wall_iops));
        Some(load)
    }

    fn sums(ran: &Ran, run: &PhaseRun) -> Self {
        let sum = |f: &dyn Fn(&Sample) -> u64| run.samples.iter().map(f).sum::<u64>();
        let (done, ticks) = (sum(&|s| s.wall_done), sum(&|s| s.wall_ticks));
        let hist = |which: u32| run.hists[which as usize].clone();
        let longest = run.samples.iter().map(|s| s.longest_gap).max().unwrap_or(0);
        Self {
            iops: Series::default(),
            wall_iops: rate(ran, done, ticks).unwrap_or(0.0),
            write_share: sum(&|s| s.writes) as f64 / sum(&|s| s.wall_done + s.late).max(1) as f64,
            average_ns: Series::default(),
            p50_ns: Series::default(),
            p99_ns: Series::default(),
            p999_ns: Series::default(),
            clean: [hist(CLEAN_READS), hist(CLEAN_WRITES)],
            all: [hist(ALL_READS), hist(ALL_WRITES)],
            kept: sum(&|s| s.kept.into()),
            dropped: sum(&|s| s.dropped.into()),
            per_pass: None,
            empty_percent: None,
            model_idle_percent: None,
            per_step: None,
            full: "-",
            gaps: sum(&|s| s.gaps),
            stolen_ns: ran.ns(sum(&|s| s.stolen) as f64),
            longest_gap_ns: ran.ns(longest as f64),
            open: None,
        }
    }

    fn latencies(&mut self, ran: &Ran, run: &PhaseRun, sample: &Sample) {
        if sample.latencies == 0 {
            // Little's law: exact for a closed loop that is always full.
            if run.phase.kind != OPEN && sample.done != 0 {
                let each = sample.ticks as f64 * f64::from(run.phase.depth) / sample.done as f64;
                self.average_ns.push(Some(ran.ns(each)));
            }
            return;
        }
        let [sum, _, p50, p99, p999, _] = sample.latency.map(|ticks| ran.ns(ticks as f64));
        self.average_ns.push(Some(sum / sample.latencies as f64));
        self.p50_ns.push(Some(p50));
        self.p99_ns.push(Some(p99));
        self.p999_ns.push(Some(p999));
    }

    /// Reads and writes together, of clean windows; of all where there are no windows.
    pub(crate) fn undisturbed(&self) -> Hist {
        let clean = both(&self.clean);
        if clean.count() == 0 { both(&self.all) } else { clean }
    }

    /// Reads and writes together, of clean windows: none where there are no windows.
    pub(crate) fn clean_only(&self) -> Hist {
        both(&self.clean)
    }

    /// Reads and writes together, of all windows.
    pub(crate) fn everything(&self) -> Hist {
        both(&self.all)
    }

    /// How long an operation was in flight on average, by Little's law where the loop is closed.
    pub(crate) fn service_ns(&self, ran: &Ran, run: &PhaseRun) -> Option<f64> {
        match run.phase.kind {
            BATCH => None,
            OPEN => self.open.as_ref()?.service.mean().map(|ticks| ran.ns(ticks)),
            _ => (self.rate() > 0.0).then(|| f64::from(run.phase.depth) * 1e9 / self.rate()),
        }
    }

    /// The rate that counts: of clean windows; of everything where none was clean.
    pub(crate) fn rate(&self) -> f64 {
        self.iops.median().unwrap_or(self.wall_iops)
    }
}

fn both(hists: &[Hist; 2]) -> Hist {
    let mut both = hists[0].clone();
    both.merge(&hists[1]);
    both
}

fn rate(ran: &Ran, done: u64, ticks: u64) -> Option<f64> {
    (ticks != 0).then(|| done as f64 * ran.clock.hz() as f64 / ticks as f64)
}

fn full(on: On, idle: Option<f64>, empty: Option<f64>) -> &'static str {
    match (idle, empty) {
        (Some(idle), _) if idle < FULL_PERCENT => "the model's core",
        (_, Some(empty)) if empty < FULL_PERCENT => "our core",
        (Some(_), Some(_)) => "neither core: the way between them",
        (None, Some(_)) if on != On::Model => "not ours: the device's side, or the way to it",
        _ => "-",
    }
}

fn open(run: &PhaseRun, served: f64) -> OpenFigures {
    let sum = |f: &dyn Fn(&Sample) -> u64| run.samples.iter().map(f).sum::<u64>();
    // Arrivals were due within the phase's time; what waited then was served after it.
    let seconds = run.phase.duration_ns as f64 * run.samples.len() as f64 / 1e9;
    let waiting = f64::from(run.phase.backlog + run.phase.depth);
    OpenFigures {
        rate: sum(&|s| s.arrivals) as f64 / seconds,
        arrivals: sum(&|s| s.arrivals),
        rejected: sum(&|s| s.rejected),
        backlog_most: run.samples.iter().map(|s| s.backlog_most).max().unwrap_or(0),
        service: run.hists[EXTRA as usize].clone(),
        bound_ns: if served > 0.0 { waiting * 1e9 / served } else { 0.0 },
    }
}

impl Noise {
    pub(crate) fn of(ran: &Ran) -> Option<Self> {
        let run = ran.first(NOISE)?;
        let sum = |f: &dyn Fn(&Sample) -> u64| run.samples.iter().map(f).sum::<u64>();
        let longest = run.samples.iter().map(|s| s.longest_gap).max().unwrap_or(0);
        let steps = run.samples.iter().filter(|s| s.model_empty != 0);
        Some(Self {
            ns: ran.ns(sum(&|s| s.ticks) as f64),
            stolen_ns: ran.ns(sum(&|s| s.stolen) as f64),
            gaps: sum(&|s| s.gaps),
            longest_ns: ran.ns(longest as f64),
            hist: run.hists[EXTRA as usize].clone(),
            empty_step: steps.map(|s| s.ticks as f64 / s.model_empty as f64).reduce(f64::min),
        })
    }

    /// What an operation of `service_ns` would meet at this quantile if nothing but the core's own
    /// gaps delayed it, back to back: the gap of that rank, or none.
    pub(crate) fn floor_ns(&self, ran: &Ran, service_ns: f64, ppm: u32) -> f64 {
        if service_ns <= 0.0 || self.ns <= 0.0 {
            return 0.0;
        }
        let operations = self.ns / service_ns;
        let beyond = operations * (1.0 - f64::from(ppm) / 1e6);
        let gaps = self.gaps as f64;
        if gaps <= beyond {
            return 0.0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "0 to 1,000,000")]
        #[expect(clippy::cast_sign_loss, reason = "0 to 1,000,000")]
        let of_gaps = ((1.0 - beyond / gaps) * 1e6) as u32;
        ran.ns(self.hist.quantile(of_gaps) as f64)
    }
}

impl Cost {
    pub(crate) fn of(run: &PhaseRun) -> Option<Self> {
        if run.phase.kind != BURST || run.samples.is_empty() {
            return None;
        }
        let mut cost = Self {
            size: run.phase.batch,
            submit: Series::default(),
            reap: Series::default(),
            empty_poll: Series::default(),
            kept: run.samples.iter().map(|s| u64::from(s.kept)).sum(),
            dropped: run.samples.iter().map(|s| u64::from(s.dropped)).sum(),
        };
        for sample in run.samples.iter().filter(|s| s.kept != 0) {
            let each = |ticks: u64| Some(ticks as f64 / f64::from(run.phase.batch.max(1)));
            cost.submit.push(each(sample.submit));
            cost.reap.push(each(sample.reap));
            cost.empty_poll.push(Some(sample.polls_1000 as f64 / 1000.0));
        }
        Some(cost)
    }
}

/// A figure that two runs can be compared by: one value a repetition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// More is better.
    pub(crate) more: bool,
    /// Instructions are counted, not timed: they have no noise worth the name.
    pub(crate) instructions: bool,
    pub(crate) values: Vec<f64>,
}

impl Figure {
    pub(crate) fn time(name: impl Into<String>, unit: &'static str, series: &Series) -> Self {
        let values = series.0.clone();
        Self { name: name.into(), unit, more: false, instructions: false, values }
    }

    pub(crate) fn rate(name: impl Into<String>, series: &Series) -> Self {
        Self { more: true, ..Self::time(name, "1/s", series) }
    }
}

/// Instructions an operation of the hot paths, as the gate of `cargo xtask test --only
/// instructions` counted them for this source: they need no counters of the machine.
pub(crate) fn counted() -> Vec<Figure> {
    const GATE: &str = include_str!("../../../instructions.txt");
    let figure = |line: &str| {
        let (name, count) = line.split_once(" = ")?;
        Some(Figure {
            name: format!("instructions of {name}{BY_GATE}"),
            unit: "instructions",
            more: false,
            instructions: true,
            values: vec![count.parse().ok()?],
        })
    };
    GATE.lines().filter(|line| !line.starts_with('#')).filter_map(figure).collect()
}

/// The figures of a load and of a cost under a prefix.
pub(crate) fn load_figures(prefix: &str, load: &Load) -> Vec<Figure> {
    let name = |what: &str| format!("{prefix}{what}");
    let figures = vec![
        Figure::rate(name("iops"), &load.iops),
        Figure::time(name("latency average"), "ns", &load.average_ns),
        Figure::time(name("latency p50"), "ns", &load.p50_ns),
        Figure::time(name("latency p99"), "ns", &load.p99_ns),
    ];
    figures.into_iter().filter(|figure| !figure.values.is_empty()).collect()
}

pub(crate) fn cost_figures(prefix: &str, cost: &Cost) -> Vec<Figure> {
    let name = |what: &str| format!("{prefix}{what} of bursts of {}", cost.size);
    let figures = vec![
        Figure::time(name("submit"), "ticks", &cost.submit),
        Figure::time(name("complete"), "ticks", &cost.reap),
    ];
    figures.into_iter().filter(|figure| !figure.values.is_empty()).collect()
}
