//! Admin commands, but for those that make and delete queues.

use nvme_spec::{
    AdminOpcode, Cid, Cns, FeatureId, FeatureSelect, GetLogPage, LogPageId, Nsid,
    OptionalAdminCommands, QueueId, Sqe, SqeFlags, Status, StatusCode, VolatileWriteCache,
};

use super::{
    Answer, DNR_SECTION, FIELD, FUSED, Known, NAMESPACE, NO_NSID, NOT_OF_ALL, OK, OPCODE,
    PRP_OFFSET, QEMU, Row, Stage, any, row,
};

const NOT_SAVEABLE: Status = StatusCode::FEATURE_NOT_SAVEABLE.do_not_retry();
const NOT_OF_A_NAMESPACE: Status = StatusCode::FEATURE_NOT_NAMESPACE_SPECIFIC.do_not_retry();

/// Invalid Log Page became the only answer after 2.0.
const NO_LOG: Answer = Answer::AnyOf(
    &[StatusCode::INVALID_LOG_PAGE.do_not_retry(), FIELD],
    "NVMe Base 2.0c, section 5.16 (ECN 110)",
);

/// It *should* be the first.
const NONE_ABOVE: Answer =
    Answer::AnyOf(&[NAMESPACE, OK], "NVMe Base 2.0, section 5.17.2.2 (should)");

/// Bits 1:0 of the offset may be taken for zeros.
const LOG_DWORD: Answer = Answer::AnyOf(&[FIELD, OK], "NVMe Base 2.0, section 5.16 (LPOL)");

/// A second try may succeed, once there was an event.
const TOO_MANY: Answer = Answer::AnyOf(
    &[StatusCode::AER_LIMIT_EXCEEDED.do_not_retry(), StatusCode::AER_LIMIT_EXCEEDED.status()],
    DNR_SECTION,
);

const QEMUS_LOG_END: Known = Known {
    model: QEMU,
    status: FIELD,
    why: "only an offset greater than the page is an error (NVMe Base 2.0, section 5.16)",
};

const QEMUS_SELECT: Known = Known {
    model: QEMU,
    status: OK,
    why: "a reserved value of a field is an error (NVMe Base 2.0, section 1.4.1)",
};

/// A threshold of 336 K: 63 °C.
const THRESHOLD: u32 = 336;
/// No feature has this identifier.
const NO_FEATURE: FeatureId = FeatureId(0x6d);
/// The bit of CDW10 that asks Set Features to save.
const SAVE: u32 = 1 << 31;

const fn set(feature: FeatureId, value: u32) -> Sqe {
    Sqe::set_feature(Cid(0), Nsid::NONE, feature, value)
}

const fn get(feature: FeatureId, nsid: Nsid) -> Sqe {
    Sqe::get_feature(Cid(0), nsid, feature, FeatureSelect::Current)
}

/// To what it is after a reset.
const fn set_error_recovery(nsid: Nsid) -> Sqe {
    Sqe::set_feature(Cid(0), nsid, FeatureId::ERROR_RECOVERY, 0)
}

impl Stage {
    fn log(&self, lid: LogPageId, bytes: u32) -> Sqe {
        let page = GetLogPage::first(lid, bytes);
        Sqe::get_log_page(Cid(0), Nsid::ALL, page, self.at(0), self.at(self.page))
    }

    /// A dword of the SMART log, whose length everybody knows, only where there are offsets.
    fn smart_from(&self, offset: u64) -> Result<Sqe, &'static str> {
        let page = GetLogPage { offset, ..GetLogPage::first(LogPageId::SMART, 4) };
        let sqe = Sqe::get_log_page(Cid(0), Nsid::ALL, page, self.at(0), 0);
        Self::if_offered(self.id.log_offsets(), sqe)
    }

    /// Only where there is a write cache.
    fn cached(&self, sqe: Sqe) -> Result<Sqe, &'static str> {
        Self::if_offered(self.id.write_cache().contains(VolatileWriteCache::PRESENT), sqe)
    }

    /// An optional command, only where it is not offered.
    fn unoffered(
        &self,
        command: OptionalAdminCommands,
        opcode: AdminOpcode,
    ) -> Result<Sqe, &'static str> {
        let offered = self.id.admin_commands().contains(command);
        Self::unless_offered(offered, Sqe::admin(opcode, Cid(0), Nsid::NONE))
    }
}

