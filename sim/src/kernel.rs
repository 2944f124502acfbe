//! The host's kernel, for when the device is at fault: the same blocks behind a bridge.
//!
//! The host's end of `hybrid_abi::bridge`, as `host_bridge::uring` is it for real: requests come
//! over one ring, are carried out late and in any order, and are answered over the other. What it
//! does to the blocks it does by [`Model::direct_write`](nvme_model::Model::direct_write) and its
//! like, so that an incarnation on the fallback has the medium, the cache and the oracle of those
//! before it. The real server's checks have tests of their own; here a partition that asks for what
//! cannot be is a violation.
//!
//! After a flush that failed every later flush, and every write that is to be durable, fails too,
//! until the next incarnation's server: `host_bridge::uring::bridge`'s rule 4.

use std::collections::VecDeque;

use core_runtime::clock::Clock;
use core_runtime::mem::{DmaArena, DmaRegion};
use core_runtime::ring::{Closed, Consumer, PopError, Producer, RingError, RingSpec};
use hybrid_abi::bridge::{
    BRIDGE_CAN_WRITE, BRIDGE_CAN_ZERO, BRIDGE_CANCEL, BRIDGE_CANCELLED, BRIDGE_DONE, BRIDGE_ERRNO,
    BRIDGE_FLUSH, BRIDGE_FUA, BRIDGE_READ, BRIDGE_UNFLUSHED, BRIDGE_WRITE, BRIDGE_WRITE_CACHE,
    BRIDGE_ZEROES, BridgeCompletion, BridgeInfo, BridgeRequest,
};
use hybrid_shm::{Span, leak_zeroed};
use nvme_driver::BridgeParts;
use nvme_model::{Model, Rng};
use zerocopy::IntoBytes as _;

use crate::catalogue::{Deed, KernelFault, Trigger};
use crate::device::Device;
use crate::plan::Plan;
use crate::shared::Shared;
use crate::tape::{What, Who};

/// Requests in flight at most.
const DEPTH: u32 = 64;

/// The kernel's number of an input/output error.
const EIO: u64 = 5;

/// What outlives the kernel's part in an incarnation: how many requests it was sent in all, its
/// faults, its chance.
#[derive(Debug)]
pub(crate) struct Fortune {
    /// Requests taken.
    pub(crate) taken: u64,
    coming: VecDeque<usize>,
    rng: Rng,
}

impl Fortune {
    pub(crate) fn new(plan: &Plan) -> Self {
        let ours = |at: &usize| plan.faults[*at].kind().trigger == Trigger::Kernel;
        Self {
            taken: 0,
            coming: (0..plan.faults.len()).filter(ours).collect(),
            rng: Rng::new(plan.seed ^ 0xB1D6E),
        }
    }

    /// A number that differs where states differ.
    pub(crate) fn digest(&self) -> u64 {
        self.rng.clone().next_u64() ^ self.taken
    }

    /// No more faults.
    pub(crate) fn heal(&mut self) {
        self.coming.clear();
    }

    /// The next request, and the fault that it has.
    fn take(&mut self, plan: &Plan, shared: &Shared) -> Option<(KernelFault, u64)> {
        self.taken += 1;
        let fault = plan.faults[*self.coming.front()?];
        if fault.at > self.taken {
            return None;
        }
        self.coming.pop_front();
        let Deed::Kernel(what) = fault.deed() else { return None };
        shared.strike(&fault);
        shared.kernel_faults.set(shared.kernel_faults.get() + 1);
        shared.event(Who::Device, What::Fault, [fault.kind as u64, self.taken, 0]);
        Some((what, fault.choice))
    }
}

#[derive(Debug)]
struct Flight {
    /// [`u64::MAX`] if it never ends by itself.
    due: u64,
    request: BridgeRequest,
    fault: Option<(KernelFault, u64)>,
}

/// The host's end of one incarnation's bridge.
pub(crate) struct Kernel {
    info: BridgeInfo,
    memory: DmaRegion,
    requests: Consumer<BridgeRequest>,
    answers: Producer<BridgeCompletion>,
    flights: Vec<Flight>,
    flush_failed: bool,
    /// It answers nothing any more.
    gone: bool,
    /// Flushes that were answered with an error.
    pub(crate) refused_flushes: u64,
}

