//! One suite for every backend of the NVMe driver.
