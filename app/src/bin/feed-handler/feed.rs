//! The feed on its way from the host to the partition: a file, or a day made on the spot.
//!
//! Called by `run` between two looks at the partition: [`Feed::push`] puts as many records into the
//! command ring as there is room for and never blocks. Framing is the partition's to check.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use feed_handler::error::{FeedError, FrameFault};
use feed_handler::framing::FileFramer;
use feed_handler::synth::{StockSlot, Synth, SynthConfig};
use host_bridge::PartitionHandle;
use hybrid_abi::feed_job::{FEED_DATA_BYTES, KIND_FEED_ABORT, KIND_FEED_DATA, KIND_FEED_END};
use hybrid_abi::feed_journal::JournalMark;

use crate::failure::Failure;

/// Where the bytes come from.
enum Origin {
    File(File),
    Synth(Box<Synth<'static>>, SynthConfig),
    /// Packets off the network.
    Packets(Box<dyn Packets>),
}

/// What comes in packets and is sent as it comes.
pub(crate) trait Packets {
    /// Looks for packets and sends what there is room for; returns whether it is over.
    ///
    /// # Errors
    /// When nothing more can come; the partition is told then.
    fn push(&mut self, partition: &mut PartitionHandle) -> io::Result<bool>;

    /// The partition says how far its journal goes.
    fn mark(&mut self, mark: JournalMark);

    /// Another partition takes the place of the one that had them. Whether packets of this run may
    /// be in the journal.
    fn again(&mut self) -> bool;
}

/// Bytes of a synthetic day's message on average, with its prefix: 30.8 over seeds.
const SYNTHETIC_MESSAGE_BYTES: u64 = 31;

/// Bytes of a file that are looked at before anything else is done: far more than the two messages
/// that garbage can pass for, in one read.
const LOOK_BYTES: usize = 256 << 10;

/// Refuses what is no feed, before a device is touched for it.
fn look(file: &File, bytes: u64, path: &Path) -> Result<(), Failure> {
    let mut start = vec![0; LOOK_BYTES];
    let mut filled = 0;
    while let Some(room) = start.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read_at(room, filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::file("feed", path, &error)),
        }
    }
    start.truncate(filled);
    let mut framer = FileFramer::new();
    let framed = framer.push(&start, |_| Ok::<(), FrameFault>(())).and_then(|()| {
        // The whole file was seen, or none of it is a message.
        let whole = filled as u64 >= bytes;
        if whole || framer.messages() == 0 { framer.finish() } else { Ok(()) }
    });
    framed.map_err(|fault| {
        let path = path.display();
        if framer.ended() && framer.messages() == 0 {
            return Failure::error(format_args!(
                "feed {path}: message 1 at byte offset 0: this is not an ITCH 5.0 feed: it begins \
                 with a length of zero, which ends one"
            ));
        }
        Failure::error(format_args!("feed {path}: {}", FeedError::from(fault)))
    })
}

/// A day from its beginning. Its table of stocks is small, and stays until the program ends.
fn synth(config: SynthConfig) -> Result<Synth<'static>, Failure> {
    let slots = vec![StockSlot::default(); usize::from(config.stocks)];
    Synth::new(config, slots.leak()).map_err(Failure::error)
}

/// Refuses to write over the feed itself.
pub(crate) fn refuse_same_file(feed: &Path, what: &str, output: &Path) -> Result<(), Failure> {
    let (Ok(feed_meta), Ok(meta)) = (std::fs::metadata(feed), std::fs::metadata(output)) else {
        return Ok(());
    };
    if (feed_meta.dev(), feed_meta.ino()) == (meta.dev(), meta.ino()) {
        return Err(Failure::error(format_args!(
            "{what} {} is the feed itself; name another file",
            output.display()
        )));
    }
    Ok(())
}

/// A feed that is being sent.
pub(crate) struct Feed {
    origin: Origin,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that wait for room.
    waiting: usize,
    name: String,
    bytes: u64,
    expected: u64,
    over: bool,
}

