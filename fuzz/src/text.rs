//! Requests of clients of the control socket.

use std::cell::OnceCell;

use core_runtime::clock::{Clock, ManualClock};
use host_bridge::telemetry::Telemetry;
use host_bridge::telemetry::control::answer;

thread_local! {
    static TELEMETRY: OnceCell<Telemetry> = const { OnceCell::new() };
}

/// A line: one line comes back, whatever it was.
pub(crate) fn control(bytes: &[u8]) {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let answer = TELEMETRY.with(|telemetry| {
        let telemetry = telemetry.get_or_init(|| {
            let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1_000_000)));
            Telemetry::new(Clock::manual(clock))
        });
        answer(telemetry, "fuzz", line)
    });
    assert!(answer.starts_with('{') && answer.ends_with("}\n"), "{answer}");
    assert_eq!(answer.matches('\n').count(), 1, "{answer}");
}
