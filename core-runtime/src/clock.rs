//! The time-stamp counter as a clock.
