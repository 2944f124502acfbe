//! A ring of either entry size, and the count of its entries into the kernel.

use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use bitflags::bitflags;
use hybrid_shm::Span;
use io_uring::register::{Probe, Restriction};
use io_uring::{Builder, EnterFlags, IoUring, cqueue, squeue, types};
use rustix::io::Errno;

use super::op::{Cqe, Op, Opcode};

bitflags! {
    /// Properties of a ring that some kernel may refuse.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct Features: u16 {
        /// A kernel thread takes submissions.
        const SQPOLL = 1 << 0;
        /// That thread is pinned.
        const SQPOLL_CPU = 1 << 1;
        /// That thread serves several rings.
        const ATTACH = 1 << 2;
        /// Completions are polled for.
        const IOPOLL = 1 << 3;
        /// One thread submits.
        const SINGLE_ISSUER = 1 << 4;
        /// Completions do not interrupt that thread.
        const COOP_TASKRUN = 1 << 5;
        /// Completions wait until that thread asks.
        const DEFER_TASKRUN = 1 << 6;
        /// Entries of 128 and 32 bytes.
        const BIG = 1 << 7;
        /// Only named operations.
        const RESTRICTED = 1 << 8;
        /// Registered buffers.
        const FIXED_BUFFERS = 1 << 9;
        /// Registered files.
        const FIXED_FILES = 1 << 10;
    }
}

/// The kernel's thread that takes submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqPoll {
    /// Where it runs.
    pub cpu: Option<u32>,
    /// How long it looks for work before it sleeps.
    pub idle: Duration,
    /// A ring whose thread is used too.
    pub attach: Option<RawFd>,
}

/// How a ring is made.
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// Entries of the submission queue.
    pub entries: u32,
    /// Entries of the completion queue.
    pub completions: u32,
    /// Properties.
    pub features: Features,
    /// For [`Features::SQPOLL`].
    pub sqpoll: SqPoll,
}

/// The submission queue has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

enum Rings {
    Plain(IoUring),
    Big(IoUring<squeue::Entry128, cqueue::Entry32>),
}

macro_rules! ring {
    ($rings:expr, |$ring:ident| $body:expr) => {
        match $rings {
            Rings::Plain($ring) => $body,
            Rings::Big($ring) => $body,
        }
    };
}

/// A ring. Belongs to one thread.
pub struct Ring {
    rings: Rings,
    features: Features,
    in_flight: u32,
    /// Calls of `io_uring_enter` so far.
    enters: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { features, in_flight, enters, .. } = self;
        write!(f, "Ring({features:?}, {in_flight} in flight, {enters} entries into the kernel)")
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

fn prepare<S: squeue::EntryMarker, C: cqueue::EntryMarker>(
    builder: &mut Builder<S, C>,
    options: &RingOptions,
) {
    let has = |feature| options.features.contains(feature);
    builder.setup_cqsize(options.completions).setup_clamp();
    if has(Features::SQPOLL) {
        let idle = u32::try_from(options.sqpoll.idle.as_millis()).unwrap_or(u32::MAX);
        builder.setup_sqpoll(idle);
        if let Some(cpu) = options.sqpoll.cpu.filter(|_| has(Features::SQPOLL_CPU)) {
            builder.setup_sqpoll_cpu(cpu);
        }
        if let Some(fd) = options.sqpoll.attach.filter(|_| has(Features::ATTACH)) {
            builder.setup_attach_wq(fd);
        }
    }
    if has(Features::IOPOLL) {
        builder.setup_iopoll();
    }
    if has(Features::SINGLE_ISSUER) {
        builder.setup_single_issuer();
    }
    if has(Features::COOP_TASKRUN) {
        builder.setup_coop_taskrun();
    }
    if has(Features::DEFER_TASKRUN) {
        builder.setup_defer_taskrun();
    }
    if has(Features::COOP_TASKRUN) || has(Features::DEFER_TASKRUN) {
        builder.setup_taskrun_flag();
    }
    if has(Features::RESTRICTED) {
        builder.setup_r_disabled();
    }
}

impl Ring {
    /// Makes a ring. With [`Features::RESTRICTED`] it takes nothing before [`Ring::restrict`].
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(options: &RingOptions) -> Result<Self, Errno> {
        let rings = if options.features.contains(Features::BIG) {
            let mut builder = IoUring::<squeue::Entry128, cqueue::Entry32>::builder();
            prepare(&mut builder, options);
            builder.build(options.entries).map(Rings::Big)
        } else {
            let mut builder = IoUring::builder();
            prepare(&mut builder, options);
            builder.build(options.entries).map(Rings::Plain)
        };
        let rings = rings.map_err(|error| errno(&error))?;
        Ok(Self { rings, features: options.features, in_flight: 0, enters: 0 })
    }

