//! Read-only tables: memory that the host filled and several partitions read.
//!
//! The host's launch adds them before the entry runs; the entry asks for them by name. What lies in
//! one is the host's word, and read as such: through a [`ReadSpan`], checked by who uses it.

use core::cell::RefCell;

use hybrid_abi::Name;
use hybrid_shm::ReadSpan;
use thiserror::Error;

use super::Partition;

/// Most tables of a partition.
pub const TABLES_MAX: usize = 8;

type Entry = (Name<32>, ReadSpan<'static>);

/// A partition's tables.
#[derive(Debug)]
pub(super) struct Tables(RefCell<heapless::Vec<Entry, TABLES_MAX>>);

impl Tables {
    pub(super) const fn new() -> Self {
        Self(RefCell::new(heapless::Vec::new()))
    }
}

/// Why a table was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// Its name is none, or longer than 32 bytes.
    #[error(transparent)]
    Name(#[from] hybrid_abi::AbiError),
    /// There is one of that name.
    #[error("the partition has a table of that name already")]
    Taken,
    /// There are as many as there can be.
    #[error("a partition has at most {TABLES_MAX} tables")]
    TooMany,
}

impl Partition {
    /// Adds a table; called before the entry runs.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn add_table(&self, name: &str, table: ReadSpan<'static>) -> Result<(), TableError> {
        let name = Name::new("table", name)?;
        let mut tables = self.tables.0.borrow_mut();
        if tables.iter().any(|(other, _)| *other == name) {
            return Err(TableError::Taken);
        }
        tables.push((name, table)).map_err(|_| TableError::TooMany)
    }

    /// The table of that name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<ReadSpan<'static>> {
        let tables = self.tables.0.borrow();
        tables.iter().find(|(other, _)| other.as_str() == name).map(|(_, table)| *table)
    }
}
