//! Status of a completed command: what it was, whether to retry and when
//! (NVMe Base 2.0, section 3.3.3.2).
//!
//! A status is data that the device sent, apart from "the controller failed". Any value can be
//! held; unknown codes print as numbers.

use core::fmt;

/// Status code type (SCT): the table that a status code belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct StatusType(pub u8);

impl StatusType {
    /// Common to all commands.
    pub const GENERIC: Self = Self(0);
    /// Specific to the opcode.
    pub const COMMAND: Self = Self(1);
    /// Media and data integrity.
    pub const MEDIA: Self = Self(2);
    /// Path related.
    pub const PATH: Self = Self(3);
    /// Vendor specific.
    pub const VENDOR: Self = Self(7);
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)+) => {
        impl StatusCode {
            $($(#[$doc])* pub const $name: Self = Self($value);)+

            /// The specification's name, or `None` for a code that is not known here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)+
                    _ => None,
                }
            }

            /// Every code that has a name here.
            pub const NAMED: &'static [StatusCode] = &[$(Self($value)),+];
        }
    };
}

/// Status code type and status code together: `SCT << 8 | SC`, as in `0x281`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct StatusCode(pub u16);

codes! {
    /// Done.
    SUCCESS = 0x000, "success";
    /// The opcode is not supported.
    INVALID_OPCODE = 0x001, "invalid command opcode";
    /// A field holds a reserved or unsupported value.
    INVALID_FIELD = 0x002, "invalid field in command";
    /// The command identifier is in use.
    CID_CONFLICT = 0x003, "command id conflict";
    /// Data or metadata could not be transferred.
    DATA_TRANSFER_ERROR = 0x004, "data transfer error";
    /// Aborted because power is going.
    ABORTED_POWER_LOSS = 0x005, "commands aborted due to power loss notification";
    /// Internal error of the controller.
    INTERNAL_ERROR = 0x006, "internal error";
    /// Ended by an Abort command.
    ABORT_REQUESTED = 0x007, "command abort requested";
    /// Ended because its queue was deleted.
    ABORTED_SQ_DELETION = 0x008, "command aborted due to SQ deletion";
    /// The other half of a fused pair failed.
    ABORTED_FAILED_FUSED = 0x009, "command aborted due to failed fused command";
    /// The other half of a fused pair is missing.
    ABORTED_MISSING_FUSED = 0x00a, "command aborted due to missing fused command";
    /// The namespace does not exist or its format is not usable.
    INVALID_NAMESPACE = 0x00b, "invalid namespace or format";
    /// Out of sequence.
    SEQUENCE_ERROR = 0x00c, "command sequence error";
    /// An SGL where it is not supported.
    SGL_DESCRIPTOR_TYPE_INVALID = 0x011, "SGL descriptor type invalid";
    /// Invalid use of the controller memory buffer.
    INVALID_CMB_USE = 0x012, "invalid use of controller memory buffer";
    /// A PRP's offset is not allowed.
    PRP_OFFSET_INVALID = 0x013, "PRP offset invalid";
    /// Longer than the atomic write unit allows.
    ATOMIC_WRITE_UNIT_EXCEEDED = 0x014, "atomic write unit exceeded";
    /// Denied.
    OPERATION_DENIED = 0x015, "operation denied";
    /// A sanitize failed earlier.
    SANITIZE_FAILED = 0x01c, "sanitize failed";
    /// A sanitize is going on.
    SANITIZE_IN_PROGRESS = 0x01d, "sanitize in progress";
    /// The namespace is write protected.
    NAMESPACE_WRITE_PROTECTED = 0x020, "namespace is write protected";
    /// Interrupted; retry.
    COMMAND_INTERRUPTED = 0x021, "command interrupted";
    /// The transport failed for a moment.
    TRANSIENT_TRANSPORT_ERROR = 0x022, "transient transport error";
    /// The admin command needs media that is not ready.
    ADMIN_MEDIA_NOT_READY = 0x024, "admin command media not ready";
    /// Beyond the namespace's end.
    LBA_OUT_OF_RANGE = 0x080, "LBA out of range";
    /// The namespace's capacity is used up.
    CAPACITY_EXCEEDED = 0x081, "capacity exceeded";
    /// The namespace is not ready.
    NAMESPACE_NOT_READY = 0x082, "namespace not ready";
    /// Reserved by someone else.
    RESERVATION_CONFLICT = 0x083, "reservation conflict";
    /// A format is going on.
    FORMAT_IN_PROGRESS = 0x084, "format in progress";

    /// The completion queue named does not exist.
    CQ_INVALID = 0x100, "completion queue invalid";
    /// The queue identifier is in use, out of range or unknown.
    INVALID_QUEUE_ID = 0x101, "invalid queue identifier";
    /// The queue size is 0 or beyond CAP.MQES.
    INVALID_QUEUE_SIZE = 0x102, "invalid queue size";
    /// More Abort commands than ACL.
    ABORT_LIMIT_EXCEEDED = 0x103, "abort command limit exceeded";
    /// More asynchronous event requests than AERL.
    AER_LIMIT_EXCEEDED = 0x105, "asynchronous event request limit exceeded";
    /// No such firmware slot.
    INVALID_FIRMWARE_SLOT = 0x106, "invalid firmware slot";
    /// Not a firmware image.
    INVALID_FIRMWARE_IMAGE = 0x107, "invalid firmware image";
    /// The interrupt vector is out of range.
    INVALID_INTERRUPT_VECTOR = 0x108, "invalid interrupt vector";
    /// The log page is not supported.
    INVALID_LOG_PAGE = 0x109, "invalid log page";
    /// The LBA format is not supported.
    INVALID_FORMAT = 0x10a, "invalid format";
    /// The completion queue still has submission queues.
    INVALID_QUEUE_DELETION = 0x10c, "invalid queue deletion";
    /// The feature cannot be saved.
    FEATURE_NOT_SAVEABLE = 0x10d, "feature identifier not saveable";
    /// The feature cannot be changed.
    FEATURE_NOT_CHANGEABLE = 0x10e, "feature not changeable";
    /// The feature is not per namespace.
    FEATURE_NOT_NAMESPACE_SPECIFIC = 0x10f, "feature not namespace specific";
    /// Ranges overlap.
    OVERLAPPING_RANGE = 0x114, "overlapping range";
    /// Attributes contradict each other.
    CONFLICTING_ATTRIBUTES = 0x180, "conflicting attributes";
    /// The protection information settings are invalid.
    INVALID_PROTECTION_INFO = 0x181, "invalid protection information";
    /// The range is read only.
    WRITE_TO_READ_ONLY = 0x182, "attempted write to read only range";
    /// Beyond the size limit of the command.
    COMMAND_SIZE_LIMIT_EXCEEDED = 0x183, "command size limit exceeded";

    /// The data could not be written.
    WRITE_FAULT = 0x280, "write fault";
    /// The data could not be read.
    UNRECOVERED_READ_ERROR = 0x281, "unrecovered read error";
    /// Guard check failed.
    GUARD_CHECK = 0x282, "end-to-end guard check error";
    /// Application tag check failed.
    APPTAG_CHECK = 0x283, "end-to-end application tag check error";
    /// Reference tag check failed.
    REFTAG_CHECK = 0x284, "end-to-end reference tag check error";
    /// The compared data differ.
    COMPARE_FAILURE = 0x285, "compare failure";
    /// Access denied.
    ACCESS_DENIED = 0x286, "access denied";
    /// The block was deallocated or never written.
    DEALLOCATED_BLOCK = 0x287, "deallocated or unwritten logical block";

    /// The path failed inside the controller.
    INTERNAL_PATH_ERROR = 0x300, "internal path error";
    /// Asymmetric access: persistent loss.
    ANA_PERSISTENT_LOSS = 0x301, "asymmetric access persistent loss";
    /// Asymmetric access: inaccessible.
    ANA_INACCESSIBLE = 0x302, "asymmetric access inaccessible";
    /// Asymmetric access: transition.
    ANA_TRANSITION = 0x303, "asymmetric access transition";
    /// The controller found a pathing error.
    CONTROLLER_PATHING_ERROR = 0x360, "controller pathing error";
    /// The host found a pathing error.
    HOST_PATHING_ERROR = 0x370, "host pathing error";
    /// The host aborted the command.
    ABORTED_BY_HOST = 0x371, "command aborted by host";
}

