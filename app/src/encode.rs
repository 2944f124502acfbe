//! The 23 message types to be written: plain structs with a `write` each.
//!
//! Called by [`crate::synth`] and by tests. Made from the same table as [`crate::message`], so
//! that a field cannot lie elsewhere when it is written than when it is read. The golden bytes in
//! `tests/golden.rs` hold both against the specification.

use crate::field::{EventCode, Field, HaltAction, Price4, Price8, Side, Symbol, TradingState};
use crate::message::for_each_message;

/// The fields that every message begins with, after its type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Stock locate code; 0 in messages about no stock.
    pub locate: u16,
    /// Nasdaq's internal tracking number.
    pub tracking: u16,
    /// Nanoseconds since midnight; the wire holds 48 bits of it.
    pub timestamp: u64,
}

/// Makes the structs from the table.
macro_rules! writers {
    ($(
        $(#[$doc:meta])*
        $name:ident $method:ident $kind:literal $len:literal {
            $($(#[$fdoc:meta])* $at:literal $field:ident: $ty:ty,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            /// Locate, tracking number and timestamp.
            pub head: Head,
            $($(#[$fdoc])* pub $field: $ty,)*
        }

        impl $name {
            /// Bytes of the message.
            pub const LENGTH: usize = $len;

            /// The message without a length prefix.
            #[inline]
            #[must_use]
            pub fn to_bytes(&self) -> [u8; $len] {
                let mut bytes = [0; $len];
                self.put(&mut bytes);
                bytes
            }

            /// Writes the message with its length prefix (file framing) to the start of `out`;
            /// returns the bytes written, or `None` when `out` is too short.
            #[inline]
            pub fn write(&self, out: &mut [u8]) -> Option<usize> {
                let (prefix, rest) = out.split_first_chunk_mut::<2>()?;
                let body = rest.first_chunk_mut::<$len>()?;
                *prefix = [0, $len];
                self.put(body);
                Some(2 + $len)
            }

            #[inline(always)]
            fn put(&self, bytes: &mut [u8; $len]) {
                // The timestamp first: its two high bytes fall on the tracking number's place.
                self.head.timestamp.put(bytes, 3);
                self.head.tracking.put(bytes, 3);
                self.head.locate.put(bytes, 1);
                bytes[0] = $kind;
                $(self.$field.put(bytes, $at);)*
            }
        }

        impl From<crate::message::$name<'_>> for $name {
            fn from(view: crate::message::$name<'_>) -> Self {
                Self {
                    head: Head {
                        locate: view.locate(),
                        tracking: view.tracking(),
                        timestamp: view.timestamp(),
                    },
                    $($field: view.$field(),)*
                }
            }
        }
    )*};
}
for_each_message!(writers);
