//! The ways in which a partition dies here.

use hybrid_abi::crash;

/// How an incarnation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A Rust panic.
    Panic,
    /// A write through a pointer to nowhere.
    Pointer,
    /// A recursion without end.
    StackOverflow,
    /// An instruction that no processor has.
    Illegal,
    /// A call of the allocator.
    Allocation,
    /// A system call.
    SystemCall,
    /// A task that never gives way.
    EndlessLoop,
    /// SIGKILL, from the host.
    Sigkill,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Panic,
        Self::Pointer,
        Self::StackOverflow,
        Self::Illegal,
        Self::Allocation,
        Self::SystemCall,
        Self::EndlessLoop,
        Self::Sigkill,
    ];

    /// As it crosses to the partition; 0 is no death.
    pub(crate) fn number(kind: Option<Self>) -> u32 {
        let place = Self::ALL.iter().position(|each| Some(*each) == kind);
        place.map_or(0, |place| u32::try_from(place).unwrap_or(0) + 1)
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get((number as usize).checked_sub(1)?).copied()
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Pointer => "bad_pointer",
            Self::StackOverflow => "stack_overflow",
            Self::Illegal => "illegal_instruction",
            Self::Allocation => "allocation",
            Self::SystemCall => "system_call",
            Self::EndlessLoop => "endless_loop",
            Self::Sigkill => "sigkill",
        }
    }

    /// Whether the host brings it about, from outside.
    pub(crate) const fn is_from_outside(self) -> bool {
        matches!(self, Self::Sigkill)
    }

    /// What the record must give as its reason.
    pub(crate) const fn reason(self) -> u32 {
        match self {
            Self::Panic => crash::REASON_PANIC,
            Self::Pointer | Self::StackOverflow | Self::Illegal => crash::REASON_FAULT,
            Self::Allocation => crash::REASON_ALLOCATION,
            Self::SystemCall => crash::REASON_SYSCALL,
            Self::EndlessLoop => crash::REASON_ASKED,
            Self::Sigkill => crash::REASON_KILLED,
        }
    }

    /// A word that the record's message must hold.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Panic => "on purpose",
            Self::Pointer => "segmentation fault: nothing is mapped at 0x10",
            Self::StackOverflow => "overflowed its stack",
            Self::Illegal => "illegal instruction",
            Self::Allocation => "allocator while running, for 512 bytes",
            Self::SystemCall => "getpid",
            Self::EndlessLoop | Self::Sigkill => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_cross_as_numbers() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(Kind::number(Some(kind))), Some(kind));
        }
        assert_eq!((Kind::number(None), Kind::from_number(0)), (0, None));
        assert_eq!(Kind::from_number(99), None);
    }
}
