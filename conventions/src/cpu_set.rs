//! Sets of CPUs in every spelling that Linux, DPDK and `taskset` users know.
//!
//! Spellings: the kernel's list (`2-5,8`, `0-10:2`, `0-31:2/8`), DPDK's and JSON's brackets
//! (`[2,3]`), and masks (`0x3c`, with the kernel's commas between 32-bit groups too). Sets print as
//! the kernel's list; the empty set prints as nothing, as in sysfs.

use core::fmt;
use core::str::FromStr;

use crate::number::{NumberError, parse_radix};
use crate::seen::Seen;

const WORDS: usize = CpuSet::CAPACITY / 64;

/// A set of CPU numbers below [`CpuSet::CAPACITY`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CpuSet {
    words: [u64; WORDS],
}

/// A CPU set that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuSetError {
    /// A part that is neither a CPU nor a range.
    #[error("cpu set {0} is not understood; write it as 2-5,8 or [2,3] or 0x3c")]
    Syntax(Seen),
    /// A range that ends before it starts.
    #[error("cpu range {first}-{last} runs backwards; the smaller number comes first")]
    Backwards {
        /// Start of the range as written.
        first: u64,
        /// End of the range as written.
        last: u64,
    },
    /// A CPU number that the set can't hold.
    #[error("cpu {0} is out of range; cpus are numbered 0 to 1023")]
    OutOfRange(u64),
}

impl CpuSet {
    /// CPU numbers are below this: 1024 is what glibc's `cpu_set_t` holds, so a larger number
    /// couldn't be pinned to anyway.
    pub const CAPACITY: usize = 1024;

    /// No CPU.
    pub const EMPTY: Self = Self { words: [0; WORDS] };

    /// The set of one CPU.
    ///
    /// # Errors
    /// [`CpuSetError::OutOfRange`] from [`CpuSet::CAPACITY`] on.
    pub fn single(cpu: u32) -> Result<Self, CpuSetError> {
        let mut set = Self::EMPTY;
        set.insert(cpu)?;
        Ok(set)
    }

    /// The CPUs `0 .. count`; a count beyond the capacity gives all of it.
    #[must_use]
    pub fn first_n(count: usize) -> Self {
        let mut set = Self::EMPTY;
        for (index, word) in set.words.iter_mut().enumerate() {
            *word = match count.saturating_sub(index * 64) {
                0 => 0,
                bits @ 1..64 => (1 << bits) - 1,
                _ => u64::MAX,
            };
        }
        set
    }

    /// Adds a CPU; tells whether it was new.
    ///
    /// # Errors
    /// [`CpuSetError::OutOfRange`] from [`CpuSet::CAPACITY`] on.
    pub fn insert(&mut self, cpu: u32) -> Result<bool, CpuSetError> {
        let (index, bit) = place(cpu);
        let word = self.words.get_mut(index).ok_or(CpuSetError::OutOfRange(cpu.into()))?;
        let new = *word & bit == 0;
        *word |= bit;
        Ok(new)
    }

    /// Takes a CPU out; tells whether it was there.
    pub fn remove(&mut self, cpu: u32) -> bool {
        let (index, bit) = place(cpu);
        let Some(word) = self.words.get_mut(index) else {
            return false;
        };
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    /// Whether the CPU is in the set.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        let (index, bit) = place(cpu);
        self.words.get(index).is_some_and(|word| word & bit != 0)
    }

