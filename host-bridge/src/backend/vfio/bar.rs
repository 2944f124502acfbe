//! How much of BAR 0 is mapped: registers and doorbells in one piece from its first byte.
//!
//! The kernel says which parts of a BAR may be mapped (the region's sparse areas; all of it where
//! it names none). The page of the MSI-X table is left out in any case: we use no interrupts, and a
//! stray write there is one to an address of the bus.

use crate::sys::bar::MOST_BYTES;

/// Offset of the doorbells. NVMe over PCIe Transport 1.0, section 3.1.2.
pub const DOORBELLS_AT: u64 = 0x1000;
/// Doorbells of the admin queue pair and one I/O queue pair at stride 0.
const LEAST_DOORBELL_BYTES: u64 = 16;
const PAGE: u64 = 4096;

/// A range of bytes in a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Why BAR 0 is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarError {
    /// Smaller than registers and doorbells.
    #[error("bar 0 has {0} bytes, registers and doorbells need 8192")]
    TooSmall(u64),
    /// The kernel does not let it be mapped.
    #[error("bar 0 may not be mapped (region flags {0:#x})")]
    NotMappable(u32),
    /// The mappable part ends before the doorbells do.
    #[error("only {mapped} bytes of bar 0 can be mapped in one piece, up to {why}")]
    Short {
        /// Bytes from the first one on.
        mapped: u64,
        /// What ends it.
        why: &'static str,
    },
}

/// How many bytes of a BAR of `size` bytes to map, from its first one on: whole pages.
///
/// # Errors
/// [`BarError`].
pub fn mappable(size: u64, sparse: &[Area], msix_table: Option<Area>) -> Result<u64, BarError> {
    if size < DOORBELLS_AT + LEAST_DOORBELL_BYTES {
        return Err(BarError::TooSmall(size));
    }
    let mut end = size.min(MOST_BYTES as u64);
    let mut why = "its end";
    if !sparse.is_empty() {
        let allowed = run_from_start(sparse);
        if allowed < end {
            (end, why) = (allowed, "the first hole that the kernel leaves");
        }
    }
    if let Some(table) = msix_table.filter(|table| table.offset < end) {
        (end, why) = (table.offset, "the msi-x table");
    }
    let mapped = end - end % PAGE;
    if mapped < DOORBELLS_AT + LEAST_DOORBELL_BYTES {
        return Err(BarError::Short { mapped, why });
    }
    Ok(mapped)
}

/// Bytes from 0 on that the areas cover without a gap.
fn run_from_start(areas: &[Area]) -> u64 {
    let mut areas = areas.to_vec();
    areas.sort_unstable_by_key(|area| area.offset);
    let mut end = 0;
    for area in areas {
        if area.offset > end {
            break;
        }
        end = end.max(area.offset.saturating_add(area.len));
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn area(offset: u64, len: u64) -> Area {
        Area { offset, len }
    }

    #[test]
    fn registers_and_doorbells_are_one_piece_that_ends_before_the_msix_table() {
        // QEMU's: 16 KiB, the table at 2000h.
        assert_eq!(mappable(0x4000, &[], Some(area(0x2000, 0x410))), Ok(0x2000));
        assert_eq!(mappable(0x4000, &[], Some(area(0x2800, 0x410))), Ok(0x2000));
        assert_eq!(mappable(0x4000, &[], None), Ok(0x4000));
        let sparse = [area(0x3000, 0x1000), area(0, 0x1000), area(0x1000, 0x1000)];
        assert_eq!(mappable(0x4000, &sparse, None), Ok(0x2000));
        assert_eq!(mappable(0x4000, &sparse, Some(area(0x2000, 16))), Ok(0x2000));
        // A controller memory buffer behind the doorbells is not mapped.
        assert_eq!(mappable(1 << 30, &[], None), Ok(MOST_BYTES as u64));
    }

    #[test]
    fn a_bar_without_doorbells_to_map_is_refused_with_the_reason() {
        assert_eq!(mappable(0x1000, &[], None), Err(BarError::TooSmall(0x1000)));
        let why = "the msi-x table";
        let short = BarError::Short { mapped: 0x1000, why };
        assert_eq!(mappable(0x4000, &[], Some(area(0x1800, 16))), Err(short));
        let why = "the first hole that the kernel leaves";
        let short = BarError::Short { mapped: 0, why };
        assert_eq!(mappable(0x4000, &[area(0x1000, 0x3000)], None), Err(short));
        let line = short.to_string();
        assert!(line.starts_with("only 0 bytes of bar 0 can be mapped in one piece"), "{line}");
    }

    #[test]
    fn areas_that_overflow_end_at_the_bars_end() {
        assert_eq!(mappable(0x4000, &[area(0, u64::MAX), area(1, u64::MAX)], None), Ok(0x4000));
    }
}
