//! The state words of a partition, from both sides.
//!
//! [`StateWriter`] and [`StopWord`] are the partition's ends, [`StateReader`] and [`StopSwitch`]
//! the host's. Each word has one writer. The reader believes nothing: a state it does not know is
//! [`PartitionState::Unknown`], a text is cut at its part's end.
//!
//! ```text
//!             entry's loop begins        loop ends              entry returns
//!  Starting ---- enter_running ---> Running -- enter_stopping -> Stopping -- finish --> Stopped
//!      \                               \                            \
//!       `----------- fail --------------`------------ fail ----------`---> Failed, NeedsReset
//! ```

use core::fmt::{self, Write};
use core::mem::offset_of;

use hybrid_abi::event;
use hybrid_abi::state::{HostState, PartitionState as Layout, STATE_TEXT_BYTES};
use hybrid_shm::{OutOfBounds, ReadSpan, Span, Word32, Word64};

use crate::clock::Instant;
use crate::task::CurrentWords;

/// Bytes of the partition's state part.
pub const STATE_PART_BYTES: usize = size_of::<Layout>();
/// Bytes of the host's state part.
pub const HOST_STATE_PART_BYTES: usize = size_of::<HostState>();

/// Where a partition is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Nothing was published yet.
    Unborn,
    /// Assembled, not yet running.
    Starting,
    /// In its loop: no system call, no page fault, no allocation.
    Running,
    /// The loop ended; the entry cleans up.
    Stopping,
    /// Ended in order.
    Stopped,
    /// Ended with an error.
    Failed,
    /// Ended because the device needs a reset that only the next incarnation can give it.
    NeedsReset,
    /// A word that this version does not know.
    Unknown(u32),
}

impl PartitionState {
    /// All that this version knows, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Unborn,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::NeedsReset,
    ];

    /// From the word in shared memory.
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Unborn,
            event::STATE_STARTING => Self::Starting,
            event::STATE_RUNNING => Self::Running,
            event::STATE_STOPPING => Self::Stopping,
            event::STATE_STOPPED => Self::Stopped,
            event::STATE_FAILED => Self::Failed,
            event::STATE_NEEDS_RESET => Self::NeedsReset,
            other => Self::Unknown(other),
        }
    }

    /// The word in shared memory.
    #[must_use]
    pub const fn to_word(self) -> u32 {
        match self {
            Self::Unborn => 0,
            Self::Starting => event::STATE_STARTING,
            Self::Running => event::STATE_RUNNING,
            Self::Stopping => event::STATE_STOPPING,
            Self::Stopped => event::STATE_STOPPED,
            Self::Failed => event::STATE_FAILED,
            Self::NeedsReset => event::STATE_NEEDS_RESET,
            Self::Unknown(word) => word,
        }
    }

    /// Whether nothing more will come.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed | Self::NeedsReset)
    }
}

impl fmt::Display for PartitionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unborn => f.pad("unborn"),
            Self::Starting => f.pad("starting"),
            Self::Running => f.pad("running"),
            Self::Stopping => f.pad("stopping"),
            Self::Stopped => f.pad("stopped"),
            Self::Failed => f.pad("failed"),
            Self::NeedsReset => f.pad("needs reset"),
            Self::Unknown(word) => write!(f, "unknown state {word}"),
        }
    }
}

/// A failure's line, without a heap; what is longer is cut.
pub type FailureText = heapless::String<STATE_TEXT_BYTES>;

/// `text` as a failure's line.
#[must_use]
pub fn failure_text(text: fmt::Arguments<'_>) -> FailureText {
    let mut line = Cut(FailureText::new());
    // A line that does not fit is cut by `Cut`, which never fails.
    let _ = line.write_fmt(text);
    line.0
}

/// Takes what fits and drops the rest.
struct Cut(FailureText);

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            if self.0.push(letter).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// The partition's end of its state part.
#[derive(Clone, Copy, Debug)]
pub struct StateWriter {
    part: Span<'static>,
    state: Word32<'static>,
    heartbeat: Word64<'static>,
    heartbeat_tsc: Word64<'static>,
    task: Word32<'static>,
    task_since_tsc: Word64<'static>,
}

