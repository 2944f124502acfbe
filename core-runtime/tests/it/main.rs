//! Tests of the runtime from outside, one program for all: an oracle or an exhaustive table for
//! each part. Interleavings are in `loom_*.rs` beside this folder, which need a build of their own.

mod channel_mpsc;
mod clock_maths;
mod mem_arena;
mod mem_iova;
mod mesh_oracle;
mod metrics_values;
mod region_reader;
mod ring_fixed;
mod ring_index;
mod ring_records;
mod ring_support;
mod support;
mod task_budget;
mod task_cancel;
mod task_combine;
mod task_oracle;
mod task_order;
mod task_remote;
mod timer_order;
