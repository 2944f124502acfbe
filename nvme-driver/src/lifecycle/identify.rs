//! Bring-up's middle: what identify data say, and which namespaces there are.
//!
//! Steps of [`super`]; each takes the answer that lies in the scratch memory and asks for the next.

use nvme_spec::registers::{Cc, Version};
use nvme_spec::{
    IdentifyController, IdentifyNamespace, NamespaceDescriptor, Nsid, NsidList, Status, StatusCode,
    descriptors,
};
use zerocopy::FromBytes;

use super::{Ask, Outcome};
use crate::bringup::{self, MAX_EVENT_REQUESTS};
use crate::controller::Controller;
use crate::error::{ControllerError, Step};
use crate::hub::Offers;
use crate::namespace::Namespace;
use crate::requests::RetryPolicy;
use crate::shape::{self, Refusal, Shape, TransferLimits};

/// Longest delay of a retry that we grant: CRDT can say almost two hours.
const MAX_RETRY_DELAY_NS: u64 = 5_000_000_000;

/// Highest identifier tried on controllers without an active namespace list (before NVMe 1.1):
/// their NN is the count, but may be a lie.
const MAX_SCANNED_NSID: u32 = 1024;

/// The highest identifier that a namespace can have.
const LAST_NSID: u32 = 0xFFFF_FFFE;

/// Identifiers in a page of the list.
const NSIDS_A_PAGE: u32 = 1024;

/// Namespaces without a place that are counted before the list is believed to have no end: eight
/// pages, sixty times the most that are kept.
const MAX_BEYOND: u32 = 8 * NSIDS_A_PAGE;

