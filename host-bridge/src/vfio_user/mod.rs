//! The vfio-user protocol (version 0.0, as libvfio-user speaks it), for either side.
//!
//! A client and a server of a PCI device exchange messages over a stream socket; memory crosses as
//! file descriptors beside them. Both sides of ours stand on the same two modules:
//!
//! | module | what |
//! |---|---|
//! | [`wire`] | the bytes: headers, payloads, capabilities |
//! | [`socket`] | messages over a socket: sizes, descriptors and deadlines checked |
//!
//! The client is [`crate::backend::vfio_user`], the server [`crate::vfio_user_server`]. Nothing
//! here is on the way of an I/O: that goes through the memory which these messages set up.

pub mod socket;
pub mod wire;
