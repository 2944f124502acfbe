//! A namespace: geometry, checked once, and its store.

use crate::cache::Cache;
use crate::config::{NamespaceConfig, Patch};
use crate::error::ModelError;
use crate::store::{Store, StoreError};
use nvme_spec::{IdentifyNamespace, LbaFormat, NamespaceDescriptor, NamespaceFeatures, Nsid};
use zerocopy::{FromZeros, IntoBytes};

/// Reads of deallocated blocks return zeros, and Write Zeroes may deallocate (DLFEAT).
const DLFEAT: u8 = 0b1001;

/// A namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) nsid: Nsid,
    pub(crate) blocks: u64,
    /// Bytes of data a block.
    pub(crate) lba_bytes: u32,
    /// Bytes of metadata a block.
    pub(crate) metadata_bytes: u32,
    pub(crate) extended: bool,
    pub(crate) command_set: u8,
    pub(crate) write_protected: bool,
    pub(crate) store: Store,
    pub(crate) cache: Option<Box<Cache>>,
    /// Blocks that Identify tells of instead.
    pub(crate) claimed_blocks: Option<u64>,
    patches: Vec<Patch>,
    atomic_z: [u16; 2],
}

impl Namespace {
    pub(crate) fn new(config: &NamespaceConfig, atomic_z: [u16; 2]) -> Result<Self, ModelError> {
        if config.nsid == 0 || config.nsid == u32::MAX {
            return Err(ModelError::Nsid(config.nsid));
        }
        if !config.lba_bytes.is_power_of_two() || !(512..=65_536).contains(&config.lba_bytes) {
            return Err(ModelError::Config {
                field: "lba_bytes",
                value: u64::from(config.lba_bytes),
                allowed: "powers of two from 512 to 65536",
            });
        }
        let nsid = config.nsid;
        let block_bytes = u64::from(config.lba_bytes) + u64::from(config.metadata_bytes);
        let size_error = |blocks| ModelError::NamespaceSize { nsid, blocks, block_bytes };
        let bytes = config.blocks.checked_mul(block_bytes);
        let bytes = bytes.ok_or_else(|| size_error(config.blocks))?;
        let (store, bytes) = Store::open(nsid, &config.backing, bytes, block_bytes)?;
        let blocks = bytes / block_bytes;
        if blocks == 0 {
            return Err(size_error(0));
        }
        Ok(Self {
            nsid: Nsid(nsid),
            blocks,
            lba_bytes: config.lba_bytes,
            metadata_bytes: u32::from(config.metadata_bytes),
            extended: config.extended_metadata && config.metadata_bytes != 0,
            command_set: config.command_set,
            write_protected: config.write_protected,
            store,
            cache: None,
            claimed_blocks: None,
            patches: config.identify_patches.clone(),
            atomic_z,
        })
    }

    /// Remembers from now on what a power cut can lose; pieces of `atomic` blocks are not torn.
    pub(crate) fn keep_cache(&mut self, atomic: u32) {
        if let Store::Memory(memory) = &self.store {
            self.cache = Some(Box::new(Cache::new(memory, self.stride(), u64::from(atomic))));
        }
    }

    /// A write has changed these blocks; `through` says that it is durable already.
    pub(crate) fn wrote(
        &mut self,
        slba: u64,
        blocks: u64,
        through: bool,
    ) -> Result<(), StoreError> {
        match (&mut self.cache, &self.store) {
            (Some(cache), Store::Memory(memory)) => cache.wrote(slba, blocks, through, memory),
            _ if through => self.store.flush()?,
            _ => {}
        }
        Ok(())
    }

    /// Makes everything written durable.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        if let Some(cache) = &mut self.cache {
            cache.flush();
        }
        self.store.flush()
    }

    /// Bytes of a block in the store.
    #[inline]
    pub(crate) const fn stride(&self) -> u64 {
        self.lba_bytes as u64 + self.metadata_bytes as u64
    }

    /// Bytes of a block in the host's data buffer.
    #[inline]
    pub(crate) const fn transfer_bytes(&self) -> u64 {
        if self.extended { self.stride() } else { self.lba_bytes as u64 }
    }

    /// Metadata goes through MPTR.
    #[inline]
    pub(crate) const fn separate(&self) -> bool {
        self.metadata_bytes != 0 && !self.extended
    }

    /// Identify namespace.
    pub(crate) fn identify(&self) -> IdentifyNamespace {
        let mut id = IdentifyNamespace::new_zeroed();
        let blocks = self.claimed_blocks.unwrap_or(self.blocks);
        id.nsze = blocks.into();
        id.ncap = blocks.into();
        id.nuse = blocks.into();
        id.nsfeat = NamespaceFeatures::ATOMICITY.bits();
        id.flbas = u8::from(self.extended) << 4;
        id.mc = u8::from(self.metadata_bytes != 0) * if self.extended { 1 } else { 2 };
        id.dlfeat = DLFEAT;
        id.nawun_z = self.atomic_z[0].into();
        id.nawupf_z = self.atomic_z[1].into();
        id.nvmcap = (u128::from(self.blocks) * u128::from(self.lba_bytes)).into();
        id.nsattr = u8::from(self.write_protected);
        id.nguid = self.nguid();
        let lbads = self.lba_bytes.trailing_zeros().to_le_bytes()[0];
        let ms = self.metadata_bytes.to_le_bytes();
        let format = LbaFormat::new().with_lbads(lbads).with_ms(u16::from_le_bytes([ms[0], ms[1]]));
        id.lbaf[0] = u32::from(format).into();
        apply(&self.patches, id.as_mut_bytes());
        id
    }

    fn nguid(&self) -> [u8; 16] {
        let mut nguid = *b"hybridmodel\0\0\0\0\0";
        nguid[12..].copy_from_slice(&self.nsid.0.to_be_bytes());
        nguid
    }

    /// The identification descriptor list.
    pub(crate) fn descriptors(&self) -> [u8; 4096] {
        let mut list = [0; 4096];
        list[0] = NamespaceDescriptor::NIDT_NGUID;
        list[1] = 16;
        list[4..20].copy_from_slice(&self.nguid());
        list[20] = NamespaceDescriptor::NIDT_CSI;
        list[21] = 1;
        list[24] = self.command_set;
        list
    }
}

/// Applies patches; what would leave the bytes is dropped.
pub(crate) fn apply(patches: &[Patch], bytes: &mut [u8]) {
    for patch in patches {
        let end = patch.offset.saturating_add(patch.bytes.len());
        if let Some(place) = bytes.get_mut(patch.offset..end) {
            place.copy_from_slice(&patch.bytes);
        }
    }
}
