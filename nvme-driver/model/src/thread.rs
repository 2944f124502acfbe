//! The model on a thread of its own: it polls doorbells, serves the register mailbox, and steps.
//!
//! The thread spins, as a device that must answer within a microsecond does. Where cores are
//! shared, [`Idle`] makes it give way after a while without work, at the price of latency.

use crate::model::Model;
use core_runtime::mailbox::{MailboxServer, RegAccess, RegOp};
use hybrid_shm::{OutOfBounds, Span};
use std::fmt;
use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Steps between two looks at calls, and at the clock where nothing needs the time. At ten
/// million empty steps a second that is a few microseconds.
const HOUSEKEEPING: u32 = 64;
/// Calls that may wait; each caller waits for its answer, so one a thread.
const CALLS: usize = 16;

/// What the thread does when steps bring nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Go on at once: the lowest latency, a core of its own.
    #[default]
    Spin,
    /// After so many steps without work, yield after each: for more threads than cores.
    Yield {
        /// Steps.
        after_steps: u32,
    },
    /// After so many steps without work, sleep after each.
    Sleep {
        /// Steps.
        after_steps: u32,
        /// How long, in microseconds.
        sleep_us: u64,
    },
}

/// How the thread is run.
#[derive(Default)]
pub struct ThreadOptions {
    /// Name; "nvme-model" if empty.
    pub name: String,
    /// What it does without work.
    pub idle: Idle,
    /// Called first on the new thread: to pin it, for instance.
    pub on_start: Option<Box<dyn FnOnce() + Send>>,
    /// Where it tells how busy it is.
    pub gauges: ModelGauges,
}

/// How busy a model's thread is, for anyone who holds a copy; written every few microseconds.
#[derive(Clone, Debug, Default)]
pub struct ModelGauges(Arc<Gauges>);

#[derive(Debug, Default)]
struct Gauges {
    completions: AtomicU64,
    busy_steps: AtomicU64,
    empty_steps: AtomicU64,
}

impl ModelGauges {
    /// Completions posted.
    #[must_use]
    pub fn completions(&self) -> u64 {
        self.0.completions.load(Ordering::Relaxed)
    }

    /// Steps that brought something.
    #[must_use]
    pub fn busy_steps(&self) -> u64 {
        self.0.busy_steps.load(Ordering::Relaxed)
    }

    /// Steps that brought nothing.
    #[must_use]
    pub fn empty_steps(&self) -> u64 {
        self.0.empty_steps.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for ThreadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadOptions")
            .field("name", &self.name)
            .field("idle", &self.idle)
            .field("gauges", &self.gauges)
            .finish_non_exhaustive()
    }
}

/// Why the thread could not be started or gave nothing back.
#[derive(Debug, Error)]
pub enum ThreadError {
    /// The mailbox memory is too small or not aligned.
    #[error("mailbox memory: {0}")]
    Mailbox(OutOfBounds),
    /// No thread could be made.
    #[error("thread: {0}")]
    Spawn(std::io::Error),
    /// The thread ended by a panic: a bug in the model.
    #[error("the model's thread panicked")]
    Panicked,
    /// An image could not be synced at the end.
    #[error("image could not be synced: {0}")]
    Flush(std::io::Error),
}

type Call = Box<dyn FnOnce(&mut Model) + Send>;

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    calls: AtomicU64,
    gauges: ModelGauges,
}

/// A running model.
#[derive(Debug)]
pub struct ModelThread {
    shared: Arc<Shared>,
    calls: SyncSender<Call>,
    handle: Option<JoinHandle<Model>>,
}

impl ModelThread {
    /// Starts the thread. `mailbox`, if given, is memory of at least
    /// [`core_runtime::mailbox::MailboxLayout::BYTES`] through which a host reaches the registers.
    ///
    /// # Errors
    /// [`ThreadError::Mailbox`] or [`ThreadError::Spawn`].
    pub fn spawn(
        model: Model,
        mailbox: Option<Span<'static>>,
        options: ThreadOptions,
    ) -> Result<Self, ThreadError> {
        let server = mailbox.map(MailboxServer::new).transpose().map_err(ThreadError::Mailbox)?;
        let (calls, receiver) = sync_channel(CALLS);
        let shared = Arc::new(Shared { gauges: options.gauges.clone(), ..Shared::default() });
        let name = match options.name.as_str() {
            "" => "nvme-model".to_owned(),
            name => name.to_owned(),
        };
        let (ours, idle, on_start) = (Arc::clone(&shared), options.idle, options.on_start);
        let run = move || {
            if let Some(on_start) = on_start {
                on_start();
            }
            Runner { model, server, idle, shared: ours, calls: receiver }.run()
        };
        let handle = std::thread::Builder::new().name(name).spawn(run);
        let handle = Some(handle.map_err(ThreadError::Spawn)?);
        Ok(Self { shared, calls, handle })
    }

