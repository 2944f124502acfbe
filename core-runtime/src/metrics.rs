//! Counters, gauges and histograms in the shared region.
