//! What callers ask of a bridge: each request is checked here against the device's shape, and made
//! as the host wants it. Sending it, and its end, is [`super::client`].

use core_runtime::mem::DmaBuf;
use hybrid_abi::bridge::{
    BRIDGE_CAN_DISCARD, BRIDGE_CAN_ZERO, BRIDGE_DISCARD, BRIDGE_FLUSH, BRIDGE_FUA, BRIDGE_READ,
    BRIDGE_WRITE, BRIDGE_WRITE_CACHE, BRIDGE_ZEROES, BridgeRequest,
};
use nvme_spec::Lba;

use super::client::Bridge;
use super::future::{BridgeCommand, BridgeIo};
use crate::error::{Failed, IoError};
use crate::namespace::WriteFlags;

impl Bridge {
    /// As [`crate::Namespace::read`].
    pub fn read(&'static self, slba: Lba, buf: DmaBuf) -> BridgeIo {
        BridgeIo::start(self, self.transfer(BRIDGE_READ, slba, &buf, 0), buf)
    }

    /// As [`crate::Namespace::write`].
    pub fn write(&'static self, slba: Lba, buf: DmaBuf, flags: WriteFlags) -> BridgeIo {
        BridgeIo::start(self, self.transfer(BRIDGE_WRITE, slba, &buf, bits(flags)), buf)
    }

    /// As [`crate::Namespace::try_read`].
    ///
    /// # Errors
    /// [`IoError::QueueFull`], or why the request is refused; the buffer comes back.
    pub fn try_read(&'static self, slba: Lba, buf: DmaBuf) -> Result<BridgeIo, Failed> {
        BridgeIo::try_start(self, self.transfer(BRIDGE_READ, slba, &buf, 0), buf)
    }

    /// As [`crate::Namespace::try_write`].
    ///
    /// # Errors
    /// As for [`Bridge::try_read`].
    pub fn try_write(
        &'static self,
        slba: Lba,
        buf: DmaBuf,
        flags: WriteFlags,
    ) -> Result<BridgeIo, Failed> {
        BridgeIo::try_start(self, self.transfer(BRIDGE_WRITE, slba, &buf, bits(flags)), buf)
    }

    /// As [`crate::Namespace::flush`].
    pub fn flush(&'static self) -> BridgeCommand {
        if !self.can(BRIDGE_WRITE_CACHE) {
            return BridgeCommand::done();
        }
        let request = BridgeRequest { op: BRIDGE_FLUSH, ..BridgeRequest::default() };
        BridgeCommand::start(self, Ok(request))
    }

    /// As [`crate::Namespace::write_zeroes`].
    pub fn write_zeroes(&'static self, slba: Lba, nlb: u64, flags: WriteFlags) -> BridgeCommand {
        let can = self.can(BRIDGE_CAN_ZERO);
        let request = self.blocks_only(BRIDGE_ZEROES, slba, nlb, can, "write zeroes");
        let request = request.map(|request| BridgeRequest { flags: bits(flags), ..request });
        BridgeCommand::start(self, request)
    }

    /// As [`crate::Namespace::deallocate`].
    pub fn discard(&'static self, slba: Lba, nlb: u64) -> BridgeCommand {
        let can = self.can(BRIDGE_CAN_DISCARD);
        BridgeCommand::start(self, self.blocks_only(BRIDGE_DISCARD, slba, nlb, can, "discard"))
    }

    fn transfer(
        &self,
        op: u16,
        slba: Lba,
        buf: &DmaBuf,
        flags: u16,
    ) -> Result<BridgeRequest, IoError> {
        let (len, lba_bytes) = (buf.len(), self.shape.lba_bytes);
        if len == 0 || len & (lba_bytes as usize - 1) != 0 {
            return Err(IoError::BadLength { len_bytes: len, lba_bytes });
        }
        let addr = buf.iova().0;
        if addr & u64::from(self.info.buffer_align - 1) != 0 {
            return Err(IoError::Unaligned(addr));
        }
        let nlb = (len >> self.shape.lba_shift) as u64;
        self.check_range(slba, nlb)?;
        Ok(BridgeRequest { op, flags, cid: 0, slba: slba.0, addr, nlb })
    }

    fn blocks_only(
        &self,
        op: u16,
        slba: Lba,
        nlb: u64,
        can: bool,
        what: &'static str,
    ) -> Result<BridgeRequest, IoError> {
        if !can {
            return Err(IoError::Unsupported(what));
        }
        self.check_range(slba, nlb)?;
        Ok(BridgeRequest { op, slba: slba.0, nlb, ..BridgeRequest::default() })
    }

    pub(super) const fn check_range(&self, slba: Lba, nlb: u64) -> Result<(), IoError> {
        let blocks = self.shape.blocks;
        if slba.0 < blocks && nlb != 0 && nlb <= blocks - slba.0 {
            return Ok(());
        }
        Err(IoError::OutOfRange { slba, nlb, blocks })
    }
}

const fn bits(flags: WriteFlags) -> u16 {
    if flags.contains(WriteFlags::FUA) { BRIDGE_FUA } else { 0 }
}
