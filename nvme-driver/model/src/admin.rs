//! Admin commands (NVMe Base 2.0, section 5).

use crate::engine::Outcome;
use crate::events::cleared_by;
use crate::fault::AbortPolicy;
use crate::logs::{FIRMWARE, firmware_page};
use crate::mistake::HostMistake;
use crate::model::{Model, zero_based};
use crate::namespace::apply;
use crate::transfer::Stop;
use nvme_spec::{
    AdminOpcode, Cid, Cns, FeatureId, FeatureSelect, IdentifyController, LogPageId, Nsid, NsidList,
    NumberOfQueues, OptionalAdminCommands, OptionalAsyncEvents, OptionalNvmCommands, QueueGrant,
    QueueId, Sqe, Status, StatusCode, VolatileWriteCache,
};
use zerocopy::{FromZeros, IntoBytes};

/// A feature that can be changed and is not saved (NVMe Base 2.0, figure of SEL = 3).
const CHANGEABLE: u32 = 1 << 2;
/// No more of a log page is returned, whatever is asked for: more than any page here has.
const LOG_BYTES: u64 = 1 << 20;

impl Model {
    /// Carries an admin command out; `None` if it waits for an event.
    pub(crate) fn execute_admin(&mut self, sqe: &Sqe) -> Option<Outcome> {
        if !sqe.flags().is_empty() {
            return Some(self.refuse_flags(QueueId::ADMIN, sqe).into());
        }
        Some(match AdminOpcode(sqe.opcode()) {
            AdminOpcode::IDENTIFY => self.identify(sqe).into(),
            AdminOpcode::CREATE_CQ => self.create_cq(sqe).into(),
            AdminOpcode::CREATE_SQ => self.create_sq(sqe).into(),
            AdminOpcode::DELETE_CQ => self.delete_cq(sqe).into(),
            AdminOpcode::DELETE_SQ => self.delete_sq(sqe).into(),
            AdminOpcode::GET_LOG_PAGE => self.get_log_page(sqe).into(),
            AdminOpcode::SET_FEATURES => self.set_features(sqe),
            AdminOpcode::GET_FEATURES => self.get_features(sqe),
            AdminOpcode::ABORT => self.abort(sqe),
            AdminOpcode::ASYNC_EVENT_REQUEST => return self.async_event_request(sqe),
            AdminOpcode::DOORBELL_BUFFER_CONFIG if self.config.shadow_doorbells => {
                self.doorbell_buffer_config(sqe).into()
            }
            AdminOpcode(opcode) => {
                let (sqid, cid) = (QueueId::ADMIN, sqe.cid());
                self.mistakes.add(HostMistake::Opcode { sqid, cid, opcode });
                self.refuse(sqe, StatusCode::INVALID_OPCODE).into()
            }
        })
    }

    pub(crate) fn refuse(&mut self, sqe: &Sqe, code: StatusCode) -> Status {
        self.fail(QueueId::ADMIN, sqe, code)
    }

    /// Sends bytes to the command's buffer.
    fn send(&mut self, sqe: &Sqe, bytes: &[u8]) -> Status {
        let prps = self.prps(sqe, bytes.len() as u64);
        let sent = prps.each(&self.dma, |host, at, len| host.write(0, &bytes[at..at + len]));
        match sent {
            Ok(()) => Status::SUCCESS,
            Err(Stop::Prp(error)) => self.bad_prp(QueueId::ADMIN, sqe, error),
            Err(Stop::Piece(_)) => self.refuse(sqe, StatusCode::INTERNAL_ERROR),
        }
    }

