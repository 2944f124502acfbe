//! What a fault may cost: an error that none of those which struck could cost is a violation.
//!
//! A status is explained by the very fault that sent it ([`Shared::explain`]); this is about
//! everything else, commands that end without an answer, queues and controllers that are reset,
//! devices that are given up.
//!
//! [`Shared::explain`]: crate::shared::Shared::explain

use nvme_driver::{IoError, ResetReason};
use nvme_model::{ControllerFault, CqeFault, FaultAction};
use nvme_spec::{AsyncEvent, AsyncEventType};

use crate::catalogue::{Deed, Fault, Trigger, World};

/// What may come of a fault beside the status that it sends and the data that it spoils.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// Nothing: no command, no queue, no controller.
    Nothing,
    /// A command the delay that its status asks for, before it is tried again.
    Delay,
    /// A command its deadline, and then its queue or, where that is not enough, a controller reset.
    Command,
    /// The service is let go in order: what comes too late is refused.
    Service,
    /// The controller is reset or lost, and with it whatever it has.
    Device,
}

/// The costs of faults that struck so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Costs(u8);

impl Costs {
    pub(crate) const fn with(self, cost: Cost) -> Self {
        Self(self.0 | 1 << cost as u8)
    }

    const fn has(self, cost: Cost) -> bool {
        self.0 & 1 << cost as u8 != 0
    }

    /// Whether commands may be aborted, and queues and controllers be reset.
    pub(crate) const fn has_trouble(self) -> bool {
        self.has(Cost::Command) || self.has(Cost::Device)
    }

    /// Whether an error that is no status may come of them.
    pub(crate) const fn explain(self, error: IoError) -> bool {
        use ResetReason as R;
        match error {
            IoError::TimedOut
            | IoError::Reset(R::Stuck { .. } | R::AdminStuck | R::Rogue | R::QueueReset) => {
                self.has_trouble()
            }
            // An orderly end waits for what is in flight, and not for ever.
            IoError::Reset(R::Requested)
                if self.has(Cost::Service) && (self.has(Cost::Delay) || self.has_trouble()) =>
            {
                true
            }
            IoError::Gone | IoError::NotReady => self.has(Cost::Service) || self.has(Cost::Device),
            _ => self.has(Cost::Device),
        }
    }
}

impl Fault {
    /// What it may cost.
    pub(crate) fn cost(&self) -> Cost {
        match self.deed() {
            // What a bring-up or the watch over the controller is built on.
            Deed::Device(_) if self.kind().trigger == Trigger::Admin => Cost::Device,
            Deed::Device(action) => of_command(action),
            Deed::World(blow) => of_blow(blow),
            Deed::Kernel(_) => Cost::Device,
        }
    }
}

const fn of_command(action: FaultAction) -> Cost {
    match action {
        FaultAction::Status(status) if status.crd() != 0 => Cost::Delay,
        FaultAction::Status(_)
        | FaultAction::StatusAfter(_)
        | FaultAction::DelayNs(_)
        | FaultAction::Data(_)
        | FaultAction::Cqe(CqeFault::WrongSqhd(_)) => Cost::Nothing,
        // Taken with the dword that has CID and phase, which needs the one that has the SQID.
        FaultAction::Cqe(CqeFault::Order(order)) if place(order, 3) > place(order, 2) => {
            Cost::Nothing
        }
        // The host takes what was never posted, and tells the device of it with its doorbell.
        FaultAction::Cqe(CqeFault::PhaseEarly) => Cost::Device,
        // An answer that is lost, or one too many, which may be stored over another.
        FaultAction::Cqe(_) | FaultAction::Drop => Cost::Command,
        FaultAction::Controller(fault) => of_controller(fault),
    }
}

const fn of_controller(fault: ControllerFault) -> Cost {
    match fault {
        // Several in a row are longer than a deadline.
        ControllerFault::PauseNs(_) => Cost::Command,
        ControllerFault::Event(event) | ControllerFault::EventStorm(event, _) => of_event(event),
        // Media that are read only refuse what writes, which is a status.
        ControllerFault::CriticalWarning(_) => Cost::Nothing,
        ControllerFault::Fatal
        | ControllerFault::AllOnes
        | ControllerFault::AllZeros
        | ControllerFault::NeverReady
        | ControllerFault::NeverNotReady
        | ControllerFault::NeverShutDown
        | ControllerFault::SubsystemReset => Cost::Device,
    }
}

/// NVMe Base 2.0, figure 146: doorbells and persistent internal errors, after which the queues
/// cannot be trusted.
const fn of_event(event: AsyncEvent) -> Cost {
    match (event.event_type(), event.info()) {
        (AsyncEventType::ERROR, 0 | 1 | 3) => Cost::Device,
        _ => Cost::Nothing,
    }
}

const fn of_blow(blow: World) -> Cost {
    match blow {
        // Whoever dies has nobody to tell an error to; the next one knows of nothing.
        World::Crash
        | World::Held
        | World::Refused
        | World::Hang
        | World::HostCrash
        | World::PowerCut
        | World::Jump
        | World::Still
        | World::Stop
        | World::HostStop
        // Nobody is aborted for it.
        | World::Abort => Cost::Nothing,
        World::Shutdown | World::Restart => Cost::Service,
        World::Reset
        | World::Unbind
        | World::RegistersGone
        | World::IommuFault
        | World::Resize
        | World::NeverNotReady
        | World::Silence => Cost::Device,
    }
}

/// When a dword of an entry is stored.
const fn place(order: [u8; 4], dword: u8) -> usize {
    let mut at = 0;
    while at < order.len() && order[at] != dword {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::find;

    fn cost(name: &str, choice: u64) -> Cost {
        Fault { at: 1, kind: find(name).expect("a fault"), choice }.cost()
    }

    #[test]
    fn what_a_fault_may_cost_depends_on_what_its_choice_makes_of_it() {
        assert_eq!(cost("status-retry", 0), Cost::Nothing);
        assert_eq!(cost("status-retry-later", 0), Cost::Delay);
        assert_eq!(cost("command-dropped", 0), Cost::Command);
        assert_eq!(cost("phase-early", 0), Cost::Device);
        assert_eq!(cost("admin-status", 0), Cost::Device);
        // Orders 0 and 23 are 0123 and 3210.
        assert_eq!(cost("words-in-any-order", 0), Cost::Nothing);
        assert_eq!(cost("words-in-any-order", 23), Cost::Command);
        // An error: a doorbell that does not exist; a diagnostic failure.
        assert_eq!(cost("event-unknown", 0), Cost::Device);
        assert_eq!(cost("event-unknown", 2), Cost::Nothing);
    }

    #[test]
    fn an_error_needs_a_fault_that_can_cost_it() {
        let after = |cost| Costs::default().with(cost);
        let requested = IoError::Reset(ResetReason::Requested);
        assert!(!after(Cost::Nothing).explain(IoError::TimedOut));
        assert!(after(Cost::Command).explain(IoError::TimedOut));
        assert!(!after(Cost::Command).explain(requested));
        assert!(!after(Cost::Command).explain(IoError::Gone));
        assert!(after(Cost::Service).explain(IoError::NotReady));
        assert!(!after(Cost::Service).explain(IoError::TimedOut));
        assert!(!after(Cost::Service).explain(requested));
        assert!(!after(Cost::Delay).explain(requested));
        assert!(after(Cost::Service).with(Cost::Delay).explain(requested));
        assert!(after(Cost::Device).explain(requested));
    }
}