impl StateWriter {
    /// Over a zeroed part of [`STATE_PART_BYTES`].
    ///
    /// # Errors
    /// [`OutOfBounds`] if the part is too short or not aligned.
    pub fn new(part: Span<'static>) -> Result<Self, OutOfBounds> {
        let part = part.sub(0, STATE_PART_BYTES)?;
        Ok(Self {
            part,
            state: part.word32(offset_of!(Layout, state))?,
            heartbeat: part.word64(offset_of!(Layout, heartbeat))?,
            heartbeat_tsc: part.word64(offset_of!(Layout, heartbeat_tsc))?,
            task: part.word32(offset_of!(Layout, task))?,
            task_since_tsc: part.word64(offset_of!(Layout, task_since_tsc))?,
        })
    }

    /// The state word itself, for guards that look at it.
    #[must_use]
    pub const fn word(&self) -> Word32<'static> {
        self.state
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> PartitionState {
        PartitionState::from_word(self.state.load())
    }

    /// Publishes a state; what was stored before is visible to who sees it.
    pub fn set(&self, state: PartitionState) {
        // SYNC partition-state
        self.state.store_release(state.to_word());
    }

    /// Publishes a state with the moment at which it began.
    pub fn set_at(&self, state: PartitionState, now: Instant) {
        let offset = match state {
            PartitionState::Running => offset_of!(Layout, running_tsc),
            _ => offset_of!(Layout, stopping_tsc),
        };
        if let Ok(word) = self.part.word64(offset) {
            word.store(now.ticks());
        }
        self.set(state);
    }

    /// One more pass began at `now`. Two plain stores.
    #[inline(always)]
    pub fn beat(&self, now: Instant) {
        self.heartbeat.store(self.heartbeat.load().wrapping_add(1));
        self.heartbeat_tsc.store(now.ticks());
    }

    /// Passes so far.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.heartbeat.load()
    }

    /// When the last pass began.
    pub(crate) fn last_beat(&self) -> Instant {
        Instant::from_ticks(self.heartbeat_tsc.load())
    }

    /// When it began to run; `None` before.
    pub(crate) fn running_since(&self) -> Option<Instant> {
        let ticks = self.part.word64(offset_of!(Layout, running_tsc)).ok()?.load();
        (ticks != 0).then(|| Instant::from_ticks(ticks))
    }

    /// Where the scheduler stores which task is being polled, since when.
    #[must_use]
    pub const fn current_words(&self) -> CurrentWords {
        CurrentWords::new(self.task, self.task_since_tsc)
    }

    /// Publishes the end: code and line first, then the final state.
    pub fn end(&self, state: PartitionState, code: u32, line: &str) {
        let line = line.as_bytes();
        let line = line.get(..STATE_TEXT_BYTES).unwrap_or(line);
        let len = u32::try_from(line.len()).unwrap_or(0);
        // The part's length was checked in `new`, so that none of these can miss.
        let _ = self.part.write(offset_of!(Layout, text), line);
        for (offset, value) in
            [(offset_of!(Layout, text_len), len), (offset_of!(Layout, code), code)]
        {
            if let Ok(word) = self.part.word32(offset) {
                word.store(value);
            }
        }
        self.set(state);
    }
}

/// The host's view of a partition's state part.
#[derive(Clone, Copy, Debug)]
pub struct StateReader(ReadSpan<'static>);

/// One look at a state part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSnapshot {
    /// Where it is.
    pub state: PartitionState,
    /// The entry's exit code, once final.
    pub code: u32,
    /// Passes of its loop.
    pub heartbeat: u64,
    /// When the last pass began.
    pub heartbeat_at: Instant,
    /// The task being polled, from 1; 0 for none.
    pub task: u32,
    /// Since when; while none is polled, when the last one was resumed.
    pub task_since: Instant,
    /// When it began to run; zero before.
    pub running_at: Instant,
    /// When it stopped running; zero before.
    pub stopping_at: Instant,
}

