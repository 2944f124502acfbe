//! A controller that completes and identifies as the bytes say, under the real driver.
//!
//! One rig serves many inputs, each on what the last one left: a driver that forgets a slot, a
//! buffer or a waiter is found by those that come after.

use std::cell::RefCell;

use hybrid_conformance::{Rig, Stepped};
use nvme_driver::{ControllerConfig, ControllerState, IoError, Lba, ResetReason};
use nvme_model::{
    CqeFault, FaultAction, FaultPlan, FaultRule, ModelConfig, NamespaceConfig, OnQueue, Patch, When,
};

/// Reads of an input: more than the queue has slots.
const READS: u64 = 12;

/// Bytes of a fault: kind, argument, which command.
const FAULT_BYTES: usize = 4;

thread_local! {
    static RIG: RefCell<Option<Rig<Stepped>>> = const { RefCell::new(None) };
}

fn fresh() -> Rig<Stepped> {
    let model = ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, 64).lba_bytes(512)],
        ..ModelConfig::default()
    };
    let config = ControllerConfig {
        queue_depth: 7,
        max_transfer_bytes: 4096,
        max_namespaces: 4,
        ..ControllerConfig::default()
    };
    let rig = Rig::new(Stepped::new(model, 1 << 20), config).expect("a controller");
    rig.bring_up().expect("ready");
    rig
}

/// Does something with the rig, a new one if the last one's controller has failed.
fn with_rig(f: impl FnOnce(&Rig<Stepped>)) {
    RIG.with_borrow_mut(|rig| {
        let usable = rig.take().filter(|rig| rig.controller.state() == ControllerState::Ready);
        let usable = usable.unwrap_or_else(fresh);
        f(&usable);
        *rig = Some(usable);
    });
}

fn fault_of(kind: u8, argument: u16) -> CqeFault {
    match kind % 9 {
        0 => CqeFault::Twice,
        1 => CqeFault::WrongCid(argument | 1 << 15),
        2 => CqeFault::Extra(argument),
        3 => CqeFault::WrongSqid(argument),
        4 => CqeFault::WrongSqhd(argument),
        5 => CqeFault::PhaseEarly,
        6 => CqeFault::PhaseStuck,
        7 => CqeFault::Overrun,
        _ => {
            let order = [0, 1, 2, 3];
            let first = usize::from(argument % 4);
            CqeFault::Order([order[first], order[first ^ 1], order[first ^ 2], order[first ^ 3]])
        }
    }
}

/// Completions as they should not be: each read ends once, and its buffer is back.
pub(crate) fn completions(bytes: &[u8]) {
    let (faults, _) = bytes.as_chunks::<FAULT_BYTES>();
    let rules = faults.iter().take(16).map(|[kind, low, high, nth]| {
        let action = FaultAction::Cqe(fault_of(*kind, u16::from_le_bytes([*low, *high])));
        let nth = u64::from(*nth) % READS + 1;
        FaultRule::on(OnQueue::Io, action).when(When::Nth(nth))
    });
    let plan = rules.fold(FaultPlan::none(), FaultPlan::with);
    with_rig(|rig| {
        rig.backend.with_model(|model| model.reconfigure(|config| config.faults = plan));
        let before = rig.arena.stats().live;
        for lba in 0..READS {
            // An error has a name; what must not happen is that it hangs, which `run` panics at.
            let _ = rig.run(rig.ns().read(Lba(lba), rig.filled(512, 0xA5)));
        }
        rig.backend
            .with_model(|model| model.reconfigure(|config| config.faults = FaultPlan::none()));
        assert_eq!(rig.arena.stats().live, before, "a buffer is missing");
        let resets = rig.controller.stats().resets;
        let again = || rig.run(rig.ns().read(Lba(0), rig.filled(512, 0xA5)));
        // What struck last may show only now, and its one reset ends this read: as an event, or as
        // an entry that a wrong phase had the driver take early, which is missing from here on.
        let late = |error| {
            matches!(error, IoError::Reset(ResetReason::Event | ResetReason::Stuck { .. }))
                && rig.controller.stats().resets <= resets + 1
        };
        let end = again().or_else(|failed| if late(failed.error) { again() } else { Err(failed) });
        drop(end.expect("it goes on"));
        // Completions that were made up are told of as mistakes of ours.
        rig.backend.with_model(|model| drop(model.take_mistakes()));
    });
}

/// Identify data with bytes of others' in it: refused by name, or used within its bounds.
pub(crate) fn identify(bytes: &[u8]) {
    let (controller, namespace) = patches_of(bytes);
    with_rig(|rig| {
        let put = |controller, namespace| {
            rig.backend.with_model(|model| {
                model.reconfigure(|config| {
                    config.identify_patches = controller;
                    config.namespaces[0].identify_patches = namespace;
                });
            });
        };
        put(controller, namespace);
        let resets = rig.controller.stats().resets;
        rig.controller.request_reset();
        let over = |state| matches!(state, ControllerState::Ready | ControllerState::Failed(_));
        rig.until(|c| c.stats().resets > resets && over(c.state()));
        if let Some(ns) = rig.controller.all_namespaces().next()
            && let Some(last) = ns.blocks().checked_sub(1)
        {
            let len = ns.lba_bytes() as usize;
            let _ = rig.run(ns.read(Lba(last), rig.filled(len, 0xA5)));
            let beyond = rig.run(ns.read(Lba(last + 1), rig.filled(len, 0xA5)));
            assert!(beyond.is_err(), "a block behind the last one");
        }
        put(Vec::new(), Vec::new());
        // Its namespace has changed for good.
        rig.run(rig.controller.shutdown()).ok();
    });
}

/// The patches of an input, of the controller's data and of the namespace's: which, where, how many
/// bytes, the bytes; the last one has those that are left.
fn patches_of(mut bytes: &[u8]) -> (Vec<Patch>, Vec<Patch>) {
    let (mut controller, mut namespace) = (Vec::new(), Vec::new());
    while let Some(([which, low, high, len], rest)) = bytes.split_first_chunk::<4>() {
        let offset = usize::from(u16::from_le_bytes([*low, *high])) % 4096;
        let (patch, rest) = rest.split_at(rest.len().min(usize::from(*len % 64) + 1));
        let patches = if which % 2 == 0 { &mut controller } else { &mut namespace };
        patches.push(Patch { offset, bytes: patch.to_vec() });
        bytes = rest;
    }
    (controller, namespace)
}
