//! What a supervisor asks of a partition's handle: how it is, and that its device is quiet.

use std::time::Duration;

use core_runtime::clock::Instant;
use core_runtime::partition::state::FailureText;

use super::body::Body;
use super::handle::PartitionHandle;
use crate::process::Death;

impl PartitionHandle {
    /// Counts the starts of this partition, from 1.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// What the task with this number is called: [`StateSnapshot::task`] has numbers only.
    ///
    /// [`StateSnapshot::task`]: core_runtime::partition::state::StateSnapshot::task
    #[must_use]
    pub fn task_name(&self, number: u32) -> Option<String> {
        self.task_names.and_then(|names| names.get(number)).map(|name| name.as_str().to_owned())
    }

    /// The line of its end, as far as it has written one.
    #[must_use]
    pub fn last_words(&self) -> FailureText {
        self.state.text()
    }

    /// Whether the host has asked it to end.
    #[must_use]
    pub fn is_asked_to_stop(&self) -> bool {
        self.stop.is_asked()
    }

    /// Time since one of its stamps.
    #[must_use]
    pub fn since(&self, stamp: Instant) -> Duration {
        Duration::from_nanos(self.clock.ticks_to_ns(self.clock.now().since(stamp)))
    }

    /// Waits for `time`, or for the end of a process.
    pub fn rest(&self, time: Duration) {
        match &self.body {
            Some(body) => body.rest(time),
            None => std::thread::sleep(time),
        }
    }

    /// The fence: it has ended, and nothing of its device reaches its memory any more. From then on
    /// that memory may be read, and may be given back. Waits for a moment at most; asked again
    /// until it succeeds or the caller gives up.
    ///
    /// # Errors
    /// Why not yet.
    pub fn fence(&mut self) -> Result<Death, String> {
        if !self.is_finished() {
            return Err("the partition is still there".to_owned());
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.fence()?;
        }
        Ok(self.death())
    }

    /// How it ended, once it has; waits for the end.
    pub(crate) fn death(&mut self) -> Death {
        match &mut self.body {
            Some(Body::Process { process, .. }) => process.reap().0,
            Some(Body::Thread { .. }) => Death::Thread,
            None => Death::Lost,
        }
    }
}