    /// Its properties.
    #[must_use]
    pub const fn features(&self) -> Features {
        self.features
    }

    /// Its descriptor, for another ring to poll or to attach to.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        ring!(&self.rings, |ring| ring.as_raw_fd())
    }

    /// Operations that will still answer.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Calls of `io_uring_enter` so far.
    #[must_use]
    pub const fn enters(&self) -> u64 {
        self.enters
    }

    /// Whether the kernel knows an operation.
    #[must_use]
    pub fn knows(&self, opcode: Opcode) -> bool {
        let mut probe = Probe::new();
        let asked = ring!(&self.rings, |ring| ring.submitter().register_probe(&mut probe));
        asked.is_ok() && probe.is_supported(opcode.code())
    }

    // ---- registration, before the first operation ------------------------------------------

    /// Registers buffers, once.
    ///
    /// # Errors
    /// What the kernel said: `ENOMEM` is the limit of locked memory.
    pub fn register_buffers(&self, spans: &[Span<'static>]) -> Result<(), Errno> {
        let vector: Vec<_> = spans
            .iter()
            .map(|span| libc::iovec { iov_base: span.as_ptr().cast(), iov_len: span.len() })
            .collect();
        // SAFETY: invariants 1 and 3.
        let done = ring!(&self.rings, |ring| unsafe { ring.submitter().register_buffers(&vector) });
        done.map_err(|error| errno(&error))
    }

    /// Registers files, once.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn register_files(&self, files: &[RawFd]) -> Result<(), Errno> {
        let done = ring!(&self.rings, |ring| ring.submitter().register_files(files));
        done.map_err(|error| errno(&error))
    }

