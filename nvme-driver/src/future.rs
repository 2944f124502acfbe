//! Futures of I/O on a namespace. They hold their buffer while they wait for room, and nothing but
//! two words afterwards; the request lives in [`crate::requests`].
//!
//! They start when they are made if there is room, so that many can be in flight at once from one
//! task; otherwise they join the line when they are first polled. Dropping one forgets the answer,
//! never the memory. All are `Unpin`.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use core_runtime::mem::DmaBuf;

use crate::error::{Failed, IoError};
use crate::hub::{Gate, Hub};
use crate::queue::PostError;
use crate::request::Request;
use crate::requests::{Ended, NotStarted, Requests};
use crate::waiters::Ticket;

/// Where an I/O stands.
#[derive(Debug)]
enum Stage {
    /// Waiting for room.
    Waiting { request: Request, buf: Option<DmaBuf>, ticket: Ticket, generation: u32 },
    /// Started.
    Running { requests: &'static Requests, op: u16 },
    /// Could not be started; to be told at the next poll.
    Refused(IoError, Option<DmaBuf>),
    /// Told.
    Over,
}

/// An I/O in whatever stage.
#[derive(Debug)]
pub(crate) struct Io {
    hub: &'static Hub,
    stage: Stage,
}

impl Io {
    /// Starts it now, or as soon as there is room.
    #[inline]
    pub(crate) fn start(hub: &'static Hub, request: Request, buf: Option<DmaBuf>) -> Self {
        let stage = match try_start(hub, request, buf, false) {
            Ok(running) => running,
            Err((IoError::QueueFull, buf)) => {
                let generation = hub.generation.get();
                Stage::Waiting { request, buf, ticket: Ticket::NONE, generation }
            }
            Err((error, buf)) => Stage::Refused(error, buf),
        };
        Self { hub, stage }
    }

    /// Starts it now or says why not.
    pub(crate) fn try_now(
        hub: &'static Hub,
        request: Request,
        buf: Option<DmaBuf>,
    ) -> Result<Self, Failed> {
        match try_start(hub, request, buf, false) {
            Ok(stage) => Ok(Self { hub, stage }),
            Err((error, buf)) => Err(Failed { error, buf }),
        }
    }

    /// One that is refused before it starts.
    #[cold]
    pub(crate) const fn refused(hub: &'static Hub, error: IoError, buf: Option<DmaBuf>) -> Self {
        let stage = Stage::Refused(error, buf);
        Self { hub, stage }
    }

    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Stage::Running { requests, op } = &self.stage {
            let polled = requests.poll_op(*op, cx.waker());
            if polled.is_ready() {
                self.stage = Stage::Over;
            }
            return polled;
        }
        self.poll_start(cx)
    }

    #[inline(never)]
    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        match core::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Waiting { request, buf, ticket, generation } => {
                let first = self.hub.may_pass(ticket);
                if self.hub.gate.get() == Gate::Open && generation != self.hub.generation.get() {
                    // It was checked against a shape that may not be any more.
                    self.hub.leave(ticket);
                    let error = IoError::NamespaceChanged(request.nsid());
                    return Poll::Ready(Ended { result: Err(error), buf });
                }
                match try_start(self.hub, request, buf, first) {
                    Ok(running) => {
                        self.stage = running;
                        self.poll(cx)
                    }
                    Err((IoError::QueueFull, buf)) => match self.hub.wait(ticket, cx.waker()) {
                        Ok(ticket) => {
                            self.stage = Stage::Waiting { request, buf, ticket, generation };
                            Poll::Pending
                        }
                        Err(error) => Poll::Ready(Ended { result: Err(error), buf }),
                    },
                    Err((error, buf)) => Poll::Ready(Ended { result: Err(error), buf }),
                }
            }
            Stage::Refused(error, buf) => Poll::Ready(Ended { result: Err(error), buf }),
            running @ Stage::Running { .. } => {
                self.stage = running;
                self.poll(cx)
            }
            // Polled after its end: pending for ever, as a fused future would be.
            Stage::Over => Poll::Pending,
        }
    }
}

impl Drop for Io {
    #[inline]
    fn drop(&mut self) {
        match &self.stage {
            Stage::Running { requests, op } => requests.abandon(*op),
            Stage::Waiting { ticket, .. } => self.hub.leave(*ticket),
            Stage::Refused(..) | Stage::Over => {}
        }
    }
}

#[inline]
fn try_start(
    hub: &'static Hub,
    request: Request,
    buf: Option<DmaBuf>,
    first: bool,
) -> Result<Stage, (IoError, Option<DmaBuf>)> {
    let requests = match hub.pick(first) {
        Ok(requests) => requests,
        Err(error) => return Err((error, buf)),
    };
    match requests.start(request, buf) {
        Ok(op) => Ok(Stage::Running { requests, op }),
        Err(NotStarted { why, buf }) => Err((
            match why {
                PostError::Full => IoError::QueueFull,
                PostError::Closed => hub.closed_error(),
                PostError::BadBuffer => IoError::Unaligned(request.iova.0),
            },
            buf,
        )),
    }
}

/// An I/O with a buffer: read, write, compare. Its output is the buffer, or the error and the
/// buffer (which is missing only if the device may still write to it).
#[derive(Debug)]
#[must_use = "futures do nothing more than start unless polled"]
pub struct IoFuture(pub(crate) Io);

impl Future for IoFuture {
    type Output = Result<DmaBuf, Failed>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.0.poll(cx).map(|ended| match (ended.result, ended.buf) {
            (Ok(()), Some(buf)) => Ok(buf),
            (Ok(()), None) => Err(Failed { error: IoError::Gone, buf: None }),
            (Err(error), buf) => Err(Failed { error, buf }),
        })
    }
}

/// A command without a buffer of the caller: flush, write zeroes, dataset management.
#[derive(Debug)]
#[must_use = "futures do nothing more than start unless polled"]
pub struct CommandFuture(pub(crate) Option<Io>);

impl Future for CommandFuture {
    type Output = Result<(), IoError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Some(io) => io.poll(cx).map(|ended| ended.result),
            // Nothing to be done, such as a flush without a write cache.
            None => Poll::Ready(Ok(())),
        }
    }
}
