//! Control registers through shared memory.
//!
//! Where a device's control registers can't be mapped (the model's thread, a vfio-user socket that
//! a host thread holds), the partition reads and writes them through this: one request at a time,
//! two cache-line pairs, one writer each. Used at bring-up, reset, shutdown and for CSTS; never on
//! the I/O path. It makes no system call and waits by spinning, until its deadline and no longer.
//!
//! ```text
//!   client: ticket even ─▶ access, value ─▶ ticket odd ─────────▶ waits for its answer
//!   server:               sees an odd ticket, copies the access, sees the same ticket again,
//!                         does it, writes value and status, then the answer = that ticket
//! ```
//!
//! What each side may do to the other: nothing. The words of the other side are allegations.
//! * A server that is absent, stops or is slow costs the client its timeout. The request is
//!   withdrawn then (a server that has picked it up may still do it), and its late answer carries
//!   an old ticket, so it never answers a later request.
//! * A server that closed, or that was replaced by another one (its generation changed), is
//!   [`MailboxError::Gone`]: a new server knows nothing of what was written to the old one.
//! * A client that writes nonsense is refused; one that changes a request while it is read is not
//!   served, since the server checks the ticket again after its copy.

use core::cell::Cell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering, fence};

use hybrid_abi::LINE_BYTES;
use hybrid_shm::{OutOfBounds, Span, Word64};
use thiserror::Error;

use crate::clock::{Clock, Instant, Ticks};

/// Where the words of a mailbox lie. In-process and between two processes of one build, so it is
/// not in `hybrid-abi`.
pub struct MailboxLayout;

impl MailboxLayout {
    /// Bytes of a mailbox; aligned to 8, better to [`LINE_BYTES`].
    pub const BYTES: usize = 2 * LINE_BYTES;

    /// The client's: odd while a request is posted, never the same twice.
    const TICKET: usize = 0;
    /// The client's: bits 31:0 the offset, 39:32 the size in bytes, 47:40 read or write.
    const ACCESS: usize = 8;
    /// The client's: what to write.
    const ARGUMENT: usize = 16;
    /// The server's: the ticket of the last request that was done.
    const ANSWER: usize = LINE_BYTES;
    /// The server's: what was read.
    const VALUE: usize = LINE_BYTES + 8;
    /// The server's: done or refused.
    const STATUS: usize = LINE_BYTES + 16;
    /// The server's: 0 before the first one, then twice its generation, plus one once closed.
    const STATE: usize = LINE_BYTES + 24;
}

const _: () = assert!(MailboxLayout::ARGUMENT + 8 <= LINE_BYTES);
const _: () = assert!(MailboxLayout::STATE + 8 <= MailboxLayout::BYTES);

const READ: u64 = 1;
const WRITE: u64 = 2;
const DONE: u64 = 0;
const REFUSED: u64 = 1;
const CLOSED: u64 = 1;

/// Looks at the clock without it moving before the client calls it stopped. A stopped clock (a
/// test's, or a broken one) must not turn a bounded wait into an endless one. About 0.1 s of
/// spinning.
const STALLED: u32 = 1 << 22;

/// Why a register could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MailboxError {
    /// No answer in time. A write may or may not have been done.
    #[error("no answer within {timeout_ns} ns for the register at offset {offset:#x}")]
    TimedOut {
        /// The register.
        offset: u32,
        /// How long was waited.
        timeout_ns: u64,
    },
    /// The server closed the mailbox, or another one took its place.
    #[error("the register server is gone")]
    Gone,
    /// The server does not know this register, or not in this size.
    #[error("the register server refused a {size}-byte access at offset {offset:#x}")]
    Refused {
        /// The register.
        offset: u32,
        /// Bytes of the access.
        size: u8,
    },
    /// An offset that is not a multiple of the access size.
    #[error("a {size}-byte register access at offset {offset:#x} is not aligned")]
    Misaligned {
        /// The register.
        offset: u32,
        /// Bytes of the access.
        size: u8,
    },
}

/// What a client wants of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegOp {
    /// Its value.
    Read,
    /// To set it; a 4-byte access has the upper half zero.
    Write(u64),
}

