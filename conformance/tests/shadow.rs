//! Shadow doorbells: the model offers them, sleeps when nothing moves, and hangs if not woken.

use hybrid_conformance::{Backend, Oracle, Rig, Stepped, Threaded};
use nvme_driver::{ControllerConfig, ControllerState, Lba};
use nvme_model::{
    AbortPolicy, FaultAction, FaultPlan, FaultRule, ModelConfig, NamespaceConfig, OnQueue, When,
};
use nvme_spec::{AdminOpcode, StatusCode};

fn model(dstrd: u8) -> ModelConfig {
    ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, 1024).lba_bytes(512)],
        shadow_doorbells: true,
        dstrd,
        max_io_queues: 3,
        ..ModelConfig::default()
    }
}

fn config() -> ControllerConfig {
    ControllerConfig { queue_depth: 7, io_queues: 2, ..ControllerConfig::default() }
}

fn rig(model: ModelConfig, config: ControllerConfig) -> Rig<Stepped> {
    let rig = Rig::new(Stepped::new(model, 16 << 20), config).expect("a controller");
    rig.bring_up().expect("ready");
    rig
}

/// Submission doorbells of the I/O queues, written to the registers.
fn rings<B: Backend>(rig: &Rig<B>) -> u64 {
    (0..2).filter_map(|i| rig.controller.queue_stats(i)).map(|queue| queue.sq_doorbells).sum()
}

#[test]
fn data_moves_with_shadows_at_every_stride_through_many_laps() {
    for dstrd in 0..=4 {
        for paranoid in [false, true] {
            let rig = rig(ModelConfig { paranoid, ..model(dstrd) }, config());
            Oracle::new(rig.ns(), 12, 1).run(&rig, 400);
            rig.finish();
        }
    }
}

#[test]
fn fewer_registers_are_written_than_without_shadows() {
    let count = |shadow_doorbells| {
        let rig = rig(model(0), ControllerConfig { shadow_doorbells, ..config() });
        Oracle::new(rig.ns(), 12, 1).run(&rig, 400);
        let rings = rings(&rig);
        rig.finish();
        rings
    };
    let (with, without) = (count(true), count(false));
    assert!(with < without, "{with} with shadows, {without} without");
}

#[test]
fn shadows_are_set_up_anew_after_a_controller_reset() {
    let rig = rig(model(0), config());
    let mut oracle = Oracle::new(rig.ns(), 8, 1);
    for _ in 0..3 {
        oracle.run(&rig, 60);
        rig.controller.request_reset();
        rig.pass();
        rig.until(|c| c.state() == ControllerState::Ready);
    }
    oracle.run(&rig, 60);
    rig.finish();
}

#[test]
fn a_queue_that_is_made_anew_starts_with_shadows_of_zero() {
    // The third read of the queue is never answered: abort, then a reset of this queue alone.
    let rule = FaultRule::on(OnQueue::Io, FaultAction::Drop).when(When::Nth(3));
    let faults = FaultPlan::none().with(rule);
    let m = ModelConfig { faults, abort: AbortPolicy::Refuse, ..model(0) };
    let rig = rig(m, ControllerConfig { io_queues: 1, ..config() });
    let read = |rig: &Rig<Stepped>| rig.run(rig.ns().read(Lba(0), rig.filled(512, 1))).is_ok();
    let good = (0..40).filter(|_| read(&rig)).count();
    assert_eq!(good, 39, "one was lost");
    let stats = rig.controller.stats();
    assert_eq!((stats.queue_resets, stats.resets), (1, 0));
    rig.finish();
}

#[test]
fn a_controller_that_offers_shadows_and_refuses_them_is_used_without() {
    let refuse = FaultAction::Status(StatusCode::INTERNAL_ERROR.status());
    let rule = FaultRule::on(OnQueue::Admin, refuse).opcode(AdminOpcode::DOORBELL_BUFFER_CONFIG.0);
    let faults = FaultPlan::none().with(rule);
    let rig = rig(ModelConfig { faults, ..model(0) }, config());
    Oracle::new(rig.ns(), 8, 1).run(&rig, 100);
    rig.finish();
}

#[test]
fn a_sleeping_controller_on_its_own_core_is_always_woken() {
    let backend = Threaded::new(model(0), 16 << 20);
    let rig = Rig::new(backend, config()).expect("a controller");
    rig.bring_up().expect("ready");
    Oracle::new(rig.ns(), 6, 4).run(&rig, 3000);
    let stats = rig.controller.stats();
    assert_eq!((stats.deadlines, stats.resets), (0, 0), "nothing waited for a doorbell");
    rig.finish();
}
