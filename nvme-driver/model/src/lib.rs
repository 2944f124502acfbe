//! A software NVMe controller: embedded default device, test double, fault plans.
