//! Whether the DMA memory may be pinned, said before the first map is tried.
//!
//! VFIO counts every page that it pins against RLIMIT_MEMLOCK, pages of the huge-page pool too, on
//! top of what the process has locked (and has locked of the same memory), unless it may lock all.

use std::path::Path;

use super::error::VfioError;
use crate::memory::user_name;
use crate::topology::read_status;

/// Bit of CAP_IPC_LOCK.
const IPC_LOCK: u32 = 14;

/// What the process may pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes locked or pinned already.
    pub locked: u64,
    /// The limit; `None` is none.
    pub limit: Option<u64>,
}

impl Budget {
    /// This process's.
    #[must_use]
    pub fn of_this_process(root: &Path) -> Self {
        let capable = read_status(root, "CapEff")
            .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
            .is_some_and(|mask| mask >> IPC_LOCK & 1 == 1);
        let kib = |name| -> u64 {
            let value = read_status(root, name).unwrap_or_default();
            value.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
        };
        let limit = if capable { None } else { crate::memory::memlock_limit() };
        Self { locked: (kib("VmLck") + kib("VmPin")) << 10, limit }
    }

    /// Whether `needed` bytes may be pinned; `for_all` is what a run locks and pins in all, for
    /// the line to write into `limits.conf`.
    ///
    /// # Errors
    /// [`VfioError::Memlock`] with how much is missing.
    pub fn check(self, root: &Path, needed: u64, for_all: u64) -> Result<(), VfioError> {
        let Some(limit) = self.limit else { return Ok(()) };
        let wanted = self.locked.saturating_add(needed);
        if wanted <= limit {
            return Ok(());
        }
        Err(VfioError::Memlock {
            needed,
            locked: self.locked,
            limit,
            short: wanted - limit,
            user: user_name(root),
            kib: for_all.max(wanted).div_ceil(1024),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use hybrid_conventions::Exit;

    #[test]
    fn the_line_says_how_much_is_missing_and_what_to_write_where() {
        let root = TempDir::new("memlock");
        let uid = rustix::process::getuid().as_raw();
        root.write("etc/passwd", &format!("trader:x:{uid}:100::/:/bin/sh\n"));
        let budget = Budget { locked: 1 << 20, limit: Some(8 << 20) };
        assert!(budget.check(root.path(), 7 << 20, 0).is_ok());
        let error = budget.check(root.path(), 18 << 20, 64 << 20).expect_err("too little");
        assert_eq!(
            error.to_string(),
            "dma memory of 18874368 bytes must be pinned and 1048576 are locked already, \
             RLIMIT_MEMLOCK is 8388608 bytes: 11534336 bytes short; put \"trader - memlock 65536\" \
             into /etc/security/limits.conf and log in again"
        );
        assert_eq!(error.exit(), Exit::Missing);
    }

    #[test]
    fn who_may_lock_all_is_not_limited() {
        let root = TempDir::new("memlock");
        let status = "VmLck:\t      12 kB\nVmPin:\t       4 kB\nCapEff:\t0000000000004000\n";
        root.write("proc/self/status", status);
        let budget = Budget::of_this_process(root.path());
        assert_eq!(budget, Budget { locked: 16 << 10, limit: None });
        assert!(budget.check(root.path(), u64::MAX, 0).is_ok());
        root.write("proc/self/status", "CapEff:\t0000000000003fff\n");
        let limit = crate::memory::memlock_limit();
        assert_eq!(Budget::of_this_process(root.path()), Budget { locked: 0, limit });
    }
}
