//! The model: a software NVMe controller on a thread of this process.
//!
//! The partition reaches it as it would reach a controller: registers through a mailbox, doorbells
//! and queues in shared memory, and DMA memory at addresses that are no pointers. One memory file
//! holds mailbox and doorbells; the DMA memory is the partition's own.
//!
//! At the end, the partition being gone, the keeper collects the driver's mistakes,
//! disables the controller (a partition that panicked left it running), stops the thread and takes
//! the mapped memory away from the model, in this order.

use std::time::{Duration, Instant};

use core_runtime::mailbox::MailboxLayout;
use core_runtime::mem::Iova;
use hybrid_abi::handoff::FileRole;
use hybrid_shm::Span;
use nvme_model::{Model, ModelThread, ThreadError, ThreadOptions};
use nvme_spec::registers::{Cc, Csts, Register};

// What a caller needs to describe a model, without depending on it.
pub use nvme_model::{
    AbortPolicy, Backing, ControllerFault, CqeFault, DataFault, FaultAction, FaultPlan, FaultRule,
    Idle, LatencyModel, ModelConfig, ModelGauges, NamespaceConfig, OnQueue, When,
};

use super::{
    Attached, AttachedFile, Backend, BackendError, Detached, DeviceIngredients, DeviceKeeper,
    DeviceReport, DeviceSeat,
};
use crate::affinity::{confine_to, pin_to};
use crate::memory::SharedMemory;
use crate::runtime::iova_region;
use crate::sys::alloc_guard::mark_hot_thread;
use crate::sys::signals::with_signals_blocked;

/// The mailbox has a page of the file to itself; the doorbells begin behind it.
const DOORBELLS_AT: usize = 4096;
const _: () = assert!(MailboxLayout::BYTES <= DOORBELLS_AT);

/// How long a register access of a bring-up, reset or shutdown may take, and so how long the loop
/// stands still at most for one: the model answers within microseconds, but its thread may have to
/// wait for a CPU on a machine that is busy with other things, and a driver without an answer gives
/// the controller up. While I/O goes on CSTS alone is read, for `nvme_driver::LOOK_NS` at most.
const REGISTER_TIMEOUT_NS: u64 = 2_000_000_000;

/// How long the controller may take to become disabled at the end.
const DISABLE_LIMIT: Duration = Duration::from_secs(2);

/// How long one try of the fence waits for that.
const FENCE_TRY: Duration = Duration::from_millis(2);

/// Steps without work before the model's thread lets others run, where it shares its CPU: about
/// 100 us, longer than any pause inside a burst.
const YIELD_AFTER_STEPS: u32 = 2_000;

/// What the model is made of.
enum Source {
    Config(Box<ModelConfig>),
    Model(Box<Model>),
}

/// The model as a partition's device.
pub struct ModelBackend {
    source: Source,
    idle: Option<Idle>,
    pin: Option<u32>,
    gauges: ModelGauges,
}

impl ModelBackend {
    /// A new controller.
    #[must_use]
    pub fn new(config: ModelConfig) -> Self {
        Self::from_source(Source::Config(Box::new(config)))
    }

    /// A controller that served another partition before, with what its namespaces hold:
    /// [`DeviceReport::model`].
    #[must_use]
    pub fn again(model: Box<Model>) -> Self {
        Self::from_source(Source::Model(model))
    }

    fn from_source(source: Source) -> Self {
        Self { source, idle: None, pin: None, gauges: ModelGauges::default() }
    }

    /// Lets `gauges` show how busy its thread is.
    #[must_use]
    pub fn watched_by(mut self, gauges: &ModelGauges) -> Self {
        self.gauges = gauges.clone();
        self
    }

    /// What its thread does without work. By default it spins where there are two housekeeping CPUs
    /// or more, and gives way after a while where there is one.
    #[must_use]
    pub const fn idle(mut self, idle: Idle) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Pins its thread to a housekeeping CPU.
    #[must_use]
    pub const fn pinned_to(mut self, cpu: u32) -> Self {
        self.pin = Some(cpu);
        self
    }

    fn options(&self, seat: &DeviceSeat<'_>) -> Result<ThreadOptions, BackendError> {
        let housekeeping = seat.housekeeping;
        if let Some(cpu) = self.pin.filter(|cpu| !housekeeping.contains(*cpu)) {
            return Err(BackendError::NotHousekeeping {
                cpu,
                housekeeping: Box::new(housekeeping),
            });
        }
        let pin = self.pin;
        let shared = Idle::Yield { after_steps: YIELD_AFTER_STEPS };
        let default = if housekeeping.len() > 1 { Idle::Spin } else { shared };
        Ok(ThreadOptions {
            name: String::new(),
            gauges: self.gauges.clone(),
            idle: self.idle.unwrap_or(default),
            on_start: Some(Box::new(move || {
                mark_hot_thread();
                // Both were checked against the runtime's set; elsewhere it would only be slower.
                let _ = match pin {
                    Some(cpu) => pin_to(cpu),
                    None => confine_to(housekeeping),
                };
            })),
        })
    }
}

impl Backend for ModelBackend {
    fn describe(&self) -> String {
        match &self.source {
            Source::Config(config) => describe(config),
            Source::Model(model) => describe(model.config()),
        }
    }

