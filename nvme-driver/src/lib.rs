//! A polled user-space NVMe driver without allocation, locks or unsafe code.