/// One access, checked: the size is 4 or 8 and the offset a multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegAccess {
    /// Byte offset from the start of the registers.
    pub offset: u32,
    /// 4 or 8.
    pub size: u8,
    /// Read or write.
    pub op: RegOp,
}

impl RegAccess {
    fn pack(self) -> (u64, u64) {
        let (op, argument) = match self.op {
            RegOp::Read => (READ, 0),
            RegOp::Write(value) => (WRITE, value),
        };
        (u64::from(self.offset) | u64::from(self.size) << 32 | op << 40, argument)
    }

    /// A request from a client's words, or nothing if they make no sense.
    fn unpack(access: u64, argument: u64) -> Option<Self> {
        let offset = u32::try_from(access & u64::from(u32::MAX)).ok()?;
        let size = u8::try_from(access >> 32 & 0xff).ok()?;
        let op = match access >> 40 {
            READ => RegOp::Read,
            WRITE if size == 4 => RegOp::Write(argument & u64::from(u32::MAX)),
            WRITE => RegOp::Write(argument),
            _ => return None,
        };
        let sound = matches!(size, 4 | 8) && offset.is_multiple_of(u32::from(size));
        sound.then_some(Self { offset, size, op })
    }
}

#[derive(Debug)]
struct Words {
    ticket: Word64<'static>,
    access: Word64<'static>,
    argument: Word64<'static>,
    answer: Word64<'static>,
    value: Word64<'static>,
    status: Word64<'static>,
    state: Word64<'static>,
}

impl Words {
    fn new(span: Span<'static>) -> Result<Self, OutOfBounds> {
        Ok(Self {
            ticket: span.word64(MailboxLayout::TICKET)?,
            access: span.word64(MailboxLayout::ACCESS)?,
            argument: span.word64(MailboxLayout::ARGUMENT)?,
            answer: span.word64(MailboxLayout::ANSWER)?,
            value: span.word64(MailboxLayout::VALUE)?,
            status: span.word64(MailboxLayout::STATUS)?,
            state: span.word64(MailboxLayout::STATE)?,
        })
    }
}

/// The side that wants registers read and written. One thread's; it may move to it.
#[derive(Debug)]
pub struct MailboxClient {
    words: Words,
    clock: Clock,
    timeout_ns: u64,
    /// Even, and never lower than what the ticket word ever held.
    sequence: Cell<u64>,
    /// The server's generation when it was first seen; 0 before.
    server: Cell<u64>,
    /// Set when whoever serves has died, and will never close the mailbox.
    dead: Option<&'static AtomicBool>,
}

impl MailboxClient {
    /// A client over the first [`MailboxLayout::BYTES`] of `span`, which were zeroed once. Each
    /// access waits `timeout_ns` at most. There is one client at a time.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the span is too short or not 8-byte aligned.
    pub fn new(span: Span<'static>, clock: Clock, timeout_ns: u64) -> Result<Self, OutOfBounds> {
        let words = Words::new(span)?;
        let sequence = Cell::new(words.ticket.load() & !1);
        Ok(Self { words, clock, timeout_ns, sequence, server: Cell::new(0), dead: None })
    }

    /// Ends every wait once `dead` is set: the server's process has died and closes nothing.
    #[must_use]
    pub const fn unless(mut self, dead: &'static AtomicBool) -> Self {
        self.dead = Some(dead);
        self
    }

