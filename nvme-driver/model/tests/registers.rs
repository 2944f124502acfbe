//! Registers and the controller's life, driven by hand.

mod host;

use host::{Host, Pair, config};
use nvme_model::{ControllerFault, DoorbellKind, HostMistake, ModelConfig};
use nvme_spec::registers::{
    Aqa, Asq, Cap, Cc, Crto, Csts, Nssr, Register, Shn, Shst, Version, sq_tail_offset,
};
use nvme_spec::{Cns, Nsid, QueueId, Sqe, StatusCode};

#[test]
fn capabilities_say_what_was_configured() {
    let mut host = Host::off(ModelConfig {
        max_queue_entries: 64,
        dstrd: 2,
        timeout_500ms: 3,
        mpsmin: 1,
        mpsmax: 2,
        ..config()
    });
    let cap = Cap::checked(host.model.read_reg(Cap::OFFSET, 8)).expect("present");
    assert_eq!(cap.max_queue_entries(), 64);
    assert_eq!((cap.dstrd(), cap.to(), cap.mpsmin(), cap.mpsmax()), (2, 3, 1, 2));
    assert_eq!(cap.css(), Cap::CSS_NVM);
    assert!(cap.cqr() && cap.crwms());
    let halves = (host.read32(0), host.read32(4));
    assert_eq!(u64::from(halves.0) | u64::from(halves.1) << 32, cap.into_raw());
    assert_eq!(host.read32(Version::OFFSET), 0x0002_0000);
    assert_eq!(Crto::from_raw(host.read32(Crto::OFFSET)).crwmt(), 3);
    host.model.assert_no_mistakes();
}

#[test]
fn an_override_of_cap_is_what_is_read() {
    let raw = 0xffff_0000_0000_0000;
    let mut host = Host::off(ModelConfig { cap_override: Some(raw), ..config() });
    assert_eq!(host.model.read_reg(0, 8), raw);
}

