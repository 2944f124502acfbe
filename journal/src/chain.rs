//! The chain: what ties each batch to all before it, where the journal has one.
//!
//! CRC32C finds accidents. The chain finds whoever puts another history in the place of this one,
//! for a reader who knows the chain at any later place from elsewhere. Its layout is
//! [`hybrid_abi::journal::Chain`].

use blake3::Hasher;
use hybrid_abi::journal::{CHAIN_CONTEXT, Chain, JOURNAL_MAGIC};

fn finish(hasher: &Hasher) -> Chain {
    let mut chain = Chain::default();
    hasher.finalize_xof().fill(&mut chain);
    chain
}

/// The chain of a journal that is empty.
pub(crate) fn genesis(id: u64) -> Chain {
    let mut hasher = Hasher::new_derive_key(CHAIN_CONTEXT);
    hasher.update(&JOURNAL_MAGIC.to_le_bytes()).update(&id.to_le_bytes());
    finish(&hasher)
}

/// The chain behind a batch, whose header has the one in front of it.
pub(crate) fn behind(batch: &[u8]) -> Chain {
    finish(Hasher::new_derive_key(CHAIN_CONTEXT).update(batch))
}