    /// Number of CPUs in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no CPU is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// The lowest CPU.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.iter().next()
    }

    /// The CPUs in ascending order.
    #[must_use]
    pub fn iter(&self) -> Cpus {
        Cpus { left: *self }
    }

    /// CPUs in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    /// CPUs in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    /// CPUs of this set that the other lacks.
    #[must_use]
    pub fn difference(self, other: Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    /// CPUs of `all` that this set lacks: the housekeeping CPUs, given the isolated ones.
    #[must_use]
    pub fn complement(self, all: Self) -> Self {
        all.difference(self)
    }

    /// Whether every CPU of this set is in the other.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.difference(*other).is_empty()
    }

    /// The set as 64-bit words, CPU 0 in the lowest bit of the first.
    #[must_use]
    pub const fn as_words(&self) -> &[u64; WORDS] {
        &self.words
    }

    /// The set as the kernel reads masks: 32-bit groups with commas, for `smp_affinity` and others.
    #[must_use]
    pub const fn kernel_mask(self) -> KernelMask {
        KernelMask(self)
    }

    /// Parses a mask without `0x`, as `/proc/irq/N/smp_affinity` holds it.
    ///
    /// # Errors
    /// [`CpuSetError`] says what was seen and what is allowed.
    pub fn parse_mask(text: &str) -> Result<Self, CpuSetError> {
        parse_mask(text.trim(), Seen::new(text))
    }

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut set = self;
        for (word, with) in set.words.iter_mut().zip(other.words) {
            *word = f(*word, with);
        }
        set
    }

    /// The last CPU of the unbroken run that starts at `cpu`.
    fn run_end(&self, cpu: u32) -> u32 {
        let mut last = cpu;
        while self.contains(last + 1) {
            last += 1;
        }
        last
    }

    fn highest_word(&self) -> usize {
        self.words.iter().rposition(|word| *word != 0).unwrap_or(0)
    }
}

/// The word and bit of a CPU; the word may be beyond the set.
fn place(cpu: u32) -> (usize, u64) {
    ((cpu / 64) as usize, 1 << (cpu % 64))
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<Self, CpuSetError> {
        let seen = Seen::new(text);
        let text = text.trim();
        if let Some(mask) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            return parse_mask(mask, seen);
        }
        match text.strip_prefix('[') {
            None => parse_list(text, seen),
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or(CpuSetError::Syntax(seen))?;
                parse_list(inner.trim(), seen)
            }
        }
    }
}

fn parse_list(text: &str, seen: Seen) -> Result<CpuSet, CpuSetError> {
    let mut set = CpuSet::EMPTY;
    if text.is_empty() {
        return Ok(set);
    }
    for part in text.split(',') {
        insert_part(&mut set, part.trim(), seen)?;
    }
    Ok(set)
}

/// Adds one part of a list: `5`, `2-5`, `0-10:2` (each second) or `0-31:2/8` (two of each eight).
fn insert_part(set: &mut CpuSet, part: &str, seen: Seen) -> Result<(), CpuSetError> {
    let (range, step) = match part.split_once(':') {
        None => (part, None),
        Some((range, step)) => (range, Some(step)),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (cpu_number(first, seen)?, cpu_number(last, seen)?),
        None if step.is_some() => return Err(CpuSetError::Syntax(seen)),
        None => {
            let cpu = cpu_number(range, seen)?;
            (cpu, cpu)
        }
    };
    if last < first {
        let (first, last) = (first.into(), last.into());
        return Err(CpuSetError::Backwards { first, last });
    }
    let (used, group) = match step.map(|step| step.split_once('/').ok_or(step)) {
        None => (1, 1),
        Some(Err(stride)) => (1, step_number(stride, seen)?),
        Some(Ok((used, group))) => (step_number(used, seen)?, step_number(group, seen)?),
    };
    if used > group {
        return Err(CpuSetError::Syntax(seen));
    }
    for cpu in first..=last {
        if (cpu - first) % group < used {
            set.insert(cpu)?;
        }
    }
    Ok(())
}

/// A CPU number, checked against the capacity before any range over it is walked.
fn cpu_number(text: &str, seen: Seen) -> Result<u32, CpuSetError> {
    let number = match parse_radix(text.trim(), 10) {
        Ok(number) => number,
        Err(NumberError::NotANumber) => return Err(CpuSetError::Syntax(seen)),
        Err(NumberError::TooLarge) => u64::MAX,
    };
    match u32::try_from(number) {
        Ok(cpu) if (cpu as usize) < CpuSet::CAPACITY => Ok(cpu),
        _ => Err(CpuSetError::OutOfRange(number)),
    }
}