impl Kernel {
    /// A bridge to the blocks of `plan` for an incarnation that has `arena`: the partition's parts
    /// of it, and what makes the host's end once the partition has made its own.
    pub(crate) fn lay(
        plan: &Plan,
        arena: &'static DmaArena,
        incarnation: u64,
        clock: Clock,
    ) -> Result<(BridgeParts, impl FnOnce() -> Result<Self, String>), String> {
        let cache = if plan.write_cache { BRIDGE_WRITE_CACHE } else { 0 };
        let info = BridgeInfo {
            max_transfer_bytes: 16 << 10,
            capabilities: BRIDGE_CAN_WRITE | BRIDGE_CAN_ZERO | cache,
            ..BridgeInfo::new(plan.lba_bytes, plan.blocks.into(), DEPTH, incarnation)
        };
        let (own, host) = (leak_zeroed(info.partition_bytes()), leak_zeroed(info.host_bytes()));
        Self::lay_out(&info, host)?;
        let parts = BridgeParts { own, peer: host.read_only(), clock, probes: None };
        Ok((parts, move || {
            let (requests, answers) = Self::open(&info, (own, host))?;
            Ok(Self {
                info,
                memory: arena.region(),
                requests,
                answers,
                flights: Vec::new(),
                flush_failed: false,
                gone: false,
                refused_flushes: 0,
            })
        }))
    }

    /// Its parts of the rings, for a partition to find.
    fn lay_out(info: &BridgeInfo, host: Span<'static>) -> Result<(), String> {
        let failed = |error: RingError| error.to_string();
        let part = |(at, len)| host.sub(at, len).map_err(|error| error.to_string());
        let (requests, answers) = Self::specs(info)?;
        requests.make_consumer_part(part(info.requests_consumer())?).map_err(failed)?;
        answers.make_producer_part(part(info.completions_producer())?).map_err(failed)?;
        host.write(0, info.as_bytes()).map_err(|error| error.to_string())
    }

    fn specs(info: &BridgeInfo) -> Result<(RingSpec, RingSpec), String> {
        let spec = |spec: Result<RingSpec, RingError>| {
            spec.map(|spec| spec.with_epoch(info.epoch)).map_err(|error| error.to_string())
        };
        Ok((
            spec(RingSpec::fixed::<BridgeRequest>(info.ring_slots))?,
            spec(RingSpec::fixed::<BridgeCompletion>(info.ring_slots))?,
        ))
    }

    /// Its ends, once the partition has made its own.
    fn open(
        info: &BridgeInfo,
        (own, host): (Span<'static>, Span<'static>),
    ) -> Result<(Consumer<BridgeRequest>, Producer<BridgeCompletion>), String> {
        let failed = |error: RingError| error.to_string();
        let part = |(at, len)| host.sub(at, len).map_err(|error| error.to_string());
        let peer = |(at, len)| own.read_only().sub(at, len).map_err(|error| error.to_string());
        let (requests, answers) = Self::specs(info)?;
        let (taking, giving) =
            (part(info.requests_consumer())?, part(info.completions_producer())?);
        Ok((
            Consumer::new(taking, peer(info.requests_producer())?, requests).map_err(failed)?,
            Producer::new(giving, peer(info.completions_consumer())?, answers).map_err(failed)?,
        ))
    }