/// The bytes of an Identify Namespace, and what they say.
type Identified = ([u8; 4096], Result<Shape, Refusal>);

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
        let asked = u32::from(self.config.async_events.min(MAX_EVENT_REQUESTS));
        self.events.set_limit(asked.min(id.async_event_limit()));
        self.watch.set_abort_limit(id.abort_limit());
        let rtd3e = id.rtd3e_us.get();
        let limit = bringup::shutdown_limit_ns(rtd3e, &self.config, self.quirks);
        self.life.shutdown_limit_ns.set(limit);
        let delay = |crd| self.clock.ns_to_ticks(self.retry_delay_ns(crd));
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

    /// The delay before a retry that the controller asks for with this CRD.
    pub(crate) fn retry_delay_ns(&self, crd: u8) -> u64 {
        let ms = self.identify().retry_delay_ms(crd);
        (u64::from(ms) * 1_000_000).min(MAX_RETRY_DELAY_NS)
    }

    pub(super) fn first_namespace(&self) -> Ask {
        if self.version.into_bits() >= Version::of(1, 1, 0).into_bits() {
            Ask::List(0)
        } else {
            Ask::Scan(1)
        }
    }

    /// Nothing of this bring-up was seen yet.
    pub(super) fn forget_seen(&self) {
        self.life.beyond.set(0);
        for namespace in self.namespaces {
            namespace.seen.set(false);
        }
    }

    /// The place of this namespace: where it was before, or the first that is vacant.
    fn place_of(&self, nsid: u32) -> Option<&'static Namespace> {
        let known = self.namespaces.iter().find(|n| n.nsid().0 == nsid);
        known.or_else(|| self.namespaces.iter().find(|n| n.nsid() == Nsid::NONE))
    }

    pub(super) fn list_after(&'static self, nsid: u32) {
        // NVMe Base 2.0, section 5.17.2.2: the list may not be asked for from here on.
        if nsid >= LAST_NSID {
            self.namespaces_done();
        } else {
            self.ask(Ask::List(nsid));
        }
    }

    /// Takes the next identifier of the list of those above `after` that has a place.
    pub(super) fn take_list(&'static self, after: u32) -> Outcome {
        let mut page = [0; 4096];
        let read = self.scratch.span().read(0, &mut page);
        read.map_err(|_| ControllerError::BadIdentify("no data"))?;
        let list = NsidList::read_from_bytes(&page[..])
            .map_err(|_| ControllerError::BadIdentify("no data"))?;
        let mut last = after;
        let mut listed = 0;
        for nsid in list.iter() {
            // Only identifiers above the last one count: a list that goes back would never end.
            if nsid.0 <= last || nsid.0 > LAST_NSID {
                break;
            }
            last = nsid.0;
            listed += 1;
            if self.place_of(nsid.0).is_some() {
                self.ask_namespace(nsid.0);
                return Ok(());
            }
            self.life.beyond.set(self.life.beyond.get().saturating_add(1));
        }
        // A full page may have a successor, in which one that we know is still to come.
        if listed == NSIDS_A_PAGE && self.life.beyond.get() < MAX_BEYOND {
            self.list_after(last);
        } else {
            self.namespaces_done();
        }
        Ok(())
    }

    /// Since NVMe 1.3 a namespace has a list of descriptors, which names its command set.
    fn ask_namespace(&self, nsid: u32) {
        self.life.barred.set(None);
        let described = self.version.into_bits() >= Version::of(1, 3, 0).into_bits();
        self.ask(if described { Ask::CommandSet(nsid) } else { Ask::Namespace(nsid) });
    }

    /// A namespace of another command set (zones, keys) has an Identify of the NVM command set too,
    /// so that it would be taken for an ordinary one: NVMe Base 2.0, section 5.17.2.3.
    pub(super) fn take_command_set(&self, nsid: u32, failed: Option<Status>) -> Outcome {
        let mut page = [0; 4096];
        if failed.is_none() {
            let read = self.scratch.span().read(0, &mut page);
            read.map_err(|_| ControllerError::BadIdentify("no data"))?;
        }
        let other = descriptors(&page).find_map(|descriptor| match descriptor {
            NamespaceDescriptor::CommandSet(csi) if csi != 0 => Some(Refusal::CommandSet(csi)),
            _ => None,
        });
        let unidentified = failed.filter(|status| !super::is_unknown(*status));
        self.life.barred.set(unidentified.map(Refusal::Unidentified).or(other));
        self.ask(Ask::Namespace(nsid));
        Ok(())
    }

    /// Takes what was said of a namespace, or that nothing was.
    pub(super) fn take_namespace(
        &self,
        nsid: u32,
        failed: Option<Status>,
        barred: Option<Refusal>,
    ) -> Outcome {
        let Some(namespace) = self.place_of(nsid) else {
            return Ok(());
        };
        let silent = failed.or(match barred {
            Some(Refusal::Unidentified(status)) => Some(status),
            _ => None,
        });
        if let Some(status) = silent
            && namespace.was_usable()
            && !status.dnr()
            && self.life.attempts.get() + 1 < self.config.bringup_attempts
        {
            // Somebody uses it, and the controller has not said that it never will.
            return Err(ControllerError::Refused { step: Step::IdentifyNamespace, status });
        }
        let (page, checked) = match failed {
            // One that cannot be looked at is no reason to do without the others.
            Some(status) => ([0; 4096], Err(Refusal::Unidentified(status))),
            None => self.identified_namespace()?,
        };
        namespace.fill(nsid, barred.map_or(checked, Err), &page);
        namespace.seen.set(true);
        Ok(())
    }

    /// The Identify Namespace in the scratch memory: its bytes, and what they say.
    pub(crate) fn identified_namespace(&self) -> Result<Identified, ControllerError> {
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
        Ok((page, shape::check(&id, limits)))
    }

    pub(super) fn scan_from(&'static self, nsid: u32) {
        let most = self.identify().nn.get().min(MAX_SCANNED_NSID);
        if nsid > most {
            self.namespaces_done();
        } else {
            self.ask(Ask::Scan(nsid));
        }
    }

    pub(super) fn take_scanned(&'static self, nsid: u32, failed: Option<Status>) -> Outcome {
        // An inactive namespace answers with zeros, or is an invalid one: nothing to keep.
        let mut nsze = [0; 8];
        let read = self.scratch.span().read(0, &mut nsze);
        let gone = failed.is_none_or(|status| status.code() == StatusCode::INVALID_NAMESPACE);
        if !gone && self.place_of(nsid).is_some_and(|n| n.nsid().0 == nsid) {
            self.take_namespace(nsid, failed, None)?;
        } else if failed.is_none() && read.is_ok() && nsze != [0; 8] {
            if self.place_of(nsid).is_some() {
                self.take_namespace(nsid, None, None)?;
            } else {
                self.life.beyond.set(self.life.beyond.get().saturating_add(1));
            }
        }
        self.scan_from(nsid + 1);
        Ok(())
    }

    fn namespaces_done(&'static self) {
        // Those that were there before the reset and are not any more.
        for namespace in self.namespaces.iter().filter(|n| !n.seen.get()) {
            namespace.lose();
        }
        self.ask(Ask::EventConfig);
    }
}
