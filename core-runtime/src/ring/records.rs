//! Records of any length over a ring of 64-bit words.
//!
//! Called by partitions for their events and by the host for its commands. A record is a
//! [`RecordHeader`] word and its payload in whole words; it may go over the end of the slots, since
//! it is copied word by word in any case. Several records can be staged and published at once.
//!
//! The consumer copies a record out before it looks at it: the header once, then the payload by the
//! length that was checked, into a buffer of its own. A kind that it does not know is skipped by
//! its length; a length beyond what was published closes the ring. The ends of words below are not
//! handed out: who closed them there would leave records staged that may never be published.

use core::cell::Cell;

use hybrid_abi::{Record, RecordHeader};

use super::cell::{OwnEnd, PeerEnd, Put, Take};
use super::engine::{Receiver, Sender};
use super::error::{Closed, PopError, PushError};
use super::index::Index;

/// The producer's end of a variable-length ring.
#[derive(Debug)]
pub struct RecordSender<O: OwnEnd, P> {
    words: Sender<O, P>,
    /// Index up to which records were written; published up to the tail only.
    staged: Cell<O::Index>,
    records: Cell<u64>,
}

impl<I, O, P> RecordSender<O, P>
where
    I: Index,
    O: Put<Index = I, Item = u64>,
    P: PeerEnd<Index = I>,
{
    /// Lays records over a ring of words.
    pub fn over(words: Sender<O, P>) -> Self {
        Self { staged: Cell::new(words.index.tail()), words, records: Cell::new(0) }
    }

    /// Writes and publishes one record.
    ///
    /// # Errors
    /// [`PushError`]; a record that found no room is counted as dropped.
    #[inline]
    pub fn write(&self, kind: u16, tag: u32, payload: &[u8]) -> Result<(), PushError> {
        self.stage(kind, tag, payload)?;
        self.publish();
        Ok(())
    }

    /// Writes and publishes a record of a kind with a fixed size.
    ///
    /// # Errors
    /// As [`RecordSender::write`].
    #[inline]
    pub fn send<R: Record>(&self, record: &R) -> Result<(), PushError> {
        self.write(R::KIND, 0, record.as_bytes())
    }

    /// Writes a record that the consumer will see at the next [`RecordSender::publish`].
    ///
    /// # Errors
    /// As [`RecordSender::write`].
    #[inline]
    pub fn stage(&self, kind: u16, tag: u32, payload: &[u8]) -> Result<(), PushError> {
        let header = self.claim(kind, tag, payload.len())?;
        let own = self.words.own;
        let mut at = self.staged.get();
        own.put(at, &header.to_word());
        let (chunks, rest) = payload.as_chunks::<8>();
        for chunk in chunks {
            at = at.plus(I::ONE);
            own.put(at, &u64::from_le_bytes(*chunk));
        }
        if !rest.is_empty() {
            at = at.plus(I::ONE);
            own.put(at, &word_of(rest));
        }
        self.staged.set(at.plus(I::ONE));
        self.records.set(self.records.get().wrapping_add(1));
        Ok(())
    }

    /// Publishes all staged records with one store.
    #[inline]
    pub fn publish(&self) {
        let staged = self.staged.get();
        if staged != self.words.index.tail() {
            self.words.publish(staged);
            self.words.own.tell_records(self.records.get());
        }
    }

    /// Claims room for a record of at most `most` bytes, to be written piece by piece.
    ///
    /// It is staged by [`Reservation::commit`], and forgotten when it is dropped before.
    ///
    /// # Errors
    /// As [`RecordSender::write`].
    pub fn reserve(
        &mut self,
        kind: u16,
        tag: u32,
        most: usize,
    ) -> Result<Reservation<'_, O, P>, PushError> {
        let header = self.claim(kind, tag, most)?;
        Ok(Reservation {
            at: self.staged.get().plus(I::ONE),
            header: RecordHeader { len: 0, ..header },
            most: header.len,
            part: 0,
            ring: self,
        })
    }

    /// Whether a record of `len` bytes would fit now; asks the peer if need be, counts nothing.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn has_room(&self, len: usize) -> Result<bool, Closed> {
        let Ok((_, words)) = self.shape(0, 0, len) else {
            return Ok(false);
        };
        let from = self.staged.get();
        if self.words.index.has_room(from, words) {
            return Ok(true);
        }
        match self.make_room(from, words) {
            Ok(()) => Ok(true),
            Err(PushError::Closed(closed)) => Err(closed),
            Err(_) => Ok(false),
        }
    }

    /// Records written so far, published or not.
    pub fn records(&self) -> u64 {
        self.records.get()
    }

    /// Bytes of the ring.
    pub fn capacity(&self) -> usize {
        bytes(self.words.capacity())
    }

    /// Published bytes in use, as far as this end has seen: never less than there are.
    pub fn depth(&self) -> usize {
        bytes(self.words.depth())
    }

    /// Looks at the peer, so that [`RecordSender::depth`] and the high-water mark are those of now.
    pub fn look(&self) {
        // Closed or full, a look is a look.
        let _ = self.make_room(self.staged.get(), I::ZERO);
    }

    /// Most bytes that were seen in use at once, as [`Sender::high_water`] sees it.
    pub fn high_water(&self) -> usize {
        bytes(self.words.high_water())
    }

    /// Records that were refused because the ring was full.
    pub fn dropped(&self) -> u64 {
        self.words.dropped()
    }

    /// Why the end is closed, if it is.
    pub fn closed(&self) -> Option<Closed> {
        self.words.closed()
    }

    /// Publishes what was staged and says that nothing more will come.
    pub fn close(&self) {
        self.publish();
        self.words.close();
    }

    /// The header and the words of a record, if it can ever fit.
    #[inline]
    fn shape(&self, kind: u16, tag: u32, len: usize) -> Result<(RecordHeader, I), PushError> {
        let in_ring = (self.words.capacity() as usize).saturating_mul(8).saturating_sub(8);
        let allowed = in_ring.min(u16::MAX.into());
        match u16::try_from(len) {
            Ok(short) if len <= allowed => {
                let header = RecordHeader { kind, len: short, tag };
                Ok((header, I::from_u32(header.words())))
            }
            _ => Err(PushError::TooLong { len, allowed }),
        }
    }

    /// Room for a record behind what is staged.
    #[inline]
    fn claim(&self, kind: u16, tag: u32, len: usize) -> Result<RecordHeader, PushError> {
        let (header, words) = self.shape(kind, tag, len)?;
        let from = self.staged.get();
        if !self.words.index.has_room(from, words) {
            self.make_room(from, words).inspect_err(|error| self.words.count_refused(*error))?;
        }
        Ok(header)
    }

    #[cold]
    #[inline(never)]
    fn make_room(&self, from: I, words: I) -> Result<(), PushError> {
        let made = self.words.make_room(from, words);
        if let Err(PushError::Closed(_)) = made {
            // What was staged and not published is lost, and there is no room ever again.
            self.staged.set(self.words.index.tail());
        }
        made
    }
}