    /// Requests that were not answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// When the next one is due.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        let due = self.flights.iter().map(|flight| flight.due).min();
        due.filter(|due| *due != u64::MAX && !self.gone)
    }

    /// Takes requests and carries out what is due; whether there was anything.
    pub(crate) fn step(
        &mut self,
        plan: &Plan,
        device: &Device,
        fortune: &mut Fortune,
        shared: &Shared,
    ) -> bool {
        let now = shared.clock.now().ticks();
        let (mut taken, mut ended) = (0, 0);
        while taken < u64::from(plan.burst) && self.flights.len() < DEPTH as usize {
            match self.requests.pop() {
                Ok(request) => self.accept(plan, request, fortune, shared),
                Err(PopError::Empty) => break,
                // The partition has given it up.
                Err(PopError::Closed(Closed::ByPeer)) => break,
                Err(error) => {
                    shared.violate(|| format!("the bridge's requests: {error}"));
                    break;
                }
            }
            taken += 1;
        }
        while let Some(place) = self.next_due(plan, now, fortune) {
            let flight = self.flights.swap_remove(place);
            let answer = self.carry_out(&flight, device, shared);
            self.answer(flight.request.cid, answer, shared);
            ended += 1;
        }
        if taken + ended != 0 {
            shared.event(Who::Device, What::Step, [taken, ended, 1]);
        }
        taken + ended != 0
    }

    fn accept(
        &mut self,
        plan: &Plan,
        request: BridgeRequest,
        fortune: &mut Fortune,
        shared: &Shared,
    ) {
        let now = shared.clock.now().ticks();
        if request.op == BRIDGE_CANCEL {
            let named = |flight: &&mut Flight| u64::from(flight.request.cid) == request.slba;
            // One that is not there any more was answered meanwhile.
            if let Some(flight) = self.flights.iter_mut().find(named) {
                shared.reach("bridge request cancelled", 1);
                flight.due = now;
                let choice = flight.fault.map_or_else(|| fortune.rng.next_u64(), |(_, c)| c);
                flight.fault = Some((KernelFault::Cancelled, choice));
            }
            return;
        }
        let fault = fortune.take(plan, shared);
        let longest = u64::from(plan.latency_max_ns - plan.latency_min_ns);
        let latency = u64::from(plan.latency_min_ns) + fortune.rng.below(longest + 1);
        let due = match fault {
            Some((KernelFault::Silent | KernelFault::Gone, _)) => u64::MAX,
            _ => now + latency,
        };
        self.gone |= matches!(fault, Some((KernelFault::Gone, _)));
        self.flights.push(Flight { due, request, fault });
    }

    fn next_due(&self, plan: &Plan, now: u64, fortune: &mut Fortune) -> Option<usize> {
        if self.gone {
            return None;
        }
        let due = || (0..self.flights.len()).filter(|place| self.flights[*place].due <= now);
        if plan.out_of_order {
            let count = due().count();
            return due().nth(fortune.rng.index(count));
        }
        due().min_by_key(|place| self.flights[*place].due)
    }

    fn answer(&self, cid: u32, (kind, detail): (u16, u64), shared: &Shared) {
        let completion = BridgeCompletion { cid, kind, reserved: 0, detail };
        // Twice as many places as there are requests: only a ring that was closed takes none.
        if let Err(error) = self.answers.try_push(&completion)
            && self.answers.closed() != Some(Closed::ByPeer)
        {
            shared.violate(|| format!("the bridge's answers: {error}"));
        }
    }

    /// Does what is asked, unless its fault keeps it from that, and says how it went.
    fn carry_out(&mut self, flight: &Flight, device: &Device, shared: &Shared) -> (u16, u64) {
        let Flight { request, fault, .. } = flight;
        let flush = request.op == BRIDGE_FLUSH;
        let durable = flush || request.flags & BRIDGE_FUA != 0;
        if durable && self.flush_failed {
            self.refused_flushes += u64::from(flush);
            return (BRIDGE_UNFLUSHED, 0);
        }
        let done = match fault {
            None => true,
            // Before it was done, or after.
            Some((_, choice)) => choice & 1 == 0,
        };
        if done && (fault.is_none() || !flush) && !self.move_blocks(request, device) {
            shared.violate(|| format!("the bridge was asked for what cannot be: {request:?}"));
        }
        let answer = match fault {
            None => return (BRIDGE_DONE, 0),
            Some((KernelFault::Cancelled, _)) => (BRIDGE_CANCELLED, 0),
            Some(_) => (BRIDGE_ERRNO, EIO),
        };
        self.flush_failed |= durable;
        if flush {
            self.refused_flushes += 1;
            device.with(Model::lose_unflushed);
            shared.oracle.borrow_mut().doubt();
        }
        answer
    }

    /// The request's blocks move. False if it makes no sense.
    fn move_blocks(&self, request: &BridgeRequest, device: &Device) -> bool {
        let BridgeRequest { op, flags, slba, addr, nlb, .. } = *request;
        let through = flags & BRIDGE_FUA != 0 || self.info.capabilities & BRIDGE_WRITE_CACHE == 0;
        let bytes = nlb.checked_mul(self.info.lba_bytes.into());
        let memory = || {
            let at = usize::try_from(addr.checked_sub(self.memory.iova.0)?).ok()?;
            self.memory.span.sub(at, usize::try_from(bytes?).ok()?).ok()
        };
        let moved = device.with(|model| match op {
            BRIDGE_READ => memory().is_some_and(|host| model.direct_read(1, slba, nlb, host)),
            BRIDGE_WRITE => {
                memory().is_some_and(|host| model.direct_write(1, slba, nlb, host, through))
            }
            BRIDGE_ZEROES => model.direct_zero(1, slba, nlb, through),
            BRIDGE_FLUSH => model.flush_images().is_ok(),
            _ => false,
        });
        moved.unwrap_or(false)
    }
}
