//! What a device sees: from IOVAs to spans. The model's stand-in for an IOMMU.

use core::fmt;

use hybrid_shm::Span;

use super::error::DmaError;
use super::iova::Iova;
use super::region::DmaRegion;

/// Regions that can be mapped at once: a partition has one, a virtual machine or another driver as
/// many as it has pieces of huge pages.
const MAX_REGIONS: usize = 64;

/// An access of a device that no mapped region covers: a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMapped {
    /// First address of the access.
    pub iova: Iova,
    /// Its length in bytes.
    pub len: usize,
}

impl fmt::Display for NotMapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at IOVA {} are not mapped for the device", self.len, self.iova)
    }
}

impl core::error::Error for NotMapped {}

/// The regions that are mapped for a device.
#[derive(Debug, Default)]
pub struct DmaMap {
    regions: heapless::Vec<DmaRegion, MAX_REGIONS>,
}

impl DmaMap {
    /// A map with nothing in it.
    #[must_use]
    pub const fn new() -> Self {
        Self { regions: heapless::Vec::new() }
    }

    /// Maps a region.
    ///
    /// # Errors
    /// [`DmaError::Region`] if it is empty, runs past the last IOVA, overlaps a mapped one, or if
    /// the map is full.
    pub fn map(&mut self, region: DmaRegion) -> Result<(), DmaError> {
        let refused = DmaError::Region {
            len: region.len(),
            iova: region.iova.0,
            page_bytes: region.page_bytes,
        };
        let (first, last) = bounds(&region).ok_or(refused)?;
        let clash = |other: &DmaRegion| bounds(other).is_some_and(|(f, l)| first <= l && f <= last);
        if self.regions.iter().any(clash) {
            return Err(refused);
        }
        self.regions.push(region).map_err(|_| refused)
    }

    /// Takes away the region that was mapped at `iova`, and returns it.
    pub fn unmap(&mut self, iova: Iova) -> Option<DmaRegion> {
        let at = self.regions.iter().position(|r| r.iova == iova)?;
        Some(self.regions.remove(at))
    }

    /// Takes all regions away.
    pub fn clear(&mut self) {
        self.regions.clear();
    }

    /// The regions, in the order of their mapping.
    pub fn regions(&self) -> impl Iterator<Item = &DmaRegion> {
        self.regions.iter()
    }

    /// The memory of `len` bytes at `iova`, if one region holds them all.
    ///
    /// # Errors
    /// [`NotMapped`] otherwise.
    #[inline]
    pub fn translate(&self, iova: Iova, len: usize) -> Result<Span<'static>, NotMapped> {
        for region in &self.regions {
            let offset = iova.0.wrapping_sub(region.iova.0);
            if offset < region.span.len() as u64
                && let Ok(offset) = usize::try_from(offset)
                && let Ok(span) = region.span.sub(offset, len)
            {
                return Ok(span);
            }
        }
        Err(NotMapped { iova, len })
    }
}

/// First and last IOVA of a region.
fn bounds(region: &DmaRegion) -> Option<(u64, u64)> {
    let last = (region.len() as u64).checked_sub(1)?;
    Some((region.iova.0, region.iova.0.checked_add(last)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_is_inside_one_region_or_refused() {
        let mut map = DmaMap::new();
        let a = DmaRegion::leak(8192, Iova(0x10_0000));
        let b = DmaRegion::leak(4096, Iova(0x10_2000));
        map.map(a).unwrap();
        map.map(b).unwrap();
        a.span.write(8190, &[1, 2]).unwrap();
        let mut got = [0; 2];
        map.translate(Iova(0x10_1ffe), 2).unwrap().read(0, &mut got).unwrap();
        assert_eq!(got, [1, 2]);
        assert_eq!(map.translate(Iova(0x10_2000), 4096).unwrap().as_ptr(), b.span.as_ptr());
        for (iova, len) in [(0x10_1ffe, 3), (0xf_ffff, 1), (0x10_3000, 1), (u64::MAX, 2), (0, 1)] {
            let error = map.translate(Iova(iova), len).unwrap_err();
            assert_eq!(error, NotMapped { iova: Iova(iova), len });
        }
        assert!(map.translate(Iova(0x10_0000), usize::MAX).is_err());
        assert!(map.unmap(Iova(0x10_0000)).is_some());
        assert!(map.unmap(Iova(0x10_0000)).is_none());
        assert!(map.translate(Iova(0x10_0000), 1).is_err());
    }

    #[test]
    fn overlaps_and_wraps_are_refused() {
        let mut map = DmaMap::new();
        map.map(DmaRegion::leak(4096, Iova(0x2000))).unwrap();
        assert!(map.map(DmaRegion::leak(8192, Iova(0x1000))).is_err());
        assert!(map.map(DmaRegion::leak(0, Iova(0x9000))).is_err());
        assert!(map.map(DmaRegion::leak(4096, Iova(u64::MAX - 4094))).is_err());
        let top = DmaRegion::leak(4096, Iova(u64::MAX - 4095));
        map.map(top).unwrap();
        assert!(map.translate(Iova(u64::MAX), 1).is_ok());
        assert!(map.translate(Iova(u64::MAX), 2).is_err());
    }
}
