//! Control registers through a shared-memory mailbox.