/// A record that is being written piece by piece.
#[derive(Debug)]
pub struct Reservation<'r, O: OwnEnd, P> {
    ring: &'r RecordSender<O, P>,
    header: RecordHeader,
    most: u16,
    /// Index of the word that is being filled.
    at: O::Index,
    /// Its bytes so far.
    part: u64,
}

impl<I, O, P> Reservation<'_, O, P>
where
    I: Index,
    O: Put<Index = I, Item = u64>,
    P: PeerEnd<Index = I>,
{
    /// Appends bytes to the payload.
    ///
    /// # Errors
    /// [`PushError::TooLong`] if they are more than were reserved; nothing was appended.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), PushError> {
        let left = self.most - self.header.len;
        match u16::try_from(bytes.len()) {
            Ok(len) if len <= left => {}
            _ => {
                return Err(PushError::TooLong { len: bytes.len(), allowed: left.into() });
            }
        }
        for &byte in bytes {
            self.part |= u64::from(byte) << (8 * (self.header.len % 8));
            self.header.len += 1;
            if self.header.len.is_multiple_of(8) {
                self.ring.words.own.put(self.at, &self.part);
                self.at = self.at.plus(I::ONE);
                self.part = 0;
            }
        }
        Ok(())
    }

    /// Bytes that can still be appended.
    pub fn left(&self) -> u16 {
        self.most - self.header.len
    }

    /// Stages the record with what was appended; [`RecordSender::publish`] shows it.
    pub fn commit(self) {
        let ring = self.ring;
        if !self.header.len.is_multiple_of(8) {
            ring.words.own.put(self.at, &self.part);
        }
        let first = ring.staged.get();
        ring.words.own.put(first, &self.header.to_word());
        ring.staged.set(first.plus(I::from_u32(self.header.words())));
        ring.records.set(ring.records.get().wrapping_add(1));
    }
}

/// The consumer's end of a variable-length ring.
#[derive(Debug)]
pub struct RecordReceiver<O: OwnEnd, P> {
    words: Receiver<O, P>,
    records: Cell<u64>,
}

