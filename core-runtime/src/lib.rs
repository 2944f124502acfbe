//! Scheduler, timers, clock, DMA memory, rings and metrics of a partition.