    fn identify(&mut self, sqe: &Sqe) -> Status {
        let cns = Cns((sqe.dword(10) & 0xff) as u8);
        // CDW11 31:24: the command set; 0 is NVM.
        let command_set = sqe.dword(11) >> 24;
        match cns {
            Cns::CONTROLLER => {
                let id = self.identify_controller();
                self.send(sqe, id.as_bytes())
            }
            Cns::NAMESPACE => self.identify_namespace(sqe),
            Cns::COMMAND_SET_NAMESPACE | Cns::COMMAND_SET_CONTROLLER if command_set == 0 => {
                self.send(sqe, &[0; nvme_spec::IDENTIFY_BYTES])
            }
            Cns::ACTIVE_NSIDS | Cns::ALLOCATED_NSIDS => {
                if sqe.nsid().0 >= Nsid::ALL.0 - 1 {
                    return self.refuse(sqe, StatusCode::INVALID_NAMESPACE);
                }
                let above = self.namespaces.iter().map(|ns| ns.nsid).filter(|id| *id > sqe.nsid());
                let mut list = NsidList::new_zeroed();
                for (slot, nsid) in list.nsids.iter_mut().zip(above) {
                    *slot = nsid.0.into();
                }
                self.send(sqe, list.as_bytes())
            }
            Cns::NS_DESCRIPTORS => match self.place_of(sqe.nsid()) {
                Some(place) => {
                    let list = self.namespaces[place].descriptors();
                    self.send(sqe, &list)
                }
                None => self.refuse(sqe, self.code_of_missing(sqe.nsid())),
            },
            _ => self.refuse(sqe, StatusCode::INVALID_FIELD),
        }
    }

    fn identify_namespace(&mut self, sqe: &Sqe) -> Status {
        match self.place_of(sqe.nsid()) {
            Some(place) => {
                let id = self.namespaces[place].identify();
                self.send(sqe, id.as_bytes())
            }
            // A valid identifier without a namespace reads as zeros.
            None if self.is_valid(sqe.nsid()) => self.send(sqe, &[0; nvme_spec::IDENTIFY_BYTES]),
            None => self.refuse(sqe, StatusCode::INVALID_NAMESPACE),
        }
    }

    /// NN.
    pub(crate) fn largest_nsid(&self) -> u32 {
        self.namespaces.last().map_or(1, |ns| ns.nsid.0)
    }

    /// Identify controller, patched.
    fn identify_controller(&self) -> IdentifyController {
        let config = &self.config;
        let mut id = IdentifyController::new_zeroed();
        id.sn.fill(b' ');
        id.sn[..config.serial.len().min(20)].copy_from_slice(config.serial.as_bytes());
        id.mn.fill(b' ');
        let model = b"Hybrid software NVMe controller";
        id.mn[..model.len()].copy_from_slice(model);
        id.fr = FIRMWARE;
        id.mdts = config.mdts;
        id.cntlid = 1.into();
        id.ver = 0x0002_0000.into();
        id.rtd3e_us = config.shutdown_limit_us.into();
        let events =
            OptionalAsyncEvents::NAMESPACE_ATTRIBUTE | OptionalAsyncEvents::FIRMWARE_ACTIVATION;
        id.oaes = events.bits().into();
        id.cntrltype = 1;
        if config.shadow_doorbells {
            id.oacs = OptionalAdminCommands::DOORBELL_BUFFER.bits().into();
        }
        id.crdt = config.retry_delays_100ms.map(Into::into);
        id.acl_z = 3;
        id.aerl_z = zero_based(u32::from(config.async_event_limit)).to_le_bytes()[0];
        id.lpa = IdentifyController::LPA_OFFSETS;
        // One read-only firmware slot.
        id.frmw = 0b0011;
        id.elpe_z = zero_based(u32::from(config.error_log_entries)).to_le_bytes()[0];
        id.wctemp_kelvin = 343.into();
        id.cctemp_kelvin = 353.into();
        let bytes =
            |ns: &crate::namespace::Namespace| u128::from(ns.blocks) * u128::from(ns.lba_bytes);
        id.tnvmcap = self.namespaces.iter().map(bytes).sum::<u128>().into();
        id.sqes = 0x66;
        id.cqes = 0x44;
        id.nn = self.largest_nsid().into();
        let commands = OptionalNvmCommands::COMPARE
            | OptionalNvmCommands::DATASET_MANAGEMENT
            | OptionalNvmCommands::WRITE_ZEROES;
        id.oncs = commands.bits().into();
        if config.volatile_write_cache {
            id.vwc = (VolatileWriteCache::PRESENT | VolatileWriteCache::FLUSH_ALL).bits();
        }
        id.awun_z = zero_based(config.atomic_write_blocks).into();
        id.awupf_z = zero_based(config.atomic_write_blocks_power_fail).into();
        let name = b"nqn.2026-11.example:hybrid-model";
        id.subnqn[..name.len()].copy_from_slice(name);
        // One power state of 25 W.
        id.psd[0].max_power = 2500.into();
        apply(&config.identify_patches, id.as_mut_bytes());
        id
    }

