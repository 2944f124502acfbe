//! Everything that makes a system call: memory, devices, partition launch and supervision.