    /// Reads a 32-bit register.
    ///
    /// # Errors
    /// See [`MailboxError`].
    pub fn read32(&self, offset: u32) -> Result<u32, MailboxError> {
        let value = self.access(RegAccess { offset, size: 4, op: RegOp::Read })?;
        // What a server says beyond the register's width is not part of the answer.
        Ok(u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX))
    }

    /// Reads a 32-bit register, waiting for `limit_ns` at most, or for the client's timeout if that
    /// is shorter: for a look that may fail, made by who must not be kept waiting.
    ///
    /// # Errors
    /// See [`MailboxError`].
    pub fn read32_within(&self, offset: u32, limit_ns: u64) -> Result<u32, MailboxError> {
        let access = RegAccess { offset, size: 4, op: RegOp::Read };
        let value = self.access_within(access, limit_ns.min(self.timeout_ns))?;
        Ok(u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX))
    }

    /// Reads a 64-bit register.
    ///
    /// # Errors
    /// See [`MailboxError`].
    pub fn read64(&self, offset: u32) -> Result<u64, MailboxError> {
        self.access(RegAccess { offset, size: 8, op: RegOp::Read })
    }

    /// Writes a 32-bit register; returns after it was done.
    ///
    /// # Errors
    /// See [`MailboxError`].
    pub fn write32(&self, offset: u32, value: u32) -> Result<(), MailboxError> {
        let op = RegOp::Write(u64::from(value));
        self.access(RegAccess { offset, size: 4, op }).map(drop)
    }

    /// Writes a 64-bit register; returns after it was done.
    ///
    /// # Errors
    /// See [`MailboxError`].
    pub fn write64(&self, offset: u32, value: u64) -> Result<(), MailboxError> {
        let op = RegOp::Write(value);
        self.access(RegAccess { offset, size: 8, op }).map(drop)
    }

    fn access(&self, access: RegAccess) -> Result<u64, MailboxError> {
        self.access_within(access, self.timeout_ns)
    }

    fn access_within(&self, access: RegAccess, timeout_ns: u64) -> Result<u64, MailboxError> {
        let RegAccess { offset, size, .. } = access;
        if !offset.is_multiple_of(u32::from(size)) {
            return Err(MailboxError::Misaligned { offset, size });
        }
        let ticket = self.post(access);
        let answer = self.wait(ticket, timeout_ns);
        // Done or given up, nothing is up any more: an even ticket.
        self.words.ticket.store_release(self.sequence.get());
        match answer? {
            Some(REFUSED) => Err(MailboxError::Refused { offset, size }),
            Some(_) => Ok(self.words.value.load()),
            None => Err(MailboxError::TimedOut { offset, timeout_ns }),
        }
    }

    /// Puts a request up; returns its ticket.
    // SYNC mailbox-request: an even ticket before the words change, an odd one after.
    fn post(&self, access: RegAccess) -> u64 {
        // It began with what was in shared memory: any number.
        let sequence = self.sequence.get().wrapping_add(2);
        self.sequence.set(sequence);
        let (access, argument) = access.pack();
        self.words.ticket.store(sequence);
        fence(Ordering::Release);
        self.words.access.store(access);
        self.words.argument.store(argument);
        self.words.ticket.store_release(sequence + 1);
        sequence + 1
    }

    /// Waits for the answer to `ticket`: its status, or nothing when the time is over.
    // SYNC mailbox-answer: the value and status were stored before the answer.
    fn wait(&self, ticket: u64, timeout_ns: u64) -> Result<Option<u64>, MailboxError> {
        let deadline = self.clock.now() + self.clock.ns_to_ticks(timeout_ns);
        let mut patience = Patience::new(deadline);
        loop {
            let answered = self.words.answer.load_acquire() == ticket;
            let open = self.check_server()?;
            if answered {
                return Ok(Some(self.words.status.load()));
            }
            if !open || self.dead.is_some_and(|dead| dead.load(Ordering::Relaxed)) {
                return Err(MailboxError::Gone);
            }
            if patience.is_over(self.clock.now()) {
                return Ok(None);
            }
            spin_loop();
        }
    }

    /// Whether the server is open or has yet to come; an error if it isn't the one that was known.
    fn check_server(&self) -> Result<bool, MailboxError> {
        let state = self.words.state.load_acquire();
        let generation = state & !CLOSED;
        match self.server.get() {
            0 => self.server.set(generation),
            known if known != generation => return Err(MailboxError::Gone),
            _ => {}
        }
        Ok(state & CLOSED == 0)
    }
}

/// A deadline that also ends when the clock doesn't move.
struct Patience {
    deadline: Instant,
    last: Instant,
    still: u32,
}

impl Patience {
    const fn new(deadline: Instant) -> Self {
        Self { deadline, last: Instant::MIN, still: 0 }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        self.still = if now.since(self.last) == Ticks::ZERO { self.still + 1 } else { 0 };
        self.last = now;
        now >= self.deadline || self.still >= STALLED
    }
}

/// The side that has the registers. Dropped, it closes the mailbox.
#[derive(Debug)]
pub struct MailboxServer {
    words: Words,
    served: u64,
    state: u64,
}

