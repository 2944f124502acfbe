//! Smoke test of speed: a raw host on this thread, the model on its own, deep queue, 4 KiB reads.
//!
//! It asserts that each read completes once; the figures are printed for people.

mod host;

use host::{Host, Pair};
use nvme_model::{
    Idle, Model, ModelConfig, ModelThread, NamespaceConfig, ThreadOptions, null_header,
};
use nvme_spec::{Cdw12Io, Cid, Lba, Nsid, NvmOpcode, Sqe};
use std::time::Instant;

const DEPTH: u32 = 256;
const BUFFERS: u32 = DEPTH - 1;

/// Reads `count` random blocks with `BUFFERS` in flight; returns reads a second.
fn race(host: &mut Host, pair: &mut Pair, blocks: u64, count: u32, on: impl Fn(&mut Host)) -> f64 {
    let buffers = host.alloc(BUFFERS as usize * 4096);
    let (mut sent, mut done, mut seed) = (0_u32, 0_u32, 1_u64);
    let mut free: Vec<u16> = (0..u16::try_from(BUFFERS).expect("small")).collect();
    let start = Instant::now();
    while done < count {
        let tail = pair.tail;
        while sent < count && !free.is_empty() {
            let cid = free.pop().expect("not empty");
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let prp1 = Host::iova(buffers + usize::from(cid) * 4096);
            let flags = Cdw12Io::empty();
            let lba = Lba((seed >> 33) % blocks);
            let sqe = Sqe::io(NvmOpcode::READ, Cid(cid), Nsid(1), lba, 0, flags);
            host.post(pair, sqe.with_prps(prp1, 0));
            sent += 1;
        }
        if pair.tail != tail {
            host.ring_sq(1, pair.tail);
        }
        on(host);
        let head = pair.head;
        while let Some(cqe) = host.reap(pair) {
            assert!(cqe.status().is_success());
            free.push(cqe.cid().0);
            done += 1;
        }
        if pair.head != head {
            host.ring_cq(1, pair.head);
        }
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// Reads of a run; enough for a figure, too few to be waited for.
const READS: u32 = if cfg!(debug_assertions) { 50_000 } else { 400_000 };

fn prepare(namespace: NamespaceConfig) -> (Host, Pair, u64) {
    let blocks = namespace.blocks;
    let config = ModelConfig { namespaces: vec![namespace], ..ModelConfig::default() };
    let mut host = Host::with_memory(config, 4 << 20);
    host.enable();
    let pair = host.pair(1, DEPTH);
    (host, pair, blocks)
}

fn one_core(name: &str, namespace: NamespaceConfig) {
    let (mut host, mut pair, blocks) = prepare(namespace);
    let rate = race(&mut host, &mut pair, blocks, READS, |host| {
        host.step();
    });
    println!("{name}: {:.2} M reads/s, host and model in turn on one core", rate / 1e6);
    host.model.assert_no_mistakes();
    assert_eq!(host.model.stats().reads, u64::from(READS));
}

fn two_cores(name: &str, namespace: NamespaceConfig) {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
        println!("{name}: not run, there is one core only");
        return;
    }
    let (mut host, mut pair, blocks) = prepare(namespace);
    let empty = Model::new(ModelConfig::default()).expect("good");
    let model = std::mem::replace(&mut host.model, empty);
    host.rings_at = Some(model.doorbells().span);
    let options = ThreadOptions { idle: Idle::Spin, ..ThreadOptions::default() };
    let thread = ModelThread::spawn(model, None, options).expect("spawned");
    // Where the cores are busy with other work, each hand-over takes a time slice: fewer reads.
    let rate = race(&mut host, &mut pair, blocks, READS / 4, |_| std::hint::spin_loop());
    println!("{name}: {:.2} M reads/s, a core each", rate / 1e6);
    let mut model = thread.stop().expect("ended well");
    model.assert_no_mistakes();
    assert_eq!(model.stats().reads, u64::from(READS / 4));
}

fn null() -> NamespaceConfig {
    NamespaceConfig::null(1, 1 << 24, 7)
}

/// 256 MiB.
fn memory() -> NamespaceConfig {
    NamespaceConfig::memory(1, 65_536)
}

#[test]
fn null_reads_on_one_core_all_complete() {
    one_core("null", null());
}

#[test]
fn null_reads_on_two_cores_all_complete() {
    two_cores("null", null());
}

#[test]
fn memory_reads_on_one_core_all_complete() {
    one_core("256 MiB of memory", memory());
}

#[test]
fn memory_reads_on_two_cores_all_complete() {
    two_cores("256 MiB of memory", memory());
}

#[test]
fn the_header_of_a_null_block_names_it() {
    let config = ModelConfig {
        namespaces: vec![NamespaceConfig::null(1, 100, 7)],
        ..ModelConfig::default()
    };
    let mut host = Host::on(config);
    let mut pair = host.pair(1, 8);
    let at = host.alloc(8192);
    host.put(at, &[0xee; 8192]);
    let sqe = host.io(NvmOpcode::READ, 1, 42, 2, Host::iova(at), Host::iova(at + 4096));
    assert!(host.run(&mut pair, sqe).status().is_success());
    for (block, lba) in [(0, 42), (1, 43)] {
        let bytes = host.bytes(at + block * 4096, 4096);
        let [first, second] = null_header(lba, 7);
        assert_eq!(bytes[..8], first.to_le_bytes());
        assert_eq!(bytes[8..16], second.to_le_bytes());
        assert!(bytes[16..].iter().all(|byte| *byte == 0xee), "only the header is written");
    }
    host.model.assert_no_mistakes();
}
