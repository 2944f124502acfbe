//! Memory of a partition: bump memory, DMA arena, queue views.
