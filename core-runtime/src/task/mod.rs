//! The cooperative scheduler.
