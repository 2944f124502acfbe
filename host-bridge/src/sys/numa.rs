//! Which NUMA node memory comes from: the calling thread's policy while it is reserved, and a look
//! at where it is.
//!
//! Called by [`crate::memory`] and [`crate::numa`]. Memory files are reserved by `fallocate`, which
//! takes pages by the policy of the calling thread, before there is an address that `mbind` could
//! name; so the thread's policy is set around the reservation and put back after it. That serves
//! files, huge or not, and private memory alike.
//!
//! Invariants, named in the SAFETY lines:
//! 1. A node mask is [`MASK_WORDS`] words, and the kernel is told so.
//! 2. The kernel reads and writes only the arrays that it is given, while the call lasts.
//! 3. `move_pages` without target nodes moves nothing and touches no byte.

use std::ffi::c_void;
use std::ptr::NonNull;

use rustix::io::Errno;

/// Nodes that a mask can name: as many as kernels are built for.
pub const NODES_MAX: u32 = 1024;

const MASK_WORDS: usize = NODES_MAX as usize / 64;

/// A set of nodes as the kernel takes it.
type Mask = [u64; MASK_WORDS];

/// Where memory is to come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Wherever the kernel's default puts it: near the thread that touches it.
    #[default]
    Anywhere,
    /// From this node alone; where it has no page left the reservation fails.
    Only(u32),
    /// From this node while it has pages.
    Near(u32),
    /// Page by page in turn from these.
    Interleaved(Vec<u32>),
}

impl Placement {
    const fn mode(&self) -> i32 {
        match self {
            Self::Anywhere => libc::MPOL_DEFAULT,
            Self::Only(_) => libc::MPOL_BIND,
            Self::Near(_) => libc::MPOL_PREFERRED,
            Self::Interleaved(_) => libc::MPOL_INTERLEAVE,
        }
    }

    fn mask(&self) -> Result<Mask, Errno> {
        let mut mask = [0; MASK_WORDS];
        let nodes = match self {
            Self::Anywhere => &[][..],
            Self::Only(node) | Self::Near(node) => std::slice::from_ref(node),
            Self::Interleaved(nodes) => nodes,
        };
        for node in nodes {
            let word = mask.get_mut(*node as usize / 64).ok_or(Errno::INVAL)?;
            *word |= 1 << (node % 64);
        }
        Ok(mask)
    }
}

/// The calling thread's policy for new pages, put back when this is dropped. It stays on its
/// thread.
#[derive(Debug)]
pub struct PolicyGuard {
    mode: i32,
    mask: Mask,
    /// The policy belongs to a thread.
    _here: std::marker::PhantomData<*const ()>,
}

impl PolicyGuard {
    /// Takes new pages by `placement` until it is dropped; `None` where nothing changes.
    ///
    /// # Errors
    /// The kernel's answer, mostly for a node that does not exist or is not allowed.
    pub fn set(placement: &Placement) -> Result<Option<Self>, Errno> {
        if *placement == Placement::Anywhere {
            return Ok(None);
        }
        let mask = placement.mask()?;
        let before = current()?;
        set(placement.mode(), &mask)?;
        Ok(Some(before))
    }
}

impl Drop for PolicyGuard {
    fn drop(&mut self) {
        // It was this before.
        let _ = set(self.mode, &self.mask);
    }
}

fn current() -> Result<PolicyGuard, Errno> {
    let (mut mode, mut mask): (i32, Mask) = (0, [0; MASK_WORDS]);
    // SAFETY: invariants 1 and 2.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            mask.as_mut_ptr(),
            u64::from(NODES_MAX),
            std::ptr::null::<c_void>(),
            0_u64,
        )
    };
    answer(result)?;
    Ok(PolicyGuard { mode, mask, _here: std::marker::PhantomData })
}

fn set(mode: i32, mask: &Mask) -> Result<(), Errno> {
    let empty = mask.iter().all(|word| *word == 0);
    let at = if empty { std::ptr::null() } else { mask.as_ptr() };
    // The kernel counts one bit less than it is told.
    let bits = if empty { 0 } else { u64::from(NODES_MAX) + 1 };
    // SAFETY: invariants 1 and 2: the bit beyond the last word is masked away by the kernel, which
    // reads whole words up to the number of bits less one.
    answer(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, at, bits) })
}

fn answer(result: libc::c_long) -> Result<(), Errno> {
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// The node of each page of `base .. base + len`, `None` for one that is not there.
///
/// # Errors
/// The kernel's answer.
pub fn nodes_of(
    base: NonNull<u8>,
    len: usize,
    page_bytes: usize,
) -> Result<Vec<Option<u32>>, Errno> {
    let at = |page: usize| base.as_ptr().wrapping_add(page * page_bytes).cast::<c_void>();
    let pages: Vec<*mut c_void> = (0..len.div_ceil(page_bytes)).map(at).collect();
    let mut status = vec![-1_i32; pages.len()];
    // SAFETY: invariants 2 and 3; 0 is this process.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages.len(),
            pages.as_ptr(),
            std::ptr::null::<i32>(),
            status.as_mut_ptr(),
            0,
        )
    };
    answer(result)?;
    Ok(status.into_iter().map(|node| u32::try_from(node).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mapping::Mapped;
    use crate::sys::memfd::{Memfd, PageSize};

    #[test]
    fn memory_comes_from_the_node_that_was_named_and_the_policy_is_put_back() {
        let before = current().expect("the kernel knows policies");
        for placement in [Placement::Only(0), Placement::Near(0), Placement::Interleaved(vec![0])] {
            let guard = PolicyGuard::set(&placement).expect("node 0 is everywhere");
            let set = current().expect("a policy");
            assert_eq!((set.mode & 0xff, set.mask[0]), (placement.mode(), 1), "{placement:?}");
            std::mem::forget(set);
            let memfd = Memfd::create("placed", 1 << 20, PageSize::Small4K).expect("1 MiB");
            let shared = Mapped::writable(&memfd).expect("mapped");
            let private = Mapped::private(1 << 20, PageSize::Small4K).expect("private");
            drop(guard);
            for mapped in [shared, private] {
                let nodes = nodes_of(mapped.base(), mapped.len(), 4096).expect("move_pages");
                assert_eq!(nodes.len(), 256);
                assert!(nodes.iter().all(|node| *node == Some(0)), "{placement:?}: {nodes:?}");
            }
            let after = current().expect("a policy");
            assert_eq!((after.mode, after.mask), (before.mode, before.mask));
            std::mem::forget(after);
        }
        std::mem::forget(before);
    }

    #[test]
    fn a_node_that_does_not_exist_is_refused_and_nothing_changes() {
        for node in [NODES_MAX - 1, NODES_MAX, u32::MAX] {
            let refused = PolicyGuard::set(&Placement::Only(node)).expect_err("no such node");
            assert_eq!(refused, Errno::INVAL, "{node}");
        }
        assert!(PolicyGuard::set(&Placement::Anywhere).expect("nothing").is_none());
    }
}
