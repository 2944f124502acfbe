//! Bring-up's middle: what identify data say, and which namespaces there are.
//!
//! Steps of [`super`]; each takes the answer that lies in the scratch memory and asks for the next.

use nvme_spec::registers::{Cc, Version};
use nvme_spec::{IdentifyController, IdentifyNamespace, Nsid, NsidList};
use zerocopy::FromBytes;

use super::{Ask, Outcome};
use crate::bringup;
use crate::controller::Controller;
use crate::error::ControllerError;
use crate::hub::Offers;
use crate::requests::RetryPolicy;
use crate::shape::{self, Refusal, TransferLimits};

/// Longest delay of a retry that we grant: CRDT can say almost two hours.
const MAX_RETRY_DELAY_NS: u64 = 5_000_000_000;

/// Highest identifier tried on controllers without an active namespace list (before NVMe 1.1):
/// their NN is the count, but may be a lie.
const MAX_SCANNED_NSID: u32 = 1024;

impl Controller {
    pub(super) fn take_identify(&self) -> Outcome {
        let mut raw = self.identify.borrow_mut();
        let read = self.scratch.span().read(0, &mut raw[..]);
        read.map_err(|_| ControllerError::BadIdentify("no data"))?;
        let id = IdentifyController::read_from_bytes(&raw[..])
            .map_err(|_| ControllerError::BadIdentify("no data"))?;
        drop(raw);
        // 64-byte and 16-byte entries must be allowed; 0 is what lazy controllers report.
        let allows =
            |field: u8, size: u8| field == 0 || (field & 0xF <= size && size <= field >> 4);
        if !allows(id.sqes, Cc::IOSQES) || !allows(id.cqes, Cc::IOCQES) {
            return Err(ControllerError::BadIdentify("SQES or CQES exclude the standard sizes"));
        }
        self.life.mdts.set(id.mdts);
        self.hub.offers.set(Offers {
            commands: id.nvm_commands(),
            write_cache: id.write_cache().bits() & 1 != 0,
        });
        let asked = u32::from(self.config.async_events);
        self.events.set_limit(asked.min(id.async_event_limit()));
        self.watch.set_abort_limit(id.abort_limit());
        let rtd3e = id.rtd3e_us.get();
        let limit = bringup::shutdown_limit_ns(rtd3e, &self.config, self.quirks);
        self.life.shutdown_limit_ns.set(limit);
        let delay = |crd| {
            let ns = u64::from(id.retry_delay_ms(crd)) * 1_000_000;
            self.clock.ns_to_ticks(ns.min(MAX_RETRY_DELAY_NS))
        };
        let policy = RetryPolicy {
            retries: self.config.retries,
            delays: [delay(0), delay(1), delay(2), delay(3)],
        };
        for queue in &self.hub.queues {
            queue.set_policy(policy);
        }
        self.admin.set_policy(policy);
        Ok(())
    }

    pub(super) fn first_namespace(&self) -> Ask {
        if self.version.into_bits() >= Version::of(1, 1, 0).into_bits() {
            Ask::List(0)
        } else {
            Ask::Scan(1)
        }
    }

    /// Takes the next identifier of the list of those above `after`.
    pub(super) fn take_list(&'static self, after: u32) -> Outcome {
        let mut page = [0; 4096];
        let read = self.scratch.span().read(0, &mut page);
        read.map_err(|_| ControllerError::BadIdentify("no data"))?;
        let list = NsidList::read_from_bytes(&page[..])
            .map_err(|_| ControllerError::BadIdentify("no data"))?;
        let place = self.life.found.get();
        let full = usize::from(place) >= self.namespaces.len();
        match list.iter().next() {
            // Only identifiers above the last one count: a list that goes back would never end.
            Some(nsid) if nsid.0 > after && nsid != Nsid::ALL && !full => {
                self.ask(Ask::Namespace(place, nsid.0));
            }
            _ => self.namespaces_done(),
        }
        Ok(())
    }

    pub(super) fn take_namespace(&self, place: u16, nsid: u32) -> Outcome {
        let mut page = [0; 4096];
        let read = self.scratch.span().read(0, &mut page);
        read.map_err(|_| ControllerError::BadIdentify("no data"))?;
        let id = IdentifyNamespace::read_from_bytes(&page[..])
            .map_err(|_| ControllerError::BadIdentify("no data"))?;
        let limits = TransferLimits {
            mdts: self.life.mdts.get(),
            unit_bytes: u64::from(self.cap.min_page_bytes()),
            own_bytes: self.config.max_transfer_bytes,
        };
        let Some(namespace) = self.namespaces.get(usize::from(place)) else {
            return Ok(());
        };
        let mut checked = shape::check(&id, limits);
        if namespace.nsid().0 != 0 && namespace.nsid().0 != nsid {
            // Another one lay here before a reset: handles to it must not reach this one.
            checked = Err(Refusal::Changed);
        }
        namespace.fill(nsid, checked, &page);
        self.life.found.set(place + 1);
        Ok(())
    }

    pub(super) fn scan_from(&'static self, nsid: u32) {
        let most = self.identify().nn.get().min(MAX_SCANNED_NSID);
        if nsid > most || usize::from(self.life.found.get()) >= self.namespaces.len() {
            self.namespaces_done();
        } else {
            self.ask(Ask::Scan(nsid));
        }
    }

    pub(super) fn take_scanned(&'static self, nsid: u32, answered: bool) -> Outcome {
        // An inactive namespace answers with zeros: nothing to keep.
        let mut nsze = [0; 8];
        let read = self.scratch.span().read(0, &mut nsze);
        if answered && read.is_ok() && nsze != [0; 8] {
            self.take_namespace(self.life.found.get(), nsid)?;
        }
        self.scan_from(nsid + 1);
        Ok(())
    }

    fn namespaces_done(&'static self) {
        let found = self.life.found.get();
        // Those that were there before the reset and are not any more.
        for namespace in self.namespaces.iter().skip(usize::from(found)) {
            namespace.lose();
        }
        self.known.set(self.known.get().max(found));
        self.ask(Ask::EventConfig);
    }
}
