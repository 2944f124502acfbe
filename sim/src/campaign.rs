//! Many runs, one seed after the other, and what they reached together.

use std::fmt;
use std::time::{Duration, Instant};

use nvme_model::Rng;

use crate::catalogue::CATALOGUE;
use crate::plan::{Plan, RUN_WITH_EACH, Workload};
use crate::shared::Reached;
use crate::world::{Outcome, Watch, run};

/// How the runs of a campaign are drawn.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Seed of the first run; each further one adds one.
    pub seed: u64,
    /// Operations of a run.
    pub run_ops: u64,
    /// The workload of every run; none takes turns.
    pub workload: Option<Workload>,
    /// Everything that may vary is drawn.
    pub swarm: bool,
    /// Only these faults, by name.
    pub faults: Option<Vec<String>>,
}

impl Shape {
    /// Run `number` of the campaign.
    ///
    /// # Errors
    /// A fault whose name is not known.
    pub fn plan(&self, number: u64) -> Result<Plan, String> {
        let seed = self.seed.wrapping_add(number);
        let turn = usize::try_from(seed % Workload::ALL.len() as u64).unwrap_or(0);
        let workload = self.workload.unwrap_or(Workload::ALL[turn].1);
        let mut plan = if self.swarm {
            let mut plan = Plan::swarm(seed, self.run_ops);
            plan.workload = self.workload.unwrap_or(plan.workload);
            plan
        } else {
            Plan::ordinary(seed, self.run_ops, workload)
        };
        if let Some(names) = &self.faults {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            plan.only_faults(&names)?;
        }
        Ok(plan)
    }
}

/// When a campaign ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After so many commands.
    Commands(u64),
    /// After so long.
    Time(Duration),
    /// After so many runs.
    Runs(u64),
    /// When somebody stops it.
    Never,
}

/// What the runs did together.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// Runs.
    pub runs: u64,
    /// I/O commands.
    pub commands: u64,
    /// Operations.
    pub ops: u64,
    /// Faults and blows.
    pub faults: u64,
    /// Blocks that were read and compared.
    pub blocks: u64,
    /// Spoilt blocks that the stamps gave away.
    pub caught: u64,
    /// Runs that were wrong.
    pub violations: u64,
    /// Sum of hashes of the runs' trace hashes: in whatever order and by whomever they were made.
    pub trace_hash: u64,
    /// The same of the runs' state hashes.
    pub state_hash: u64,
    /// Real time.
    pub took: Duration,
    /// What was reached.
    pub reached: Reached,
}

impl Total {
    /// Adds a run.
    pub fn add(&mut self, outcome: &Outcome) {
        let mix = |sum: u64, hash: u64| sum.wrapping_add(Rng::new(hash).next_u64());
        self.runs += 1;
        self.commands += outcome.commands;
        self.ops += outcome.ops;
        self.faults += outcome.faults;
        self.blocks += outcome.seen.blocks;
        self.caught += outcome.seen.caught;
        self.violations += u64::from(outcome.violation.is_some());
        self.trace_hash = mix(self.trace_hash, outcome.trace_hash);
        self.state_hash = mix(self.state_hash, outcome.state_hash);
        for (name, count) in &outcome.reached {
            *self.reached.entry(name.clone()).or_default() += count;
        }
    }

    /// Adds the runs of another campaign.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.commands += other.commands;
        self.ops += other.ops;
        self.faults += other.faults;
        self.blocks += other.blocks;
        self.caught += other.caught;
        self.violations += other.violations;
        self.trace_hash = self.trace_hash.wrapping_add(other.trace_hash);
        self.state_hash = self.state_hash.wrapping_add(other.state_hash);
        for (name, count) in &other.reached {
            *self.reached.entry(name.clone()).or_default() += count;
        }
    }

    /// Every fault that struck, with how often, the most frequent ones first.
    #[must_use]
    pub fn faults_by_kind(&self) -> String {
        let count = |name: &str| self.reached.get(&format!("fault {name}")).copied().unwrap_or(0);
        let mut kinds: Vec<_> =
            CATALOGUE.iter().map(|kind| (count(kind.name), kind.name)).collect();
        kinds.retain(|(count, _)| *count != 0);
        kinds.sort_by(|a, b| b.cmp(a));
        let kinds: Vec<_> = kinds.iter().map(|(count, name)| format!("{name} {count}")).collect();
        if kinds.is_empty() {
            return "no faults".to_owned();
        }
        format!("faults by kind: {}", kinds.join(", "))
    }

    /// Commands a second of real time.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let nanos = self.took.as_nanos().max(1);
        u64::try_from(u128::from(self.commands) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }

    /// What a campaign must have reached by now and has not: every fault that was named, however
    /// short it was; with every fault, all that is reachable from a length on.
    #[must_use]
    pub fn missing(&self, shape: &Shape) -> Vec<String> {
        let mut wanted: Vec<String> = BASIC.iter().map(|name| (*name).to_owned()).collect();
        let named = shape.faults.iter().flatten();
        wanted.extend(named.map(|name| format!("fault {name}")));
        let whole = shape.faults.is_none() && !shape.swarm && self.commands >= ENOUGH;
        // Only what is drawn for every run can be relied on.
        let swarm = shape.faults.is_none()
            && shape.swarm
            && shape.workload.is_none()
            && shape.run_ops >= RUN_WITH_EACH;
        let (mut words, mut all_faults) = (Vec::new(), false);
        if whole {
            words.extend(WHOLE);
            all_faults = true;
        }
        if whole && self.commands >= MUCH {
            words.extend(RARE);
        }
        if swarm && self.commands >= SWARM_FAULTS {
            all_faults = true;
        }
        if swarm && self.commands >= SWARM_ENOUGH {
            words.extend(WHOLE.iter().chain(&RARE).chain(&SWARM).copied());
        }
        wanted.extend(words.into_iter().map(str::to_owned));
        if all_faults {
            wanted.extend(CATALOGUE.iter().map(|kind| format!("fault {}", kind.name)));
        }
        wanted.retain(|name| self.reached.get(name).is_none_or(|count| *count == 0));
        wanted
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In hundredths of a percent.
        let share = (self.faults * 10_000).checked_div(self.commands).unwrap_or(0);
        write!(
            f,
            "{} runs, {} commands, {} faults ({}.{:02} %), {} blocks compared, {} spoilt ones \
             caught, {} violations, {} s, {} commands/s",
            self.runs,
            self.commands,
            self.faults,
            share / 100,
            share % 100,
            self.blocks,
            self.caught,
            self.violations,
            self.took.as_secs(),
            self.rate()
        )
    }
}

