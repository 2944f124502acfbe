//! Registers: last values at fixed places of the region, readable from outside at any time.
//!
//! A register is taken out of the bank by name, once; [`Register::set`] is one plain store.

use core::cell::{Cell, OnceCell};
use core::mem::offset_of;

use hybrid_abi::Name;
use hybrid_abi::metrics::MetricUnit;
use hybrid_abi::probe::registers::{
    BANK_BYTES, COUNT_OFFSET, REGISTERS_MAX, RegisterEntry, RegistersHeader, register_offset,
};
use hybrid_abi::probe::{ProbeEntry, probe_id};
use hybrid_shm::{OutOfBounds, Span, Word64};
use zerocopy::IntoBytes;

/// Defines registers, each as a constant: name, what it says, unit.
#[macro_export]
macro_rules! register {
    ($(
        $(#[$doc:meta])*
        $vis:vis $const:ident = $name:literal, $about:literal, $unit:ident;
    )*) => {$(
        $(#[$doc])*
        $vis const $const: $crate::probe::RegisterSpec = {
            #[used]
            #[unsafe(link_section = ".hybrid_probes")]
            static ENTRY: $crate::probe::ProbeEntry = $crate::probe::ProbeEntry::new(
                $crate::probe::dictionary::KIND_REGISTER,
                ($name, $about),
                ($crate::probe::Group::TRACE, $crate::probe::Level::ERROR),
                $crate::probe::dictionary::fields(&[$crate::probe::ProbeField::new(
                    "value",
                    $crate::probe::MetricUnit::$unit,
                    $crate::probe::FieldKind::NUMBER,
                )]),
                (file!(), line!()),
            );
            $crate::probe::RegisterSpec::new($name, $crate::probe::MetricUnit::$unit, &ENTRY)
        };
    )*};
}

pub(crate) use crate::register;

/// What a register is called.
#[derive(Clone, Copy, Debug)]
pub struct RegisterSpec {
    name: &'static str,
    unit: MetricUnit,
    entry: &'static ProbeEntry,
}

impl RegisterSpec {
    /// Made by [`register!`](crate::register!).
    #[must_use]
    pub const fn new(name: &'static str, unit: MetricUnit, entry: &'static ProbeEntry) -> Self {
        Self { name, unit, entry }
    }
}

/// A register, or nothing where there is no bank.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register(Option<Word64<'static>>);

impl Register {
    /// Stores the value.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        if let Some(word) = self.0 {
            word.store(value);
        }
    }

    /// The value that was stored last.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.map_or(0, |word| word.load())
    }
}

/// A partition's bank.
#[derive(Debug)]
pub struct Registers {
    bank: OnceCell<Span<'static>>,
    count: Cell<u32>,
}

impl Registers {
    pub(super) const fn none() -> Self {
        Self { bank: OnceCell::new(), count: Cell::new(0) }
    }

    /// Begins the bank in zeroed memory.
    pub(super) fn attach(&self, bank: Span<'static>) -> Result<(), OutOfBounds> {
        let bank = bank.sub(0, BANK_BYTES)?;
        bank.write(0, RegistersHeader::new().as_bytes())?;
        // A second one would be a caller that attaches twice: the first stays.
        let _ = self.bank.set(bank);
        Ok(())
    }

    /// Adds a register; the same name gives the same one. Without a bank, or when it is full, it is
    /// one that keeps nothing.
    pub fn add(&self, spec: RegisterSpec) -> Register {
        let Some(bank) = self.bank.get() else { return Register::default() };
        let id = probe_id(spec.name);
        for index in 0..self.count.get() {
            let id_at = register_offset(index) + offset_of!(RegisterEntry, id);
            if bank.word32(id_at).is_ok_and(|word| word.load() == id) {
                return Self::value_of(*bank, index);
            }
        }
        let index = self.count.get();
        if index >= REGISTERS_MAX {
            return Register::default();
        }
        let entry = RegisterEntry {
            name: Name::lossy(spec.entry.name.as_str()),
            id,
            unit: spec.unit,
            reserved: [0; 10],
            value: 0,
        };
        if bank.write(register_offset(index), entry.as_bytes()).is_err() {
            return Register::default();
        }
        self.count.set(index + 1);
        if let Ok(count) = bank.word32(COUNT_OFFSET) {
            // SYNC probe-registers: who sees the count sees the names.
            count.store_release(index + 1);
        }
        Self::value_of(*bank, index)
    }

    fn value_of(bank: Span<'static>, index: u32) -> Register {
        let at = register_offset(index) + offset_of!(RegisterEntry, value);
        Register(bank.word64(at).ok())
    }
}
