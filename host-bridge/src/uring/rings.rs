//! The three rings of a reactor.
//!
//! ```text
//!   latency   looked at first, never waited on        SQPOLL thread ── shared by all three
//!      │ its descriptor is polled on
//!   main      flushes, zeros, transfers; the reactor blocks here when it is idle
//!   poll      transfers with IOPOLL, where the storage takes it
//! ```
//! Made on the reactor's thread, which is the only one that submits. What the kernel does not take
//! is left out step by step ([`super::features`]).

use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use hybrid_shm::Span;
use rustix::io::Errno;

use super::error::UringError;
use super::features::{Kernel, Settled, Step, settle};
use crate::sys::uring::{Features, File, Opcode, Ring, RingOptions, SqPoll};

/// What is wanted of the kernel's submission thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqPollWish {
    /// Where it runs; anywhere without.
    pub cpu: Option<u32>,
    /// How long it looks for work before it sleeps.
    pub idle: Duration,
}

/// What the rings should be like.
#[derive(Clone, Debug)]
pub struct RingsWish {
    /// Entries of each submission queue.
    pub entries: u32,
    /// A thread of the kernel takes submissions.
    pub sqpoll: Option<SqPollWish>,
    /// A third ring, with IOPOLL.
    pub iopoll: bool,
    /// Entries of 128 bytes on main and poll: NVMe commands.
    pub big: bool,
    /// Let through what a reactor uses, and nothing else.
    pub restricted: bool,
    /// Memory to register.
    pub buffers: Vec<Span<'static>>,
    /// Files to register.
    pub files: Vec<RawFd>,
    /// Buffers that the kernel picks for datagrams on the latency ring: page-aligned memory that
    /// begins with its entries, and how many there are.
    pub receive: Option<(Span<'static>, u16)>,
}

impl Default for RingsWish {
    fn default() -> Self {
        Self {
            entries: 256,
            sqpoll: None,
            iopoll: false,
            big: false,
            restricted: true,
            buffers: Vec::new(),
            files: Vec::new(),
            receive: None,
        }
    }
}

/// Which ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The latency ring.
    Latency,
    /// The main ring.
    Main,
    /// The poll ring.
    Poll,
}

/// The rings.
#[derive(Debug)]
pub struct Rings {
    /// Never blocks, looked at first.
    pub latency: Ring,
    /// Blocks when idle.
    pub main: Ring,
    /// With IOPOLL.
    pub poll: Option<Ring>,
    /// Whether the wish's buffers are registered with main and poll, numbered as they came.
    pub fixed_buffers: bool,
    files: Option<Vec<RawFd>>,
    /// What was left out.
    pub steps: Vec<Step>,
}

/// Everything that a reactor and its sources do.
const OPERATIONS: [Opcode; 11] = [
    Opcode::Nop,
    Opcode::Read,
    Opcode::ReadFixed,
    Opcode::Write,
    Opcode::WriteFixed,
    Opcode::Sync,
    Opcode::Zero,
    Opcode::Poll,
    Opcode::Recv,
    Opcode::Cancel,
    Opcode::UringCmd,
];

/// The group of the receive buffers; a latency ring has one.
pub(super) const RECEIVE_GROUP: u16 = 1;

/// What is made, and what was lost on the way.
struct Maker<'a> {
    wish: &'a RingsWish,
    kernel: Kernel,
    steps: Vec<Step>,
    attach: Option<RawFd>,
}

impl Maker<'_> {
    fn options(&self, features: Features) -> RingOptions {
        let entries = self.wish.entries;
        let (cpu, idle) = match self.wish.sqpoll {
            Some(wish) => (wish.cpu, wish.idle),
            None => (None, Duration::ZERO),
        };
        RingOptions {
            entries,
            completions: entries.saturating_mul(4),
            features,
            sqpoll: SqPoll { cpu, idle, attach: self.attach },
        }
    }

    /// Makes a ring with as much of `wish` as the kernel takes.
    fn make(&mut self, wish: Features, needed: Features) -> Result<Ring, UringError> {
        let attempt = |features| Ring::new(&self.options(features));
        let Settled { made, steps, .. } = settle(wish, needed, &self.kernel, attempt)?;
        for step in steps {
            if !self.steps.contains(&step) {
                self.steps.push(step);
            }
        }
        Ok(made)
    }

    fn leave_out(&mut self, feature: Features, errno: Errno) {
        let step = Step::without(feature, format!("registering failed ({errno})"));
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
    }
}