impl MailboxServer {
    /// A server over the first [`MailboxLayout::BYTES`] of `span`, open from now on. There is one
    /// server at a time.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the span is too short or not 8-byte aligned.
    pub fn new(span: Span<'static>) -> Result<Self, OutOfBounds> {
        let words = Words::new(span)?;
        // The next generation, open. The word is this side's own; wrapping only to be total.
        let state = (words.state.load() & !CLOSED).wrapping_add(2).max(2);
        // A client may have posted before its server was up; what an earlier one did is done.
        let served = words.answer.load();
        words.state.store_release(state);
        Ok(Self { words, served, state })
    }

    /// Does the request that is up, if one is: `handle` gets it and returns the value that was read
    /// (anything for a write). At most one a call; says whether it did one.
    pub fn serve(&mut self, mut handle: impl FnMut(RegAccess) -> u64) -> bool {
        self.serve_or_refuse(|access| Some(handle(access)))
    }

    /// As [`serve`](Self::serve), but `handle` may refuse the access.
    #[inline]
    pub fn serve_or_refuse(&mut self, handle: impl FnOnce(RegAccess) -> Option<u64>) -> bool {
        let Some((ticket, access, argument)) = self.pick_up(|| {}) else {
            return false;
        };
        self.served = ticket;
        let value = RegAccess::unpack(access, argument).and_then(handle);
        self.words.status.store(if value.is_some() { DONE } else { REFUSED });
        self.words.value.store(value.unwrap_or(u64::MAX));
        // SYNC mailbox-answer
        self.words.answer.store_release(ticket);
        true
    }

    /// Copies the request that is up; nothing if none is, or if it changed meanwhile.
    // SYNC mailbox-request: the words after the ticket, and the ticket unchanged after them.
    #[inline(always)]
    fn pick_up(&self, meanwhile: impl FnOnce()) -> Option<(u64, u64, u64)> {
        let ticket = self.words.ticket.load_acquire();
        if ticket & 1 == 0 || ticket == self.served || self.state & CLOSED != 0 {
            return None;
        }
        let access = self.words.access.load();
        meanwhile();
        let argument = self.words.argument.load();
        fence(Ordering::Acquire);
        (self.words.ticket.load() == ticket).then_some((ticket, access, argument))
    }

    /// Closes the mailbox: a waiting client, and every later access, sees [`MailboxError::Gone`].
    pub fn close(&mut self) {
        self.state |= CLOSED;
        self.words.state.store_release(self.state);
    }
}

impl Drop for MailboxServer {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use hybrid_shm::leak_zeroed;

    use super::*;
    use crate::clock::ManualClock;

    const TIMEOUT_NS: u64 = 1_000_000;

    /// A clock that stands still: the waits end by `STALLED`.
    fn still() -> Clock {
        static STILL: ManualClock = ManualClock::new(5);
        Clock::manual(&STILL)
    }

    fn pair() -> (Span<'static>, MailboxClient, MailboxServer) {
        let span = leak_zeroed(MailboxLayout::BYTES);
        let client = MailboxClient::new(span, still(), TIMEOUT_NS).unwrap();
        (span, client, MailboxServer::new(span).unwrap())
    }

