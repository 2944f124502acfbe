//! Bring-up: every legal controller comes up, every broken one ends in a named error, in bounded
//! time, and nothing is lost on the way.

use hybrid_conformance::{Backend, Oracle, Rig, Stepped, quick};
use nvme_driver::{
    ControllerConfig, ControllerError, ControllerState, IoError, Lba, Refusal, RegsError, Step,
    WriteFlags,
};
use nvme_model::{
    ControllerFault, FaultAction, FaultPlan, FaultRule, ModelConfig, NamespaceConfig, OnQueue,
    Patch, When,
};
use nvme_spec::registers::Cap;
use nvme_spec::{AdminOpcode, Nsid, StatusCode};

const S: u64 = 1_000_000_000;

fn model() -> ModelConfig {
    ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, 1024).lba_bytes(512)],
        ready_delay_ns: 3_000_000,
        not_ready_delay_ns: 1_000_000,
        paranoid: true,
        ..ModelConfig::default()
    }
}

fn config() -> ControllerConfig {
    ControllerConfig { queue_depth: 15, ..ControllerConfig::default() }
}

fn rig(model: ModelConfig, config: ControllerConfig) -> Rig<Stepped> {
    Rig::new(Stepped::new(model, 16 << 20), config).expect("a controller")
}

fn with_rule(rule: FaultRule) -> ModelConfig {
    ModelConfig { faults: FaultPlan::none().with(rule), ..model() }
}

fn fatal_at(n: u64, fault: ControllerFault) -> FaultRule {
    FaultRule::on(OnQueue::Admin, FaultAction::Controller(fault)).when(When::Nth(n))
}

/// Some reads and writes, then an orderly end.
fn works(rig: &Rig<Stepped>) {
    Oracle::new(rig.ns(), 8, 1).run(rig, 40);
    rig.finish();
}

#[test]
fn a_matrix_of_legal_controllers_comes_up_and_moves_data() {
    for (max_queue_entries, depth) in [(2, 1), (2, 255), (3, 2), (7, 6), (64, 200), (1024, 255)] {
        for dstrd in 0..=4 {
            for lba_bytes in [512, 4096, 65536] {
                let mut m = model();
                m.namespaces = vec![NamespaceConfig::memory(1, 256).lba_bytes(lba_bytes)];
                m.max_queue_entries = max_queue_entries;
                m.dstrd = dstrd;
                m.max_io_queues = 3;
                m.mdts = 4;
                let rig = Rig::new(
                    Stepped::new(m, 32 << 20),
                    ControllerConfig {
                        queue_depth: depth,
                        io_queues: 2,
                        max_transfer_bytes: 128 << 10,
                        ..ControllerConfig::default()
                    },
                )
                .expect("a controller");
                rig.bring_up().expect("ready");
                let most = u16::try_from(max_queue_entries - 1).expect("small");
                assert_eq!(rig.controller.queue_depth(), depth.min(most));
                works(&rig);
            }
        }
    }
}