/// Whether this process may have a ring at all: makes one and drops it.
///
/// # Errors
/// [`UringError`] that says who forbids it.
pub fn look() -> Result<(), UringError> {
    let sqpoll = SqPoll { cpu: None, idle: Duration::ZERO, attach: None };
    let features = Features::empty();
    let plain = RingOptions { entries: 4, completions: 8, features, sqpoll };
    Ring::new(&plain).map(drop).map_err(|errno| Kernel::read(Path::new("/")).explain(errno))
}

impl Rings {
    /// Makes them, on the thread that will use them.
    ///
    /// # Errors
    /// [`UringError`] if there is no io_uring, or not what the wish cannot do without.
    pub fn new(wish: &RingsWish) -> Result<Self, UringError> {
        let kernel = Kernel::read(Path::new("/"));
        let mut maker = Maker { wish, kernel, steps: Vec::new(), attach: None };
        let big = if wish.big { Features::BIG } else { Features::empty() };
        let common = if wish.restricted { Features::RESTRICTED } else { Features::empty() };
        let common = match wish.sqpoll {
            Some(SqPollWish { cpu, .. }) => {
                let pinned = if cpu.is_some() { Features::SQPOLL_CPU } else { Features::empty() };
                common | Features::SQPOLL | pinned
            }
            None => common | Features::SINGLE_ISSUER,
        };
        // Without SQPOLL: completions wait for the thread, which looks at a flag in memory.
        let deferred = match wish.sqpoll {
            Some(_) => Features::empty(),
            None => Features::DEFER_TASKRUN,
        };
        let main = maker.make(common | deferred, big)?;
        maker.attach = main.features().contains(Features::SQPOLL).then(|| main.fd());
        let attach = if maker.attach.is_some() { Features::ATTACH } else { Features::empty() };
        let cooperative = match wish.sqpoll {
            Some(_) => Features::empty(),
            None => Features::COOP_TASKRUN,
        };
        let latency = maker.make(common | attach | cooperative, Features::empty())?;
        let poll = if wish.iopoll {
            let ring = maker.make(common | attach | Features::IOPOLL, big)?;
            ring.features().contains(Features::IOPOLL).then_some(ring)
        } else {
            None
        };
        Self { latency, main, poll, fixed_buffers: false, files: None, steps: Vec::new() }
            .registered(maker)
    }

    /// Registers buffers and files with the rings of storage, then closes all to everything else.
    fn registered(mut self, mut maker: Maker<'_>) -> Result<Self, UringError> {
        let wish = maker.wish;
        if !wish.buffers.is_empty() {
            match self.storage(|ring| ring.register_buffers(&wish.buffers)) {
                Ok(()) => self.fixed_buffers = true,
                Err(errno) => maker.leave_out(Features::FIXED_BUFFERS, errno),
            }
        }
        if !wish.files.is_empty() {
            match self.storage(|ring| ring.register_files(&wish.files)) {
                Ok(()) => self.files = Some(wish.files.clone()),
                Err(errno) => maker.leave_out(Features::FIXED_FILES, errno),
            }
        }
        if let Some((memory, count)) = wish.receive {
            let registered = self.latency.register_buffer_ring(memory, count, RECEIVE_GROUP);
            let what = "registering receive buffers (it needs Linux 5.19)";
            registered.map_err(|errno| UringError::Ring { what, errno })?;
        }
        self.each(|ring| {
            if !ring.features().contains(Features::RESTRICTED) {
                return Ok(());
            }
            // A kernel may lack an operation that another one has.
            let known: Vec<_> =
                OPERATIONS.into_iter().filter(|opcode| ring.knows(*opcode)).collect();
            ring.restrict(&known)
        })
        .map_err(|errno| UringError::Ring { what: "restricting a ring", errno })?;
        self.steps = maker.steps;
        Ok(self)
    }

    /// Calls `f` with every ring; ends at the first error.
    fn each<E>(&self, mut f: impl FnMut(&Ring) -> Result<(), E>) -> Result<(), E> {
        f(&self.latency)?;
        self.storage(f)
    }

