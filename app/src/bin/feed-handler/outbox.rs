//! Packets on their way into a journal: each is kept until the partition says that it is durable.
//!
//! Filled and emptied by `record`. A partition that ends, for whatever reason, has some packets of
//! which nobody knows whether they are in the journal. The next one says where the journal ends
//! before it gets anything: what is behind that is sent again, so that each packet is recorded
//! once.
//!
//! ```text
//!            mark()                     next(), sent()             mark()
//!  closed ───────────► open: waiting ─────────────────► sent ─────────────► durable, forgotten
//!     ▲    what is there is dropped,                      │
//!     └──  the rest waits again    ◄── again() ───────────┘
//! ```

use std::collections::VecDeque;

use hybrid_abi::feed_journal::JournalMark;

/// Nanoseconds since 1970-01-01, then the packet.
pub(crate) type Arrival = Vec<u8>;

/// The packets, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    packets: VecDeque<Arrival>,
    /// So many of them were sent, and not acknowledged.
    sent: usize,
    /// The partition has said where its journal ends.
    open: bool,
    /// The record that the first of them is, or will be.
    first: Option<u64>,
    /// The record that the first packet of all became.
    begun: Option<u64>,
    made: bool,
    again: u64,
}

/// A journal that is not the one that was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Astray {
    /// Acknowledged records are not there.
    #[error(
        "records {end} to {} were acknowledged, and the journal ends before them: it is another \
         one, or its device lost what it had flushed", .acknowledged - 1
    )]
    Lost { end: u64, acknowledged: u64 },
    /// More records are there than were sent.
    #[error(
        "the journal ends at record {end}, and what was sent at {sent}: another program writes it"
    )]
    Foreign { end: u64, sent: u64 },
}

impl Outbox {
    /// A packet came.
    pub(crate) fn push(&mut self, packet: Arrival) {
        self.packets.push_back(packet);
    }

    /// The next packet to send, if the partition takes any yet.
    pub(crate) fn next(&self) -> Option<&[u8]> {
        let waiting = self.packets.get(self.sent).filter(|_| self.open);
        waiting.map(Vec::as_slice)
    }

    /// That one was sent.
    pub(crate) fn sent(&mut self) {
        self.sent = (self.sent + 1).min(self.packets.len());
    }