#[test]
fn namespaces_have_holes_and_lies_are_refused_by_name() {
    let patched = |nsid, offset, bytes: &[u8]| {
        let mut ns = NamespaceConfig::memory(nsid, 64);
        ns.identify_patches = vec![Patch { offset, bytes: bytes.to_vec() }];
        ns
    };
    let mut with_metadata = NamespaceConfig::memory(900, 64);
    with_metadata.metadata_bytes = 8;
    let mut extended = with_metadata.clone();
    extended.nsid = 901;
    extended.extended_metadata = true;
    let mut m = model();
    m.namespaces.extend([
        NamespaceConfig::memory(7, 100).lba_bytes(4096),
        NamespaceConfig::memory(4_000_000_000, 50).lba_bytes(65536),
        // LBADS of the format in use: byte 2 of the entry at 128 + 4 * FLBAS.
        patched(10, 26, &[0x0F]),
        patched(11, 0, &[0; 8]),
        patched(12, 0, &[0xFF; 8]),
        with_metadata,
        extended,
    ]);
    // All formats of namespace 13 are 2^64 bytes.
    let mut huge = NamespaceConfig::memory(13, 64);
    huge.identify_patches =
        (0..64).map(|format| Patch { offset: 128 + 4 * format + 2, bytes: vec![64] }).collect();
    m.namespaces.push(huge);
    // Of zones, and of a command set that nobody knows yet.
    for (nsid, command_set) in [(14, 2), (15, 0x30)] {
        let mut other = NamespaceConfig::memory(nsid, 64);
        other.command_set = command_set;
        m.namespaces.push(other);
    }
    let rig = quick(m, config());
    let nsids: Vec<u32> = rig.controller.namespaces().map(|ns| ns.nsid().0).collect();
    assert_eq!(nsids, [1, 7, 4_000_000_000]);
    let refusal = |nsid| {
        let all = rig.controller.all_namespaces();
        let mut this = all.filter(|ns| ns.nsid() == Nsid(nsid));
        this.next().and_then(nvme_driver::Namespace::refusal)
    };
    assert_eq!(refusal(10), Some(Refusal::NoSuchFormat(0x0F)));
    assert_eq!(refusal(11), Some(Refusal::Empty));
    assert_eq!(refusal(12), Some(Refusal::TooLarge(u64::MAX)));
    assert_eq!(refusal(13), Some(Refusal::BlockSize(64)));
    assert_eq!(refusal(14), Some(Refusal::CommandSet(2)));
    assert_eq!(refusal(15), Some(Refusal::CommandSet(0x30)));
    assert_eq!(refusal(900), Some(Refusal::MetadataApart(8)));
    assert_eq!(refusal(901), Some(Refusal::MetadataInBlock(8)));
    assert_eq!(rig.controller.namespace(Nsid(10)).map(|ns| ns.nsid()), None);
    let last = rig.controller.namespace(Nsid(4_000_000_000)).expect("there");
    assert_eq!((last.blocks(), last.lba_bytes()), (50, 65536));
    let buf = rig.filled(65536, 7);
    rig.run(last.write(Lba(49), buf, WriteFlags::empty())).expect("written");
    works(&rig);
}

#[test]
fn without_an_active_list_namespaces_are_counted() {
    let refuse = FaultAction::Status(StatusCode::INVALID_FIELD.do_not_retry());
    // The second Identify is the list.
    let rule = FaultRule::admin(AdminOpcode::IDENTIFY, refuse).when(When::Nth(2));
    let mut m = with_rule(rule);
    m.namespaces.push(NamespaceConfig::memory(5, 10));
    let rig = quick(m, config());
    let nsids: Vec<u32> = rig.controller.namespaces().map(|ns| ns.nsid().0).collect();
    assert_eq!(nsids, [1, 5]);
    works(&rig);
}

#[test]
fn mdts_of_0_and_31_are_no_limit_and_a_huge_nn_does_not_delay() {
    for mdts in [0, 31] {
        let mut m = model();
        m.mdts = 0;
        m.identify_patches = vec![
            Patch { offset: 77, bytes: vec![mdts] },
            Patch { offset: 516, bytes: vec![0xFF, 0xFF, 0xFF, 0xFF] },
        ];
        let rig = quick(m, config());
        assert_eq!(rig.ns().max_transfer_bytes(), 512 << 10);
        works(&rig);
    }
}

#[test]
fn cfs_at_each_step_costs_one_attempt() {
    for n in 1..=7 {
        let rig = rig(with_rule(fatal_at(n, ControllerFault::Fatal)), config());
        rig.bring_up().unwrap_or_else(|e| panic!("step {n}: {e}"));
        assert_eq!(rig.controller.stats().bringup_failures, 1, "step {n}");
        works(&rig);
    }
}

