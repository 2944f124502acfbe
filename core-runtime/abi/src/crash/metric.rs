//! A metric in a record: its value, or a distribution's figures.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Name;
use crate::metrics::{MetricKind, MetricUnit};

/// One metric as it was last published, about a millisecond before at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct MetricRecord {
    /// Its name.
    pub name: Name<48>,
    /// What it is.
    pub kind: MetricKind,
    /// In what it counts.
    pub unit: MetricUnit,
    /// Zero.
    pub reserved: u32,
    /// Value of a counter or gauge; number of samples of a histogram.
    pub value: u64,
    /// Sum of a histogram's samples, modulo 2^64.
    pub sum: u64,
    /// Least sample.
    pub min: u64,
    /// Median, up to its bucket's width too high.
    pub p50: u64,
    /// 99th percentile, likewise.
    pub p99: u64,
    /// Greatest sample.
    pub max: u64,
}

const _: () = assert!(size_of::<MetricRecord>() == 104 && align_of::<MetricRecord>() == 8);
const _: () = assert!(offset_of!(MetricRecord, kind) == 48);
const _: () = assert!(offset_of!(MetricRecord, value) == 56);