impl<I, O, P> RecordReceiver<O, P>
where
    I: Index,
    O: OwnEnd<Index = I>,
    P: Take<Index = I, Item = u64>,
{
    /// Reads records from a ring of words.
    pub fn over(words: Receiver<O, P>) -> Self {
        Self { words, records: Cell::new(0) }
    }

    /// Takes one record: its header, and its payload at the start of `buffer`.
    ///
    /// # Errors
    /// [`PopError::Empty`]; [`PopError::TooLong`] for a record that was skipped because `buffer` is
    /// too short; [`PopError::Closed`].
    pub fn read(&self, buffer: &mut [u8]) -> Result<RecordHeader, PopError> {
        let taken = self.take(buffer)?;
        self.done(1);
        taken
    }

    /// Takes at most `most` records, gives each to `each`, and frees their room at once.
    ///
    /// Gives the number of records taken, those that `buffer` was too short for included; they are
    /// skipped and counted. `each` may read further records and close the end.
    ///
    /// # Errors
    /// [`Closed`] if nothing was taken.
    pub fn drain(
        &self,
        most: u32,
        buffer: &mut [u8],
        mut each: impl FnMut(RecordHeader, &[u8]),
    ) -> Result<u32, Closed> {
        let mut count = 0;
        while count < most {
            match self.take(buffer) {
                Ok(taken) => {
                    count += 1;
                    if let Ok(header) = taken {
                        each(header, buffer.get(..header.len.into()).unwrap_or_default());
                    }
                }
                Err(PopError::Closed(closed)) if count == 0 => return Err(closed),
                Err(_) => break,
            }
        }
        if count != 0 {
            self.done(count);
        }
        Ok(count)
    }

    /// Records taken so far.
    pub fn records(&self) -> u64 {
        self.records.get()
    }

    /// Bytes of the ring.
    pub fn capacity(&self) -> usize {
        bytes(self.words.capacity())
    }

    /// Bytes that wait, as far as this end has seen: never more than there are.
    pub fn ready(&self) -> usize {
        bytes(self.words.ready())
    }

    /// Most bytes that were found waiting at once.
    pub fn high_water(&self) -> usize {
        bytes(self.words.high_water())
    }

    /// Records that were longer than the buffer for them.
    pub fn skipped(&self) -> u64 {
        self.words.skipped()
    }

    /// Why the end is closed, if it is.
    pub fn closed(&self) -> Option<Closed> {
        self.words.closed()
    }

    /// Says that nothing more will be read.
    pub fn close(&self) {
        self.words.close();
    }

    /// Takes the record at the head: copies it out, or says why it was skipped. The head is behind
    /// it then, and its room is still ours.
    fn take(&self, buffer: &mut [u8]) -> Result<Result<RecordHeader, PopError>, PopError> {
        let index = &self.words.index;
        if index.ready() == I::ZERO {
            self.words.look()?;
        }
        let (at, ready) = (index.head(), index.ready());
        let header = RecordHeader::from_word(self.words.peer.take(at));
        if header.words() > ready.to_u32() {
            let closed = Closed::Record { words: header.words(), ready: ready.to_u32() };
            self.words.shut(closed);
            return Err(PopError::Closed(closed));
        }
        index.advance(at.plus(I::from_u32(header.words())));
        let len = usize::from(header.len);
        let size = buffer.len();
        let Some(payload) = buffer.get_mut(..len) else {
            self.words.count_skipped();
            return Ok(Err(PopError::TooLong { len, buffer: size }));
        };
        let peer = self.words.peer;
        let mut from = at.plus(I::ONE);
        let (chunks, rest) = payload.as_chunks_mut::<8>();
        for chunk in chunks {
            *chunk = peer.take(from).to_le_bytes();
            from = from.plus(I::ONE);
        }
        if !rest.is_empty() {
            let word = peer.take(from).to_le_bytes();
            rest.iter_mut().zip(word).for_each(|(to, byte)| *to = byte);
        }
        Ok(Ok(header))
    }

    /// Frees the room of what was taken, `count` records of it just now.
    fn done(&self, count: u32) {
        self.words.release_taken();
        let records = self.records.get().wrapping_add(count.into());
        self.records.set(records);
        self.words.own.tell_records(records);
    }
}

/// Bytes of so many words.
const fn bytes(words: u32) -> usize {
    (words as usize).saturating_mul(8)
}

/// Up to 8 bytes as a word, the rest zero.
fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.iter_mut().zip(bytes).for_each(|(to, &byte)| *to = byte);
    u64::from_le_bytes(word)
}
