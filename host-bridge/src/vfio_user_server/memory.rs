//! The client's memory: which of it the device reaches, and where we see it.
//!
//! Each piece is shown in a window. When a client takes a piece away its window turns blank at
//! once, so that nothing of ours reads or writes the client's memory any more; the window's
//! addresses are used again only after the controller was seen disabled, when the model has
//! forgotten them.

use std::os::fd::{AsFd, OwnedFd};

use core_runtime::mem::{DmaRegion, Iova};
use rustix::io::Errno;

use crate::sys::window::Window;
use crate::vfio_user::wire::DmaMap;

/// Pages that pieces are counted in.
const PAGE: u64 = 4096;

/// Pieces that a client may give: those that cannot be reached count, too.
const MAX_PIECES: usize = 256;

/// A piece of the device's address space.
#[derive(Debug)]
struct Piece {
    address: u64,
    size: u64,
    /// Where it is shown; `None` for memory without a file, or that may not be read and written.
    window: Option<Window>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pieces: Vec<Piece>,
    /// Blank windows that the model may still know.
    cooling: Vec<Window>,
    /// Blank windows that it does not know.
    free: Vec<Window>,
}

/// What the model must be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone(pub(super) Iova);

impl Memory {
    /// Takes a piece in. What comes back is to be made reachable for the model; nothing for memory
    /// that cannot be.
    pub(super) fn map(
        &mut self,
        map: &DmaMap,
        file: Option<OwnedFd>,
    ) -> Result<Option<DmaRegion>, Errno> {
        let (address, size) = (map.address.get(), map.size.get());
        let whole = |value: u64| value.is_multiple_of(PAGE);
        if size == 0 || !whole(size) || !whole(address) || !whole(map.offset.get()) {
            return Err(Errno::INVAL);
        }
        let end = address.checked_add(size).ok_or(Errno::OVERFLOW)?;
        if self.pieces.iter().any(|p| address < p.address + p.size && p.address < end) {
            return Err(Errno::EXIST);
        }
        if self.pieces.len() == MAX_PIECES {
            return Err(Errno::NOSPC);
        }
        let both = DmaMap::FLAG_READ | DmaMap::FLAG_WRITE;
        let window = match file {
            Some(file) if map.flags.get() & both == both => {
                let len = usize::try_from(size).map_err(|_| Errno::NOMEM)?;
                let window = self.take_window(len)?;
                if let Err(errno) = window.show(file.as_fd(), map.offset.get(), len) {
                    self.free.push(window);
                    return Err(errno);
                }
                Some(window)
            }
            _ => None,
        };
        let region = window.as_ref().map(|window| DmaRegion {
            span: window.span(usize::try_from(size).unwrap_or(usize::MAX)),
            iova: Iova(address),
            page_bytes: 4096,
        });
        self.pieces.push(Piece { address, size, window });
        Ok(region)
    }

    fn take_window(&mut self, len: usize) -> Result<Window, Errno> {
        let fits = |(_, window): &(usize, &Window)| window.len() >= len;
        let best = self.free.iter().enumerate().filter(fits).min_by_key(|(_, w)| w.len());
        match best.map(|(at, _)| at) {
            Some(at) => Ok(self.free.swap_remove(at)),
            None => Window::reserve(len),
        }
    }

    /// Takes a piece out, which must be one that was taken in; the model is to be told first.
    pub(super) fn find(&self, address: u64, size: u64) -> Result<Gone, Errno> {
        let fits = |p: &&Piece| p.address == address && p.size == size;
        self.pieces.iter().find(fits).map(|_| Gone(Iova(address))).ok_or(Errno::NOENT)
    }

    /// Every piece, for [`Self::forget`].
    pub(super) fn all(&self) -> Vec<Gone> {
        self.pieces.iter().map(|piece| Gone(Iova(piece.address))).collect()
    }