    fn attach(self: Box<Self>, seat: &DeviceSeat<'_>) -> Result<Attached, BackendError> {
        let options = self.options(seat)?;
        let description = self.describe();
        let mut model = match self.source {
            Source::Config(config) => Model::new(*config).map_err(refused)?,
            Source::Model(model) => *model,
        };
        let region = iova_region(seat.dma.mapped.span(), seat.dma.mapped.page().bytes())?;
        model.map_dma(region).map_err(refused)?;
        let own_doorbells = model.doorbells().span;
        let shared = seat.memory.shared("hybrid-doorbells", DOORBELLS_AT + own_doorbells.len())?;
        let file = AttachedFile::of(&shared, FileRole::SHARED)?;
        match connect(model, shared.mapped.span(), own_doorbells.len(), options) {
            Ok((thread, mailbox, doorbells)) => {
                let ingredients =
                    DeviceIngredients::by_mailbox(mailbox, REGISTER_TIMEOUT_NS, doorbells, region);
                let iova = region.iova;
                let keeper = ModelKeeper {
                    thread,
                    description,
                    shared,
                    own_doorbells,
                    iova,
                    mistakes: None,
                    fenced: false,
                };
                Ok(Attached { ingredients, files: vec![file], keeper: Box::new(keeper) })
            }
            Err(error) => {
                shared.retire();
                Err(error)
            }
        }
    }
}

/// Starts the model's thread over mailbox and doorbells in `span`, and returns these.
fn connect(
    mut model: Model,
    span: Span<'static>,
    doorbell_bytes: usize,
    options: ThreadOptions,
) -> Result<(ModelThread, Span<'static>, Span<'static>), BackendError> {
    let mailbox = span.sub(0, MailboxLayout::BYTES)?;
    let doorbells = span.sub(DOORBELLS_AT, doorbell_bytes)?;
    model.set_doorbells(doorbells).map_err(refused)?;
    let thread = with_signals_blocked(|| ModelThread::spawn(model, Some(mailbox), options))
        .map_err(|error| match error {
            ThreadError::Spawn(error) => BackendError::Thread(error),
            other => refused(other),
        })?;
    Ok((thread, mailbox, doorbells))
}

fn refused(error: impl std::fmt::Display) -> BackendError {
    BackendError::Model(error.to_string())
}

/// `model, 1 namespace of 268435456 bytes in memory`.
fn describe(config: &ModelConfig) -> String {
    use nvme_model::Backing;
    let mut line = String::from("model");
    for namespace in &config.namespaces {
        let backing = match &namespace.backing {
            Backing::Memory | Backing::Mapped(_) => "memory".to_owned(),
            Backing::Image { path, .. } => path.display().to_string(),
            Backing::Null { .. } => "a computed pattern".to_owned(),
        };
        line.push_str(&format!(", namespace {} in {backing}", namespace.nsid));
    }
    line
}

/// The model's thread, and what to undo.
struct ModelKeeper {
    thread: ModelThread,
    description: String,
    shared: SharedMemory,
    own_doorbells: Span<'static>,
    iova: Iova,
    /// The driver's, taken before the host itself touches a register.
    mistakes: Option<Vec<String>>,
    fenced: bool,
}

impl ModelKeeper {
    fn take_mistakes(&mut self) -> Vec<String> {
        let taken = self.mistakes.take().or_else(|| {
            self.thread.call(|model| {
                let all = model.take_mistakes();
                all.iter().map(ToString::to_string).collect()
            })
        });
        taken.unwrap_or_default()
    }
}

impl DeviceKeeper for ModelKeeper {
    fn fence(&mut self) -> Result<(), String> {
        if self.fenced {
            return Ok(());
        }
        let mistakes = self.take_mistakes();
        self.mistakes = Some(mistakes);
        // A model without its thread does nothing any more.
        if self.thread.is_running() && !disable(&self.thread, FENCE_TRY) {
            return Err("the model's controller is not disabled yet".to_owned());
        }
        let iova = self.iova;
        self.thread.call(move |model| model.unmap(iova));
        self.fenced = true;
        Ok(())
    }

    fn stop(mut self: Box<Self>) -> Detached {
        let mistakes = self.take_mistakes();
        let disabled = self.fenced || disable(&self.thread, DISABLE_LIMIT);
        let mut report =
            DeviceReport { description: self.description, mistakes, ..DeviceReport::default() };
        match self.thread.stop() {
            Ok(mut model) => {
                model.unmap(self.iova);
                // Its own doorbells fit: they did before.
                let _ = model.set_doorbells(self.own_doorbells);
                model.take_mistakes();
                report.model = Some(Box::new(model));
            }
            Err(error) => report.problem = Some(error.to_string()),
        }
        if !disabled && report.problem.is_none() {
            report.problem = Some("the controller did not become disabled in time".to_owned());
        }
        Detached { report, memory: vec![self.shared] }
    }
}

/// Clears CC.EN and waits for CSTS.RDY = 0, for `limit` at most: no transfer comes after that.
fn disable(thread: &ModelThread, limit: Duration) -> bool {
    let begun = Instant::now();
    let mut ready = thread.call(|model| {
        model.write_reg(Cc::OFFSET, 4, Cc::new().into_raw().into());
        is_ready(model)
    });
    while ready == Some(true) && begun.elapsed() < limit {
        std::thread::sleep(Duration::from_micros(100));
        ready = thread.call(is_ready);
    }
    ready == Some(false)
}

fn is_ready(model: &mut Model) -> bool {
    // What a 4-byte read returns fits; all ones would be a model that plays dead.
    u32::try_from(model.read_reg(Csts::OFFSET, 4)).is_ok_and(|raw| Csts::from_raw(raw).rdy())
}
