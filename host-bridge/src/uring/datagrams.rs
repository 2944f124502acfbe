//! A UDP socket on the latency ring: what a live feed comes through.
//!
//! One multishot receive takes datagram after datagram into a ring of buffers that was registered
//! once; the kernel picks the buffer, the handler gets a copy of the bytes, the buffer goes back.
//! No system call a datagram, no allocation. What the datagrams mean is the handler's: MoldUDP64's
//! framing, with its gaps, is `feed_handler::framing`.
//!
//! Two times are kept of each datagram: from the reactor's look that found it until the handler was
//! done with it (*wake to handle*), and how many were found at one look.
//!
//! ```text
//!   pushed ──▶ armed ──datagram──▶ handler ──▶ buffer back
//!     ▲          │ the kernel ran out of buffers, or the socket failed
//!     └──────────┘ counted; an error of the socket ends it
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use hybrid_abi::metrics::{bucket_of, bucket_upper, histogram_buckets};
use hybrid_shm::{OutOfBounds, Span};
use rustix::io::Errno;

use super::error::UringError;
use super::reactor::{Desk, Source};
use super::rings::{RECEIVE_GROUP, Which};
use super::thread::Served;
use crate::sys::uring::{Cqe, File, Op};

/// Bytes of an entry of the kernel's ring of buffers.
const ENTRY_BYTES: usize = 16;

/// Bytes before the buffers: the ring's entries, at most a page of them.
const RING_BYTES: usize = 4096;

/// Most buffers.
const MOST: u16 = 256;

/// Shape of the receive buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramOptions {
    /// Buffers: a power of two, at most 256.
    pub count: u16,
    /// Bytes of each: the longest datagram that is taken whole.
    pub bytes: u32,
}

impl Default for DatagramOptions {
    /// 256 buffers of 2 KiB: a burst of as many packets of an Ethernet frame.
    fn default() -> Self {
        Self { count: 256, bytes: 2048 }
    }
}

impl DatagramOptions {
    /// Bytes of the memory behind it.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        RING_BYTES + self.count as usize * self.bytes as usize
    }
}

/// Buckets of a power of two: 2^4, so that a figure is at most a sixteenth too great.
const SUB_BITS: u32 = 4;

/// Nanoseconds in the buckets of a partition's histograms ([`hybrid_abi::metrics`]).
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: Vec<u64>,
    count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; histogram_buckets(SUB_BITS) as usize], count: 0 }
    }
}

