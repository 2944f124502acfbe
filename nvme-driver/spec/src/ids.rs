//! Newtypes for numbers that are easily taken for one another.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $int:ty, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// The number itself.
            #[must_use]
            pub const fn get(self) -> $int {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl From<$int> for $name {
            fn from(value: $int) -> Self {
                Self(value)
            }
        }
    };
}

id!(
    /// Command identifier: names a command among those in flight on one submission queue.
    Cid,
    u16,
    "{:#06x}"
);
id!(
    /// Queue identifier; 0 is the admin queue.
    QueueId,
    u16,
    "{}"
);
id!(
    /// Namespace identifier; 0 means none, [`Nsid::ALL`] means every one.
    Nsid,
    u32,
    "{}"
);
id!(
    /// Logical block address, in blocks of the namespace's size.
    Lba,
    u64,
    "{}"
);

impl QueueId {
    /// The admin queue.
    pub const ADMIN: Self = Self(0);
}

impl Nsid {
    /// No namespace.
    pub const NONE: Self = Self(0);
    /// The broadcast value.
    pub const ALL: Self = Self(u32::MAX);
}