/// What every run reaches, or it did nothing.
const BASIC: [&str; 3] =
    ["operation good", "state starting -> ready", "state ready -> shutting down"];

/// Commands from which on an ordinary campaign reaches all that is reachable.
const ENOUGH: u64 = 1_000_000;

/// The same for what is rare in it.
const MUCH: u64 = 20_000_000;

/// Commands from which on a swarm's runs, of which many lack a fault, have had each of them, and
/// from which on they have reached all that is in the lists. Of 1.3 million commands each, 100
/// parts of campaigns from five seeds, 97 and more had each fault, and 41 and more each word.
const SWARM_FAULTS: u64 = 10_000_000;
const SWARM_ENOUGH: u64 = 50_000_000;

/// What takes an ordinary campaign longer: a queue that cannot be made anew; a log page that is not
/// answered while I/O waits, and no other reset before its deadline.
const RARE: [&str; 2] = ["error reset: queue", "error reset: stuck admin command"];

/// What only a swarm reaches: devices and drivers that are small, slow, or alone.
const SWARM: [&str; 8] = [
    "error reset: rogue",
    "namespace refused",
    "out of dma memory",
    "queue full",
    "supervision over: crashed",
    "supervision over: device-gone",
    "supervision over: killed",
    "supervision over: not-started",
];

/// States, transitions and events that an ordinary campaign reaches.
const WHOLE: [&str; 69] = [
    "abort",
    "abort refused",
    "alarm over",
    "alarm: silent",
    "alarm: stopped",
    "answer taken after a death",
    "asked for a dump",
    "atomic write compared",
    "atomic write compared after a power cut",
    "back to the device",
    "bridge request",
    "bridge request cancelled",
    "bring-up failed",
    "cached write kept by a power cut",
    "cached write lost by a power cut",
    "command lost in a reset",
    "command past its deadline",
    "controller reset",
    "device not free in time",
    "end: crashed",
    "end: device-gone",
    "end: done",
    "end: killed",
    "error bridge",
    "error gone",
    "error namespace refused",
    "error not ready",
    "error reset: asked for",
    "error reset: event",
    "error reset: fatal status",
    "error reset: not ready",
    "error reset: stuck command",
    "error status",
    "error timed out",
    "event",
    "event held back",
    "fell back",
    "future dropped in flight",
    "ignored: cid beyond",
    "ignored: cid of a free slot",
    "ignored: duplicate",
    "ignored: old generation",
    "ignored: sqid",
    "killed by its supervisor",
    "new partition",
    "operation dropped",
    "operation failed",
    "operation lost with its partition",
    "queue reset",
    "read shows an earlier one",
    "read shows the later of several versions",
    "restart after a delay",
    "restart decided",
    "retry",
    "ring to the partition full",
    "spoilt block caught",
    "sqhd that cannot be",
    "start refused",
    "started by hand",
    "state ready -> failed",
    "state ready -> resetting",
    "state resetting -> failed",
    "state resetting -> ready",
    "state shutting down -> failed",
    "state shutting down -> off",
    "state starting -> failed",
    "supervision over: crash loop",
    "supervision over: done",
    "supervision over: not fenced",
];

/// Runs until the limit or the first violation, of which it returns the plan and what was wrong.
/// `each` hears of every run and says whether to go on.
///
/// # Errors
/// A fault whose name is not known.
pub fn campaign(
    shape: &Shape,
    limit: Limit,
    mut each: impl FnMut(&Total, &Plan, &Outcome) -> bool,
) -> Result<(Total, Option<(Plan, String)>), String> {
    let mut total = Total::default();
    let start = Instant::now();
    for number in 0.. {
        let plan = shape.plan(number)?;
        let outcome = run(&plan, Watch::default());
        total.add(&outcome);
        total.took = start.elapsed();
        let goes_on = each(&total, &plan, &outcome);
        if let Some(what) = outcome.violation {
            return Ok((total, Some((plan, what))));
        }
        let over = match limit {
            Limit::Commands(commands) => total.commands >= commands,
            Limit::Time(time) => total.took >= time,
            Limit::Runs(runs) => total.runs >= runs,
            Limit::Never => false,
        };
        if over || !goes_on {
            break;
        }
    }
    Ok((total, None))
}