pub(super) const ROWS: &[Row] = &[
    row("identify the controller", OK, |s| Ok(s.identify(Cns::CONTROLLER, Nsid::NONE))),
    row("identify a namespace", OK, |s| Ok(s.identify(Cns::NAMESPACE, s.nsid))),
    row("identify namespace 0", NAMESPACE, |s| Ok(s.identify(Cns::NAMESPACE, Nsid::NONE))),
    row("identify an invalid namespace", NAMESPACE, |s| Ok(s.identify(Cns::NAMESPACE, NO_NSID))),
    row("identify an inactive namespace", OK, |s| Ok(s.identify(Cns::NAMESPACE, s.hole()?))),
    row("list the namespaces", OK, |s| Ok(s.identify(Cns::ACTIVE_NSIDS, Nsid::NONE))),
    any("list the namespaces above FFFFFFFEh", NONE_ABOVE, |s| {
        Ok(s.identify(Cns::ACTIVE_NSIDS, NO_NSID))
    }),
    any("list the namespaces above FFFFFFFFh", NONE_ABOVE, |s| {
        Ok(s.identify(Cns::ACTIVE_NSIDS, Nsid::ALL))
    }),
    row("describe a namespace", OK, |s| Ok(s.identify(Cns::NS_DESCRIPTORS, s.nsid))),
    row("describe an invalid namespace", NAMESPACE, |s| {
        Ok(s.identify(Cns::NS_DESCRIPTORS, NO_NSID))
    }),
    any("describe all namespaces", NOT_OF_ALL, |s| Ok(s.identify(Cns::NS_DESCRIPTORS, Nsid::ALL))),
    row(
        "describe an inactive namespace",
        FIELD,
        |s| Ok(s.identify(Cns::NS_DESCRIPTORS, s.hole()?)),
    ),
    row("identify with an unknown CNS", FIELD, |s| Ok(s.identify(Cns(0x7e), Nsid::NONE))),
    row("identify with PRP2 off its page", PRP_OFFSET, |s| {
        let sqe = s.identify(Cns::CONTROLLER, Nsid::NONE);
        Ok(sqe.with_prps(s.at(s.page - 2048), s.at(s.page + 8)))
    }),
    row("identify into an SGL", FIELD, |s| {
        Ok(s.identify(Cns::CONTROLLER, Nsid::NONE).with_flags(SqeFlags::SGL))
    }),
    any("identify as the first of a fused pair", FUSED, |s| {
        Ok(s.identify(Cns::CONTROLLER, Nsid::NONE).with_flags(SqeFlags::FUSED_FIRST))
    }),
    row("get number of queues", OK, |_| Ok(get(FeatureId::NUMBER_OF_QUEUES, Nsid::NONE)))
        .result(|s| (u32::MAX, s.grant.0)),
    row("set number of queues to FFFFh", FIELD, |_| Ok(set(FeatureId::NUMBER_OF_QUEUES, u32::MAX))),
    row("set the temperature threshold", OK, |_| {
        Ok(set(FeatureId::TEMPERATURE_THRESHOLD, THRESHOLD))
    }),
    row("get the temperature threshold", OK, |_| {
        Ok(get(FeatureId::TEMPERATURE_THRESHOLD, Nsid::NONE))
    })
    .result(|_| (0xffff, THRESHOLD)),
    row("save the temperature threshold", NOT_SAVEABLE, |s| {
        let sqe = set(FeatureId::TEMPERATURE_THRESHOLD, THRESHOLD);
        Stage::unless_offered(s.saveable, sqe.with_cdw(10, sqe.dword(10) | SAVE))
    }),
    row("set the temperature threshold of a namespace", NOT_OF_A_NAMESPACE, |s| {
        let feature = FeatureId::TEMPERATURE_THRESHOLD;
        Ok(Sqe::set_feature(Cid(0), s.nsid, feature, THRESHOLD))
    }),
    row("set the temperature threshold of an invalid namespace", NAMESPACE, |_| {
        let feature = FeatureId::TEMPERATURE_THRESHOLD;
        Ok(Sqe::set_feature(Cid(0), NO_NSID, feature, THRESHOLD))
    }),
    row("set the write cache", OK, |s| s.cached(set(FeatureId::VOLATILE_WRITE_CACHE, 1))),
    row("get the write cache", OK, |s| s.cached(get(FeatureId::VOLATILE_WRITE_CACHE, Nsid::NONE)))
        .result(|_| (1, 1)),
    row("get error recovery", OK, |s| Ok(get(FeatureId::ERROR_RECOVERY, s.nsid))),
    row("get error recovery of namespace 0", NAMESPACE, |_| {
        Ok(get(FeatureId::ERROR_RECOVERY, Nsid::NONE))
    }),
    row("get error recovery of an invalid namespace", NAMESPACE, |_| {
        Ok(get(FeatureId::ERROR_RECOVERY, NO_NSID))
    }),
    row("get error recovery of an inactive namespace", FIELD, |s| {
        Ok(get(FeatureId::ERROR_RECOVERY, s.hole()?))
    }),
    row("get error recovery of all namespaces", NAMESPACE, |_| {
        Ok(get(FeatureId::ERROR_RECOVERY, Nsid::ALL))
    }),
    row("set error recovery of all namespaces", OK, |_| Ok(set_error_recovery(Nsid::ALL))),
    row("set error recovery of a namespace", OK, |s| Ok(set_error_recovery(s.nsid))),
    row("set error recovery of namespace 0", NAMESPACE, |_| Ok(set_error_recovery(Nsid::NONE))),
    row("set error recovery of an invalid namespace", NAMESPACE, |_| {
        Ok(set_error_recovery(NO_NSID))
    }),
    row("set error recovery of an inactive namespace", FIELD, |s| {
        Ok(set_error_recovery(s.hole()?))
    }),
    row("get a feature with the reserved SEL 5", FIELD, |_| {
        let sqe = get(FeatureId::TEMPERATURE_THRESHOLD, Nsid::NONE);
        Ok(sqe.with_cdw(10, sqe.dword(10) | 5 << 8))
    })
    .known(QEMUS_SELECT),
    row("get an unknown feature", FIELD, |_| Ok(get(NO_FEATURE, Nsid::NONE))),
    row("set an unknown feature", FIELD, |_| Ok(set(NO_FEATURE, 0))),
    row("read the error log", OK, |s| Ok(s.log(LogPageId::ERROR, 64))),
    row("read the SMART log", OK, |s| Ok(s.log(LogPageId::SMART, 512))),
    row("read the firmware log", OK, |s| Ok(s.log(LogPageId::FIRMWARE, 512))),
    any("read an unknown log", NO_LOG, |s| Ok(s.log(LogPageId(0x6f), 512))),
    row("read the SMART log from its second half on", OK, |s| s.smart_from(256)),
    row("read the SMART log from its end on", OK, |s| s.smart_from(512)).known(QEMUS_LOG_END),
    row("read the SMART log from behind its end on", FIELD, |s| s.smart_from(516)),
    any("read the SMART log from an offset off its dword", LOG_DWORD, |s| s.smart_from(2)),
    row("read a log beyond MDTS", FIELD, |s| {
        let most = s.most.and_then(|most| u32::try_from(most).ok()).ok_or("MDTS is no limit")?;
        let page = GetLogPage::first(LogPageId::ERROR, most + 4);
        let sqe = Sqe::get_log_page(Cid(0), Nsid::ALL, page, s.at(0), s.list.iova().0);
        Stage::if_offered(s.id.log_offsets(), sqe)
    }),
    row("abort a command that is not there", OK, |_| {
        Ok(Sqe::abort(Cid(0), QueueId::ADMIN, Cid(0xfff0)))
    })
    .result(|_| (1, 1)),
    row("an unknown admin opcode", OPCODE, |_| Ok(Sqe::new(0x78, Cid(0), Nsid::NONE))),
    row("manage namespaces where it is not offered", OPCODE, |s| {
        s.unoffered(OptionalAdminCommands::NAMESPACE_MANAGEMENT, AdminOpcode::NAMESPACE_MANAGEMENT)
    }),
    row("test the device where it is not offered", OPCODE, |s| {
        s.unoffered(OptionalAdminCommands::SELF_TEST, AdminOpcode::DEVICE_SELF_TEST)
    }),
    row("set doorbell buffers where it is not offered", OPCODE, |s| {
        s.unoffered(OptionalAdminCommands::DOORBELL_BUFFER, AdminOpcode::DOORBELL_BUFFER_CONFIG)
    }),
];

/// With as many event requests outstanding as AERL allows.
pub(super) const EVENTS: &[Row] = &[
    any("one event request more than AERL allows", TOO_MANY, |_| {
        Ok(Sqe::async_event_request(Cid(0)))
    }),
    row("get a feature beside event requests", OK, |_| {
        Ok(get(FeatureId::NUMBER_OF_QUEUES, Nsid::NONE))
    })
    .result(|s| (u32::MAX, s.grant.0)),
];
