//! The only code that reads and writes shared memory.