impl StateReader {
    /// Over a part of [`STATE_PART_BYTES`].
    ///
    /// # Errors
    /// [`OutOfBounds`] if the part is too short or not aligned.
    pub fn new(part: ReadSpan<'static>) -> Result<Self, OutOfBounds> {
        let part = part.sub(0, STATE_PART_BYTES)?;
        part.load64(0)?;
        Ok(Self(part))
    }

    /// The state alone.
    #[must_use]
    pub fn state(&self) -> PartitionState {
        // SYNC partition-state
        PartitionState::from_word(self.word32(offset_of!(Layout, state)))
    }

    /// Everything but the text.
    #[must_use]
    pub fn snapshot(&self) -> StateSnapshot {
        let at = |offset| Instant::from_ticks(self.word64(offset));
        StateSnapshot {
            state: self.state(),
            code: self.word32(offset_of!(Layout, code)),
            heartbeat: self.word64(offset_of!(Layout, heartbeat)),
            heartbeat_at: at(offset_of!(Layout, heartbeat_tsc)),
            task: self.word32(offset_of!(Layout, task)),
            task_since: at(offset_of!(Layout, task_since_tsc)),
            running_at: at(offset_of!(Layout, running_tsc)),
            stopping_at: at(offset_of!(Layout, stopping_tsc)),
        }
    }

    /// The failure's line: its valid UTF-8 start.
    #[must_use]
    pub fn text(&self) -> FailureText {
        let mut bytes = [0; STATE_TEXT_BYTES];
        let len = self.word32(offset_of!(Layout, text_len)) as usize;
        let _ = self.0.read(offset_of!(Layout, text), &mut bytes);
        let bytes = bytes.get(..len).unwrap_or(&bytes);
        let valid = match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => bytes
                .get(..error.valid_up_to())
                .and_then(|valid| core::str::from_utf8(valid).ok())
                .unwrap_or_default(),
        };
        failure_text(format_args!("{valid}"))
    }

    /// In bounds since `new`; a miss would read as zero.
    fn word32(&self, offset: usize) -> u32 {
        self.0.load32(offset).unwrap_or(0)
    }

    fn word64(&self, offset: usize) -> u64 {
        self.0.load64(offset).unwrap_or(0)
    }
}

/// Why a partition is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The work is done.
    Finished,
    /// A signal asked for it.
    Signal,
    /// The host is in trouble of its own, or says something that this version does not know.
    HostFailed,
}

impl StopReason {
    /// From the word in shared memory or in a stop command; zero is "go on".
    #[must_use]
    pub const fn from_word(word: u32) -> Option<Self> {
        match word {
            0 => None,
            hybrid_abi::command::STOP_FINISHED => Some(Self::Finished),
            hybrid_abi::command::STOP_SIGNAL => Some(Self::Signal),
            _ => Some(Self::HostFailed),
        }
    }

    /// The word in shared memory.
    #[must_use]
    pub const fn to_word(self) -> u32 {
        match self {
            Self::Finished => hybrid_abi::command::STOP_FINISHED,
            Self::Signal => hybrid_abi::command::STOP_SIGNAL,
            Self::HostFailed => hybrid_abi::command::STOP_HOST_FAILED,
        }
    }
}

/// The partition's view of the host's wish to stop: one load of a line that rarely changes.
#[derive(Clone, Copy, Debug)]
pub struct StopWord(ReadSpan<'static>);

impl StopWord {
    /// Over the host's state part.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the part is too short or not aligned.
    pub fn new(part: ReadSpan<'static>) -> Result<Self, OutOfBounds> {
        let part = part.sub(0, HOST_STATE_PART_BYTES)?;
        part.load32(offset_of!(HostState, stop))?;
        Ok(Self(part))
    }

    /// The host's wish.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Option<StopReason> {
        StopReason::from_word(self.0.load32(offset_of!(HostState, stop)).unwrap_or(0))
    }
}

