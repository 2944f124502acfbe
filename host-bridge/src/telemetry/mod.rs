//! What operators see: figures for Prometheus, and a control socket.
//!
//! A [`crate::Runtime`] has one [`Telemetry`]. Each partition that it starts enters itself, with a
//! read-only descriptor of its region, and leaves at its end; supervisors add their counters. What
//! is exported is read out of the regions by `pread` at the moment somebody asks: nothing is
//! sampled between, and no memory is mapped, so that a partition's end cannot pull pages from
//! under a reader.
//!
//! | module | what |
//! |---|---|
//! | [`look`] | one look at a partition: header, state, metrics, tasks, copied |
//! | [`families`] | from metrics of regions to families of Prometheus: names, help, units |
//! | [`text`] | the text format, for the port and for node_exporter's textfile |
//! | [`http`], [`textfile`] | the two ways out |
//! | [`control`] | JSON-RPC on a socket: statistics, regions, restart, drain |
//! | [`statistics`] | figures as JSON, since a moment that a client chose |
//! | [`log`] | lines of a log as JSON |
//! | [`export`] | what a program's flags ask for, running until it is dropped |
//!
//! It never touches a partition's core: everything here runs on the host's threads.

pub mod control;
pub mod export;
pub mod families;
pub mod http;
pub mod log;
pub mod look;
pub mod statistics;
mod stopper;
pub mod text;
pub mod textfile;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use core_runtime::clock::Clock;

use self::control::Methods;
use self::look::{Look, LookError};
use crate::supervisor::counters::Counters;
use crate::supervisor::options::Requests;
use crate::sync::Mutex;

/// What is known of a partition beside its region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its CPU.
    pub cpu: u32,
    /// Counts its starts, from 1.
    pub incarnation: u64,
    /// Its process; `None` for a thread of the host.
    pub pid: Option<u32>,
    /// Its device, in words.
    pub device: Option<String>,
}

/// A partition that runs, as telemetry knows it. Clones are the same.
#[derive(Clone, Debug)]
pub struct Seen {
    identity: Arc<Identity>,
    region: Arc<OwnedFd>,
}

impl Seen {
    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A descriptor of its region that cannot write.
    #[must_use]
    pub fn region(&self) -> BorrowedFd<'_> {
        self.region.as_fd()
    }

    /// Looks.
    ///
    /// # Errors
    /// [`LookError`].
    pub fn look(&self) -> Result<Look, LookError> {
        Look::take(self.region.as_fd())
    }
}

/// One name, with or without a partition at the moment.
#[derive(Debug)]
struct Place {
    name: String,
    cpu: u32,
    seen: Option<Seen>,
}

#[derive(Debug, Default)]
struct State {
    places: Vec<Place>,
    counters: Vec<Counters>,
    requests: Vec<(String, Requests)>,
    methods: Vec<Arc<dyn Methods>>,
    resets: Vec<(String, Arc<Look>)>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    begun: Instant,
    state: Mutex<State>,
}

/// Everything that a host knows to tell. Clones are the same.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Shared>);

impl Telemetry {
    /// Of nobody yet; the clock is the one that partitions stamp with.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Shared { clock, begun: Instant::now(), state }))
    }

    /// The clock that partitions stamp with.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Since when there is something to tell.
    #[must_use]
    pub fn begun(&self) -> Instant {
        self.0.begun
    }

    /// Exports a supervisor's counters too.
    pub fn add_counters(&self, counters: &Counters) {
        self.with(|state| state.counters.push(counters.clone()));
    }

    /// Lets the control socket ask this partition's supervisor for a restart or the end.
    pub fn add_requests(&self, partition: &str, requests: &Requests) {
        self.with(|state| {
            state.requests.retain(|(name, _)| name != partition);
            state.requests.push((partition.to_owned(), requests.clone()));
        });
    }

    /// Adds methods of the program's own to the control socket.
    pub fn add_methods(&self, methods: impl Methods + 'static) {
        self.with(|state| state.methods.push(Arc::new(methods)));
    }

    /// Methods beside the host's own.
    pub(crate) fn methods(&self) -> Vec<Arc<dyn Methods>> {
        self.with(|state| state.methods.clone())
    }

    /// From now on this partition's statistics are counted from `look`.
    pub(crate) fn reset(&self, partition: &str, look: Look) {
        self.with(|state| {
            state.resets.retain(|(name, _)| name != partition);
            state.resets.push((partition.to_owned(), Arc::new(look)));
        });
    }

    /// Where this partition's statistics are counted from.
    pub(crate) fn reset_of(&self, partition: &str) -> Option<Arc<Look>> {
        self.with(|state| {
            let found = state.resets.iter().find(|(name, _)| name == partition);
            found.map(|(_, look)| Arc::clone(look))
        })
    }

    /// The partitions that run.
    #[must_use]
    pub fn partitions(&self) -> Vec<Seen> {
        self.with(|state| state.places.iter().filter_map(|place| place.seen.clone()).collect())
    }

    /// The partition of that name, if it runs.
    #[must_use]
    pub fn partition(&self, name: &str) -> Option<Seen> {
        self.partitions().into_iter().find(|seen| seen.identity.name == name)
    }

    /// Names and CPUs of all that ever ran, and whether they do.
    #[must_use]
    pub fn names(&self) -> Vec<(String, u32, bool)> {
        self.with(|state| {
            let name = |place: &Place| (place.name.clone(), place.cpu, place.seen.is_some());
            state.places.iter().map(name).collect()
        })
    }

    /// The supervisors' counters.
    #[must_use]
    pub fn counters(&self) -> Vec<Counters> {
        self.with(|state| state.counters.clone())
    }

    /// The way to a partition's supervisor.
    #[must_use]
    pub fn requests(&self, partition: &str) -> Option<Requests> {
        self.with(|state| {
            let found = state.requests.iter().find(|(name, _)| name == partition);
            found.map(|(_, requests)| requests.clone())
        })
    }

    /// A partition has begun to run; it has ended when the answer is dropped.
    pub(crate) fn enter(&self, identity: Identity, region: OwnedFd) -> Entered {
        let (name, cpu) = (identity.name.clone(), identity.cpu);
        let identity = Arc::new(identity);
        let seen = Seen { identity: Arc::clone(&identity), region: Arc::new(region) };
        self.with(|state| {
            let known = state.places.iter_mut().find(|place| place.name == name);
            match known {
                Some(place) => (place.cpu, place.seen) = (cpu, Some(seen)),
                None => state.places.push(Place { name, cpu, seen: Some(seen) }),
            }
        });
        Entered { telemetry: self.clone(), identity }
    }

    fn leave(&self, identity: &Arc<Identity>) {
        self.with(|state| {
            for place in &mut state.places {
                // The next incarnation may have entered already.
                let same = |seen: &Seen| Arc::ptr_eq(&seen.identity, identity);
                if place.seen.as_ref().is_some_and(same) {
                    place.seen = None;
                }
            }
        });
    }

    fn with<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        what(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A partition's entry; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Entered {
    telemetry: Telemetry,
    identity: Arc<Identity>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.telemetry.leave(&self.identity);
    }
}