#[test]
fn bring_up_shutdown_and_another_bring_up_are_clean() {
    let mut host = Host::on(config());
    assert!(host.csts().rdy());
    let mut pair = host.pair(1, 8);
    let at = host.alloc(4096);
    let sqe = host.io(nvme_spec::NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
    assert!(host.run(&mut pair, sqe).status().is_success());
    host.shut_down(Shn::Normal);
    assert_eq!(host.csts().shst(), Shst::Complete);
    host.disable();
    assert_eq!(host.csts().into_raw(), 0);
    host.enable();
    assert!(host.csts().rdy());
    host.pair(1, 8);
    host.model.assert_no_mistakes();
}

#[test]
fn ready_and_not_ready_take_the_time_that_was_configured() {
    let mut host = Host::off(ModelConfig {
        ready_delay_ns: 1000,
        not_ready_delay_ns: 500,
        shutdown_delay_ns: 300,
        ..config()
    });
    host.enable();
    assert!(!host.csts().rdy());
    host.model.step(999);
    assert!(!host.csts().rdy());
    host.model.step(1000);
    assert!(host.csts().rdy());
    host.shut_down(Shn::Normal);
    assert_eq!(host.csts().shst(), Shst::Occurring);
    host.model.step(1300);
    assert_eq!(host.csts().shst(), Shst::Complete);
    host.disable();
    assert!(host.csts().rdy());
    host.model.step(1799);
    assert!(host.csts().rdy());
    host.model.step(1800);
    assert!(!host.csts().rdy());
    host.model.assert_no_mistakes();
}

/// Every way to write CC in every state: what CSTS must be and whether it is a mistake.
#[test]
fn every_write_of_en_and_shn_in_every_state_ends_where_it_should() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum From {
        Disabled,
        Enabling,
        Ready,
        Fatal,
        ShutDown,
        Disabling,
    }
    let all =
        [From::Disabled, From::Enabling, From::Ready, From::Fatal, From::ShutDown, From::Disabling];
    for from in all {
        for en in [false, true] {
            for shn in [Shn::None, Shn::Normal, Shn::Abrupt] {
                let mut host = Host::off(config());
                let slow = |host: &mut Host| {
                    host.model.reconfigure(|config| {
                        config.ready_delay_ns = 100;
                        config.not_ready_delay_ns = 100;
                    });
                };
                match from {
                    From::Disabled => {}
                    From::Enabling => {
                        slow(&mut host);
                        host.enable();
                    }
                    From::Ready => host.enable(),
                    From::Fatal => {
                        host.enable();
                        host.model.inject(ControllerFault::Fatal);
                    }
                    From::ShutDown => {
                        host.enable();
                        host.shut_down(Shn::Normal);
                    }
                    From::Disabling => {
                        host.enable();
                        slow(&mut host);
                        host.disable();
                    }
                }
                if from == From::Disabled || from == From::Disabling {
                    host.write32(Aqa::OFFSET, Aqa::of(16).into_raw());
                    host.write64(Asq::OFFSET, Host::iova(0));
                    host.write64(0x30, Host::iova(4096));
                }
                host.write32(Cc::OFFSET, Host::cc().with_en(en).with_shn(shn).into_raw());
                let name = format!("{from:?} en {en} shn {shn:?}");
                let csts = host.csts();
                let was_on = !matches!(from, From::Disabled | From::Disabling);
                let ready = match from {
                    From::Disabled => en,
                    From::Enabling => false,
                    From::Ready | From::Fatal | From::ShutDown => en,
                    From::Disabling => true,
                };
                if from == From::Disabling && en {
                    // RDY went to 0 at once, and the enabling takes its time.
                    assert!(!csts.rdy(), "{name}");
                } else {
                    assert_eq!(csts.rdy(), ready, "{name}");
                }
                let fatal = from == From::Fatal && en;
                assert_eq!(csts.cfs(), fatal, "{name}");
                let shst = match shn {
                    Shn::None if from == From::ShutDown && en => Shst::Complete,
                    Shn::None => Shst::Normal,
                    // CC.SHN does not change, but EN = 0 resets.
                    Shn::Normal if from == From::ShutDown && !en => Shst::Normal,
                    _ => Shst::Complete,
                };
                assert_eq!(csts.shst(), shst, "{name}");
                let mistake = match from {
                    From::Disabling if en => Some(HostMistake::EnabledWhileReady),
                    From::Enabling if !en => Some(HostMistake::DisabledBeforeReady),
                    _ => None,
                };
                assert_eq!(host.model.mistakes(), mistake.as_slice(), "{name}");
                // Whatever happened, a reset and time bring it back.
                host.model.take_mistakes();
                host.disable();
                host.model.step(1_000);
                host.model.step(2_000);
                assert!(!host.csts().rdy(), "{name} {was_on}");
                host.enable();
                host.model.step(3_000);
                assert!(host.csts().rdy() && !host.csts().cfs(), "{name}");
            }
        }
    }
}

#[test]
fn enabling_with_a_configuration_that_cannot_run_is_fatal_and_a_mistake() {
    let good = Host::cc();
    let bad_cc = [good.with_css(6), good.with_mps(5), good.with_ams(1), good.with_crime(true)];
    for cc in bad_cc {
        let mut host = Host::off(config());
        host.write32(Aqa::OFFSET, Aqa::of(16).into_raw());
        host.write64(Asq::OFFSET, Host::iova(0));
        host.write64(0x30, Host::iova(4096));
        host.write32(Cc::OFFSET, cc.into_raw());
        assert!(host.csts().cfs() && !host.csts().rdy());
        let [HostMistake::EnableRefused { cc: seen, .. }] = host.model.mistakes() else {
            panic!("{:?}", host.model.mistakes());
        };
        assert_eq!(*seen, cc.into_raw());
    }
    let queues = [(0, 0, 4096), (16, 8, 4096), (16, 0, 4097), (16, host::MEMORY as u64, 4096)];
    for (entries, asq, acq) in queues {
        let mut host = Host::off(config());
        let aqa = if entries == 0 { 0 } else { Aqa::of(entries).into_raw() };
        host.write32(Aqa::OFFSET, aqa);
        host.write64(Asq::OFFSET, host::BASE + asq);
        host.write64(0x30, host::BASE + acq);
        host.write32(Cc::OFFSET, good.into_raw());
        assert!(host.csts().cfs(), "{entries} {asq} {acq}");
        assert!(matches!(host.model.mistakes(), [HostMistake::EnableRefused { .. }]));
    }
}

