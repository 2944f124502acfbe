//! Building and reading a shared region.
