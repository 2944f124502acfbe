//! Everything that makes a system call: memory, devices, partition launch.
pub mod affinity;
pub mod calibration;
pub mod facts;
pub mod memory;
pub mod sys;
pub mod topology;
pub mod warnings;

#[cfg(test)]
mod testing;