    /// Does something with the model between two steps, and returns what came of it; `None` if the
    /// thread has ended.
    pub fn call<R: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Model) -> R + Send + 'static,
    ) -> Option<R> {
        let (sender, receiver) = sync_channel(1);
        let call = move |model: &mut Model| {
            // The caller waits for it; if it has gone, nobody does.
            let _ = sender.send(what(model));
        };
        self.calls.send(Box::new(call)).ok()?;
        self.shared.calls.fetch_add(1, Ordering::Release);
        receiver.recv().ok()
    }

    /// Completions posted, as of a few microseconds ago.
    #[must_use]
    pub fn completions(&self) -> u64 {
        self.shared.gauges.completions()
    }

    /// Steps that brought nothing, as of a few microseconds ago.
    #[must_use]
    pub fn empty_steps(&self) -> u64 {
        self.shared.gauges.empty_steps()
    }

    /// Whether the thread is still there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.handle.as_ref().is_some_and(|handle| !handle.is_finished())
    }

    /// Ends the thread, syncs the images, and gives the model back.
    ///
    /// # Errors
    /// [`ThreadError::Panicked`] or [`ThreadError::Flush`].
    pub fn stop(mut self) -> Result<Model, ThreadError> {
        let handle = self.handle.take().ok_or(ThreadError::Panicked)?;
        self.shared.stop.store(true, Ordering::Release);
        let mut model = handle.join().map_err(|_| ThreadError::Panicked)?;
        model.flush_images().map_err(ThreadError::Flush)?;
        Ok(model)
    }
}

impl Drop for ModelThread {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(handle) = self.handle.take() {
            // A panic there was printed already.
            let _ = handle.join();
        }
    }
}

struct Runner {
    model: Model,
    server: Option<MailboxServer>,
    idle: Idle,
    shared: Arc<Shared>,
    calls: Receiver<Call>,
}

impl Runner {
    fn run(mut self) -> Model {
        // A model that had another thread before goes on in its own time: one that went back would
        // stand still until it had caught up, and every command with it.
        let (start, begun_ns) = (Instant::now(), self.model.now_ns());
        let (mut now_ns, mut empty, mut done_calls) = (begun_ns, 0_u32, 0);
        let (mut busy_total, mut empty_total) = (0_u64, 0_u64);
        let mut round = 0_u32;
        loop {
            round = round.wrapping_add(1);
            let housekeeping = round.is_multiple_of(HOUSEKEEPING);
            if housekeeping || self.model.needs_time() {
                let passed_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                now_ns = begun_ns.saturating_add(passed_ns);
            }
            let mut busy = self.serve_registers();
            busy |= !self.model.step(now_ns).idle;
            if housekeeping || self.rests(empty) {
                if self.shared.stop.load(Ordering::Acquire) {
                    return self.model;
                }
                if self.shared.calls.load(Ordering::Acquire) != done_calls {
                    done_calls += self.serve_calls();
                }
                let gauges = &self.shared.gauges.0;
                gauges.completions.store(self.model.stats().completions, Ordering::Relaxed);
                gauges.busy_steps.store(busy_total, Ordering::Relaxed);
                gauges.empty_steps.store(empty_total, Ordering::Relaxed);
            }
            if busy {
                empty = 0;
                busy_total += 1;
                continue;
            }
            empty = empty.saturating_add(1);
            empty_total += 1;
            self.rest(empty);
        }
    }

    #[inline]
    fn serve_registers(&mut self) -> bool {
        let Some(server) = &mut self.server else { return false };
        let model = &mut self.model;
        server.serve(|RegAccess { offset, size, op }| match op {
            RegOp::Read => model.read_reg(offset, u32::from(size)),
            RegOp::Write(value) => {
                model.write_reg(offset, u32::from(size), value);
                0
            }
        })
    }

    fn serve_calls(&mut self) -> u64 {
        let mut done = 0;
        while let Ok(call) = self.calls.try_recv() {
            call(&mut self.model);
            done += 1;
        }
        done
    }

    /// Whether it gives its core away after so many steps without work: each of these may be long,
    /// so calls and gauges do not wait for others. While it spins they do, and a step that finds
    /// nothing takes the same however many came before it.
    #[inline]
    const fn rests(&self, empty: u32) -> bool {
        match self.idle {
            Idle::Spin => false,
            Idle::Yield { after_steps } | Idle::Sleep { after_steps, .. } => empty > after_steps,
        }
    }

    #[inline]
    fn rest(&self, empty: u32) {
        match self.idle {
            Idle::Yield { .. } if self.rests(empty) => std::thread::yield_now(),
            Idle::Sleep { sleep_us, .. } if self.rests(empty) => {
                std::thread::sleep(Duration::from_micros(sleep_us));
            }
            _ => spin_loop(),
        }
    }
}
