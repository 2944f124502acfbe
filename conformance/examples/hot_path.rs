//! The driver's own cost of a 4 KiB read, without the device's: N submits, the model steps until
//! all N are completed, one reap of all N; then the same through futures.
//!
//! `cargo run --release -p hybrid-conformance --example hot_path` prints ticks of the time-stamp
//! counter an I/O. For instructions run it under callgrind, once for each of the outlined
//! functions: `valgrind --tool=callgrind --collect-atstart=no
//! --toggle-collect='*hot_path::submit_burst*'`.
#![forbid(unsafe_code)]

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use core_runtime::clock::rdtsc;
use core_runtime::mem::{Bump, DmaBuf};
use hybrid_conformance::{Backend, Rig, Stepped, quick};
use nvme_driver::{ControllerConfig, IoFuture, Lba, Namespace, RawQueue, Target};
use nvme_model::{ModelConfig, NamespaceConfig};

#[inline(never)]
fn submit_burst(raw: &RawQueue, target: &Target, bufs: &[u16]) -> u64 {
    let mut refused = 0;
    for (token, buf) in (0_u32..).zip(bufs) {
        let done = raw.submit_read(target, Lba(u64::from(token) << 3), 1, *buf, token);
        refused |= u64::from(done.is_err());
    }
    raw.ring();
    refused
}

#[inline(never)]
fn reap_burst(raw: &RawQueue) -> u64 {
    let mut sum = 0;
    raw.reap(u16::MAX, |token, result| {
        sum = u64::wrapping_add(sum, u64::from(token)) | u64::from(result.is_err()) << 63;
    });
    sum
}

#[inline(never)]
fn empty_polls(raw: &RawQueue, n: u32) {
    for _ in 0..n {
        black_box(raw.reap(u16::MAX, |_, _| {}));
    }
}

#[inline(never)]
fn submit_futures(ns: &'static Namespace, bufs: &mut Vec<DmaBuf>, out: &mut Vec<IoFuture>) {
    let mut lba = 0;
    while let Some(buf) = bufs.pop() {
        out.push(ns.read(Lba(lba), buf));
        lba += 8;
    }
}

/// First polls: each future registers its waker.
#[inline(never)]
fn register_futures(futures: &mut [IoFuture], cx: &mut Context<'_>) {
    for future in futures {
        let _ = black_box(Pin::new(future).poll(cx).is_pending());
    }
}

#[inline(never)]
fn poll_controller(rig: &Rig<Stepped>) -> u32 {
    rig.controller.poll(rig.backend.now()).reaped
}

/// Last polls: each future gives its buffer back.
#[inline(never)]
fn take_futures(futures: &mut Vec<IoFuture>, bufs: &mut Vec<DmaBuf>, cx: &mut Context<'_>) {
    for mut future in futures.drain(..) {
        match Pin::new(&mut future).poll(cx) {
            Poll::Ready(Ok(buf)) => bufs.push(buf),
            other => panic!("{other:?}"),
        }
    }
}

fn step_model(rig: &Rig<Stepped>, completions: usize) {
    let now = rig.backend.now().ticks();
    let mut done = 0;
    while done < completions {
        done += rig.backend.with_model(move |m| m.step(now)).completions as usize;
    }
}

/// Median of many runs, in ticks.
fn median(mut samples: Vec<u64>) -> u64 {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn rounds() -> usize {
    std::env::args().nth(1).map_or(2000, |n| n.parse().expect("rounds"))
}

fn raw_bursts(n: u16) {
    let model = ModelConfig {
        namespaces: vec![NamespaceConfig::null(1, 1 << 20, 7)],
        ..ModelConfig::default()
    };
    let config =
        ControllerConfig { queue_depth: n.max(32), io_queues: 2, ..ControllerConfig::default() };
    let rig = quick(model, config);
    let raw = rig.controller.take_raw_queue(1, n, &Bump::leak(64 << 10)).expect("a queue");
    let target = rig.ns().target().expect("usable");
    let adopt = |_| raw.adopt(rig.filled(4096, 0)).expect("room");
    let bufs: Vec<u16> = (0..n).map(adopt).collect();
    let (mut submits, mut reaps, mut empties) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds() {
        let start = rdtsc();
        let refused = submit_burst(&raw, &target, &bufs);
        let submitted = rdtsc();
        submits.push(submitted - start);
        assert_eq!(refused, 0);
        step_model(&rig, usize::from(n));
        let start = rdtsc();
        let sum = reap_burst(&raw);
        reaps.push(rdtsc() - start);
        assert_eq!(sum, u64::from(n) * (u64::from(n) - 1) / 2);
        let start = rdtsc();
        empty_polls(&raw, 100);
        empties.push(rdtsc() - start);
    }
    let per = |samples| median(samples) as f64 / f64::from(n);
    println!(
        "raw, {n:4} a burst: submit {:6.1}, reap {:6.1} ticks an I/O; empty poll {:5.2}",
        per(submits),
        per(reaps),
        median(empties) as f64 / 100.0
    );
    assert!(raw.is_idle());
    drop(raw);
    rig.finish();
}

fn future_bursts(n: u16) {
    let model = ModelConfig {
        namespaces: vec![NamespaceConfig::null(1, 1 << 20, 7)],
        ..ModelConfig::default()
    };
    let config = ControllerConfig { queue_depth: n.max(32), ..ControllerConfig::default() };
    let rig = quick(model, config);
    let mut cx = Context::from_waker(Waker::noop());
    let mut bufs: Vec<DmaBuf> = (0..n).map(|_| rig.filled(4096, 0)).collect();
    let mut futures = Vec::with_capacity(usize::from(n));
    let (mut submits, mut polls, mut takes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds() {
        let start = rdtsc();
        submit_futures(rig.ns(), &mut bufs, &mut futures);
        register_futures(&mut futures, &mut cx);
        rig.controller.ring();
        submits.push(rdtsc() - start);
        step_model(&rig, usize::from(n));
        let start = rdtsc();
        let mut reaped = 0;
        while reaped < u32::from(n) {
            reaped += poll_controller(&rig);
        }
        let polled = rdtsc();
        take_futures(&mut futures, &mut bufs, &mut cx);
        takes.push(rdtsc() - polled);
        polls.push(polled - start);
    }
    let per = |samples| median(samples) as f64 / f64::from(n);
    println!(
        "futures, {n:4}: start + register {:6.1}, reap {:6.1}, take {:6.1} ticks an I/O",
        per(submits),
        per(polls),
        per(takes)
    );
    drop(bufs);
    rig.finish();
}

fn main() {
    for n in [1, 8, 32, 128] {
        raw_bursts(n);
    }
    for n in [1, 32, 128] {
        future_bursts(n);
    }
}
