//! Which core runs this instruction: the test that makes a same-core wake safe without atomics.
//!
//! A [`core::task::Waker`] is `Send + Sync`, so safe code may carry ours to another thread. Every
//! wake therefore compares [`current_core`] with what the scheduler saw when it was made, and takes
//! the cross-core path when they differ. Called by the wakers and the scheduler only.
//!
//! A value may be used again after its thread has ended: the memory of a thread's control block
//! goes to a later thread. That is no race, because the ended thread's last store happened before
//! the system gave the block away, and its scheduler never runs again.

/// A value that differs between any two threads (or bare-metal cores) that run at the same time.
///
/// On Linux it is the thread pointer: one load.
#[inline(always)]
pub(super) fn current_core() -> usize {
    imp::current_core()
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]
mod imp {
    #[inline(always)]
    pub(super) fn current_core() -> usize {
        let thread: usize;
        // SAFETY: the x86-64 psABI keeps the thread control block's own address at fs:0 for every
        // thread; it is fixed for the thread's life, which is what `pure, nomem` says.
        unsafe {
            core::arch::asm!(
                "mov {}, qword ptr fs:[0]",
                out(reg) thread,
                options(nostack, preserves_flags, pure, nomem)
            );
        }
        thread
    }
}

#[cfg(all(target_os = "none", target_arch = "x86_64"))]
mod imp {
    /// The x2APIC id (CPUID leaf 0Bh, EDX; leaf 1, EBX 31:24 on processors without it). Right on
    /// every processor and slow (a `cpuid` is about 100 ticks, and an exit in a guest): an image
    /// that cares puts a per-core block behind `fs` and says so here.
    #[inline(always)]
    pub(super) fn current_core() -> usize {
        let most = core::arch::x86_64::__cpuid(0).eax;
        let id = if most >= 0x0b {
            core::arch::x86_64::__cpuid_count(0x0b, 0).edx
        } else {
            core::arch::x86_64::__cpuid(1).ebx >> 24
        };
        id as usize
    }
}

#[cfg(not(any(
    all(target_os = "linux", target_arch = "x86_64", not(miri)),
    all(target_os = "none", target_arch = "x86_64")
)))]
mod imp {
    extern crate std;

    /// The address of a thread-local: Miri, and systems whose thread register we do not know.
    pub(super) fn current_core() -> usize {
        std::thread_local! { static HERE: u8 = const { 0 } }
        HERE.with(|here| core::ptr::from_ref(here).addr())
    }
}