    fn get_log_page(&mut self, sqe: &Sqe) -> Status {
        let page = sqe.as_get_log_page();
        let bytes = match page.lid {
            LogPageId::ERROR => self.logs.error_page(),
            LogPageId::SMART => self.logs.smart_page(&self.stats),
            LogPageId::FIRMWARE => firmware_page(),
            LogPageId::CHANGED_NAMESPACES => self.logs.changed_page(),
            _ => return self.refuse(sqe, StatusCode::INVALID_LOG_PAGE),
        };
        let whole = bytes.len() as u64;
        if page.offset & 3 != 0 || page.offset > whole {
            return self.refuse(sqe, StatusCode::INVALID_FIELD);
        }
        let want = page.len_bytes();
        if want > self.max_transfer() {
            return self.beyond_mdts(QueueId::ADMIN, sqe, want);
        }
        if want > LOG_BYTES {
            return self.refuse(sqe, StatusCode::INVALID_FIELD);
        }
        let from = usize::try_from(page.offset).unwrap_or(bytes.len());
        let mut part = bytes.get(from..).unwrap_or(&[]).to_vec();
        part.resize(usize::try_from(want).unwrap_or(0), 0);
        let status = self.send(sqe, &part);
        if status.is_success() && !page.retain_event {
            self.events.masked &= !cleared_by(page.lid);
            if page.lid == LogPageId::CHANGED_NAMESPACES {
                self.logs.changed.clear();
            }
        }
        status
    }

    fn set_features(&mut self, sqe: &Sqe) -> Outcome {
        let value = sqe.dword(11);
        let feature = FeatureId((sqe.dword(10) & 0xff) as u8);
        if let Some(code) = self.wrong_scope(feature, sqe.nsid()) {
            return self.refuse(sqe, code).into();
        }
        let features = &mut self.features;
        match feature {
            _ if sqe.dword(10) & 1 << 31 != 0 => {
                return self.refuse(sqe, StatusCode::FEATURE_NOT_SAVEABLE).into();
            }
            FeatureId::ARBITRATION => features.arbitration = value,
            FeatureId::POWER_MANAGEMENT if value & 0x1f == 0 => features.power = value,
            FeatureId::TEMPERATURE_THRESHOLD => features.temperature = value,
            FeatureId::ERROR_RECOVERY => features.error_recovery = value,
            FeatureId::VOLATILE_WRITE_CACHE if self.config.volatile_write_cache => {
                features.write_cache = value & 1;
            }
            FeatureId::NUMBER_OF_QUEUES => return self.set_number_of_queues(sqe),
            FeatureId::INTERRUPT_COALESCING => features.coalescing = value,
            FeatureId::WRITE_ATOMICITY => features.write_atomicity = value & 1,
            FeatureId::ASYNC_EVENT_CONFIG => features.events = value,
            _ => return self.refuse(sqe, StatusCode::INVALID_FIELD).into(),
        }
        Status::SUCCESS.into()
    }

    /// What is wrong with the namespace of a Set Features: error recovery is set for a namespace or
    /// all, everything else for the controller (NVMe Base 2.0, section 5.27).
    fn wrong_scope(&self, feature: FeatureId, nsid: Nsid) -> Option<StatusCode> {
        match feature {
            _ if nsid == Nsid::ALL => None,
            FeatureId::ERROR_RECOVERY => self.missing(nsid),
            _ if nsid == Nsid::NONE => None,
            _ if self.is_valid(nsid) => Some(StatusCode::FEATURE_NOT_NAMESPACE_SPECIFIC),
            _ => Some(StatusCode::INVALID_NAMESPACE),
        }
    }

