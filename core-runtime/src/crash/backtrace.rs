//! Frame pointers, walked without allocation and only inside of given stacks.
//!
//! Our builds keep frame pointers (`.cargo/config.toml`), and so does the standard library: at the
//! frame pointer lies the caller's, and above it the return address. Code that keeps none ends the
//! walk early or misses a frame, and never leads it out of the stacks.

use hybrid_abi::crash::program::{
    BACKTRACE_BROKEN, BACKTRACE_FULL, BACKTRACE_LEFT_STACK, BACKTRACE_MAX, BACKTRACE_ROOT,
};

/// Where a walk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Address of an instruction.
    pub ip: u64,
    /// Its function's frame pointer: RBP.
    pub fp: u64,
    /// Its stack pointer, for code whose caller is found nowhere else, since it has no frame yet: a
    /// call to an address without code.
    pub sp: Option<u64>,
}

/// A stack that may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackRange {
    low: usize,
    high: usize,
}

impl StackRange {
    /// The stack from `low` up to `high`, not included.
    ///
    /// # Safety
    /// These bytes stay mapped and readable as long as the range is used (invariant 1 of
    /// [`super`]).
    #[must_use]
    pub const unsafe fn new(low: usize, high: usize) -> Self {
        Self { low, high }
    }

    fn holds(&self, at: u64, bytes: usize) -> Option<usize> {
        let at = usize::try_from(at).ok()?;
        let inside = at >= self.low && at.checked_add(bytes)? <= self.high;
        (inside && at.is_multiple_of(size_of::<u64>())).then_some(at)
    }

    /// The word at `at`, which [`Self::holds`] gave.
    fn read(at: usize) -> u64 {
        // SAFETY: invariant 1; inside the range and aligned. Volatile, since the words may belong
        // to somebody's locals: whatever is there is wanted, once.
        unsafe { core::ptr::with_exposed_provenance::<u64>(at).read_volatile() }
    }
}

/// The calling function's own instruction and frame.
#[inline(always)]
#[must_use]
pub fn here() -> Frame {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let (ip, fp): (u64, u64);
        // SAFETY: reads two registers.
        unsafe {
            core::arch::asm!(
                "lea {ip}, [rip]",
                "mov {fp}, rbp",
                ip = out(reg) ip,
                fp = out(reg) fp,
                options(nomem, nostack, preserves_flags)
            );
        }
        Frame { ip, fp, sp: None }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    Frame { ip: 0, fp: 0, sp: None }
}

/// Where the program's file begins in memory, so that addresses of it can be looked up in the file;
/// 0 where that is not known.
#[must_use]
pub fn load_base() -> u64 {
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        unsafe extern "C" {
            /// The ELF header, which every linker of this platform names, at the start of the first
            /// mapping.
            #[link_name = "__ehdr_start"]
            static START: u8;
        }
        (&raw const START).addr() as u64
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    0
}

/// Collects addresses from `from` outwards into `out`; returns how many, and why there are no more.
pub fn walk(from: Frame, stacks: &[StackRange], out: &mut [u64; BACKTRACE_MAX]) -> (usize, u32) {
    let mut places = out.iter_mut();
    let mut count = 0;
    let mut push = |address| match places.next() {
        Some(place) => {
            *place = address;
            count += 1;
            true
        }
        None => false,
    };
    push(from.ip);
    if let Some(caller) = from.sp.and_then(|sp| word_at(sp, stacks)) {
        push(caller);
    }
    let (mut fp, mut before) = (from.fp, None);
    let end = loop {
        if fp == 0 {
            break BACKTRACE_ROOT;
        }
        let found = stacks.iter().zip(0_usize..).find_map(|(stack, n)| {
            let at = stack.holds(fp, 16)?;
            Some((n, at))
        });
        let Some((stack, at)) = found else {
            break BACKTRACE_LEFT_STACK;
        };
        match before {
            // Upwards in one stack, and from one to the next in their order.
            Some((last, below)) if stack < last || (stack == last && at <= below) => {
                break BACKTRACE_BROKEN;
            }
            _ => before = Some((stack, at)),
        }
        let address = StackRange::read(at + 8);
        if address == 0 {
            break BACKTRACE_ROOT;
        }
        if !push(address) {
            break BACKTRACE_FULL;
        }
        fp = StackRange::read(at);
    };
    (count, end)
}

fn word_at(at: u64, stacks: &[StackRange]) -> Option<u64> {
    let at = stacks.iter().find_map(|stack| stack.holds(at, 8))?;
    Some(StackRange::read(at))
}
