//! The thread that starts partitions' processes.
//!
//! The kernel sends a parent's death signal when the *thread* ends that made the child. A program
//! may start its partitions from any thread; this one lives as long as the process.

use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

use crate::sys::signals::with_signals_blocked;

type Job = Box<dyn FnOnce() + Send>;

static JOBS: Mutex<Option<Sender<Job>>> = Mutex::new(None);

/// Does `job` on that thread, and waits for it.
///
/// # Errors
/// If there is no such thread, and none can be made.
pub(super) fn on_launcher<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    let (done, result) = sync_channel(1);
    let job: Job = Box::new(move || {
        // Its caller waits.
        let _ = done.send(job());
    });
    let mut jobs = JOBS.lock().unwrap_or_else(PoisonError::into_inner);
    let sender = match jobs.take() {
        Some(sender) => sender,
        None => start()?,
    };
    let sent = sender.send(job);
    *jobs = sent.is_ok().then_some(sender);
    drop(jobs);
    let lost = |_| std::io::Error::other("the launcher's thread has ended");
    sent.map_err(|_| lost(()))?;
    result.recv().map_err(|_| lost(()))
}

fn start() -> std::io::Result<Sender<Job>> {
    let (sender, jobs) = channel::<Job>();
    let builder = std::thread::Builder::new().name("launcher".to_owned());
    with_signals_blocked(|| builder.spawn(move || jobs.iter().for_each(|job| job())))?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_runs_on_one_thread_that_is_not_the_callers() {
        let id = || std::thread::current().id();
        let (first, second) = (on_launcher(id).expect("a thread"), on_launcher(id).expect("it"));
        assert!(first == second && first != id());
    }
}