    /// What is wrong with a namespace that must be there.
    fn missing(&self, nsid: Nsid) -> Option<StatusCode> {
        self.place_of(nsid).is_none().then(|| self.code_of_missing(nsid))
    }

    fn set_number_of_queues(&mut self, sqe: &Sqe) -> Outcome {
        let asked = NumberOfQueues::from(sqe.dword(11));
        if asked.sqs_z() == u16::MAX || asked.cqs_z() == u16::MAX {
            return self.refuse(sqe, StatusCode::INVALID_FIELD).into();
        }
        if self.cqs.iter().skip(1).any(Option::is_some) {
            return self.refuse(sqe, StatusCode::SEQUENCE_ERROR).into();
        }
        Outcome { status: Status::SUCCESS, result: self.queue_grant().0 }
    }

    const fn queue_grant(&self) -> QueueGrant {
        QueueGrant::new(self.config.max_io_queues, self.config.max_io_queues)
    }

    fn get_features(&mut self, sqe: &Sqe) -> Outcome {
        let select = FeatureSelect::from_bits(((sqe.dword(10) >> 8) & 7) as u8);
        let initial = crate::model::Features::new(&self.config);
        let values = match select {
            Some(FeatureSelect::Current | FeatureSelect::Capabilities) => self.features,
            Some(FeatureSelect::Default | FeatureSelect::Saved) => initial,
            None => return self.refuse(sqe, StatusCode::INVALID_FIELD).into(),
        };
        let feature = FeatureId((sqe.dword(10) & 0xff) as u8);
        if feature == FeatureId::ERROR_RECOVERY
            && let Some(code) = self.missing(sqe.nsid())
        {
            return self.refuse(sqe, code).into();
        }
        let value = match feature {
            FeatureId::ARBITRATION => values.arbitration,
            FeatureId::POWER_MANAGEMENT => values.power,
            FeatureId::TEMPERATURE_THRESHOLD => values.temperature,
            FeatureId::ERROR_RECOVERY => values.error_recovery,
            FeatureId::VOLATILE_WRITE_CACHE if self.config.volatile_write_cache => {
                values.write_cache
            }
            FeatureId::NUMBER_OF_QUEUES => self.queue_grant().0,
            FeatureId::INTERRUPT_COALESCING => values.coalescing,
            // The vector asked for, without coalescing.
            FeatureId::INTERRUPT_VECTOR => sqe.dword(11) & 0xffff,
            FeatureId::WRITE_ATOMICITY => values.write_atomicity,
            FeatureId::ASYNC_EVENT_CONFIG => values.events,
            _ => return self.refuse(sqe, StatusCode::INVALID_FIELD).into(),
        };
        let capabilities = select == Some(FeatureSelect::Capabilities);
        let result = if capabilities { CHANGEABLE } else { value };
        Outcome { status: Status::SUCCESS, result }
    }

    fn abort(&mut self, sqe: &Sqe) -> Outcome {
        let sqid = QueueId((sqe.dword(10) & 0xffff) as u16);
        let cid = Cid((sqe.dword(10) >> 16) as u16);
        let aborted = match self.config.abort {
            AbortPolicy::Refuse => false,
            AbortPolicy::Lie => self.flights.contains(sqid, cid),
            AbortPolicy::Honest => match self.flights.remove(sqid, cid) {
                Some(victim) => {
                    let status = StatusCode::ABORT_REQUESTED.status();
                    let status = self.fail_with(sqid, &victim.sqe, status);
                    self.post(sqid, cid, status.into());
                    true
                }
                None => false,
            },
        };
        // Bit 0 of DW0: the command was not aborted.
        Outcome { status: Status::SUCCESS, result: u32::from(!aborted) }
    }

    fn async_event_request(&mut self, sqe: &Sqe) -> Option<Outcome> {
        let limit = usize::from(self.config.async_event_limit);
        if self.events.requests.len() >= limit {
            let cid = sqe.cid();
            self.mistakes.add(HostMistake::AsyncEventLimit { cid, limit });
            return Some(self.refuse(sqe, StatusCode::AER_LIMIT_EXCEEDED).into());
        }
        self.events.requests.push_back(sqe.cid());
        None
    }
}