/// The host's end of its state part.
#[derive(Clone, Copy, Debug)]
pub struct StopSwitch(Word32<'static>);

impl StopSwitch {
    /// Over a zeroed part of [`HOST_STATE_PART_BYTES`].
    ///
    /// # Errors
    /// [`OutOfBounds`] if the part is too short or not aligned.
    pub fn new(part: Span<'static>) -> Result<Self, OutOfBounds> {
        let part = part.sub(0, HOST_STATE_PART_BYTES)?;
        part.word32(offset_of!(HostState, stop)).map(Self)
    }

    /// Whether the host has asked already.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load() != 0
    }

    /// Asks for an orderly end.
    pub fn ask(&self, reason: StopReason) {
        self.0.store_release(reason.to_word());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_shm::leak_zeroed;
    use std::string::ToString;

    #[test]
    fn every_state_reads_back_and_unknown_words_stay_data() {
        for word in 0..10 {
            assert_eq!(PartitionState::from_word(word).to_word(), word);
        }
        assert_eq!(PartitionState::from_word(77).to_string(), "unknown state 77");
        assert!(!PartitionState::from_word(77).is_final());
    }

    #[test]
    fn the_host_sees_beats_and_end_as_they_were_written() {
        let part = leak_zeroed(STATE_PART_BYTES);
        let writer = StateWriter::new(part).unwrap();
        let reader = StateReader::new(part.read_only()).unwrap();
        assert_eq!(reader.state(), PartitionState::Unborn);
        writer.set_at(PartitionState::Running, Instant::from_ticks(5));
        writer.beat(Instant::from_ticks(6));
        writer.beat(Instant::from_ticks(7));
        writer.set_at(PartitionState::Stopping, Instant::from_ticks(9));
        writer.end(PartitionState::Failed, 4, "sector 7 is torn");
        let seen = reader.snapshot();
        assert_eq!((seen.state, seen.code), (PartitionState::Failed, 4));
        assert_eq!((seen.heartbeat, seen.heartbeat_at.ticks()), (2, 7));
        assert_eq!((seen.running_at.ticks(), seen.stopping_at.ticks()), (5, 9));
        assert_eq!(reader.text().as_str(), "sector 7 is torn");
    }

    #[test]
    fn a_lying_partition_cannot_make_the_reader_leave_its_part() {
        let part = leak_zeroed(STATE_PART_BYTES);
        part.fill(0, STATE_PART_BYTES, 0xff).unwrap();
        let reader = StateReader::new(part.read_only()).unwrap();
        assert_eq!(reader.state(), PartitionState::Unknown(u32::MAX));
        assert_eq!(reader.text().as_str(), "");
        part.fill(offset_of!(Layout, text), STATE_TEXT_BYTES, b'x').unwrap();
        assert_eq!(reader.text().len(), STATE_TEXT_BYTES);
        assert!(StateReader::new(part.read_only().sub(0, 64).unwrap()).is_err());
    }

    #[test]
    fn long_lines_are_cut_at_a_letter() {
        let long = "\u{e9}".repeat(STATE_TEXT_BYTES);
        let cut = failure_text(format_args!("x{long}"));
        assert_eq!(cut.len(), STATE_TEXT_BYTES - 1);
        assert!(cut.ends_with('\u{e9}'));
    }

    #[test]
    fn the_switch_reaches_the_stop_word() {
        let part = leak_zeroed(HOST_STATE_PART_BYTES);
        let word = StopWord::new(part.read_only()).unwrap();
        let switch = StopSwitch::new(part).unwrap();
        assert_eq!(word.get(), None);
        switch.ask(StopReason::Signal);
        assert_eq!(word.get(), Some(StopReason::Signal));
        part.word32(0).unwrap().store(99);
        assert_eq!(word.get(), Some(StopReason::HostFailed));
    }
}