#[test]
fn fixed_fields_of_cc_keep_their_value_while_enabled() {
    let mut host = Host::on(config());
    host.write32(Cc::OFFSET, Host::cc().with_mps(1).into_raw());
    assert_eq!(host.read32(Cc::OFFSET), Host::cc().into_raw());
    assert!(matches!(host.model.mistakes(), [HostMistake::CcChangedWhileEnabled { .. }]));
    host.model.take_mistakes();
    // Entry sizes may change as long as there are no I/O queues.
    host.write32(Cc::OFFSET, Host::cc().with_iosqes(0).into_raw());
    host.write32(Cc::OFFSET, Host::cc().into_raw());
    assert_eq!(host.model.mistake_count(), 0);
    host.pair(1, 8);
    host.write32(Cc::OFFSET, Host::cc().with_iosqes(0).into_raw());
    assert_eq!(host.model.mistake_count(), 1);
}

#[test]
fn wrong_register_accesses_are_mistakes_and_change_nothing() {
    let mut host = Host::off(config());
    let mut expect = |act: &dyn Fn(&mut Host), mistake: HostMistake| {
        act(&mut host);
        assert_eq!(host.model.take_mistakes(), [mistake]);
    };
    let access = |offset, size| HostMistake::RegisterAccess { offset, size };
    expect(&|h| assert_eq!(h.model.read_reg(0x14, 2), 0), access(0x14, 2));
    expect(&|h| assert_eq!(h.model.read_reg(0x16, 4), 0), access(0x16, 4));
    expect(&|h| assert_eq!(h.model.read_reg(0x1000, 4), 0), access(0x1000, 4));
    expect(&|h| h.model.write_reg(sq_tail_offset(1, 0), 4, 1), access(0x1008, 4));
    expect(&|h| h.write32(0x08, 1), HostMistake::ReadOnlyRegister { offset: 0x08 });
    expect(&|h| h.write32(0x68, 1), HostMistake::ReadOnlyRegister { offset: 0x68 });
    let reserved = |offset, value| HostMistake::RegisterReserved { offset, value };
    expect(&|h| h.write32(Aqa::OFFSET, 0x1000), reserved(0x24, 0x1000));
    expect(&|h| h.write32(Cc::OFFSET, 0x2), reserved(0x14, 2));
    assert_eq!(host.read32(Cc::OFFSET), 0);
    let mut host = Host::on(config());
    host.write64(Asq::OFFSET, 0);
    let while_enabled = |offset| HostMistake::AdminQueueWhileEnabled { offset };
    assert_eq!(host.model.mistakes(), [while_enabled(0x28), while_enabled(0x2c)]);
}

#[test]
fn a_gone_device_reads_all_ones_or_zeros_and_serves_nothing() {
    for (fault, word) in [(ControllerFault::AllOnes, u32::MAX), (ControllerFault::AllZeros, 0)] {
        let mut host = Host::on(config());
        let mut pair = host.pair(1, 8);
        host.model.inject(fault);
        for offset in [0, Csts::OFFSET, Cc::OFFSET, 0x500] {
            assert_eq!(host.read32(offset), word);
        }
        host.disable();
        let sqe = host.io(nvme_spec::NvmOpcode::READ, 1, 0, 1, Host::iova(0x8000), 0);
        host.post(&mut pair, sqe);
        host.ring_sq(1, pair.tail);
        assert!(host.drain(&mut pair).is_empty());
        host.model.heal();
        assert_eq!(host.drain(&mut pair).len(), 1);
        host.model.assert_no_mistakes();
    }
}