    /// Runs `client` against a server on another thread, whose accesses go to `handle`.
    fn with_server<T>(
        span: Span<'static>,
        handle: impl FnMut(RegAccess) -> Option<u64> + Send,
        client: impl FnOnce() -> T,
    ) -> T {
        let stop = AtomicBool::new(false);
        let mut handle = handle;
        std::thread::scope(|scope| {
            let mut server = MailboxServer::new(span).unwrap();
            let stopped = &stop;
            scope.spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    if !server.serve_or_refuse(&mut handle) {
                        std::thread::yield_now();
                    }
                }
            });
            let result = client();
            stop.store(true, Ordering::Release);
            result
        })
    }

    #[test]
    fn a_server_whose_process_has_died_is_not_waited_for() {
        static DEAD: AtomicBool = AtomicBool::new(false);
        let span = leak_zeroed(MailboxLayout::BYTES);
        // Nobody serves it: without the word this would take a minute.
        let clock = Clock::tsc(1_000_000_000);
        let client = MailboxClient::new(span, clock, 60_000_000_000).unwrap().unless(&DEAD);
        DEAD.store(true, Ordering::Relaxed);
        assert_eq!(client.read32(0x1c), Err(MailboxError::Gone));
        assert_eq!(client.write32(0x14, 1), Err(MailboxError::Gone));
    }

    #[test]
    fn registers_are_read_and_written_through_another_thread() {
        let span = leak_zeroed(MailboxLayout::BYTES);
        let client = MailboxClient::new(span, still(), TIMEOUT_NS).unwrap();
        let rounds = if cfg!(miri) { 3 } else { 20 };
        let mut registers = [0_u64; 8];
        let handle = move |access: RegAccess| {
            let register = registers.get_mut(access.offset as usize / 8)?;
            match (access.op, access.size) {
                (RegOp::Write(value), _) => *register = value,
                (RegOp::Read, 4) => return Some(*register & 0xffff_ffff),
                (RegOp::Read, _) => {}
            }
            Some(*register)
        };
        with_server(span, handle, || {
            for i in 0..rounds {
                let at = i % 8 * 8;
                client.write64(at, u64::from(i) << 32 | 7).unwrap();
                assert_eq!(client.read64(at), Ok(u64::from(i) << 32 | 7));
                assert_eq!(client.read32(at), Ok(7));
                client.write32(at, i).unwrap();
                assert_eq!(client.read64(at), Ok(u64::from(i)));
            }
            let refused = MailboxError::Refused { offset: 64, size: 4 };
            assert_eq!(client.read32(64), Err(refused));
            assert_eq!(client.read32(2), Err(MailboxError::Misaligned { offset: 2, size: 4 }));
        });
        assert_eq!(client.read32(0), Err(MailboxError::Gone), "a dropped server has closed");
    }

    #[test]
    fn a_request_posted_before_the_server_came_is_served() {
        let span = leak_zeroed(MailboxLayout::BYTES);
        let client = MailboxClient::new(span, still(), TIMEOUT_NS).unwrap();
        let access = RegAccess { offset: 8, size: 4, op: RegOp::Write(3) };
        let ticket = client.post(access);
        let mut server = MailboxServer::new(span).unwrap();
        let mut seen = None;
        assert!(server.serve(|access| {
            seen = Some(access);
            9
        }));
        assert!(!server.serve(|_| 10), "at most once");
        assert_eq!(seen, Some(access));
        assert_eq!(client.wait(ticket, 0), Ok(Some(DONE)));
    }

    #[cfg(not(miri))]
    #[test]
    fn an_absent_server_costs_the_timeout() {
        let span = leak_zeroed(MailboxLayout::BYTES);
        let timed_out = Err(MailboxError::TimedOut { offset: 0, timeout_ns: 2_000 });
        let by_clock = MailboxClient::new(span, Clock::tsc(1_000_000_000), 2_000).unwrap();
        assert_eq!(by_clock.read64(0), timed_out);
        let by_count = MailboxClient::new(span, still(), 2_000).unwrap();
        assert_eq!(by_count.read64(0), timed_out);
        // A look may have a shorter limit, and never a longer one.
        let look = Err(MailboxError::TimedOut { offset: 4, timeout_ns: 500 });
        assert_eq!(by_clock.read32_within(4, 500), look);
        let look = Err(MailboxError::TimedOut { offset: 4, timeout_ns: 2_000 });
        assert_eq!(by_clock.read32_within(4, u64::MAX), look);
    }

    #[test]
    fn a_late_answer_does_not_answer_the_next_request() {
        let span = leak_zeroed(MailboxLayout::BYTES);
        let client = MailboxClient::new(span, still(), 0).unwrap();
        let mut server = MailboxServer::new(span).unwrap();
        let read = |offset| RegAccess { offset, size: 8, op: RegOp::Read };
        let first = client.post(read(0));
        assert_eq!(client.wait(first, 0), Ok(None), "nobody has served it yet");
        let second = client.post(read(8));
        let late = span.word64(MailboxLayout::ANSWER).unwrap();
        late.store_release(first);
        assert_eq!(client.wait(second, 0), Ok(None), "that was the first one's answer");
        assert!(server.serve(|access| u64::from(access.offset) + 34));
        assert_eq!(client.wait(second, 0), Ok(Some(DONE)));
        assert_eq!(client.words.value.load(), 42);
    }

    #[test]
    fn a_withdrawn_request_is_not_served() {
        let (_, client, mut server) = pair();
        client.post(RegAccess { offset: 0, size: 8, op: RegOp::Write(1) });
        client.words.ticket.store_release(client.sequence.get());
        assert!(!server.serve(|_| panic!("nothing is up")));
    }

    #[test]
    fn a_request_that_changes_while_it_is_read_is_not_served() {
        let (_, client, server) = pair();
        let write = |n: u32| RegAccess { offset: n * 8, size: 8, op: RegOp::Write(n.into()) };
        client.post(write(1));
        assert_eq!(server.pick_up(|| _ = client.post(write(2))), None, "half of two requests");
        let withdraw = || client.words.ticket.store_release(client.sequence.get());
        assert_eq!(server.pick_up(withdraw), None, "withdrawn");
        client.post(write(3));
        let (access, argument) = write(3).pack();
        let picked = server.pick_up(|| {}).map(|(_, access, argument)| (access, argument));
        assert_eq!(picked, Some((access, argument)));
    }

    /// The same with both sides running freely; the interpreter tries the odd orders.
    #[test]
    fn what_is_served_is_always_one_request() {
        let (_, client, mut server) = pair();
        let posts: u32 = if cfg!(miri) { 60 } else { 20_000 };
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let client = client;
                for n in 1..=posts {
                    let op = RegOp::Write(u64::from(n) * 8);
                    client.post(RegAccess { offset: n * 8, size: 8, op });
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                server.serve(|access| {
                    assert_eq!(access.op, RegOp::Write(access.offset.into()));
                    0
                });
            }
        });
    }

    #[test]
    fn a_last_ticket_in_shared_memory_is_followed_by_the_first() {
        let (span, client, mut server) = pair();
        client.words.ticket.store(u64::MAX);
        let fresh = MailboxClient::new(span, still(), TIMEOUT_NS).unwrap();
        let ticket = fresh.post(RegAccess { offset: 8, size: 8, op: RegOp::Read });
        assert_eq!(ticket, 1);
        server.serve(|access| access.offset.into());
        assert_eq!(fresh.wait(ticket, TIMEOUT_NS), Ok(Some(DONE)));
    }

    #[test]
    fn a_closed_or_replaced_server_is_gone() {
        let (span, client, mut server) = pair();
        assert_eq!(client.check_server(), Ok(true));
        server.close();
        assert_eq!(client.read64(0), Err(MailboxError::Gone));
        drop(server);
        let _second = MailboxServer::new(span).unwrap();
        assert_eq!(client.read64(0), Err(MailboxError::Gone), "it knows another generation");
        let fresh = MailboxClient::new(span, still(), TIMEOUT_NS).unwrap();
        assert_eq!(fresh.check_server(), Ok(true));
        assert!(fresh.sequence.get() >= client.sequence.get(), "tickets are never used twice");
    }

    #[test]
    fn nonsense_from_a_client_is_refused() {
        let (span, client, mut server) = pair();
        for access in
            [0, u64::MAX, 4 << 32, 1 << 40 | 3 << 32, 1 << 40 | 4 << 32 | 2, 3 << 40 | 8 << 32]
        {
            let ticket = client.post(RegAccess { offset: 0, size: 8, op: RegOp::Read });
            span.word64(MailboxLayout::ACCESS).unwrap().store(access);
            assert!(server.serve(|access| panic!("{access:?}")));
            assert_eq!(client.wait(ticket, 0), Ok(Some(REFUSED)), "{access:#x}");
        }
    }

    #[test]
    fn a_short_or_crooked_span_is_no_mailbox() {
        let span = leak_zeroed(2 * MailboxLayout::BYTES);
        let short = span.sub(0, MailboxLayout::BYTES - 128).unwrap();
        assert!(MailboxServer::new(short).is_err());
        let crooked = span.sub(4, MailboxLayout::BYTES).unwrap();
        assert!(MailboxClient::new(crooked, still(), 1).is_err());
    }
}