    /// The model was told: nothing of the piece is seen here from now on.
    pub(super) fn forget(&mut self, Gone(iova): &Gone) {
        let Some(at) = self.pieces.iter().position(|p| p.address == iova.0) else { return };
        if let Some(window) = self.pieces.swap_remove(at).window {
            // A window that cannot be blanked is given up, with its addresses: nothing that the
            // model still knows may become somebody else's memory.
            match window.blank() {
                Ok(()) => self.cooling.push(window),
                Err(_) => drop(window),
            }
        }
    }

    /// The controller was seen disabled: the model knows no address of an earlier time.
    pub(super) fn cool_down(&mut self) {
        self.free.append(&mut self.cooling);
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::little_endian::{U32, U64};

    use super::*;
    use crate::sys::memfd::{Memfd, PageSize};

    fn ask(address: u64, size: u64, offset: u64) -> DmaMap {
        DmaMap {
            argsz: U32::new(32),
            flags: U32::new(DmaMap::FLAG_READ | DmaMap::FLAG_WRITE),
            offset: U64::new(offset),
            address: U64::new(address),
            size: U64::new(size),
        }
    }

    fn file(bytes: usize) -> Option<OwnedFd> {
        let memfd = Memfd::create("client", bytes, PageSize::Small4K).expect("a file");
        Some(memfd.as_fd().try_clone_to_owned().expect("a descriptor"))
    }

    #[test]
    fn what_is_no_sound_piece_is_refused() {
        let mut memory = Memory::default();
        for (address, size, offset, errno) in [
            (0, 0, 0, Errno::INVAL),
            (0, 100, 0, Errno::INVAL),
            (5, 4096, 0, Errno::INVAL),
            (0, 4096, 5, Errno::INVAL),
            (u64::MAX - 4095, 8192, 0, Errno::OVERFLOW),
            (0, 8192, 0, Errno::FBIG),
            (0, 4096, 4096, Errno::FBIG),
            (0, 1 << 60, 0, Errno::NOMEM),
        ] {
            let refused = memory.map(&ask(address, size, offset), file(4096));
            assert_eq!(refused.map(|_| ()), Err(errno), "{address:#x} {size:#x} {offset:#x}");
        }
        assert!(memory.map(&ask(0x10000, 0x4000, 0), file(0x4000)).is_ok());
        for (address, size) in [(0x10000, 0x4000), (0xf000, 0x2000), (0x13000, 0x1000)] {
            let refused = memory.map(&ask(address, size, 0), file(0x4000));
            assert_eq!(refused.map(|_| ()), Err(Errno::EXIST), "{address:#x}");
        }
        assert_eq!(memory.find(0x10000, 0x2000), Err(Errno::NOENT));
        assert_eq!(memory.find(0x11000, 0x3000), Err(Errno::NOENT));
    }

    #[test]
    fn memory_that_cannot_be_reached_is_known_all_the_same() {
        let mut memory = Memory::default();
        assert_eq!(memory.map(&ask(0, 4096, 0), None).map(|r| r.is_some()), Ok(false));
        let mut read_only = ask(0x1000, 4096, 0);
        read_only.flags = U32::new(DmaMap::FLAG_READ);
        assert_eq!(memory.map(&read_only, file(4096)).map(|r| r.is_some()), Ok(false));
        assert_eq!(memory.all().len(), 2);
    }

    #[test]
    fn a_windows_addresses_are_used_again_only_after_the_controller_was_disabled() {
        let mut memory = Memory::default();
        let place = |memory: &mut Memory, address: u64| {
            let region = memory.map(&ask(address, 4096, 0), file(4096)).expect("mapped");
            region.expect("reachable").span
        };
        let first = place(&mut memory, 0);
        first.word64(0).expect("in bounds").store(7);
        let gone = memory.find(0, 4096).expect("there");
        memory.forget(&gone);
        assert_eq!(first.word64(0).expect("in bounds").load(), 0, "blank");
        let second = place(&mut memory, 0x1000);
        assert_ne!(second.as_ptr(), first.as_ptr());
        memory.cool_down();
        assert_eq!(place(&mut memory, 0x2000).as_ptr(), first.as_ptr());
    }
}