#[test]
fn lasting_faults_hold_each_wait_for_ever() {
    let mut host = Host::off(config());
    host.model.inject(ControllerFault::NeverReady);
    host.enable();
    host.model.step(u64::MAX / 2);
    assert!(!host.csts().rdy());
    host.disable();
    host.model.heal();
    host.enable();
    host.model.inject(ControllerFault::NeverShutDown);
    host.shut_down(Shn::Normal);
    host.step();
    assert_eq!(host.csts().shst(), Shst::Occurring);
    host.model.inject(ControllerFault::NeverNotReady);
    host.disable();
    host.step();
    assert!(host.csts().rdy());
    host.model.heal();
    host.step();
    assert!(!host.csts().rdy());
    host.model.assert_no_mistakes();
}

#[test]
fn a_subsystem_reset_disables_and_says_so() {
    let mut host = Host::on(config());
    host.write32(Nssr::OFFSET, 0x1234);
    assert!(host.csts().rdy());
    host.write32(Nssr::OFFSET, Nssr::MAGIC);
    assert!(!host.csts().rdy() && host.csts().nssro());
    assert_eq!(host.read32(Cc::OFFSET), 0);
    host.write32(Csts::OFFSET, Csts::new().with_nssro(true).into_raw());
    assert!(!host.csts().nssro());
    host.enable();
    assert!(host.csts().rdy());
    host.model.assert_no_mistakes();
}

#[test]
fn doorbells_while_disabled_or_without_a_queue_are_mistakes() {
    let mut host = Host::off(config());
    host.ring_sq(0, 1);
    host.ring_cq(5, 2);
    host.step();
    let not_ready =
        |kind, qid, value| HostMistake::DoorbellWhileNotReady { kind, qid: QueueId(qid), value };
    assert_eq!(
        host.model.take_mistakes(),
        [not_ready(DoorbellKind::SqTail, 0, 1), not_ready(DoorbellKind::CqHead, 5, 2)]
    );
    host.enable();
    host.ring_sq(7, 3);
    for _ in 0..=host.model.config().max_io_queues {
        host.step();
    }
    let missing =
        HostMistake::DoorbellMissingQueue { kind: DoorbellKind::SqTail, qid: QueueId(7), value: 3 };
    assert_eq!(host.model.take_mistakes(), [missing]);
    host.model.assert_no_mistakes();
}

#[test]
fn a_reset_forgets_queues_and_commands() {
    let mut host =
        Host::on(ModelConfig { latency: nvme_model::LatencyModel::FixedNs(1_000), ..config() });
    let mut pair = host.pair(1, 8);
    let at = host.alloc(4096);
    let sqe = host.io(nvme_spec::NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
    host.post(&mut pair, sqe);
    host.ring_sq(1, pair.tail);
    host.step();
    assert_eq!(host.model.in_flight(), 1);
    host.disable();
    assert_eq!(host.model.in_flight(), 0);
    assert_eq!(host.model.stats().resets, 1);
    host.enable();
    host.now_ns = 5_000;
    assert!(host.drain(&mut pair).is_empty());
    let _: Pair = host.pair(1, 8);
    host.model.assert_no_mistakes();
}

#[test]
fn the_controller_runs_with_pages_of_64_kib() {
    let mut host = Host::off(config());
    host.write32(Aqa::OFFSET, Aqa::of(16).into_raw());
    host.write64(Asq::OFFSET, Host::iova(0));
    host.write64(0x30, Host::iova(4096));
    host.write32(Cc::OFFSET, Host::cc().with_mps(4).into_raw());
    assert!(host.csts().rdy());
    // 4,096 bytes from an offset that would cross a 4 KiB page need one PRP only.
    let at = host.alloc(0x20000).next_multiple_of(0x10000) + 0x800;
    let cid = host.cid();
    let sqe = Sqe::identify(cid, Cns::CONTROLLER, Nsid::NONE, Host::iova(at), 0);
    assert_eq!(host.admin_code(sqe), StatusCode::SUCCESS);
    host.model.assert_no_mistakes();
}
