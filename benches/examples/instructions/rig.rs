//! Driver and model on one core, the model stepped where nothing is counted.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use core_runtime::mem::{Bump, DmaBuf};
use core_runtime::task::{Scheduler, SchedulerConfig, TaskOptions};
use hybrid_benches::one_core::OneCore;
use nvme_driver::Lba;

use crate::counted;
use crate::parts::clock;

/// Bytes of a read.
const READ_BYTES: usize = 4096;

/// Operations before those that are counted: every branch has been taken once.
const WARM_UP: u32 = 640;

pub(crate) struct Rig(OneCore);

impl Rig {
    /// A null namespace, and a controller that is ready.
    pub(crate) fn new() -> Result<Self> {
        let (clock, manual) = clock();
        let pass = || {
            manual.advance(200_000);
            1
        };
        OneCore::new(clock, pass).map(Self)
    }

    /// Batches of reads on a raw queue; either their submission or their reaping is counted.
    pub(crate) fn raw(&self, batch: u16, ops: u32, submission: bool) -> Result<u32> {
        let queue = self.0.controller.take_raw_queue(0, batch, &Bump::leak(64 << 10));
        let queue = queue.context("a queue")?;
        let target = self.0.namespace()?.target()?;
        for _ in 0..batch {
            queue.adopt(self.0.arena.alloc(READ_BYTES)?).ok().context("room for buffers")?;
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
                posted += self.0.model.borrow_mut().step(1).completions;
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
        let queue = self.0.controller.take_raw_queue(0, 1, &Bump::leak(64 << 10));
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
        self.0.controller.poll(self.0.clock.now());
        counted(&mut || {
            for _ in 0..ops {
                black_box(self.0.controller.poll(black_box(self.0.clock.now())));
                self.0.controller.ring();
            }
        });
        Ok(ops)
    }

    /// Reads by `tasks` tasks, from the call to the buffer's return: completion, wake, poll, the
    /// next request and its submission.
    pub(crate) fn futures(&self, tasks: u32, ops: u32) -> Result<u32> {
        let config = SchedulerConfig { time_polls: false, ..SchedulerConfig::default() };
        let scheduler = Scheduler::new(config, self.0.clock, &Bump::leak(4 << 20))?;
        let done = Rc::new(Cell::new(0_u32));
        for task in 0..tasks {
            let (namespace, done) = (self.0.namespace()?, Rc::clone(&done));
            let mut buf: DmaBuf = self.0.arena.alloc(READ_BYTES)?;
            let reader = async move {
                while let Ok(back) = namespace.read(Lba(task.into()), buf).await {
                    done.set(done.get() + 1);
                    buf = back;
                }
            };
            scheduler.spawner().spawn(TaskOptions::normal("reader"), reader)?.detach();
        }
        let mut pass = || {
            let now = self.0.clock.now();
            self.0.controller.poll(now);
            scheduler.tick(now);
            self.0.controller.ring();
        };
        for _ in 0..WARM_UP / tasks {
            pass();
            self.0.model.borrow_mut().step(1);
        }
        let before = done.get();
        while done.get() - before < ops {
            let so_far = done.get();
            counted(&mut pass);
            self.0.model.borrow_mut().step(1);
            if done.get() == so_far {
                bail!("the reads stand still after {so_far}");
            }
        }
        Ok(done.get() - before)
    }
}
