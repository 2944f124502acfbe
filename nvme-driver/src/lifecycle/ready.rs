//! I/O queues are made, I/O is taken, and a single queue is made anew where that is enough.
//!
//! Steps of [`super`].

use nvme_spec::OptionalAdminCommands;

use super::{Ask, Phase};
use crate::controller::Controller;
use crate::error::ResetReason;
use crate::hub::Gate;
use crate::queue::Mode;
use crate::quirks::Quirks;
use crate::requests::Requests;
use crate::watchdog::Finding;

impl Controller {
    pub(super) fn create_from(&'static self, i: u16) {
        match self.hub.queues.get(usize::from(i)) {
            Some(queue) if i < self.life.granted.get() => {
                queue.qp().clear();
                self.ask(Ask::CreateCq(i));
            }
            _ => self.go_live(i),
        }
    }

    /// Tells the controller of the shadow doorbells, if it knows such.
    pub(super) fn offer_shadows(&'static self) {
        let offered = self.identify().admin_commands();
        let admin = !self.quirks.contains(Quirks::NO_ADMIN_DBBUF);
        match self.shadows {
            Some(shadows) if offered.contains(OptionalAdminCommands::DOORBELL_BUFFER) => {
                shadows.clear();
                // The controller may look at the admin queue's as soon as it knows of them.
                self.admin.qp().shadow(if admin { shadows.pair(0) } else { None });
                self.ask(Ask::ShadowDoorbells);
            }
            _ => self.create_from(0),
        }
    }

    /// The controller has taken the shadow doorbells, or has none.
    pub(super) fn use_shadows(&self, taken: bool) {
        let shadows = self.shadows.filter(|_| taken);
        self.publish_shadows(taken);
        for queue in &self.hub.queues {
            let qp = queue.qp();
            qp.shadow(shadows.and_then(|shadows| shadows.pair(qp.qid().0)));
        }
        if !taken {
            self.admin.qp().shadow(None);
        }
    }

    /// All queues below `count` exist: I/O may begin.
    pub(super) fn go_live(&'static self, count: u16) {
        for queue in self.hub.queues.iter().take(usize::from(count)) {
            queue.qp().open_when_drained();
        }
        self.hub.live.set(count);
        self.life.attempts.set(0);
        self.life.hiccups.set(0);
        self.life.error.set(None);
        self.life.was_ready.set(true);
        self.hub.gate.set(Gate::Open);
        self.restart_watch();
        self.enter(Phase::Ready);
        self.state_changed();
    }

    pub(super) fn ready_step(&'static self) {
        if self.life.shutdown.get() {
            self.begin_drain();
            return;
        }
        self.admin.qp().acknowledge_all();
        self.hub.live().for_each(|queue| queue.qp().acknowledge_all());
        match self.watch() {
            Finding::Well => {
                if self.serve_events() {
                    self.begin_reset(ResetReason::Event);
                }
            }
            Finding::StuckQueue(i) => self.begin_queue_reset(i),
            Finding::Reset(reason) => self.begin_reset(reason),
            Finding::Gone(error) => self.die(error.into()),
        }
    }

    fn begin_queue_reset(&'static self, i: u16) {
        let Some(queue) = self.hub.queues.get(usize::from(i)) else {
            return;
        };
        if self.watch.aborts_out() != 0 {
            // It does not even answer an Abort: a deletion would be one more command that hangs.
            self.begin_reset(ResetReason::Stuck { queue: queue.qp().qid() });
            return;
        }
        self.watch.queue_resets.add(1);
        queue.qp().close();
        self.ask_for_queue(i, Ask::DeleteSq(i));
    }

    fn ask_for_queue(&self, i: u16, ask: Ask) {
        self.send(ask);
        self.enter_for(Phase::QueueReset(i, ask), self.config.admin_deadline_ns);
    }

    pub(super) fn queue_reset_step(&'static self, i: u16, ask: Ask) {
        let Some(answer) = self.life.answer.take() else {
            // The watchdog goes on meanwhile; a silent admin queue ends it.
            match self.watch() {
                Finding::Well | Finding::StuckQueue(_) if !self.is_over() => {}
                Finding::Gone(error) => self.die(error.into()),
                Finding::Reset(reason) => self.begin_reset(reason),
                _ => self.begin_reset(ResetReason::QueueReset),
            }
            return;
        };
        let Some(queue) = self.hub.queues.get(usize::from(i)) else {
            return;
        };
        if answer.is_err() {
            self.begin_reset(ResetReason::QueueReset);
            return;
        }
        match ask {
            Ask::DeleteSq(_) => self.ask_for_queue(i, Ask::DeleteCq(i)),
            Ask::DeleteCq(_) => {
                // Both are acknowledged: the device has let go of their commands.
                self.fence_queue(i, queue);
                queue.qp().clear();
                self.ask_for_queue(i, Ask::CreateCq(i));
            }
            Ask::CreateCq(_) => self.ask_for_queue(i, Ask::CreateSq(i)),
            _ => {
                queue.qp().open_when_drained();
                self.enter(Phase::Ready);
                self.hub.wake_all();
            }
        }
    }

    fn fence_queue(&self, i: u16, queue: &Requests) {
        let qid = queue.qp().qid();
        let reason = ResetReason::Stuck { queue: qid };
        queue.qp().fence(Mode::Fenced(reason));
        self.hub.drain(i, queue);
    }
}
