//! Channels between tasks of one core.
