//! Futures of I/O over the bridge. As those of [`crate::future`]: they start when they are made if
//! there is room, else they join the line; dropping one forgets the answer, never the memory.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use core_runtime::mem::DmaBuf;
use hybrid_abi::bridge::BridgeRequest;

use super::client::{Bridge, Ended};
use super::slot::State;
use crate::error::{Failed, IoError};
use crate::waiters::Ticket;

#[derive(Debug)]
enum Stage {
    Waiting { request: BridgeRequest, buf: Option<DmaBuf>, ticket: Ticket },
    Running { slot: u16 },
    Refused(IoError, Option<DmaBuf>),
    Over,
}

#[derive(Debug)]
struct Io {
    bridge: &'static Bridge,
    stage: Stage,
}

impl Io {
    fn start(
        bridge: &'static Bridge,
        request: Result<BridgeRequest, IoError>,
        buf: Option<DmaBuf>,
    ) -> Self {
        let stage = match request {
            Err(error) => Stage::Refused(error, buf),
            Ok(request) => match bridge.begin(request, buf, (State::Pending, false)) {
                Ok(slot) => Stage::Running { slot },
                Err((IoError::QueueFull, buf)) => {
                    Stage::Waiting { request, buf, ticket: Ticket::NONE }
                }
                Err((error, buf)) => Stage::Refused(error, buf),
            },
        };
        Self { bridge, stage }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Stage::Running { slot } = self.stage {
            let polled = self.bridge.poll_slot(slot, cx.waker());
            if polled.is_ready() {
                self.stage = Stage::Over;
            }
            return polled;
        }
        match core::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Waiting { request, buf, ticket } => {
                let first = ticket != Ticket::NONE && !self.bridge.line.holds(ticket);
                match self.bridge.begin(request, buf, (State::Pending, first)) {
                    Ok(slot) => {
                        self.bridge.line.leave(ticket);
                        self.stage = Stage::Running { slot };
                        self.poll(cx)
                    }
                    Err((IoError::QueueFull, buf)) => match self.bridge.wait(ticket, cx.waker()) {
                        Ok(ticket) => {
                            self.stage = Stage::Waiting { request, buf, ticket };
                            Poll::Pending
                        }
                        Err(error) => Poll::Ready((Err(error), buf)),
                    },
                    Err((error, buf)) => Poll::Ready((Err(error), buf)),
                }
            }
            Stage::Refused(error, buf) => Poll::Ready((Err(error), buf)),
            // Polled after its end: pending for ever, as a fused future would be.
            Stage::Running { .. } | Stage::Over => Poll::Pending,
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        match &self.stage {
            Stage::Running { slot } => self.bridge.abandon(*slot),
            Stage::Waiting { ticket, .. } => self.bridge.line.leave(*ticket),
            Stage::Refused(..) | Stage::Over => {}
        }
    }
}

/// A read or a write. Its output is the buffer, or the error and the buffer (which is missing only
/// if the host may still write to it).
#[derive(Debug)]
#[must_use = "futures do nothing more than start unless polled"]
pub struct BridgeIo(Io);

impl BridgeIo {
    pub(super) fn start(
        bridge: &'static Bridge,
        request: Result<BridgeRequest, IoError>,
        buf: DmaBuf,
    ) -> Self {
        Self(Io::start(bridge, request, Some(buf)))
    }

    pub(super) fn try_start(
        bridge: &'static Bridge,
        request: Result<BridgeRequest, IoError>,
        buf: DmaBuf,
    ) -> Result<Self, Failed> {
        let request = match request {
            Ok(request) => request,
            Err(error) => return Err(Failed { error, buf: Some(buf) }),
        };
        match bridge.begin(request, Some(buf), (State::Pending, false)) {
            Ok(slot) => Ok(Self(Io { bridge, stage: Stage::Running { slot } })),
            Err((error, buf)) => Err(Failed { error, buf }),
        }
    }
}

impl Future for BridgeIo {
    type Output = Result<DmaBuf, Failed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx).map(|ended| match ended {
            (Ok(()), Some(buf)) => Ok(buf),
            (Ok(()), None) => Err(Failed { error: IoError::Gone, buf: None }),
            (Err(error), buf) => Err(Failed { error, buf }),
        })
    }
}

/// A flush, write zeroes or discard.
#[derive(Debug)]
#[must_use = "futures do nothing more than start unless polled"]
pub struct BridgeCommand(Option<Io>);

impl BridgeCommand {
    /// Nothing to be done.
    pub(super) const fn done() -> Self {
        Self(None)
    }

    pub(super) fn start(bridge: &'static Bridge, request: Result<BridgeRequest, IoError>) -> Self {
        Self(Some(Io::start(bridge, request, None)))
    }
}

impl Future for BridgeCommand {
    type Output = Result<(), IoError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Some(io) => io.poll(cx).map(|(result, _)| result),
            None => Poll::Ready(Ok(())),
        }
    }
}