#[test]
fn cfs_at_every_attempt_is_a_typed_error() {
    let fatal = FaultAction::Controller(ControllerFault::Fatal);
    let rig = rig(with_rule(FaultRule::on(OnQueue::Admin, fatal)), config());
    let error = rig.bring_up().expect_err("it never works");
    assert_eq!(error, ControllerError::FatalStatus(Step::IdentifyController));
    assert_eq!(rig.controller.stats().bringup_failures, 3);
    rig.assert_no_leak();
    rig.assert_no_mistakes();
}

#[test]
fn registers_of_all_ones_or_zeros_at_each_step_are_gone_at_once() {
    for fault in [ControllerFault::AllOnes, ControllerFault::AllZeros] {
        for n in 1..=7 {
            let rig = rig(with_rule(fatal_at(n, fault)), config());
            let error = rig.bring_up().expect_err("gone");
            match fault {
                ControllerFault::AllOnes => {
                    assert_eq!(error, ControllerError::Regs(RegsError::Gone), "step {n}");
                }
                // Zeros look like a controller that is not ready: one more look at CAP tells.
                _ => assert_eq!(error, ControllerError::Regs(RegsError::Gone), "step {n}"),
            }
            assert!(matches!(rig.controller.state(), ControllerState::Failed(_)));
        }
        let stepped = Stepped::new(model(), 16 << 20);
        stepped.with_model(move |m| m.inject(fault));
        let error = Rig::new(stepped, config()).expect_err("nothing there");
        assert_eq!(error, ControllerError::Regs(RegsError::Gone));
    }
}

#[test]
fn ready_that_never_comes_ends_within_the_limit_of_each_attempt() {
    let stepped = Stepped::new(ModelConfig { timeout_500ms: 4, ..model() }, 16 << 20);
    stepped.with_model(|m| m.inject(ControllerFault::NeverReady));
    let rig = Rig::new(stepped, config()).expect("a controller");
    let start = rig.backend.now();
    let error = rig.bring_up().expect_err("never ready");
    let step = Step::Enable;
    assert_eq!(error, ControllerError::TimedOut { step, limit_ms: 2000 });
    let took = rig.backend.now().since(start).get();
    assert!((6 * S..7 * S).contains(&took), "three attempts took {took} ns");
    rig.assert_no_leak();
}

#[test]
fn absurd_timeouts_have_a_floor_and_a_ceiling() {
    for (to, low, high) in [(0, 2, 3), (255, 30, 31)] {
        let stepped = Stepped::new(ModelConfig { timeout_500ms: to, ..model() }, 16 << 20);
        stepped.with_model(|m| m.inject(ControllerFault::NeverReady));
        let once = ControllerConfig { bringup_attempts: 1, ..config() };
        let rig = Rig::new(stepped, once).expect("a controller");
        let start = rig.backend.now();
        rig.bring_up().expect_err("never ready");
        let took = rig.backend.now().since(start).get();
        assert!((low * S..high * S).contains(&took), "TO {to}: {took} ns");
    }
}

#[test]
fn a_queue_that_cannot_be_created_once_is_created_at_the_next_attempt() {
    let refuse = FaultAction::Status(StatusCode::INTERNAL_ERROR.do_not_retry());
    for opcode in [AdminOpcode::CREATE_CQ, AdminOpcode::CREATE_SQ] {
        let rig = rig(with_rule(FaultRule::admin(opcode, refuse).when(When::Nth(1))), config());
        rig.bring_up().expect("ready");
        assert_eq!(rig.controller.stats().bringup_failures, 1);
        works(&rig);
    }
}

