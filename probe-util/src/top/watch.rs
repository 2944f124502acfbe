//! The partitions that are looked at, through their deaths and returns.

use std::collections::VecDeque;

use hybrid_abi::view::HistogramView;

use super::core_load::{CoreLoad, CoreLooks};
use crate::hosts::{RegionFile, Target, Which};
use crate::look::{Between, Look};

/// Looks whose latency is remembered for the sparkline.
const HISTORY: usize = 60;

/// All of them, in the order in which they were found.
#[derive(Debug)]
pub(super) struct Watch {
    which: Which,
    seen: Vec<Watched>,
}

/// One partition.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) host: u32,
    pub(super) program: String,
    pub(super) name: String,
    pub(super) cpu: u32,
    pub(super) pid: Option<u32>,
    pub(super) incarnation: u64,
    pub(super) device: String,
    pub(super) fallbacks: u64,
    /// Its region, while it is there: what holds it keeps its memory.
    region: Option<RegionFile>,
    before: Option<Look>,
    now: Option<Look>,
    cores: CoreLooks,
    /// p99 of reads (or of writes, or of passes) at each look, ns; 0 where there was none.
    pub(super) history: VecDeque<u64>,
}

impl Watch {
    pub(super) const fn new(which: Which) -> Self {
        Self { which, seen: Vec::new() }
    }

    pub(super) const fn len(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Watched> {
        self.seen.get(index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Watched> {
        self.seen.iter()
    }

    /// Finds out who is there, and looks at everyone.
    pub(super) fn refresh(&mut self) {
        let mut there = self.which.partitions();
        for watched in &mut self.seen {
            // A program that was started again is another host with the same partition.
            let same = there.iter().position(|target| watched.is(target));
            let again = same.or_else(|| {
                there.iter().position(|target| {
                    watched.region.is_none()
                        && target.program == watched.program
                        && target.name == watched.name
                })
            });
            match again {
                Some(index) => watched.found(there.swap_remove(index)),
                None => watched.gone(),
            }
        }
        there.sort_by(|a, b| (a.host, &a.name).cmp(&(b.host, &b.name)));
        self.seen.extend(there.into_iter().map(Watched::new));
        self.seen.iter_mut().for_each(Watched::look);
    }
}

impl Watched {
    fn new(target: Target) -> Self {
        Self {
            host: target.host,
            program: target.program,
            name: target.name,
            cpu: target.cpu,
            pid: target.pid,
            incarnation: target.incarnation,
            device: target.device,
            fallbacks: target.fallbacks,
            region: Some(target.region),
            before: None,
            now: None,
            cores: CoreLooks::default(),
            history: VecDeque::new(),
        }
    }

    fn is(&self, target: &Target) -> bool {
        self.host == target.host && self.name == target.name
    }

    /// It is there, or there again.
    fn found(&mut self, target: Target) {
        let same = self.host == target.host && self.incarnation == target.incarnation;
        if same && self.region.is_some() {
            self.fallbacks = target.fallbacks;
            return;
        }
        let history = std::mem::take(&mut self.history);
        *self = Self { history, ..Self::new(target) };
    }

    /// What was seen last stays on the screen.
    fn gone(&mut self) {
        self.region = None;
    }

    fn look(&mut self) {
        let Some(region) = &self.region else { return };
        match Look::take(region) {
            Ok(look) => {
                self.before = self.now.replace(look);
                self.cores.look(self.cpu, self.pid);
            }
            Err(_) => return self.gone(),
        }
        let p99 = self.between(false).filter(|between| between.before.is_some());
        let p99 = p99.and_then(|between| {
            let names = ["read_latency_ns", "write_latency_ns", "poll_to_poll_ns"];
            let some = |histogram: &HistogramView<'_>| histogram.count() != 0;
            let first = names.iter().find_map(|name| between.histogram(name).filter(some));
            first.map(|histogram| histogram.quantile(990_000))
        });
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(p99.unwrap_or(0));
    }

    /// The last look.
    pub(super) const fn now(&self) -> Option<&Look> {
        self.now.as_ref()
    }

    /// What came between the last two looks, or since its start.
    pub(super) fn between(&self, since_start: bool) -> Option<Between<'_>> {
        let before = if since_start { None } else { self.before.as_ref() };
        Some(Between { before, now: self.now.as_ref()? })
    }

    /// Its state, or that it is gone.
    pub(super) fn state(&self) -> &'static str {
        match (&self.region, &self.now) {
            (Some(_), Some(now)) => now.state_name(),
            (Some(_), None) => "starting",
            (None, _) => "gone",
        }
    }

    /// Who else was on its core between the last two looks.
    pub(super) fn core_load(&self) -> CoreLoad {
        self.cores.between()
    }
}
