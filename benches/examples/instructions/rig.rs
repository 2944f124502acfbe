//! Driver and model on one core, the model stepped where nothing is counted.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use core_runtime::clock::Clock;
use core_runtime::mem::{Bump, DmaArena, DmaBuf, Iova};
use core_runtime::task::{Scheduler, SchedulerConfig, TaskOptions};
use nvme_driver::{
    ControlRegs, Controller, ControllerConfig, ControllerState, DeviceParts, Lba, Namespace,
    RegsError,
};
use nvme_model::{Model, ModelConfig, NamespaceConfig};

use crate::counted;
use crate::parts::clock;

/// Bytes of a read.
const READ_BYTES: usize = 4096;

/// A region's first IOVA: no pointer of this process.
const IOVA: Iova = Iova(0x12_3400_0000);

/// Passes until the controller is ready: it takes some hundred.
const BRING_UP: u32 = 100_000;

/// Operations before those that are counted: every branch has been taken once.
const WARM_UP: u32 = 640;

/// Registers that reach the model directly.
struct Registers(Rc<RefCell<Model>>);

impl ControlRegs for Registers {
    fn read32(&self, offset: u32) -> Result<u32, RegsError> {
        let value = self.0.borrow_mut().read_reg(offset, 4);
        u32::try_from(value).map_err(|_| RegsError::Refused(offset))
    }

    fn read64(&self, offset: u32) -> Result<u64, RegsError> {
        Ok(self.0.borrow_mut().read_reg(offset, 8))
    }

    fn write32(&self, offset: u32, value: u32) -> Result<(), RegsError> {
        self.0.borrow_mut().write_reg(offset, 4, value.into());
        Ok(())
    }

    fn write64(&self, offset: u32, value: u64) -> Result<(), RegsError> {
        self.0.borrow_mut().write_reg(offset, 8, value);
        Ok(())
    }
}

pub(crate) struct Rig {
    model: Rc<RefCell<Model>>,
    controller: &'static Controller,
    arena: &'static DmaArena,
    clock: Clock,
}

impl Rig {
    /// A null namespace, and a controller that is ready.
    pub(crate) fn new() -> Result<Self> {
        let namespaces = vec![NamespaceConfig::null(1, 1 << 24, 7)];
        let mut model = Model::new(ModelConfig { namespaces, ..ModelConfig::default() })?;
        let arena = DmaArena::leak(8 << 20, IOVA)?;
        model.map_dma(arena.region())?;
        let doorbells = model.doorbells();
        let model = Rc::new(RefCell::new(model));
        let (clock, manual) = clock();
        let regs = Box::leak(Box::new(Registers(Rc::clone(&model))));
        let parts = DeviceParts { regs, doorbells, arena, clock, crash: None };
        let config = ControllerConfig { latency_sampling: 0, ..ControllerConfig::default() };
        let controller = Controller::new(parts, &Bump::leak(8 << 20), config)?;
        for _ in 0..BRING_UP {
            manual.advance(200_000);
            controller.poll(clock.now());
            controller.ring();
            model.borrow_mut().step(1);
            if controller.state() == ControllerState::Ready {
                return Ok(Self { model, controller, arena, clock });
            }
        }
        bail!("the controller does not come up: {:?}", controller.state())
    }

    fn namespace(&self) -> Result<&'static Namespace> {
        self.controller.namespaces().next().context("a namespace")
    }

    /// Batches of reads on a raw queue; either their submission or their reaping is counted.
    pub(crate) fn raw(&self, batch: u16, ops: u32, submission: bool) -> Result<u32> {
        let queue = self.controller.take_raw_queue(0, batch, &Bump::leak(64 << 10));
        let queue = queue.context("a queue")?;
        let target = self.namespace()?.target()?;
        for _ in 0..batch {
            queue.adopt(self.arena.alloc(READ_BYTES)?).ok().context("room for buffers")?;
        }
        let (failed, reaped) = (Cell::new(None), Cell::new(0));
        let mut submit = || {
            for buf in 0..batch {
                let lba = Lba(u64::from(black_box(buf)) * 77);
                failed.set(failed.get().or(queue.submit_read(&target, lba, 1, buf, 0).err()));
            }
            queue.ring();
        };
        let mut reap = || {
            let taken = queue.reap(batch, |_, result| failed.set(failed.get().or(result.err())));
            reaped.set(reaped.get() + u32::from(taken));
        };
        let batches = ops / u32::from(batch);
        for round in 0..WARM_UP / u32::from(batch) + batches {
            let hot = round >= WARM_UP / u32::from(batch);
            let run = |counts: bool, work: &mut dyn FnMut()| match counts {
                true => counted(work),
                false => work(),
            };
            run(hot && submission, &mut submit);
            let mut posted = 0;
            while posted < u32::from(batch) {
                posted += self.model.borrow_mut().step(1).completions;
            }
            run(hot && !submission, &mut reap);
        }
        match failed.get() {
            Some(error) => Err(error.into()),
            None if reaped.get() == WARM_UP + ops => Ok(ops),
            None => bail!("{} completions of {}", reaped.get(), WARM_UP + ops),
        }
    }

    /// Reaps of a raw queue that find nothing.
    pub(crate) fn raw_empty(&self, ops: u32) -> Result<u32> {
        let queue = self.controller.take_raw_queue(0, 1, &Bump::leak(64 << 10));
        let queue = queue.context("a queue")?;
        counted(&mut || {
            for _ in 0..ops {
                black_box(queue.reap(64, |_, _| {}));
            }
        });
        Ok(ops)
    }

    /// Polls and rings of the controller when there is nothing to do.
    pub(crate) fn empty_polls(&self, ops: u32) -> Result<u32> {
        self.controller.poll(self.clock.now());
        counted(&mut || {
            for _ in 0..ops {
                black_box(self.controller.poll(black_box(self.clock.now())));
                self.controller.ring();
            }
        });
        Ok(ops)
    }

    /// Reads by `tasks` tasks, from the call to the buffer's return: completion, wake, poll, the
    /// next request and its submission.
    pub(crate) fn futures(&self, tasks: u32, ops: u32) -> Result<u32> {
        let config = SchedulerConfig { time_polls: false, ..SchedulerConfig::default() };
        let scheduler = Scheduler::new(config, self.clock, &Bump::leak(4 << 20))?;
        let done = Rc::new(Cell::new(0_u32));
        for task in 0..tasks {
            let (namespace, done) = (self.namespace()?, Rc::clone(&done));
            let mut buf: DmaBuf = self.arena.alloc(READ_BYTES)?;
            let reader = async move {
                while let Ok(back) = namespace.read(Lba(task.into()), buf).await {
                    done.set(done.get() + 1);
                    buf = back;
                }
            };
            scheduler.spawner().spawn(TaskOptions::normal("reader"), reader)?.detach();
        }
        let mut pass = || {
            let now = self.clock.now();
            self.controller.poll(now);
            scheduler.tick(now);
            self.controller.ring();
        };
        for _ in 0..WARM_UP / tasks {
            pass();
            self.model.borrow_mut().step(1);
        }
        let before = done.get();
        while done.get() - before < ops {
            let so_far = done.get();
            counted(&mut pass);
            self.model.borrow_mut().step(1);
            if done.get() == so_far {
                bail!("the reads stand still after {so_far}");
            }
        }
        Ok(done.get() - before)
    }
}
