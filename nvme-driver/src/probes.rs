//! What the driver writes to the probe ring, and its registers. See `docs/probes.md`.

use core_runtime::clock::Clock;
use core_runtime::mem::{Bump, OutOfMemory};
use core_runtime::probe::Probes;

core_runtime::probe! {
    /// An entry was written to a submission queue.
    pub(crate) SUBMIT = "driver.submit", DRIVER, DEBUG, "a command was posted"
        (command: COMMAND COUNT, slba: NUMBER COUNT, operation: OPERATION COUNT);
    /// A submission doorbell.
    pub(crate) DOORBELL = "driver.doorbell", DRIVER, DEBUG, "the device was told of new commands"
        (queue: QUEUE COUNT, tail: NUMBER COUNT, in_flight: NUMBER COUNT);
    /// A completion that was believed.
    pub(crate) COMPLETE = "driver.complete", DRIVER, DEBUG, "a command was answered"
        (command: COMMAND COUNT, status: STATUS COUNT, entry: NUMBER COUNT);
    /// A submission queue without room.
    pub(crate) FULL = "driver.full", DRIVER, INFO, "a queue had no room for a command"
        (queue: QUEUE COUNT, in_flight: NUMBER COUNT);
    /// A completion that belongs to no command.
    pub(crate) IGNORED = "driver.ignored", DRIVER, ERROR, "a completion that belongs to nothing"
        (command: COMMAND COUNT, status: STATUS COUNT);
    /// A sampled latency.
    pub(crate) LATENCY = "driver.latency", DRIVER, INFO, "a sampled command took so long"
        (command: COMMAND COUNT, took: TICKS TICKS);
    /// A lost read that is posted once more.
    pub(crate) AGAIN = "driver.again", DRIVER, ERROR, "a read that was lost is read again"
        (left: NUMBER COUNT, slba: NUMBER COUNT);
    /// A deadline passed.
    pub(crate) LATE = "watchdog.late", WATCHDOG, ERROR, "a command has passed its deadline"
        (command: COMMAND COUNT);
    /// An Abort was posted.
    pub(crate) ABORT = "watchdog.abort", WATCHDOG, ERROR, "an abort was asked for"
        (command: COMMAND COUNT);
    /// An Abort was answered.
    pub(crate) ABORTED = "watchdog.aborted", WATCHDOG, ERROR, "an abort was answered"
        (command: COMMAND COUNT, aborted: FLAG COUNT);
    /// A queue is made anew.
    pub(crate) QUEUE_RESET = "watchdog.queue_reset", WATCHDOG, ERROR, "a queue is being reset"
        (queue: QUEUE COUNT);
    /// The controller is reset.
    pub(crate) RESET = "watchdog.reset", WATCHDOG, ERROR, "the controller is being reset"
        (reason: NUMBER COUNT, resets: NUMBER COUNT);
    /// The state machine moved.
    pub(crate) PHASE = "watchdog.phase", WATCHDOG, INFO, "the controller's life went on"
        (phase: NUMBER COUNT);
    /// The fallback: this partition's storage is what the host's kernel drives.
    pub(crate) BRIDGE_OPEN = "bridge.open", BRIDGE, INFO, "storage is the host's kernel's now"
        (depth: NUMBER COUNT);
    /// A request over the bridge.
    pub(crate) BRIDGE_SUBMIT = "bridge.submit", BRIDGE, DEBUG, "a request was sent to the host"
        (request: HEX COUNT, slba: NUMBER COUNT, operation: OPERATION COUNT);
    /// Its end.
    pub(crate) BRIDGE_COMPLETE = "bridge.complete", BRIDGE, DEBUG, "the host answered a request"
        (request: HEX COUNT, failed: FLAG COUNT);
    /// The bridge is gone.
    pub(crate) BRIDGE_LOST = "bridge.lost", BRIDGE, ERROR, "the bridge to the host is gone"
        (in_flight: NUMBER COUNT);
}

core_runtime::register! {
    /// Commands in flight on the queue that rang last.
    pub(crate) IN_FLIGHT = "driver.in_flight", "commands in flight when a doorbell rang", COUNT;
    /// Where the controller's life is.
    pub(crate) PHASE_NOW = "driver.phase", "the controller's phase, as watchdog.phase", COUNT;
    /// Resets so far.
    pub(crate) RESETS = "driver.resets", "controller resets", COUNT;
    /// Requests on the bridge.
    pub(crate) BRIDGE_IN_FLIGHT = "bridge.in_flight", "requests at the host", COUNT;
}

/// The probes given, or some that are off.
pub(crate) fn or_off(
    given: Option<&'static Probes>,
    clock: Clock,
    bump: &Bump,
) -> Result<&'static Probes, OutOfMemory> {
    match given {
        Some(probes) => Ok(probes),
        None => Ok(bump.alloc(Probes::off(clock))?),
    }
}
