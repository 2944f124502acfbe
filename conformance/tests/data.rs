//! Data: what is read is what was written, whatever the queue, the block size or the order.

use hybrid_conformance::{Oracle, Rig, Stepped, operations, quick, seed};
use nvme_driver::ControllerConfig;
use nvme_model::{LatencyModel, ModelConfig, NamespaceConfig};

fn model(blocks: u64, lba_bytes: u32) -> ModelConfig {
    ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, blocks).lba_bytes(lba_bytes)],
        paranoid: true,
        ..ModelConfig::default()
    }
}

fn config(depth: u16) -> ControllerConfig {
    ControllerConfig { queue_depth: depth, ..ControllerConfig::default() }
}

#[test]
fn a_million_random_operations_leave_not_one_byte_wrong() {
    let seed = seed();
    let mut config_of_model = model(32 << 10, 512);
    config_of_model.paranoid = false;
    config_of_model.out_of_order = true;
    config_of_model.latency = LatencyModel::UniformNs { min: 0, max: 20_000 };
    let rig = quick(config_of_model, config(127));
    let mut oracle = Oracle::new(rig.ns(), 200, seed);
    oracle.drop_one_in = 50_000;
    let ops = operations(1_000_000);
    let report = oracle.run(&rig, ops);
    println!("{report:?}");
    assert_eq!(report.reads + report.writes + report.others + report.dropped, ops);
    rig.finish();
    let stats = rig.controller.stats();
    assert_eq!(stats.io.ignored.total(), 0);
    assert_eq!(stats.io.bad_sqhd, 0);
    assert!(stats.orphans > 0 || report.dropped == 0);
}

#[test]
fn every_block_size_depth_and_transfer_limit_moves_data() {
    for lba_bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for (depth, mdts) in [(1, 4), (2, 0), (7, 5), (63, 9)] {
            let mut config_of_model = model(2048, lba_bytes);
            config_of_model.mdts = mdts;
            let rig = quick(config_of_model, config(depth));
            let mut oracle = Oracle::new(rig.ns(), 16, u64::from(lba_bytes + u32::from(depth)));
            oracle.run(&rig, 150);
            rig.finish();
        }
    }
}

#[test]
fn pages_of_8_to_64_kib_move_data() {
    for mpsmin in 1..=4 {
        let mut config_of_model = model(4096, 4096);
        config_of_model.mpsmin = mpsmin;
        config_of_model.mpsmax = 4;
        let rig = quick(config_of_model, config(31));
        let mut oracle = Oracle::new(rig.ns(), 32, u64::from(mpsmin));
        oracle.run(&rig, 300);
        rig.finish();
    }
}

#[test]
fn dropped_futures_at_random_points_give_every_buffer_back() {
    let mut config_of_model = model(8192, 512);
    config_of_model.mdts = 2;
    config_of_model.out_of_order = true;
    config_of_model.latency = LatencyModel::UniformNs { min: 0, max: 50_000 };
    let rig = quick(config_of_model, config(31));
    let mut oracle = Oracle::new(rig.ns(), 64, seed());
    oracle.drop_one_in = 20;
    let report = oracle.run(&rig, 50_000);
    assert!(report.dropped > 5_000, "{report:?}");
    rig.finish();
    assert!(rig.controller.stats().orphans > 1000);
}

#[test]
fn a_stepped_backend_is_deterministic() {
    let run = || {
        let rig: Rig<Stepped> = quick(model(1024, 512), config(15));
        let mut oracle = Oracle::new(rig.ns(), 16, 9);
        oracle.run(&rig, 2_000);
        (rig.controller.stats(), oracle.report)
    };
    assert_eq!(run(), run());
}
