//! A probe ring in memory of this process, with a probe to write to it.

use anyhow::Result;
use core_runtime::clock::Clock;
use core_runtime::probe::Probes;
use host_bridge::probes::ProbeSwitch;
use hybrid_abi::probe::registers::BANK_BYTES;
use hybrid_abi::probe::{CONTROL_BYTES, ProbeHeader};
use hybrid_shm::leak_aligned;

/// Records of the ring: 32 KiB, which stays in the cache nearest to the core.
const RECORDS: u32 = 1024;

core_runtime::probe! {
    /// An event of three fields.
    pub STEP = "bench.step", APP, DEBUG, "an operation of a benchmark"
        (number: NUMBER COUNT, same: NUMBER COUNT, again: NUMBER COUNT);
}

/// Probes of which those of `mask` are on.
///
/// # Errors
/// If the ring cannot be laid out.
pub fn probes(clock: Clock, mask: u64) -> Result<&'static Probes> {
    let control = leak_aligned(CONTROL_BYTES, 128);
    ProbeSwitch::new(control, clock).set_mask(mask);
    let ring = leak_aligned(ProbeHeader::part_bytes(RECORDS), 128);
    let probes: &'static Probes = Box::leak(Box::new(Probes::off(clock)));
    probes.attach(ring, leak_aligned(BANK_BYTES, 128), control.read_only(), RECORDS)?;
    Ok(probes)
}