impl Latencies {
    fn record(&mut self, ns: u64) {
        self.count += 1;
        if let Some(count) = self.counts.get_mut(bucket_of(ns, SUB_BITS) as usize) {
            *count += 1;
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The greatest value of the bucket up to which so many millionths lie; 0 without any.
    #[must_use]
    pub fn quantile(&self, parts_per_million: u32) -> u64 {
        let wanted = u128::from(self.count) * u128::from(parts_per_million);
        let wanted = u64::try_from(wanted.div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let mut below = 0;
        for (bucket, count) in (0..).zip(&self.counts) {
            below += count;
            if *count != 0 && below >= wanted {
                return bucket_upper(bucket, SUB_BITS);
            }
        }
        0
    }
}

/// What was counted.
#[derive(Clone, Debug)]
pub struct DatagramStats {
    /// Datagrams handed over.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Times that the kernel had no buffer: the socket's own queue holds what came meanwhile.
    pub starved: u64,
    /// Receives that were begun.
    pub armed: u64,
    /// From the look that found a datagram until it was handled, in nanoseconds.
    pub wake_to_handle: Latencies,
    /// What ended it.
    pub failed: Option<Errno>,
}

/// Room of the socket for what comes while nobody looks.
const SOCKET_BYTES: usize = 16 << 20;

/// The socket as a source of the reactor.
pub struct Datagrams<H> {
    socket: UdpSocket,
    memory: Span<'static>,
    options: DatagramOptions,
    /// Entries given to the kernel so far.
    tail: u16,
    /// The buffer in the first entry, whose last half word is the ring's tail.
    first: u16,
    armed: bool,
    stopping: bool,
    looked: Instant,
    scratch: Vec<u8>,
    handler: H,
    stats: DatagramStats,
}

impl<H: FnMut(&[u8])> Datagrams<H> {
    /// Takes over `socket`; `memory` is what the rings were made with
    /// ([`RingsWish::receive`](super::rings::RingsWish::receive)), as long as `options` say. Each
    /// datagram's bytes go to `handler`.
    ///
    /// # Errors
    /// [`UringError`] if the memory does not fit.
    pub fn new(
        socket: UdpSocket,
        memory: Span<'static>,
        options: DatagramOptions,
        handler: H,
    ) -> Result<Self, UringError> {
        let failed = |what| move |errno| UringError::Ring { what, errno };
        let fits = options.count.is_power_of_two()
            && options.count <= MOST
            && memory.len() >= options.memory_bytes();
        if !fits {
            return Err(failed("the receive buffers' shape")(Errno::INVAL));
        }
        // The usual room holds some ninety datagrams, which a stall of a millisecond fills. The
        // kernel cuts what is asked for to net.core.rmem_max; a socket with less works, too.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES);
        let stats = DatagramStats {
            datagrams: 0,
            bytes: 0,
            starved: 0,
            armed: 0,
            wake_to_handle: Latencies::default(),
            failed: None,
        };
        let mut datagrams = Self {
            socket,
            memory,
            options,
            tail: 0,
            first: 0,
            armed: false,
            stopping: false,
            looked: Instant::now(),
            scratch: vec![0; options.bytes as usize],
            handler,
            stats,
        };
        for buffer in 0..options.count {
            datagrams.give(buffer).map_err(|_| failed("the receive buffers")(Errno::INVAL))?;
        }
        Ok(datagrams)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> &DatagramStats {
        &self.stats
    }

    /// Gives a buffer to the kernel.
    fn give(&mut self, buffer: u16) -> Result<(), OutOfBounds> {
        let bytes = self.options.bytes;
        let at = RING_BYTES + usize::from(buffer) * bytes as usize;
        let place = self.memory.sub(at, bytes as usize)?;
        let entry = usize::from(self.tail & (self.options.count - 1)) * ENTRY_BYTES;
        self.memory.word64(entry)?.store(place.as_ptr() as u64);
        self.memory.word32(entry + 8)?.store(bytes);
        // The upper half of the first entry's last word is the tail: it moves last.
        if entry == 0 {
            self.first = buffer;
        } else {
            self.memory.word32(entry + 12)?.store(buffer.into());
        }
        self.tail = self.tail.wrapping_add(1);
        let word = u32::from(self.first) | u32::from(self.tail) << 16;
        self.memory.word32(12)?.store_release(word);
        Ok(())
    }

    /// Copies a datagram out, hands it over, and gives its buffer back.
    fn take(&mut self, buffer: u16, len: usize) -> Result<(), OutOfBounds> {
        let at = RING_BYTES + usize::from(buffer) * self.options.bytes as usize;
        let len = len.min(self.scratch.len());
        self.memory.read(at, &mut self.scratch[..len])?;
        self.give(buffer)?;
        (self.handler)(&self.scratch[..len]);
        self.stats.datagrams += 1;
        self.stats.bytes += len as u64;
        let ns = u64::try_from(self.looked.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.stats.wake_to_handle.record(ns);
        Ok(())
    }
}

impl<H: FnMut(&[u8])> Source for Datagrams<H> {
    fn looking(&mut self) {
        self.looked = Instant::now();
    }

    fn turn(&mut self, desk: &mut Desk<'_>) -> bool {
        if self.armed || self.stopping || self.stats.failed.is_some() {
            return false;
        }
        let file = File::Fd(self.socket.as_raw_fd());
        self.armed =
            desk.push(Which::Latency, &Op::RecvMulti { file, group: RECEIVE_GROUP }, 0).is_ok();
        self.stats.armed += u64::from(self.armed);
        self.armed
    }

    fn complete(&mut self, _which: Which, token: u64, cqe: Cqe, _desk: &mut Desk<'_>) {
        if token != 0 {
            // How the cancelling went.
            return;
        }
        self.armed &= cqe.more();
        match (usize::try_from(cqe.result), cqe.buffer()) {
            (Ok(len), Some(buffer)) if buffer < self.options.count => {
                if self.take(buffer, len).is_err() {
                    self.stats.failed = Some(Errno::FAULT);
                }
            }
            // An empty datagram without a buffer: nothing to hand over.
            (Ok(_), _) => {}
            (Err(_), _) if cqe.result == -libc::ENOBUFS => self.stats.starved += 1,
            (Err(_), _) if cqe.result == -libc::ECANCELED => {}
            (Err(_), _) => self.stats.failed = Some(Errno::from_raw_os_error(-cqe.result)),
        }
    }
}

impl<H: FnMut(&[u8])> Served for Datagrams<H> {
    fn stop(&mut self, desk: &mut Desk<'_>) {
        self.stopping = true;
        if self.armed {
            // Without room it ends when the ring does.
            let _ = desk.cancel(Which::Latency, 0, 1);
        }
    }

    fn is_idle(&self) -> bool {
        !self.armed
    }

    fn broken(&mut self, errno: Errno) {
        self.stats.failed = self.stats.failed.or(Some(errno));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::uring::reactor::Reactor;
    use crate::uring::rings::{Rings, RingsWish};

    type Handler = Box<dyn FnMut(&[u8])>;
    type Socket = Datagrams<Handler>;

    /// A reactor with a socket on the loopback, what it heard, and where to send.
    struct Rig {
        reactor: Reactor<Socket>,
        heard: std::sync::mpsc::Receiver<Vec<u8>>,
        sender: UdpSocket,
    }

    fn listening(options: DatagramOptions) -> Rig {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sender.connect(socket.local_addr().expect("bound")).expect("connected");
        let memory = hybrid_shm::leak_aligned(options.memory_bytes(), 4096);
        let receive = Some((memory, options.count));
        let rings = Rings::new(&RingsWish { receive, ..RingsWish::default() }).expect("rings");
        let (tell, heard) = std::sync::mpsc::channel();
        let handler: Handler = Box::new(move |bytes| tell.send(bytes.to_vec()).expect("heard"));
        let source = Datagrams::new(socket, memory, options, handler).expect("taken");
        let mut reactor = Reactor::new(rings, vec![source]);
        reactor.turn();
        Rig { reactor, heard, sender }
    }

    fn turn_until(reactor: &mut Reactor<Socket>, done: impl Fn(&DatagramStats) -> bool) {
        let begun = Instant::now();
        while !done(reactor.sources()[0].stats()) {
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing came");
            if !reactor.turn() {
                reactor.wait(Duration::from_millis(100));
            }
        }
    }

    #[test]
    fn datagrams_come_in_order_over_many_rounds_of_the_buffers() {
        let options = DatagramOptions { count: 8, bytes: 512 };
        let Rig { mut reactor, heard, sender } = listening(options);
        for number in 0..200_u32 {
            let mut bytes = vec![0; 20 + number as usize];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            sender.send(&bytes).expect("sent");
            turn_until(&mut reactor, |stats| stats.datagrams > number.into());
            let came = heard.try_recv().expect("one");
            assert_eq!(came, bytes, "datagram {number}");
        }
        let stats = reactor.sources()[0].stats();
        assert_eq!((stats.starved, stats.failed), (0, None));
        assert_eq!(stats.wake_to_handle.count(), 200);
        assert_eq!(stats.armed, 1, "one receive for all of them");
    }

    #[test]
    fn a_burst_beyond_the_buffers_waits_in_the_socket_and_all_of_it_comes() {
        let options = DatagramOptions { count: 4, bytes: 512 };
        let Rig { mut reactor, heard, sender } = listening(options);
        for number in 0..64_u32 {
            sender.send(&number.to_le_bytes()).expect("sent");
        }
        turn_until(&mut reactor, |stats| stats.datagrams == 64);
        let came: Vec<_> = heard.try_iter().collect();
        let sent: Vec<_> = (0..64_u32).map(|number| number.to_le_bytes().to_vec()).collect();
        assert_eq!(came, sent);
        assert_eq!(reactor.sources()[0].stats().failed, None);
    }

    #[test]
    fn quantiles_are_at_most_a_sixteenth_too_great() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(500_000), 0);
        (1..=1000_u64).for_each(|us| latencies.record(us * 1000));
        for (ppm, exact) in
            [(0, 1000), (500_000, 500_000), (990_000, 990_000), (1_000_000, 1_000_000)]
        {
            let told = latencies.quantile(ppm);
            assert!((exact..=exact + exact / 16).contains(&told), "{ppm}: {told} for {exact}");
        }
        latencies.record(u64::MAX);
        assert_eq!((latencies.count(), latencies.quantile(1_000_000)), (1001, u64::MAX));
    }

    #[test]
    fn stopping_ends_the_receive() {
        let Rig { mut reactor, .. } = listening(DatagramOptions::default());
        reactor.each_source(|source, desk| source.stop(desk));
        let begun = Instant::now();
        while !reactor.sources()[0].is_idle() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            reactor.turn();
            reactor.wait(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_shape_that_cannot_be_is_refused() {
        for options in [
            DatagramOptions { count: 3, bytes: 512 },
            DatagramOptions { count: 512, bytes: 512 },
            DatagramOptions { count: 8, bytes: 1 << 20 },
        ] {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            let memory = hybrid_shm::leak_aligned(1 << 20, 4096);
            assert!(Datagrams::new(socket, memory, options, |_| {}).is_err());
        }
    }
}
