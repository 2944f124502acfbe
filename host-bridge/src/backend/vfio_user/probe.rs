//! A look at the server's doorbells before anything of ours depends on them.
//!
//! Called at attach and by the session. The calls of this module may hang for as long as a file
//! system likes; its callers do not.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;

use super::client::DoorbellFile;
use super::error::VfioUserError;
use crate::sys::signals::with_signals_blocked;
use crate::sys::window::Window;

/// Looks whether the doorbells can be mapped, by a thread of its own: the file is the server's
/// choice, and may lie in a file system that answers when it likes. One that does not answer within
/// `time` keeps that thread, and nothing else.
pub(super) fn probe(
    doorbells: &DoorbellFile,
    len: usize,
    time: Duration,
) -> Result<(), VfioUserError> {
    let offset = doorbells.offset;
    let refused = |errno| VfioUserError::DoorbellFile { len, offset, errno };
    let file = doorbells
        .file
        .try_clone()
        .map_err(|error| refused(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let map = move || Window::reserve(len)?.show(file.as_fd(), offset, len);
    within(time, map).map_err(refused)
}

/// What `work` gives, if it ends in time.
fn within<T: Send + 'static>(
    time: Duration,
    work: impl FnOnce() -> Result<T, Errno> + Send + 'static,
) -> Result<T, Errno> {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("vfio-user-map".to_owned());
    let run = move || {
        // Nobody waits any more for what comes too late.
        let _ = send.send(work());
    };
    with_signals_blocked(|| thread.spawn(run)).map_err(|_| Errno::AGAIN)?;
    receive.recv_timeout(time).unwrap_or(Err(Errno::TIMEDOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_does_not_end_is_given_up_at_its_time() {
        let (keep, never) = std::sync::mpsc::channel::<()>();
        let stuck = within(Duration::from_millis(10), move || {
            let _ = never.recv();
            Ok(())
        });
        assert_eq!(stuck, Err(Errno::TIMEDOUT));
        drop(keep);
        assert_eq!(within(Duration::from_secs(20), || Ok(7)), Ok(7));
        assert_eq!(within(Duration::from_secs(20), || Err::<(), _>(Errno::FBIG)), Err(Errno::FBIG));
    }
}