impl Feed {
    /// A file.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let refused = |error: io::Error| Failure::file("feed", path, &error);
        // Before it is opened: to open a pipe is to wait for its writer.
        let meta = std::fs::metadata(path).map_err(refused)?;
        if !meta.is_file() {
            return Err(Failure::error(format_args!(
                "feed {}: not a regular file",
                path.display()
            )));
        }
        if meta.len() == 0 {
            return Err(Failure::error(format_args!(
                "feed {}: message 1 at byte offset 0: the file is empty; an ITCH file holds \
                 messages behind 2-byte big-endian lengths",
                path.display()
            )));
        }
        let file = File::open(path).map_err(refused)?;
        look(&file, meta.len(), path)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self::new(Origin::File(file), name, meta.len(), meta.len()))
    }

    /// A synthetic day.
    pub(crate) fn synthetic(config: SynthConfig) -> Result<Self, Failure> {
        let synth = synth(config)?;
        let name = format!("synthetic seed {}", config.seed);
        let expected = config.messages.saturating_mul(SYNTHETIC_MESSAGE_BYTES);
        Ok(Self::new(Origin::Synth(Box::new(synth), config), name, config.most_bytes(), expected))
    }

    /// Packets, from wherever.
    pub(crate) fn packets(packets: Box<dyn Packets>, name: String, bytes: u64) -> Self {
        Self::new(Origin::Packets(packets), name, bytes, 0)
    }

    fn new(origin: Origin, name: String, bytes: u64, expected: u64) -> Self {
        let buffer = vec![0; FEED_DATA_BYTES];
        Self { origin, buffer, waiting: 0, name, bytes, expected, over: false }
    }

    /// Begins anew, for a partition that was started again; packets go on where its journal ends.
    /// Whether what it writes to may hold some of them.
    ///
    /// # Errors
    /// If the file cannot be read again.
    pub(crate) fn rewind(&mut self) -> Result<bool, Failure> {
        let goes_on = match &mut self.origin {
            Origin::File(file) => file.rewind().map(|()| false).map_err(Failure::error)?,
            Origin::Synth(old, config) => {
                **old = synth(*config)?;
                false
            }
            Origin::Packets(packets) => packets.again(),
        };
        (self.waiting, self.over) = (0, false);
        Ok(goes_on)
    }

    /// The partition says how far its journal goes.
    pub(crate) fn mark(&mut self, mark: JournalMark) {
        if let Origin::Packets(packets) = &mut self.origin {
            packets.mark(mark);
        }
    }

    /// The feed's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the feed: a file's length, or the most that a synthetic day can have.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that the feed will about have: a file's length, or a day's on average.
    pub(crate) const fn expected(&self) -> u64 {
        self.expected
    }

    /// Sends what there is room for; returns whether anything was sent.
    ///
    /// # Errors
    /// When the file cannot be read any further; the partition was told.
    pub(crate) fn push(&mut self, partition: &mut PartitionHandle) -> io::Result<bool> {
        if let Origin::Packets(packets) = &mut self.origin {
            if !self.over {
                self.over = packets.push(partition).inspect_err(|_| {
                    // A ring that is full or closed has other ways to say it.
                    let _ = partition.command(KIND_FEED_ABORT, 0, &[]);
                })?;
            }
            return Ok(false);
        }
        let mut sent = false;
        while !self.over {
            if self.waiting == 0 {
                match self.fill() {
                    Ok(bytes) => self.waiting = bytes,
                    Err(error) => {
                        self.over = partition.command(KIND_FEED_ABORT, 0, &[]).is_ok();
                        return Err(error);
                    }
                }
            }
            let record = match self.waiting {
                0 => (KIND_FEED_END, &[][..]),
                waiting => (KIND_FEED_DATA, self.buffer.get(..waiting).unwrap_or_default()),
            };
            if partition.command(record.0, 0, record.1).is_err() {
                break;
            }
            self.over = self.waiting == 0;
            self.waiting = 0;
            sent = true;
        }
        Ok(sent)
    }

    /// Fills the buffer, wholly but at the end of the feed.
    fn fill(&mut self) -> io::Result<usize> {
        match &mut self.origin {
            Origin::Packets(_) => Ok(0),
            Origin::Synth(synth, _) => Ok(synth.fill(&mut self.buffer)),
            Origin::File(file) => {
                let mut filled = 0;
                while let Some(room) = self.buffer.get_mut(filled..).filter(|r| !r.is_empty()) {
                    match file.read(room) {
                        Ok(0) => break,
                        Ok(bytes) => filled += bytes,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(filled)
            }
        }
    }
}