#[test]
fn a_step_of_bring_up_that_fails_without_dnr_is_tried_again_after_the_delay_asked_for() {
    // CRDT1 is 3 units of 100 ms; three tries after the first.
    let busy = StatusCode::INTERNAL_ERROR.status();
    for (status, tries, least_ns) in
        [(busy, 3, 0), (busy.with_crd(1), 1, 300_000_000), (busy.with_crd(1), 3, 900_000_000)]
    {
        for opcode in [
            AdminOpcode::IDENTIFY,
            AdminOpcode::SET_FEATURES,
            AdminOpcode::CREATE_CQ,
            AdminOpcode::CREATE_SQ,
        ] {
            let fault = FaultAction::Status(status);
            let mut m = with_rule(FaultRule::admin(opcode, fault).when(When::First(tries)));
            m.retry_delays_100ms = [3, 0, 0];
            let rig = rig(m, config());
            let clock = rig.backend.parts().clock();
            let begun = rig.backend.now();
            rig.bring_up().expect("ready");
            assert_eq!(rig.controller.stats().bringup_failures, 0, "{opcode:?} {tries}");
            // The first Identify fails before the delays are known.
            if opcode != AdminOpcode::IDENTIFY {
                let took_ns = clock.ticks_to_ns(rig.backend.now().since(begun));
                assert!(took_ns >= least_ns, "{opcode:?} {tries}: {took_ns} ns");
            }
            works(&rig);
        }
    }
}

#[test]
fn a_namespace_that_a_reset_could_not_look_at_is_not_lost() {
    // More failures than tries: the reset's first attempt fails, the second one sees it.
    let fault = FaultAction::Status(StatusCode::INTERNAL_ERROR.status());
    for (failures, bringup_failures) in [(1, 0), (4, 1), (12, 2)] {
        let rig = quick(model(), config());
        rig.backend.with_model(|model| {
            model.reconfigure(|config| {
                let rule = FaultRule::admin(AdminOpcode::IDENTIFY, fault).nsid(1);
                config.faults = FaultPlan::none().with(rule.when(When::First(failures)));
            });
        });
        rig.controller.request_reset();
        rig.until(|c| c.stats().resets == 1 && c.state() == ControllerState::Ready);
        assert_eq!(rig.controller.stats().bringup_failures, bringup_failures, "{failures}");
        assert_eq!(rig.ns().refusal(), None, "{failures}");
        rig.finish();
    }
    // Both Identify commands of it, four times in each attempt: it is refused, and back after the
    // next reset.
    let rig = quick(model(), config());
    rig.backend.with_model(|model| {
        model.reconfigure(|config| {
            let rule = FaultRule::admin(AdminOpcode::IDENTIFY, fault).nsid(1);
            config.faults = FaultPlan::none().with(rule.when(When::First(3 * 8)));
        });
    });
    let ns = rig.ns();
    rig.controller.request_reset();
    rig.until(|c| c.stats().resets == 1 && c.state() == ControllerState::Ready);
    assert!(matches!(ns.refusal(), Some(Refusal::Unidentified(_))), "{:?}", ns.refusal());
    let failed = rig.run(ns.read(Lba(0), rig.filled(512, 0))).expect_err("refused");
    assert_eq!(failed.error, IoError::NamespaceChanged(Nsid(1)));
    assert!(failed.buf.is_some());
    drop(failed);
    rig.backend.with_model(|model| {
        model.reconfigure(|config| config.faults = FaultPlan::none());
    });
    rig.controller.request_reset();
    rig.until(|c| c.stats().resets == 2 && c.state() == ControllerState::Ready);
    assert_eq!(ns.refusal(), None);
    rig.finish();
}

#[test]
fn a_queue_that_can_never_be_created_is_a_typed_error_and_nothing_leaks() {
    let status = StatusCode::INVALID_QUEUE_SIZE.do_not_retry();
    for (opcode, step) in [
        (AdminOpcode::CREATE_CQ, Step::CreateCq),
        (AdminOpcode::CREATE_SQ, Step::CreateSq),
        (AdminOpcode::IDENTIFY, Step::IdentifyController),
        (AdminOpcode::SET_FEATURES, Step::NumberOfQueues),
    ] {
        let rig = rig(with_rule(FaultRule::admin(opcode, FaultAction::Status(status))), config());
        let ControllerError::Refused { step: at, status: said } =
            rig.bring_up().expect_err("refused")
        else {
            panic!("{:?}", rig.controller.state());
        };
        assert_eq!((at, said.code()), (step, status.code()));
        rig.assert_no_leak();
        rig.assert_no_mistakes();
    }
}

