//! Cache-line hints.

/// Asks the processor to bring the line at `at` near, to be read soon. Never faults.
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint; it may be given any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// Asks the processor to bring the line at `at` near and to take it from all other cores, to be
/// written soon. Never faults.
#[inline(always)]
pub fn prefetch_write<T: ?Sized>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // Not `_mm_prefetch` with `_MM_HINT_ET0`: without `-C target-feature=+prfchw` that becomes
    // PREFETCHT0, which asks for a line that can be read only. Every x86-64 processor knows
    // PREFETCHW, the older ones as an instruction that does nothing.
    // SAFETY: a prefetch is a hint; it may be given any address.
    unsafe {
        core::arch::asm!(
            "prefetchw [{at}]",
            at = in(reg) at.cast::<u8>(),
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}
