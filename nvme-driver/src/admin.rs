//! Admin commands: our own, whose answers go to the state machine, the watchdog and the events, and
//! the users', which are futures.

use core::pin::Pin;
use core::task::{Context, Poll};

use core_runtime::mem::DmaBuf;
use nvme_spec::{Sqe, Status};

use crate::controller::Controller;
use crate::error::{Failed, IoError};
use crate::hub::Gate;
use crate::probes;
use crate::queue::PostError;
use crate::request::Request;
use crate::requests::{INTERNAL, Internal, NotStarted};
use crate::waiters::Ticket;

/// What an internal admin command was for; the kind is in bits 56-62 of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminToken {
    /// The step of the state machine.
    Step,
    /// An asynchronous event request.
    Event,
    /// A log page read that clears an event.
    EventLog,
    /// Identify of a namespace, after the event that it changed.
    Namespace,
    /// An abort of the command with this CID on this I/O queue (index).
    Abort { queue: u16, cid: u16 },
}

impl AdminToken {
    const fn pack(self) -> u64 {
        INTERNAL
            | match self {
                Self::Step => 0,
                Self::Event => 1 << 56,
                Self::EventLog => 2 << 56,
                Self::Namespace => 4 << 56,
                Self::Abort { queue, cid } => 3 << 56 | (queue as u64) << 16 | cid as u64,
            }
    }

    #[expect(clippy::cast_possible_truncation, reason = "fields of a token")]
    pub(crate) const fn unpack(token: u64) -> Self {
        match token >> 56 & 0x7F {
            1 => Self::Event,
            2 => Self::EventLog,
            4 => Self::Namespace,
            3 => Self::Abort { queue: (token >> 16) as u16, cid: token as u16 },
            _ => Self::Step,
        }
    }
}

impl Controller {
    /// Posts an internal admin command; `false` if there is no room.
    pub(crate) fn post_admin(&self, token: AdminToken, sqe: Sqe) -> bool {
        let posted = self.admin.qp().post(token.pack(), |_| sqe.0);
        posted.is_ok()
    }
}

/// Receives the answers to internal admin commands.
pub(crate) struct AdminSide(pub &'static Controller);

impl Internal for AdminSide {
    fn answered(&mut self, token: u64, result: Result<u32, Status>) {
        self.0.urgent.set(true);
        match AdminToken::unpack(token) {
            AdminToken::Step => self.0.life.answer(result),
            AdminToken::Event => self.0.events.arrived(result),
            AdminToken::EventLog => self.0.event_log_read(result),
            AdminToken::Namespace => self.0.namespace_looked_at(result),
            AdminToken::Abort { queue, cid } => {
                let command = (u32::from(queue) + 1) << 16 | u32::from(cid);
                let aborted = matches!(result, Ok(dw0) if dw0 & 1 == 0);
                probes::ABORTED.emit(self.0.probes, command, aborted.into(), 0);
                self.0.watch.abort_answered(result);
            }
        }
    }

    fn lost(&mut self, token: u64) {
        match AdminToken::unpack(token) {
            AdminToken::Step => {}
            AdminToken::Event | AdminToken::EventLog | AdminToken::Namespace => {
                self.0.events.lost();
            }
            AdminToken::Abort { .. } => self.0.watch.abort_lost(),
        }
    }
}

/// A user's admin command with a buffer.
pub(crate) struct AdminFuture {
    controller: &'static Controller,
    request: Request,
    buf: Option<DmaBuf>,
    op: Option<u16>,
    ticket: Ticket,
}

impl AdminFuture {
    pub(crate) const fn new(
        controller: &'static Controller,
        request: Request,
        buf: DmaBuf,
    ) -> Self {
        Self { controller, request, buf: Some(buf), op: None, ticket: Ticket::NONE }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Result<DmaBuf, Failed>> {
        let admin = &self.controller.admin;
        if self.op.is_none() {
            let failed = |error, buf| Poll::Ready(Err(Failed { error, buf }));
            if self.controller.hub.gate.get() != Gate::Open {
                let error = match self.controller.hub.gate.get() {
                    Gate::Gone => IoError::Gone,
                    _ => IoError::NotReady,
                };
                return failed(error, self.buf.take());
            }
            match admin.start(self.request, self.buf.take()) {
                Ok(op) => self.op = Some(op),
                Err(NotStarted { why, buf }) => match why {
                    PostError::Full => {
                        return match admin.waiters().wait(self.ticket, cx.waker()) {
                            Ok(ticket) => {
                                (self.buf, self.ticket) = (buf, ticket);
                                Poll::Pending
                            }
                            Err(error) => failed(error, buf),
                        };
                    }
                    PostError::Closed => return failed(IoError::NotReady, buf),
                    PostError::BadBuffer => {
                        return failed(IoError::Unaligned(self.request.iova.0), buf);
                    }
                },
            }
        }
        let Some(op) = self.op else {
            return Poll::Pending;
        };
        let Poll::Ready(ended) = admin.poll_op(op, cx.waker()) else {
            return Poll::Pending;
        };
        self.op = None;
        Poll::Ready(match (ended.result, ended.buf) {
            (Ok(()), Some(buf)) => Ok(buf),
            (Ok(()), None) => Err(Failed { error: IoError::Gone, buf: None }),
            (Err(error), buf) => Err(Failed { error, buf }),
        })
    }
}

impl Future for AdminFuture {
    type Output = Result<DmaBuf, Failed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_inner(cx)
    }
}

impl Drop for AdminFuture {
    fn drop(&mut self) {
        match self.op {
            Some(op) => self.controller.admin.abandon(op),
            None => self.controller.admin.waiters().leave(self.ticket),
        }
    }
}