    /// Registers a ring of buffers for [`Op::RecvMulti`]; `entries` is a power of two.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn register_buffer_ring(
        &self,
        memory: Span<'static>,
        entries: u16,
        group: u16,
    ) -> Result<(), Errno> {
        if memory.len() < usize::from(entries) * 16 {
            return Err(Errno::INVAL);
        }
        let at = memory.as_ptr() as u64;
        // SAFETY: invariant 1; as long as its entries ask for.
        let done = ring!(&self.rings, |ring| unsafe {
            ring.submitter().register_buf_ring_with_flags(at, entries, group, 0)
        });
        done.map_err(|error| errno(&error))
    }

    /// Lets only these operations through, no registration any more, and enables the ring.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn restrict(&self, allowed: &[Opcode]) -> Result<(), Errno> {
        const REGISTER_ENABLE_RINGS: u8 = 12;
        let mut list: Vec<_> =
            allowed.iter().map(|opcode| Restriction::sqe_op(opcode.code())).collect();
        list.push(Restriction::register_op(REGISTER_ENABLE_RINGS));
        let flags =
            squeue::Flags::FIXED_FILE | squeue::Flags::IO_LINK | squeue::Flags::BUFFER_SELECT;
        list.push(Restriction::sqe_flags_allowed(flags.bits()));
        let done = ring!(&self.rings, |ring| {
            let submitter = ring.submitter();
            submitter
                .register_restrictions(&mut list)
                .and_then(|()| submitter.register_enable_rings())
        });
        done.map_err(|error| errno(&error))
    }

    // ---- the hot path ----------------------------------------------------------------------

    /// Queues an operation.
    ///
    /// # Errors
    /// [`Full`].
    #[inline]
    pub fn push(&mut self, op: &Op, user_data: u64) -> Result<(), Full> {
        let pushed = match &mut self.rings {
            Rings::Plain(ring) => {
                let Some(entry) = op.entry() else { return Err(Full) };
                let entry = entry.user_data(user_data);
                // SAFETY: invariants 1 and 2.
                unsafe { ring.submission().push(&entry) }
            }
            Rings::Big(ring) => {
                let entry = op.big_entry().user_data(user_data);
                // SAFETY: invariants 1 and 2.
                unsafe { ring.submission().push(&entry) }
            }
        };
        pushed.map_err(|_| Full)?;
        self.in_flight += 1;
        Ok(())
    }

    /// Whether operations may be linked. A link ends with the batch that the kernel takes. Without
    /// SQPOLL this thread says what a batch is; the kernel's thread takes what it sees, a few at a
    /// time where it serves several rings, and the second of a pair would begin by itself.
    #[must_use]
    pub const fn links(&self) -> bool {
        !self.features.contains(Features::SQPOLL)
    }

    /// Queues two operations of which the second begins when the first has succeeded in full. Both
    /// appear at once.
    ///
    /// # Errors
    /// [`Full`]; nothing was queued then.
    ///
    /// # Panics
    /// On a ring that does not [link](Ring::links).
    pub fn push_linked(&mut self, first: (&Op, u64), second: (&Op, u64)) -> Result<(), Full> {
        assert!(self.links(), "a link on a ring whose submissions the kernel's thread takes");
        let link = squeue::Flags::IO_LINK;
        let pushed = match &mut self.rings {
            Rings::Plain(ring) => {
                let (Some(one), Some(two)) = (first.0.entry(), second.0.entry()) else {
                    return Err(Full);
                };
                let pair = [one.user_data(first.1).flags(link), two.user_data(second.1)];
                // SAFETY: invariants 1 and 2.
                unsafe { ring.submission().push_multiple(&pair) }
            }
            Rings::Big(ring) => {
                let (one, two) = (first.0.big_entry(), second.0.big_entry());
                let pair = [one.user_data(first.1).flags(link), two.user_data(second.1)];
                // SAFETY: invariants 1 and 2.
                unsafe { ring.submission().push_multiple(&pair) }
            }
        };
        pushed.map_err(|_| Full)?;
        self.in_flight += 2;
        Ok(())
    }

    /// Operations that can be queued now.
    #[must_use]
    pub fn room(&mut self) -> usize {
        ring!(&mut self.rings, |ring| {
            let mut queue = ring.submission();
            queue.sync();
            queue.capacity() - queue.len()
        })
    }

    /// Gives the kernel what was queued, with a system call only where one is needed: none while
    /// a thread of the kernel polls the queue.
    ///
    /// # Errors
    /// What the kernel said; what it did not take stays queued.
    #[inline]
    pub fn submit(&mut self) -> Result<(), Errno> {
        let look = self.look();
        let mut flags = EnterFlags::empty();
        if look.overflow || look.taskrun {
            flags |= EnterFlags::GETEVENTS;
        }
        if self.features.contains(Features::SQPOLL) {
            if look.asleep {
                flags |= EnterFlags::SQ_WAKEUP;
            }
            if flags.is_empty() {
                return Ok(());
            }
            return self.enter(look.queued, 0, flags, None);
        }
        if look.queued == 0 && flags.is_empty() {
            return Ok(());
        }
        self.enter(look.queued, 0, flags, None)
    }

    /// Looks for completions that come only on demand: on a polled ring, and where the kernel
    /// defers them. A system call, unless there is nothing to come or its thread polls.
    ///
    /// # Errors
    /// What the kernel said.
    #[inline]
    pub fn ask(&mut self) -> Result<(), Errno> {
        if self.in_flight == 0 {
            return Ok(());
        }
        // Where the kernel does not interrupt this thread for completions, it sets a flag instead.
        let on_demand = Features::COOP_TASKRUN | Features::DEFER_TASKRUN;
        let waiting = self.features.intersects(on_demand) && self.look().taskrun;
        let polled =
            self.features.contains(Features::IOPOLL) && !self.features.contains(Features::SQPOLL);
        if !(waiting || polled) {
            return Ok(());
        }
        self.enter(0, 0, EnterFlags::GETEVENTS, None)
    }

    /// Submits and waits for a completion, `timeout` at most. On time or by a signal it returns
    /// without one.
    ///
    /// # Errors
    /// What the kernel said otherwise.
    pub fn wait(&mut self, timeout: Duration) -> Result<(), Errno> {
        let look = self.look();
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if look.asleep {
            flags |= EnterFlags::SQ_WAKEUP;
        }
        match self.enter(look.queued, 1, flags, Some(timeout)) {
            Ok(()) | Err(Errno::TIME | Errno::INTR) => Ok(()),
            other => other,
        }
    }

    /// Submits and waits for a completion, however long that takes: for loops that always have
    /// something in flight. A signal ends it without one.
    ///
    /// # Errors
    /// What the kernel said otherwise.
    pub fn submit_and_wait(&mut self) -> Result<(), Errno> {
        let look = self.look();
        let mut flags = EnterFlags::GETEVENTS;
        if look.asleep {
            flags |= EnterFlags::SQ_WAKEUP;
        }
        match self.enter(look.queued, 1, flags, None) {
            Ok(()) | Err(Errno::INTR) => Ok(()),
            other => other,
        }
    }

    fn enter(
        &mut self,
        submit: u32,
        complete: u32,
        flags: EnterFlags,
        timeout: Option<Duration>,
    ) -> Result<(), Errno> {
        self.enters += 1;
        let entered = ring!(&self.rings, |ring| {
            let submitter = ring.submitter();
            match timeout {
                Some(timeout) => {
                    let time = types::Timespec::from(timeout);
                    let args = types::SubmitArgs::new().timespec(&time);
                    // SAFETY: invariants 2 and 3; the flags say that the argument is one.
                    unsafe { submitter.enter(submit, complete, flags.bits(), Some(&args)) }
                }
                None => {
                    // SAFETY: invariant 2.
                    unsafe {
                        submitter.enter::<libc::sigset_t>(submit, complete, flags.bits(), None)
                    }
                }
            }
        });
        entered.map(drop).map_err(|error| errno(&error))
    }

    fn look(&mut self) -> Look {
        let sqpoll = self.features.contains(Features::SQPOLL);
        ring!(&mut self.rings, |ring| {
            let mut queue = ring.submission();
            queue.sync();
            Look {
                queued: u32::try_from(queue.len()).unwrap_or(u32::MAX),
                asleep: sqpoll && queue.need_wakeup(),
                overflow: queue.cq_overflow(),
                taskrun: queue.taskrun(),
            }
        })
    }

    /// Takes at most `most` completions; returns how many.
    #[inline]
    pub fn reap(&mut self, most: u32, mut each: impl FnMut(Cqe)) -> u32 {
        let mut taken = 0;
        let mut ended = 0;
        let mut take = |cqe: Cqe| {
            if !cqe.more() {
                ended += 1;
            }
            each(cqe);
        };
        match &mut self.rings {
            Rings::Plain(ring) => {
                for cqe in ring.completion().take(most as usize) {
                    taken += 1;
                    take(Cqe::new(cqe.user_data(), cqe.result(), cqe.flags(), 0));
                }
            }
            Rings::Big(ring) => {
                for cqe in ring.completion().take(most as usize) {
                    taken += 1;
                    let second = cqe.big_cqe()[0];
                    take(Cqe::new(cqe.user_data(), cqe.result(), cqe.flags(), second));
                }
            }
        }
        self.in_flight -= ended;
        taken
    }
}