    /// Calls `f` with the rings that storage is driven by: main and poll.
    fn storage<E>(&self, mut f: impl FnMut(&Ring) -> Result<(), E>) -> Result<(), E> {
        f(&self.main)?;
        self.poll.as_ref().map_or(Ok(()), f)
    }

    /// The file `fd` as operations on main and poll name it.
    #[must_use]
    pub fn file(&self, fd: RawFd) -> File {
        let places = self.files.iter().flatten();
        let place = places.zip(0..).find(|(registered, _)| **registered == fd);
        place.map_or(File::Fd(fd), |(_, place)| File::Fixed(place))
    }

    /// A ring by name; the main ring where there is no poll ring.
    pub fn get(&mut self, which: Which) -> &mut Ring {
        match which {
            Which::Latency => &mut self.latency,
            Which::Main => &mut self.main,
            Which::Poll => match &mut self.poll {
                Some(ring) => ring,
                None => &mut self.main,
            },
        }
    }

    /// Operations in flight on all of them.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        let polled = self.poll.as_ref().map_or(0, Ring::in_flight);
        self.latency.in_flight() + self.main.in_flight() + polled
    }

    /// Calls of `io_uring_enter` so far.
    #[must_use]
    pub fn enters(&self) -> u64 {
        let polled = self.poll.as_ref().map_or(0, Ring::enters);
        self.latency.enters() + self.main.enters() + polled
    }

    /// What they are, in a few words: `SQPOLL, registered buffers and files`.
    #[must_use]
    pub fn describe(&self) -> String {
        let features = self.main.features();
        let mut words = Vec::new();
        if features.contains(Features::SQPOLL) {
            words.push("SQPOLL");
        }
        if self.poll.is_some() {
            words.push("IOPOLL");
        }
        if self.fixed_buffers {
            words.push("registered buffers");
        }
        if self.files.is_some() {
            words.push("registered files");
        }
        if words.is_empty() { "plain rings".to_owned() } else { words.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_conventions::testing::skipped;
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    #[test]
    fn memory_is_registered_with_the_rings_of_storage_alone_and_never_again() {
        let memory = hybrid_shm::leak_aligned(4096, 4096);
        let wish = RingsWish { buffers: vec![memory], restricted: false, ..RingsWish::default() };
        let rings = Rings::new(&wish).expect("io_uring is there");
        assert!(rings.fixed_buffers);
        // A second registration is refused where there is a first.
        assert_eq!(rings.main.register_buffers(&[memory]), Err(Errno::BUSY));
        assert_eq!(rings.latency.register_buffers(&[memory]), Ok(()));
        let rings = Rings::new(&RingsWish { restricted: true, ..wish }).expect("restrictions");
        assert!(rings.latency.register_buffers(&[memory]).is_err(), "closed to registrations");
    }

    #[test]
    fn too_little_locked_memory_costs_the_registration_and_names_the_limit() {
        let test = "too_little_locked_memory_costs_the_registration_and_names_the_limit";
        let limit = crate::memory::memlock_limit().and_then(|bytes| usize::try_from(bytes).ok());
        let Some(limit) = limit.filter(|bytes| *bytes < 1 << 28) else {
            return skipped(test, "RLIMIT_MEMLOCK is unlimited here");
        };
        // Of this thread only: what root may do, and others may not.
        let thread = std::thread::spawn(move || {
            let mut own = capabilities(None).expect("its own");
            own.effective.remove(CapabilitySet::IPC_LOCK);
            set_capabilities(None, own).expect("fewer are always allowed");
            let memory = hybrid_shm::leak_aligned(limit + (1 << 20), 4096);
            let wish = RingsWish { buffers: vec![memory], ..RingsWish::default() };
            let rings = Rings::new(&wish).expect("rings without it");
            assert!(!rings.fixed_buffers);
            rings.steps.iter().map(ToString::to_string).collect::<Vec<_>>()
        });
        let steps = thread.join().expect("it ends");
        assert_eq!(steps.len(), 1, "{steps:?}");
        for words in ["without registered buffers", "Cannot allocate memory", "RLIMIT_MEMLOCK"] {
            assert!(steps[0].contains(words), "{steps:?}");
        }
    }
}
