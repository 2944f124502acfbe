//! One look at a partition, and what two of them say of the time between.

use anyhow::{Context as _, Result};
use hybrid_abi::event;
use hybrid_abi::region::PartKind;
use hybrid_abi::state::PartitionState;
use hybrid_abi::tasks::{TaskFigures, name, rows};
use hybrid_abi::view::{HistogramView, MetricsView};
use zerocopy::FromBytes;

use crate::hosts::RegionFile;

/// What a region said at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) state: PartitionState,
    tsc_hz: u64,
    metrics: Vec<u8>,
    tasks: Vec<u8>,
    names: Vec<u8>,
}

impl Look {
    /// Takes one.
    ///
    /// # Errors
    /// If it cannot be read, or is not what it should be.
    pub(crate) fn take(region: &RegionFile) -> Result<Self> {
        let state = region.read_part(PartKind::STATE, "state")?;
        let (state, _) = PartitionState::read_from_prefix(&state)
            .ok()
            .context("the region's state part is too short")?;
        let metrics = region.read_part(PartKind::METRICS, "metrics")?;
        MetricsView::parse(&metrics).context("the region's metrics")?;
        Ok(Self {
            state,
            tsc_hz: region.header().tsc_hz.max(1),
            metrics,
            tasks: region.read_part(PartKind::TASKS, "tasks")?,
            names: region.read_part(PartKind::TASK_NAMES, "task-names")?,
        })
    }

    /// The metrics.
    pub(crate) fn metrics(&self) -> Option<MetricsView<'_>> {
        // Checked when it was taken.
        MetricsView::parse(&self.metrics).ok()
    }

    /// The counter or gauge of that name, 0 where there is none.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.metrics().map_or(0, |metrics| metrics.number(name))
    }

    /// The histogram of that name.
    pub(crate) fn histogram(&self, name: &str) -> Option<HistogramView<'_>> {
        self.metrics()?.histogram(name)
    }

    /// Ticks as nanoseconds.
    pub(crate) fn ns(&self, ticks: u64) -> u64 {
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(self.tsc_hz);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Its tasks and their names.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = (String, TaskFigures)> + '_ {
        rows(&self.tasks).map(|row| {
            let name = name(&self.names, row.task);
            let name = if name.as_str().is_empty() { "?" } else { name.as_str() };
            (name.to_owned(), row)
        })
    }

    /// The state's name.
    pub(crate) const fn state_name(&self) -> &'static str {
        match self.state.state {
            0 => "unborn",
            event::STATE_STARTING => "starting",
            event::STATE_RUNNING => "running",
            event::STATE_STOPPING => "stopping",
            event::STATE_STOPPED => "stopped",
            event::STATE_FAILED => "failed",
            event::STATE_NEEDS_RESET => "needs reset",
            _ => "unknown",
        }
    }
}

/// Two looks at one incarnation, or the one there is, since its beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Between<'a> {
    pub(crate) before: Option<&'a Look>,
    pub(crate) now: &'a Look,
}

impl Between<'_> {
    /// By how much a counter grew; one that went back has begun anew.
    pub(crate) fn grown(&self, name: &str) -> u64 {
        let (now, then) = (self.now.number(name), self.before.map_or(0, |look| look.number(name)));
        now.checked_sub(then).unwrap_or(now)
    }

    /// Nanoseconds between the looks, by the partition's own account: useful, empty and stolen.
    pub(crate) fn elapsed_ns(&self) -> u64 {
        let parts = ["useful_ns", "empty_ns", "stolen_ns"];
        parts.iter().map(|part| self.grown(part)).fold(0, u64::saturating_add)
    }

    /// A counter's growth in a second.
    pub(crate) fn rate(&self, name: &str) -> u64 {
        per_second(self.grown(name), self.elapsed_ns())
    }

    /// A time's share, in percent.
    pub(crate) fn share(&self, name: &str) -> f64 {
        percent(self.grown(name), self.elapsed_ns())
    }

    /// A histogram of what came between.
    pub(crate) fn histogram(&self, name: &str) -> Option<HistogramView<'_>> {
        let before = self.before.and_then(|look| look.histogram(name));
        Some(self.now.histogram(name)?.since(before))
    }

    /// What the tasks did between, the busiest first.
    pub(crate) fn tasks(&self) -> Vec<TaskRow> {
        let before: Vec<_> = self.before.into_iter().flat_map(Look::tasks).collect();
        let elapsed = self.elapsed_ns();
        let mut table: Vec<_> = self
            .now
            .tasks()
            .map(|(name, row)| {
                let then = before.iter().find(|(_, then)| then.task == row.task);
                // Another task may have the place now.
                let then = then.filter(|(_, then)| {
                    then.polls <= row.polls && then.total_ticks <= row.total_ticks
                });
                let then = then.map(|(_, then)| *then).unwrap_or_default();
                let spent = self.now.ns(row.total_ticks - then.total_ticks);
                TaskRow {
                    share: percent(spent, elapsed),
                    polls: per_second(row.polls - then.polls, elapsed),
                    overruns: row.overruns.saturating_sub(then.overruns),
                    longest_ns: self.now.ns(row.longest_ticks),
                    budget_ns: self.now.ns(row.budget_ticks),
                    name,
                    figures: row,
                }
            })
            .collect();
        table.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.figures.task.cmp(&b.figures.task)));
        table
    }
}

/// What one task did.
#[derive(Clone, Debug)]
pub(crate) struct TaskRow {
    pub(crate) name: String,
    pub(crate) figures: TaskFigures,
    /// Percent of the time.
    pub(crate) share: f64,
    /// A second.
    pub(crate) polls: u64,
    pub(crate) overruns: u64,
    pub(crate) longest_ns: u64,
    pub(crate) budget_ns: u64,
}

impl TaskRow {
    /// The state's name.
    pub(crate) const fn state_name(&self) -> &'static str {
        use hybrid_abi::crash::program as p;
        match self.figures.state {
            0 => "ended",
            p::TASK_WAITING => "waiting",
            p::TASK_READY => "ready",
            p::TASK_RUNNING => "running",
            p::TASK_DONE => "done",
            _ => "unknown",
        }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn per_second(count: u64, ns: u64) -> u64 {
    let rate = u128::from(count) * 1_000_000_000 / u128::from(ns.max(1));
    if ns == 0 { 0 } else { u64::try_from(rate).unwrap_or(u64::MAX) }
}