/// What the queue's shared words say.
struct Look {
    queued: u32,
    asleep: bool,
    overflow: bool,
    taskrun: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(features: Features) -> Ring {
        let sqpoll = SqPoll { cpu: None, idle: Duration::from_millis(10), attach: None };
        let options = RingOptions { entries: 4, completions: 8, features, sqpoll };
        Ring::new(&options).expect("io_uring is there")
    }

    #[test]
    fn a_pair_is_queued_whole_or_not_at_all() {
        let mut ring = ring(Features::empty());
        for number in 0..3 {
            ring.push(&Op::Nop, number).expect("room");
        }
        assert_eq!(ring.push_linked((&Op::Nop, 10), (&Op::Nop, 11)), Err(Full));
        assert_eq!((ring.in_flight(), ring.room()), (3, 1), "nothing of it");
        ring.submit().expect("taken");
        assert_eq!(ring.push_linked((&Op::Nop, 10), (&Op::Nop, 11)), Ok(()));
        ring.submit().expect("taken");
        let mut came = Vec::new();
        ring.reap(8, |cqe| came.push((cqe.user_data, cqe.result)));
        assert_eq!(came, [(0, 0), (1, 0), (2, 0), (10, 0), (11, 0)]);
    }

    #[test]
    fn completions_that_wait_for_this_thread_are_asked_for_with_either_option() {
        for option in [Features::COOP_TASKRUN, Features::DEFER_TASKRUN] {
            let mut ring = ring(option | Features::SINGLE_ISSUER);
            let (reader, mut writer) = std::io::pipe().expect("a pipe");
            let file = crate::sys::uring::File::Fd(reader.as_raw_fd());
            ring.push(&Op::PollReadable { file }, 1).expect("room");
            ring.submit().expect("taken");
            std::io::Write::write_all(&mut writer, b"x").expect("written");
            // Nothing is queued, and nobody submits: asking alone has to bring it.
            let begun = std::time::Instant::now();
            let mut came = 0;
            while came == 0 {
                ring.ask().expect("asked");
                came += ring.reap(8, |_| {});
                assert!(begun.elapsed() < Duration::from_secs(20), "{option:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "a link on a ring")]
    fn a_link_where_the_kernels_thread_submits_is_our_own_mistake() {
        let mut ring = ring(Features::SQPOLL);
        assert!(!ring.links());
        let _ = ring.push_linked((&Op::Nop, 1), (&Op::Nop, 2));
    }
}
