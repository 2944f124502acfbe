//! Aligned words of shared memory, loaded and stored atomically.
//!
//! One writer a word is this project's rule, so there is no read-modify-write here.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

macro_rules! word {
    ($name:ident, $atomic:ty, $int:ty, $bits:literal) => {
        #[doc = concat!("An aligned ", $bits, "-bit word, whose bounds were checked before.")]
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'m>(&'m $atomic);

        impl<'m> $name<'m> {
            pub(crate) const fn new(at: &'m $atomic) -> Self {
                Self(at)
            }

            /// Loads with Relaxed: a counter, or a word that another one orders.
            #[inline(always)]
            #[must_use]
            pub fn load(&self) -> $int {
                self.0.load(Ordering::Relaxed)
            }

            /// Loads with Acquire: what its writer stored before is visible after.
            #[inline(always)]
            #[must_use]
            pub fn load_acquire(&self) -> $int {
                self.0.load(Ordering::Acquire)
            }

            /// Stores with Relaxed.
            #[inline(always)]
            pub fn store(&self, value: $int) {
                self.0.store(value, Ordering::Relaxed);
            }

            /// Stores with Release: what was stored before is visible to who acquires it.
            #[inline(always)]
            pub fn store_release(&self, value: $int) {
                self.0.store(value, Ordering::Release);
            }
        }
    };
}

word!(Word32, AtomicU32, u32, "32");
word!(Word64, AtomicU64, u64, "64");

/// An aligned 32-bit word that its holder may only read, on memory that may be mapped read-only.
#[derive(Clone, Copy, Debug)]
pub struct ReadWord32<'m>(Word32<'m>);

impl<'m> ReadWord32<'m> {
    pub(crate) const fn new(word: Word32<'m>) -> Self {
        Self(word)
    }

    /// Loads with Relaxed.
    #[inline(always)]
    #[must_use]
    pub fn load(&self) -> u32 {
        self.0.load()
    }

    /// Loads with Acquire: what its writer stored before is visible after.
    ///
    /// A relaxed load and a fence: only relaxed loads are defined on read-only memory.
    #[inline(always)]
    #[must_use]
    pub fn load_acquire(&self) -> u32 {
        let value = self.0.load();
        fence(Ordering::Acquire);
        value
    }
}
