//! The scheduler: run queues, the task table, and the tick.
//!
//! Called by the partition's loop, on the core that made it. See [`super`] for the rules and the
//! invariants.

mod figures;

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{Ordering, compiler_fence};
use core::task::Context;

use hybrid_abi::Name;
use hybrid_abi::crash::program::TASK_NAME_BYTES;
use hybrid_shm::{Span, Word32, Word64};

use super::config::{Class, SchedulerConfig, SpawnError, TaskId};
use super::header::{State, TaskHeader, TaskRef};
use super::memory::TaskMemory;
use super::probes;
use super::queue::RunQueue;
use super::remote::RemoteQueue;
use super::remote_words::RemoteLines;
use super::spawner::Spawner;
use super::stats::{GapHistogram, Tick, bump};
use super::timers::TimerHeap;
use super::wake_slot::waker_of;
use crate::clock::{Clock, Instant, Ticks};
use crate::mem::{Bump, OutOfMemory};
use crate::probe::Probes;

/// Processes that can wake this core through shared memory: the host, and a few partitions.
const MAX_REMOTE_SOURCES: usize = 8;

/// The scheduler of one core.
///
/// It stays on the core (thread) that made it:
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::task::Scheduler>();
/// ```
/// ```compile_fail,E0277
/// fn needs_send<T: Send>() {}
/// needs_send::<core_runtime::task::Scheduler>();
/// ```
pub struct Scheduler {
    pub(super) clock: Clock,
    pub(super) timers: TimerHeap,
    pub(super) memory: TaskMemory,
    config: SchedulerConfig,
    queues: [RunQueue; 3],
    remote: RemoteQueue<TaskHeader>,
    sources: [Cell<Option<&'static RemoteLines>>; MAX_REMOTE_SOURCES],
    table: &'static [Cell<Option<TaskRef>>],
    table_len: Cell<usize>,
    in_tick: Cell<bool>,
    current: Cell<Option<TaskRef>>,
    published: Cell<Option<CurrentWords>>,
    /// Where the tasks' names are told.
    names: Cell<Option<Span<'static>>>,
    /// When the running poll began.
    poll_began: Cell<Instant>,
    /// `now` of the running or last tick.
    now: Cell<Instant>,
    /// Time since then that the loop can explain.
    explained: Cell<Ticks>,
    stolen_threshold: Ticks,
    counters: Counters,
    poll_to_poll: GapHistogram,
    stolen: GapHistogram,
    exceeded: GapHistogram,
    probes: Probes,
    core_local: PhantomData<*const ()>,
}

#[derive(Default)]
struct Counters {
    ticks: Cell<u64>,
    idle_ticks: Cell<u64>,
    polls: [Cell<u64>; 3],
    spawned: Cell<u64>,
    completed: Cell<u64>,
    cancelled: Cell<u64>,
    remote_wakes: Cell<u64>,
    timers_fired: Cell<u64>,
    timers_full: Cell<u64>,
    overruns: Cell<u64>,
    poll_ticks: Cell<u64>,
    stolen_gaps: Cell<u64>,
    stolen: Cell<Ticks>,
    live: Cell<u32>,
    live_high_water: Cell<u32>,
}

/// The task that is being polled.
#[derive(Clone, Copy, Debug)]
pub struct CurrentTask {
    /// Its place in the table.
    pub id: TaskId,
    /// Its name.
    pub name: &'static str,
    /// When this poll began; the tick's `now` where polls are not timed.
    pub since: Instant,
}

/// Two words that another process reads: which task is being polled, and since when. Two plain
/// stores a poll, so that a reader may see the one without the other for a moment.
#[derive(Clone, Copy, Debug)]
pub struct CurrentWords {
    task: Word32<'static>,
    since: Word64<'static>,
}

impl CurrentWords {
    /// `task` is to hold the task's place in the table plus 1, or 0 while none is polled; `since`
    /// the clock's ticks at the beginning of the poll that runs or was the last.
    #[must_use]
    pub const fn new(task: Word32<'static>, since: Word64<'static>) -> Self {
        Self { task, since }
    }

    #[inline(always)]
    fn set(self, id: TaskId, since: Instant) {
        self.since.store(since.ticks());
        self.task.store(id.0.wrapping_add(1));
    }

