//! Handles onto one word each.

use core::marker::PhantomData;

use hybrid_shm::Word64;

/// Keeps a handle on the core that made it.
pub(super) type NotSend = PhantomData<*mut ()>;

/// A number that only grows, but for its wrap at 2^64.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    word: Word64<'static>,
    not_send: NotSend,
}

impl Counter {
    pub(super) const fn new(word: Word64<'static>) -> Self {
        Self { word, not_send: PhantomData }
    }

    /// Adds one.
    #[inline(always)]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `more`.
    #[inline(always)]
    pub fn add(&self, more: u64) {
        self.word.store(self.word.load().wrapping_add(more));
    }

    /// Sets the number that another part counts for itself, once a pass.
    #[inline(always)]
    pub fn set(&self, total: u64) {
        self.word.store(total);
    }

    /// The number.
    #[inline(always)]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.word.load()
    }
}

/// A number that goes up and down.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    word: Word64<'static>,
    not_send: NotSend,
}

impl Gauge {
    pub(super) const fn new(word: Word64<'static>) -> Self {
        Self { word, not_send: PhantomData }
    }

    /// Sets the number.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.word.store(value);
    }

    /// Sets the number if it is greater than the one there: a high-water mark.
    #[inline(always)]
    pub fn raise(&self, value: u64) {
        if value > self.word.load() {
            self.word.store(value);
        }
    }

    /// The number.
    #[inline(always)]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.word.load()
    }
}
