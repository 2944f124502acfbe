//! Micro-benchmarks and side-by-side comparisons.