    /// Whether nothing is left to be sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.open && self.sent == self.packets.len()
    }

    /// The partition says how far its journal goes.
    ///
    /// # Errors
    /// [`Astray`]; the outbox stays as it was.
    pub(crate) fn mark(&mut self, mark: JournalMark) -> Result<(), Astray> {
        let end = mark.end;
        let first = *self.first.get_or_insert(end);
        self.begun.get_or_insert(end);
        self.made |= mark.made != 0;
        let lost = Astray::Lost { end, acknowledged: first };
        let more = end.checked_sub(first).ok_or(lost)?;
        let sent = first.saturating_add(self.sent as u64);
        let more = usize::try_from(more).ok().filter(|more| *more <= self.sent);
        let more = more.ok_or(Astray::Foreign { end, sent })?;
        self.packets.drain(..more);
        self.sent -= more;
        self.first = Some(end);
        if !self.open {
            // Nobody has the rest any more.
            self.again += self.sent as u64;
            self.sent = 0;
            self.open = true;
        }
        Ok(())
    }

    /// The partition has ended; another one takes its place.
    pub(crate) const fn again(&mut self) {
        self.open = false;
    }

    /// Whether records of this run may be in a journal.
    pub(crate) const fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Whether the journal was made for this run.
    pub(crate) const fn made(&self) -> bool {
        self.made
    }

    /// Packets that are durable, in all.
    pub(crate) fn durable(&self) -> u64 {
        self.first.zip(self.begun).map_or(0, |(first, begun)| first - begun)
    }

    /// Packets that were sent twice.
    pub(crate) const fn sent_again(&self) -> u64 {
        self.again
    }

    /// Packets of which nobody knows, and packets that are surely not in the journal.
    pub(crate) fn left(&self) -> (usize, usize) {
        (self.sent, self.packets.len() - self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_conventions::testing::Random;

    const fn mark(end: u64) -> JournalMark {
        JournalMark { end, made: 0, reserved: 0 }
    }

    /// A journal in front of which partitions die.
    #[derive(Default)]
    struct Model {
        outbox: Outbox,
        journal: Vec<Vec<u8>>,
        /// With the partition.
        with: VecDeque<Vec<u8>>,
    }

    impl Model {
        fn open(&mut self) {
            self.outbox.mark(mark(7 + self.journal.len() as u64)).expect("its own journal");
        }

        fn send(&mut self, most: u64) {
            for _ in 0..most {
                let Some(packet) = self.outbox.next() else { return };
                self.with.push_back(packet.to_vec());
                self.outbox.sent();
            }
        }

        fn write(&mut self, most: u64) {
            let most = usize::try_from(most).expect("few").min(self.with.len());
            self.journal.extend(self.with.drain(..most));
        }

        /// Some of what was not acknowledged is in the journal all the same.
        fn die(&mut self, random: &mut Random) {
            self.write(random.below(4));
            self.with.clear();
            self.outbox.again();
        }
    }

    #[test]
    fn each_packet_is_recorded_once_whenever_partitions_die() {
        let seeds = if cfg!(miri) { 3 } else { 200 };
        for seed in 1..=seeds {
            let mut random = Random::new(seed);
            let (mut model, mut came) = (Model::default(), 0_u64);
            while came < 200 {
                match random.below(20) {
                    0 => model.die(&mut random),
                    1..=3 => model.open(),
                    4..=9 => {
                        model.outbox.push(came.to_le_bytes().to_vec());
                        came += 1;
                    }
                    10..=14 => model.send(random.below(5)),
                    _ => model.write(random.below(4)),
                }
            }
            model.open();
            model.send(u64::MAX);
            model.write(1000);
            model.open();
            assert!(model.outbox.is_sent(), "seed {seed}");
            assert_eq!((model.outbox.left(), model.outbox.durable()), ((0, 0), 200), "seed {seed}");
            let sent = (0..200_u64).map(|number| number.to_le_bytes().to_vec());
            assert!(model.journal.iter().cloned().eq(sent), "seed {seed}: {:?}", model.journal);
        }
    }

    #[test]
    fn nothing_is_sent_before_the_partition_says_where_its_journal_ends() {
        let mut outbox = Outbox::default();
        outbox.push(vec![1]);
        assert_eq!((outbox.next(), outbox.is_sent(), outbox.has_begun()), (None, false, false));
        outbox.mark(JournalMark { made: 1, ..mark(5) }).expect("the first word");
        assert_eq!(outbox.next(), Some(&[1][..]));
        assert!(outbox.made() && outbox.has_begun());
        outbox.sent();
        assert_eq!((outbox.next(), outbox.is_sent(), outbox.left()), (None, true, (1, 0)));
        outbox.again();
        assert!(!outbox.is_sent(), "it is unknown");
        outbox.mark(mark(5)).expect("it was lost");
        assert_eq!((outbox.next(), outbox.sent_again()), (Some(&[1][..]), 1));
    }

    #[test]
    fn a_journal_that_is_another_one_is_named() {
        let mut outbox = Outbox::default();
        outbox.mark(mark(5)).expect("the first word");
        for packet in 0..3 {
            outbox.push(vec![packet]);
            outbox.sent();
        }
        outbox.mark(mark(7)).expect("two are durable");
        outbox.again();
        let lost = outbox.mark(mark(5)).expect_err("they are not there");
        assert_eq!(lost, Astray::Lost { end: 5, acknowledged: 7 });
        assert!(lost.to_string().starts_with("records 5 to 6 were acknowledged"), "{lost}");
        let foreign = outbox.mark(mark(9)).expect_err("nobody sent so many");
        assert_eq!(foreign, Astray::Foreign { end: 9, sent: 8 });
    }
}