impl StatusCode {
    /// From type and code; SCT is 3 bits wide.
    #[must_use]
    pub const fn new(sct: StatusType, sc: u8) -> Self {
        Self(((sct.0 as u16) & 7) << 8 | sc as u16)
    }

    /// Status code type.
    #[must_use]
    pub const fn sct(self) -> StatusType {
        StatusType(((self.0 >> 8) & 7) as u8)
    }

    /// Status code.
    #[must_use]
    pub const fn sc(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// This code as a status without DNR, More or CRD.
    #[must_use]
    pub const fn status(self) -> Status {
        Status(self.0 & 0x7ff)
    }

    /// This code as a status with DNR set.
    #[must_use]
    pub const fn do_not_retry(self) -> Status {
        self.status().with_dnr(true)
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({:#05x})", self.0),
            None => write!(f, "status {:#05x}", self.0),
        }
    }
}

impl fmt::Debug for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 15-bit status field of a completion, without its phase bit.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Status(u16);

impl Status {
    /// Success, nothing else set.
    pub const SUCCESS: Self = Self(0);

    const CRD_SHIFT: u32 = 11;
    const MORE: u16 = 1 << 13;
    const DNR: u16 = 1 << 14;

    /// From the field's 15 bits, SC in the lowest; bit 15 is dropped.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7fff)
    }

    /// The field's 15 bits.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether type and code are both zero.
    #[inline(always)]
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Type and code.
    #[must_use]
    pub const fn code(self) -> StatusCode {
        StatusCode(self.0 & 0x7ff)
    }

    /// Command retry delay: 0 for none, 1 to 3 select CRDT1 to CRDT3 of identify controller.
    #[must_use]
    pub const fn crd(self) -> u8 {
        ((self.0 >> Self::CRD_SHIFT) & 3) as u8
    }

    /// More: the error log has an entry about it.
    #[must_use]
    pub const fn more(self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// Do not retry: the same command will fail again.
    #[must_use]
    pub const fn dnr(self) -> bool {
        self.0 & Self::DNR != 0
    }

    /// With CRD set to `crd`, of which two bits count.
    #[must_use]
    pub const fn with_crd(self, crd: u8) -> Self {
        let cleared = self.0 & !(3 << Self::CRD_SHIFT);
        Self(cleared | ((crd & 3) as u16) << Self::CRD_SHIFT)
    }

    /// With More set or cleared.
    #[must_use]
    pub const fn with_more(self, more: bool) -> Self {
        Self(if more { self.0 | Self::MORE } else { self.0 & !Self::MORE })
    }

    /// With DNR set or cleared.
    #[must_use]
    pub const fn with_dnr(self, dnr: bool) -> Self {
        Self(if dnr { self.0 | Self::DNR } else { self.0 & !Self::DNR })
    }
}

impl From<StatusCode> for Status {
    fn from(code: StatusCode) -> Self {
        code.status()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.code(), f)?;
        if self.crd() != 0 {
            write!(f, ", retry after CRDT{}", self.crd())?;
        }
        if self.dnr() {
            f.write_str(", do not retry")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn unrecovered_read_error_with_dnr_has_the_bits_of_the_specification() {
        // SC 81h, SCT 2h, CRD 0, M 1, DNR 1: 1 1 00 010 10000001.
        let status = StatusCode::UNRECOVERED_READ_ERROR.do_not_retry().with_more(true);
        assert_eq!(status.bits(), 0x6281);
        assert_eq!(status.code().sct(), StatusType::MEDIA);
        assert_eq!(status.code().sc(), 0x81);
        assert!(status.dnr() && status.more() && !status.is_success());
    }

    #[test]
    fn every_15_bit_value_survives_its_parts() {
        for bits in 0..=0x7fff_u16 {
            let status = Status::from_bits(bits);
            let rebuilt = StatusCode::new(status.code().sct(), status.code().sc())
                .status()
                .with_crd(status.crd())
                .with_more(status.more())
                .with_dnr(status.dnr());
            assert_eq!(rebuilt, status);
        }
    }

    #[test]
    fn text_names_the_code_and_what_to_do() {
        let status = StatusCode::COMMAND_INTERRUPTED.status().with_crd(2);
        assert_eq!(format!("{status}"), "command interrupted (0x021), retry after CRDT2");
        assert_eq!(format!("{}", StatusCode(0x7c3)), "status 0x7c3");
    }

    #[test]
    fn named_codes_are_sorted_and_unique() {
        assert!(StatusCode::NAMED.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