    #[inline(always)]
    fn clear(self) {
        self.task.store(0);
    }
}

impl Scheduler {
    /// Makes a scheduler that belongs to the calling core, with all its memory from `bump`.
    ///
    /// # Errors
    /// [`OutOfMemory`] if `bump` has too little left.
    pub fn new(
        config: SchedulerConfig,
        clock: Clock,
        bump: &Bump,
    ) -> Result<&'static Self, OutOfMemory> {
        let now = clock.now();
        bump.alloc(Self {
            timers: TimerHeap::new(config.max_timers, bump)?,
            memory: TaskMemory::new(config.task_memory_bytes, bump)?,
            queues: [const { RunQueue::new() }; 3],
            remote: RemoteQueue::new(),
            sources: [const { Cell::new(None) }; MAX_REMOTE_SOURCES],
            table: bump.slice_with(config.max_tasks as usize, |_| Cell::new(None))?,
            table_len: Cell::new(0),
            in_tick: Cell::new(false),
            current: Cell::new(None),
            published: Cell::new(None),
            names: Cell::new(None),
            poll_began: Cell::new(now),
            now: Cell::new(now),
            explained: Cell::new(Ticks::ZERO),
            stolen_threshold: clock.ns_to_ticks(config.stolen_threshold_ns),
            counters: Counters::default(),
            poll_to_poll: GapHistogram::new(),
            stolen: GapHistogram::new(),
            exceeded: GapHistogram::new(),
            probes: Probes::off(clock),
            clock,
            config,
            core_local: PhantomData,
        })
    }

    /// Hands out the way to spawn tasks, sleep and ask for the time.
    #[must_use]
    pub const fn spawner(&'static self) -> Spawner {
        Spawner::new(self)
    }

    /// The clock that budgets and deadlines are measured by.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// This core's probes: off until they are attached to a region.
    #[inline]
    #[must_use]
    pub const fn probes(&self) -> &Probes {
        &self.probes
    }

    /// A pass begins: the probes take over what the host has changed.
    #[inline]
    pub fn begin_pass(&self, now: Instant) {
        if self.probes.begin_pass(now) {
            self.trace_wakes();
        }
    }

    /// Other probes may be on than before.
    #[cold]
    pub(crate) fn trace_wakes(&self) {
        for queue in &self.queues {
            queue.trace(probes::WAKE.is_on(&self.probes));
        }
    }

    /// `now` of the running tick, or of the last one.
    #[inline]
    #[must_use]
    pub fn tick_now(&self) -> Instant {
        self.now.get()
    }