/// A stride or group size: from 1 to the capacity.
fn step_number(text: &str, seen: Seen) -> Result<u32, CpuSetError> {
    match cpu_number(text, seen) {
        Ok(0) | Err(_) => Err(CpuSetError::Syntax(seen)),
        Ok(step) => Ok(step),
    }
}

/// Parses hexadecimal digits from the right; commas are allowed between groups of eight digits.
fn parse_mask(text: &str, seen: Seen) -> Result<CpuSet, CpuSetError> {
    let mut set = CpuSet::EMPTY;
    let mut bit = 0_u32;
    for (index, group) in text.rsplit(',').enumerate() {
        let is_last_group = index == text.matches(',').count();
        if group.is_empty() || (text.contains(',') && !is_last_group && group.len() != 8) {
            return Err(CpuSetError::Syntax(seen));
        }
        for digit in group.chars().rev() {
            let value = digit.to_digit(16).ok_or(CpuSetError::Syntax(seen))?;
            for offset in (0..4).filter(|offset| value >> offset & 1 == 1) {
                set.insert(bit + offset)?;
            }
            bit = bit.saturating_add(4).min(u32::MAX - 4);
        }
    }
    Ok(set)
}

/// The kernel's list form; `{:#}` puts it in brackets with every CPU by itself, as JSON and DPDK.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return fmt_brackets(self, f);
        }
        let mut left = *self;
        let mut separator = "";
        while let Some(first) = left.first() {
            let last = left.run_end(first);
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            for cpu in first..=last {
                left.remove(cpu);
            }
            separator = ",";
        }
        Ok(())
    }
}

fn fmt_brackets(set: &CpuSet, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("[")?;
    for (index, cpu) in set.iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        write!(f, "{separator}{cpu}")?;
    }
    f.write_str("]")
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuSet({self})")
    }
}

/// The mask in one piece, `0x3c` with `{:#x}`.
impl fmt::LowerHex for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let top = self.highest_word();
        let prefix = if f.alternate() { "0x" } else { "" };
        write!(f, "{prefix}{:x}", self.words[top])?;
        for word in self.words[..top].iter().rev() {
            write!(f, "{word:016x}")?;
        }
        Ok(())
    }
}

/// A CPU set that prints as the kernel's comma-separated mask; see [`CpuSet::kernel_mask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelMask(CpuSet);

impl fmt::Display for KernelMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let top = self.0.highest_word();
        for (index, word) in self.0.words[..=top].iter().enumerate().rev() {
            let (high, low) = (word >> 32, word & 0xffff_ffff);
            match (index == top, high) {
                (true, 0) => write!(f, "{low:x}")?,
                (true, _) => write!(f, "{high:x},{low:08x}")?,
                (false, _) => write!(f, ",{high:08x},{low:08x}")?,
            }
        }
        Ok(())
    }
}

/// The CPUs of a set in ascending order; see [`CpuSet::iter`].
#[derive(Clone, Debug)]
pub struct Cpus {
    left: CpuSet,
}

impl Iterator for Cpus {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (index, word) = (0_u32..).zip(&mut self.left.words).find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        Some(index * 64 + bit)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.len(), Some(self.left.len()))
    }
}

impl ExactSizeIterator for Cpus {}

impl IntoIterator for CpuSet {
    type Item = u32;
    type IntoIter = Cpus;

    fn into_iter(self) -> Cpus {
        self.iter()
    }
}

impl IntoIterator for &CpuSet {
    type Item = u32;
    type IntoIter = Cpus;

    fn into_iter(self) -> Cpus {
        self.iter()
    }
}
