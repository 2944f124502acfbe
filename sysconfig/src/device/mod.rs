//! Disks: which are there, who has them, why they must be left alone, and binding them to vfio-pci.
//!
//! [`verbs::table`] is what `status` shows; `bind` and `unbind` are verbs for people; `apply`,
//! `reset` and `serve` use [`bind`] the same way.

pub(crate) mod bind;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod in_use;
pub(crate) mod pci;
mod signature;
pub(crate) mod tree;
mod verbs;

pub(crate) use verbs::{
    BindArgs, DeviceRow, UnbindArgs, bind_command, rows, table, unbind_command,
};