    /// The earliest deadline of a timer.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next_deadline()
    }

    /// Whether a task is ready, remote wakes not looked at.
    #[inline]
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
    }

    /// Lets another process wake tasks of this core. Returns false when there is no place left.
    pub fn attach_remote(&self, lines: &'static RemoteLines) -> bool {
        let free = self.sources.iter().find(|place| place.get().is_none());
        free.is_some_and(|place| {
            place.set(Some(lines));
            true
        })
    }

    /// Tells that the loop itself used the time from the last tick's `now` up to `end`, so that it
    /// is not taken for stolen. A tick with polls does so itself up to the last poll's end; the
    /// loop does it after passes in which it took completions or obeyed. Time that somebody else
    /// stole in such a pass is taken for its own.
    #[inline]
    pub fn explain_until(&self, end: Instant) {
        let spent = end.since(self.now.get());
        self.explained.set(self.explained.get().max(spent));
    }

    /// The same for `spent` more, once the time before it was explained or was not ours.
    pub fn explain(&self, spent: Ticks) {
        self.explained.set(self.explained.get().saturating_add(spent));
    }

    /// From now on each poll stores its task and its beginning there.
    pub fn publish_current(&self, words: CurrentWords) {
        self.published.set(Some(words));
    }

    /// From now on each new task's name stands there, at its place in the table: what another
    /// process calls the task of [`CurrentWords`]. A place without room is left out.
    pub fn publish_names(&self, part: Span<'static>) {
        self.names.set(Some(part));
    }

    /// Tasks are often spawned in one place with one name, again and again: told once.
    fn publish_name(&self, header: &TaskHeader, name: &'static str) {
        let before = header.meter.name.get();
        if core::ptr::eq(before, name) {
            return;
        }
        if let Some(part) = self.names.get() {
            let bytes = Name::<TASK_NAME_BYTES>::lossy(name);
            let place = header.id.get().0 as usize;
            let _ = part.write(place * TASK_NAME_BYTES, bytes.as_bytes_padded());
        }
    }

    /// Asks every task to end: their futures are dropped by the next ticks.
    pub fn cancel_all(&self) {
        for task in self.attached() {
            let header = task.header();
            if header.state.get() == State::Live {
                header.state.set(State::Cancelling);
                task.enqueue();
            }
        }
    }

    /// One bounded pass: wakes from elsewhere, timers that are due at `now`, ready tasks.
    ///
    /// Not re-entrant: from inside a task it does nothing and says `refused`.
    #[inline]
    pub fn tick(&'static self, now: Instant) -> Tick {
        let mut tick = Tick::default();
        if self.in_tick.replace(true) {
            tick.refused = true;
            return tick;
        }
        self.account_gap(now);
        tick.remote_wakes = self.drain_remote();
        tick.timers_fired = self.timers.fire(now, self.config.timers_per_tick);
        if tick.timers_fired != 0 {
            let left = self.timers.in_use();
            probes::TIMER.emit_at(&self.probes, now, tick.timers_fired, left.into(), 0);
        }
        if self.has_ready() {
            // Looked at once: within a tick probes may be frozen, but never come on.
            if probes::POLL.is_on(&self.probes) {
                self.run_ready::<true>(now, &mut tick);
            } else {
                self.run_ready::<false>(now, &mut tick);
            }
        }
        tick.ready_left = self.queues.iter().map(RunQueue::len).sum();
        self.add_up(&tick);
        self.in_tick.set(false);
        tick
    }

    /// Sorts the time since the last tick into the histograms.
    #[inline]
    fn account_gap(&self, now: Instant) {
        let gap = now.since(self.now.get());
        let unexplained = gap.saturating_sub(self.explained.get());
        self.now.set(now);
        self.explained.set(Ticks::ZERO);
        if self.counters.ticks.get() == 0 {
            return;
        }
        self.poll_to_poll.record(gap);
        if unexplained >= self.stolen_threshold {
            self.note_stolen(unexplained);
        }
    }

    #[cold]
    fn note_stolen(&self, ticks: Ticks) {
        let counters = &self.counters;
        self.stolen.record(ticks);
        bump(&counters.stolen_gaps);
        counters.stolen.set(counters.stolen.get().saturating_add(ticks));
        let gap = self.now.get();
        probes::STOLEN.emit_at(&self.probes, gap, 0, ticks.get(), 0);
        self.probes.check_stolen(ticks);
    }

    #[inline]
    fn drain_remote(&self) -> u32 {
        let mut wakes = 0;
        if !self.remote.is_empty() {
            wakes += self.remote.drain(|header| {
                // SAFETY: invariant 1: only wakers push, with pointers from a `TaskRef`.
                let task = unsafe { TaskRef::new(header) };
                if task.header().state.get() == State::Live {
                    task.enqueue();
                }
            });
        }
        for source in &self.sources {
            let Some(lines) = source.get() else { break };
            wakes += lines.poll();
        }
        wakes
    }

    /// Polls ready tasks by class. Timestamps chain: one poll's end is the next one's beginning.
    /// The first one begins here and not at `now`: what the loop did in between is not the task's.
    /// `TRACED`: polls are told to the probes; where they are not, nothing is left of it.
    fn run_ready<const TRACED: bool>(&'static self, now: Instant, tick: &mut Tick) {
        for queue in &self.queues {
            queue.note_depth();
        }
        self.poll_began.set(self.stamp(now));
        let [latency, normal, background] = &self.queues;
        self.run_latency::<TRACED>(tick);
        for _ in 0..normal.len().min(self.config.normal_polls) {
            let Some(task) = normal.pop() else { break };
            let polled = self.run::<TRACED>(task, tick);
            tick.polled_normal += u32::from(polled);
            if !latency.is_empty() {
                self.run_latency::<TRACED>(tick);
            }
        }
        for _ in 0..background.len().min(self.config.background_polls) {
            if !(latency.is_empty() && normal.is_empty()) {
                break;
            }
            let Some(task) = background.pop() else { break };
            let polled = self.run::<TRACED>(task, tick);
            tick.polled_background += u32::from(polled);
        }
        self.current.set(None);
        if let Some(words) = self.published.get() {
            words.clear();
        }
        if self.config.time_polls {
            self.explain_until(self.poll_began.get());
        }
    }

    /// Polls the latency tasks that are ready now, as far as the tick's share goes.
    fn run_latency<const TRACED: bool>(&'static self, tick: &mut Tick) {
        let latency = &self.queues[Class::Latency.index()];
        let share = self.config.latency_polls.saturating_sub(tick.polled_latency);
        for _ in 0..latency.len().min(share) {
            let Some(task) = latency.pop() else { break };
            let polled = self.run::<TRACED>(task, tick);
            tick.polled_latency += u32::from(polled);
        }
    }

    /// Does what a task that was just taken from its queue needs; returns whether it was polled.
    #[inline(always)]
    fn run<const TRACED: bool>(&'static self, task: TaskRef, tick: &mut Tick) -> bool {
        let header = task.header();
        if header.state.get() != State::Live {
            self.bury(task, tick);
            return false;
        }
        self.current.set(Some(task));
        if let Some(words) = self.published.get() {
            words.set(header.id.get(), self.poll_began.get());
        }
        if TRACED {
            let class = header.meter.class.get().index() as u64;
            probes::POLL.emit_at(&self.probes, self.poll_began.get(), task.number(), class, 0);
        }
        let waker = waker_of(task);
        let mut context = Context::from_waker(&waker);
        // SAFETY: invariant 4: the task is live, and `in_tick` keeps polls from nesting.
        let done = unsafe { (header.vtable.get().poll)(task, &mut context) };
        bump(&header.meter.polls);
        if self.config.time_polls {
            self.charge(task, tick);
        }
        if TRACED {
            let ended = self.poll_began.get();
            probes::POLLED.emit_at(&self.probes, ended, task.number(), done.into(), 0);
        }
        if done {
            tick.completed += 1;
            self.finish(task);
        }
        true
    }

    /// Ends the poll's time and charges it to the task.
    #[inline]
    fn charge(&self, task: TaskRef, tick: &mut Tick) {
        let ended = self.clock.now();
        let spent = ended.since(self.poll_began.replace(ended));
        let total = &self.counters.poll_ticks;
        total.set(total.get().wrapping_add(spent.get()));
        if let Some(by) = task.header().meter.charge(spent) {
            tick.overruns += 1;
            self.overrun(task, ended, by);
        }
    }

    #[cold]
    #[inline(never)]
    fn overrun(&self, task: TaskRef, ended: Instant, by: Ticks) {
        self.exceeded.record(by);
        let budget = task.header().meter.budget.get().get();
        probes::OVERRUN.emit_at(&self.probes, ended, task.number(), by.get(), budget);
        self.probes.check_budget(task.number(), by);
    }

    /// Drops the future of a cancelled task, or frees one that was done while it was queued.
    #[cold]
    fn bury(&'static self, task: TaskRef, tick: &mut Tick) {
        if task.header().state.get() == State::Cancelling {
            self.cancel_now(task);
            tick.cancelled += 1;
            self.poll_began.set(self.stamp(self.poll_began.get()));
        } else {
            self.release(task);
        }
    }

    /// The future is ready: its output waits for the handle, or is dropped if there is none.
    #[inline(never)]
    fn finish(&'static self, task: TaskRef) {
        let header = task.header();
        if !header.handle_held.get() {
            // SAFETY: invariant 4: still live, inside a tick, and not being polled any more.
            unsafe { (header.vtable.get().clear)(task) };
        }
        self.end(task);
    }

    /// Drops the future of a live task.
    fn cancel_now(&'static self, task: TaskRef) {
        // SAFETY: invariant 4: live, inside a tick, and not being polled.
        unsafe { (task.header().vtable.get().clear)(task) };
        self.end(task);
    }

    fn end(&'static self, task: TaskRef) {
        let header = task.header();
        probes::END.emit_stamped(&self.probes, task.number(), 0, 0);
        task.close();
        header.state.set(State::Done);
        self.counters.live.set(self.counters.live.get() - 1);
        header.join.wake();
        self.release(task);
    }

    /// Frees the storage of a done task once neither handle nor run queue names it.
    pub(super) fn release(&self, task: TaskRef) {
        let header = task.header();
        let done = header.state.get() == State::Done;
        if done && !header.handle_held.get() && !header.is_queued() {
            header.state.set(State::Free);
            self.memory.give_back(task);
        }
    }

    /// Gives a free storage its place in the table, the first time it is used.
    pub(super) fn attach(&'static self, task: TaskRef) -> Result<(), SpawnError> {
        let header = task.header();
        if let Some(scheduler) = header.scheduler.get() {
            return if core::ptr::eq(scheduler, self) {
                Ok(())
            } else {
                Err(SpawnError::OtherScheduler)
            };
        }
        if !task.fits() {
            return Err(SpawnError::Address);
        }
        let index = self.table_len.get();
        let full = SpawnError::TableFull { capacity: self.table.len() };
        let place = self.table.get(index).ok_or(full)?;
        header.id.set(TaskId(u32::try_from(index).map_err(|_| full)?));
        // A crash handler that interrupts this thread sees whole headers in the table.
        compiler_fence(Ordering::Release);
        place.set(Some(task));
        self.table_len.set(index + 1);
        Ok(())
    }

    /// Makes an attached task live and ready; its future was just placed.
    pub(super) fn start(&'static self, task: TaskRef, options: &super::TaskOptions) {
        let header = task.header();
        let counters = &self.counters;
        // A crash handler that interrupts this thread looks at the meter of tasks that are not
        // free: a name is two words, which it must not see half changed.
        compiler_fence(Ordering::Release);
        self.publish_name(header, options.name);
        header.meter.restart(options.name, options.class, options.budget(&self.clock));
        header.queue.set(&raw const self.queues[options.class.index()]);
        header.handle_held.set(true);
        header.join.clear();
        task.open(self, (&raw const self.remote).cast_mut());
        compiler_fence(Ordering::Release);
        header.state.set(State::Live);
        let class = options.class.index() as u64;
        probes::SPAWN.emit_stamped(&self.probes, task.number(), class, 0);
        task.enqueue();
        bump(&counters.spawned);
        counters.live.set(counters.live.get() + 1);
        counters.live_high_water.set(counters.live_high_water.get().max(counters.live.get()));
    }

    #[inline]
    fn stamp(&self, otherwise: Instant) -> Instant {
        if self.config.time_polls { self.clock.now() } else { otherwise }
    }

    #[inline]
    fn add_up(&self, tick: &Tick) {
        let counters = &self.counters;
        let add = |counter: &Cell<u64>, by: u32| {
            counter.set(counter.get().wrapping_add(u64::from(by)));
        };
        bump(&counters.ticks);
        if tick.is_idle() {
            bump(&counters.idle_ticks);
            return;
        }
        add(&counters.polls[0], tick.polled_latency);
        add(&counters.polls[1], tick.polled_normal);
        add(&counters.polls[2], tick.polled_background);
        add(&counters.completed, tick.completed);
        add(&counters.cancelled, tick.cancelled);
        add(&counters.remote_wakes, tick.remote_wakes);
        add(&counters.timers_fired, tick.timers_fired);
        add(&counters.overruns, tick.overruns);
    }

    pub(super) fn note_timers_full(&self) {
        bump(&self.counters.timers_full);
    }

    /// Ready tasks of a class.
    #[inline]
    pub(super) fn ready(&self, class: Class) -> u32 {
        self.queues[class.index()].len()
    }

    /// Whether wakes from other cores wait for the next tick.
    #[inline]
    pub(super) fn has_remote(&self) -> bool {
        !self.remote.is_empty()
    }

    #[inline]
    pub(super) fn current_ref(&self) -> Option<TaskRef> {
        self.current.get()
    }

    #[inline]
    pub(super) fn poll_began(&self) -> Instant {
        self.poll_began.get()
    }

    fn attached(&self) -> impl Iterator<Item = TaskRef> + '_ {
        self.table[..self.table_len.get()].iter().filter_map(Cell::get)
    }

    /// The task at this place of the table, whose figures are to be told.
    pub(super) fn at_place(&self, place: usize) -> Option<TaskRef> {
        self.table[..self.table_len.get()].get(place).and_then(Cell::get)
    }

    /// Places of the table that were ever used.
    pub(super) const fn places_used(&self) -> usize {
        self.table_len.get()
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