#[test]
fn a_later_queue_that_fails_is_done_without() {
    let refuse = FaultAction::Status(StatusCode::INVALID_QUEUE_ID.do_not_retry());
    for opcode in [AdminOpcode::CREATE_CQ, AdminOpcode::CREATE_SQ] {
        let rule = FaultRule::admin(opcode, refuse).when(When::After(2));
        let four = ControllerConfig { io_queues: 4, ..config() };
        let rig = rig(with_rule(rule), four);
        rig.bring_up().expect("ready");
        assert_eq!(rig.controller.io_queues(), 2, "{opcode}");
        works(&rig);
    }
}

#[test]
fn an_admin_command_that_is_never_answered_costs_less_than_five_seconds() {
    for n in 1..=7 {
        let rule = FaultRule::on(OnQueue::Admin, FaultAction::Drop).when(When::Nth(n));
        let rig = rig(with_rule(rule), config());
        let start = rig.backend.now();
        rig.bring_up().unwrap_or_else(|e| panic!("step {n}: {e}"));
        let took = rig.backend.now().since(start).get();
        assert!(took < 5 * S, "step {n}: {took} ns");
        assert_eq!(rig.controller.stats().bringup_failures, 1);
        works(&rig);
    }
}

#[test]
fn controllers_that_cannot_be_used_are_refused_by_name() {
    let with_cap = |cap: Cap| {
        let stepped =
            Stepped::new(ModelConfig { cap_override: Some(cap.into_bits()), ..model() }, 16 << 20);
        Rig::new(stepped, config()).map(|_| ())
    };
    let good = Cap::new().with_mqes_z(63).with_css(1).with_to(10);
    assert_eq!(with_cap(good), Ok(()));
    assert_eq!(with_cap(good.with_mqes_z(0)), Err(ControllerError::BadMqes));
    assert_eq!(with_cap(good.with_css(0x80)), Err(ControllerError::NoNvmCommandSet(0x80)));
    assert_eq!(
        with_cap(good.with_mpsmin(5)),
        Err(ControllerError::PageSize { min_bytes: 128 << 10, max_bytes: 64 << 10 })
    );
    // A stride that the doorbells' memory is too small for.
    assert!(matches!(with_cap(good.with_dstrd(15)), Err(ControllerError::NoDoorbell(_))));
}

#[test]
fn a_cap_without_command_sets_is_taken_for_nvm() {
    let cap = Cap::new().with_mqes_z(63).with_to(10);
    let rig = quick(ModelConfig { cap_override: Some(cap.into_bits()), ..model() }, config());
    works(&rig);
}

#[test]
fn a_shutdown_that_the_controller_never_confirms_is_bounded() {
    let rig = quick(ModelConfig { shutdown_limit_us: 3_000_000, ..model() }, config());
    rig.backend.with_model(|m| m.inject(ControllerFault::NeverShutDown));
    let start = rig.backend.now();
    let late = ControllerError::TimedOut { step: Step::Shutdown, limit_ms: 3_000 };
    assert_eq!(rig.run(rig.controller.shutdown()), Err(late));
    assert_eq!(rig.controller.state(), ControllerState::Off, "off all the same");
    let took = rig.backend.now().since(start).get();
    assert!((3 * S..4 * S).contains(&took), "{took} ns");
    rig.assert_no_leak();
    rig.assert_no_mistakes();
}

#[test]
fn a_shutdown_ends_what_never_completes_and_gives_its_buffer_back() {
    let rig = quick(with_rule(FaultRule::on(OnQueue::Io, FaultAction::Drop)), config());
    let read = rig.ns().read(Lba(0), rig.filled(512, 1));
    rig.run(rig.controller.shutdown()).expect("off");
    let failed = rig.run(read).expect_err("lost");
    assert!(matches!(failed.error, IoError::Reset(_)), "{failed}");
    assert!(failed.buf.is_some());
    drop(failed);
    rig.assert_no_leak();
    rig.assert_no_mistakes();
}
