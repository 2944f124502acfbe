//! Which memory an arena owns already (invariant 2), process-wide.
//!
//! A [`DmaRegion`] is a copyable description; two arenas over one of them would lend the same byte
//! twice. So an arena claims its addresses until [`release_region`], and a second one is refused.
//! Used at start and after the end only.

use spin::mutex::SpinMutex;

use super::error::DmaError;
use super::region::DmaRegion;

/// Arenas of one process: one for each partition in thread mode, so far fewer than cores.
#[cfg(not(any(test, feature = "std")))]
const CLAIMS: usize = 64;
/// With the heap at hand, tests make one arena each and more.
#[cfg(any(test, feature = "std"))]
const CLAIMS: usize = usize::MAX;

#[cfg(not(any(test, feature = "std")))]
type Claims = heapless::Vec<(usize, usize), CLAIMS>;
#[cfg(any(test, feature = "std"))]
type Claims = std::vec::Vec<(usize, usize)>;

static CLAIMED: SpinMutex<Claims> = SpinMutex::new(Claims::new());

/// Claims the region's addresses.
pub(super) fn claim(region: &DmaRegion) -> Result<(), DmaError> {
    let addr = region.span.as_ptr().addr();
    let len = region.span.len();
    let mut claims = CLAIMED.lock();
    if claims.iter().any(|&(a, l)| addr < a + l && a < addr + len) {
        return Err(DmaError::Claimed { addr, len });
    }
    push(&mut claims, (addr, len)).map_err(|_| DmaError::TooManyArenas { max: CLAIMS })
}

/// Gives the claim back, when an arena could not be made after all.
pub(super) fn unclaim(region: &DmaRegion) {
    let addr = region.span.as_ptr().addr();
    CLAIMED.lock().retain(|&(a, _)| a != addr);
}

/// Forgets the arena that owned `region`, so that memory which is mapped at the same addresses
/// later can have one. For who unmaps a region after its partition ended.
///
/// # Safety
/// The arena of this region, and every buffer and queue that it handed out, is not used any more.
pub unsafe fn release_region(region: &DmaRegion) {
    unclaim(region);
}

#[cfg(not(any(test, feature = "std")))]
fn push(claims: &mut Claims, claim: (usize, usize)) -> Result<(), (usize, usize)> {
    claims.push(claim)
}

#[cfg(any(test, feature = "std"))]
fn push(claims: &mut Claims, claim: (usize, usize)) -> Result<(), (usize, usize)> {
    claims.push(claim);
    Ok(())
}
