//! What an entry function is given.
