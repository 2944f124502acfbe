//! Opcodes of the admin and of the NVM command set
//! (NVMe Base 2.0, section 5; NVM CS 1.0, section 3).

use core::fmt;

macro_rules! opcodes {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$item_doc:meta])* $item:ident = $value:literal, $text:literal;)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u8);

        impl $name {
            $($(#[$item_doc])* pub const $item: Self = Self($value);)+

            /// The specification's name, or `None` for a code that is not known here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "opcode {:#04x}", self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:#04x})", stringify!($name), self.0)
            }
        }
    };
}

opcodes! {
    /// Opcode of a command on the admin queue.
    AdminOpcode {
        /// Delete an I/O submission queue.
        DELETE_SQ = 0x00, "delete I/O submission queue";
        /// Create an I/O submission queue.
        CREATE_SQ = 0x01, "create I/O submission queue";
        /// Get a log page.
        GET_LOG_PAGE = 0x02, "get log page";
        /// Delete an I/O completion queue.
        DELETE_CQ = 0x04, "delete I/O completion queue";
        /// Create an I/O completion queue.
        CREATE_CQ = 0x05, "create I/O completion queue";
        /// Identify.
        IDENTIFY = 0x06, "identify";
        /// Abort a command.
        ABORT = 0x08, "abort";
        /// Set a feature.
        SET_FEATURES = 0x09, "set features";
        /// Get a feature.
        GET_FEATURES = 0x0a, "get features";
        /// Ask to be told of an event.
        ASYNC_EVENT_REQUEST = 0x0c, "asynchronous event request";
        /// Create, delete or resize a namespace.
        NAMESPACE_MANAGEMENT = 0x0d, "namespace management";
        /// Activate a firmware image.
        FIRMWARE_COMMIT = 0x10, "firmware commit";
        /// Download a part of a firmware image.
        FIRMWARE_DOWNLOAD = 0x11, "firmware image download";
        /// Start a self-test.
        DEVICE_SELF_TEST = 0x14, "device self-test";
        /// Attach or detach a namespace.
        NAMESPACE_ATTACHMENT = 0x15, "namespace attachment";
        /// Keep the association alive.
        KEEP_ALIVE = 0x18, "keep alive";
        /// Set the shadow doorbell and event index buffers.
        DOORBELL_BUFFER_CONFIG = 0x7c, "doorbell buffer config";
        /// Format a namespace.
        FORMAT_NVM = 0x80, "format NVM";
        /// Send security data.
        SECURITY_SEND = 0x81, "security send";
        /// Receive security data.
        SECURITY_RECEIVE = 0x82, "security receive";
        /// Sanitize the subsystem.
        SANITIZE = 0x84, "sanitize";
    }
}

opcodes! {
    /// Opcode of a command of the NVM command set on an I/O queue.
    NvmOpcode {
        /// Make written blocks durable.
        FLUSH = 0x00, "flush";
        /// Write blocks.
        WRITE = 0x01, "write";
        /// Read blocks.
        READ = 0x02, "read";
        /// Mark blocks as unreadable.
        WRITE_UNCORRECTABLE = 0x04, "write uncorrectable";
        /// Compare blocks with memory.
        COMPARE = 0x05, "compare";
        /// Set blocks to zero without a transfer.
        WRITE_ZEROES = 0x08, "write zeroes";
        /// Dataset management: deallocate, hints.
        DATASET_MANAGEMENT = 0x09, "dataset management";
        /// Check blocks without a transfer.
        VERIFY = 0x0c, "verify";
        /// Register a reservation key.
        RESERVATION_REGISTER = 0x0d, "reservation register";
        /// Read the reservations.
        RESERVATION_REPORT = 0x0e, "reservation report";
        /// Copy blocks inside the namespace.
        COPY = 0x19, "copy";
    }
}
