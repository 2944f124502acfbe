//! What the partition tells: figures, blobs, BBO changes, trades.
//!
//! Called by `run` for each record of the event ring. A record that cannot be parsed is counted and
//! passed over: the partition is another party.

use std::path::Path;

use hybrid_abi::event::{self, KIND_BBO, KIND_TRADE, KIND_TRADING_STATE};
use hybrid_abi::feed_job::{
    BlobHeader, FeedFigures, FeedStarted, JOB_INGEST, JOB_REPLAY, KIND_BLOB, KIND_FEED_FIGURES,
    KIND_FEED_STARTED,
};
use hybrid_abi::feed_journal::{
    JournalFigures, JournalMark, KIND_JOURNAL_FIGURES, KIND_JOURNAL_MARK,
};
use hybrid_abi::{Record, RecordHeader};
use zerocopy::FromBytes;

use crate::bbo::BboFile;
use crate::failure::Failure;

/// A raw structure of the controller.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    /// One of `BLOB_`.
    pub(crate) what: u32,
    pub(crate) nsid: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Everything that was heard.
#[derive(Default)]
pub(crate) struct Events {
    bbo: Option<BboFile>,
    /// The file could not be written any more; the first error.
    bbo_error: Option<std::io::Error>,
    pub(crate) blobs: Vec<Blob>,
    pub(crate) started: Option<FeedStarted>,
    pub(crate) ingested: Option<FeedFigures>,
    pub(crate) replayed: Option<FeedFigures>,
    pub(crate) journal: Option<JournalFigures>,
    /// How far the journal goes; whoever is told of it takes it.
    pub(crate) mark: Option<JournalMark>,
    /// BBO changes, trades and states heard, of all incarnations: the output's sequence.
    pub(crate) heard: u64,
    /// Records that were none.
    pub(crate) bad: u64,
}

impl Events {
    /// With a file for the BBO changes.
    pub(crate) fn with_bbo(path: Option<&Path>) -> Result<Self, Failure> {
        let bbo = path.map(BboFile::create).transpose();
        let bbo = bbo.map_err(|error| match path {
            Some(path) => Failure::file("--bbo", path, &error),
            None => Failure::error(error),
        })?;
        Ok(Self { bbo, ..Self::default() })
    }

    /// The partition was started again, and its replay goes on behind what was heard.
    pub(crate) fn go_on(&mut self) {
        self.replayed = None;
        self.blobs.clear();
    }

    /// Whether a replay has begun: what it reads is on the device, whole.
    pub(crate) fn has_feed(&self) -> bool {
        self.started.is_some_and(|started| started.phase == JOB_REPLAY)
    }

    /// Forgets everything: the partition was started again, and the job begins anew.
    pub(crate) fn begin_anew(&mut self) {
        let mut bbo = self.bbo.take();
        let error = self.bbo_error.take();
        let rewound = bbo.as_mut().map(BboFile::rewind).transpose();
        *self = match rewound {
            Ok(_) => Self { bbo, bbo_error: error, ..Self::default() },
            Err(rewind) => Self { bbo_error: error.or(Some(rewind)), ..Self::default() },
        };
    }

    /// Takes one record.
    pub(crate) fn take(&mut self, header: RecordHeader, payload: &[u8]) {
        match header.kind {
            KIND_BBO => {
                self.heard += 1;
                if self.bbo.is_some() {
                    self.bbo_row(payload);
                }
            }
            KIND_TRADE | KIND_TRADING_STATE => self.heard += 1,
            KIND_FEED_STARTED => match FeedStarted::parse(payload) {
                Ok(started) => self.started = Some(started),
                Err(_) => self.bad += 1,
            },
            KIND_FEED_FIGURES => match FeedFigures::parse(payload) {
                Ok(figures) if figures.phase == JOB_INGEST => self.ingested = Some(figures),
                Ok(figures) if figures.phase == JOB_REPLAY => self.replayed = Some(figures),
                _ => self.bad += 1,
            },
            KIND_JOURNAL_FIGURES => match JournalFigures::parse(payload) {
                Ok(figures) => self.journal = Some(figures),
                Err(_) => self.bad += 1,
            },
            KIND_JOURNAL_MARK => match JournalMark::parse(payload) {
                Ok(mark) => self.mark = Some(mark),
                Err(_) => self.bad += 1,
            },
            KIND_BLOB => match BlobHeader::read_from_prefix(payload) {
                Ok((BlobHeader { what, nsid }, bytes)) => {
                    self.blobs.push(Blob { what, nsid, bytes: bytes.to_vec() });
                }
                Err(_) => self.bad += 1,
            },
            // A kind of a newer partition.
            _ => {}
        }
    }

    fn bbo_row(&mut self, payload: &[u8]) {
        let Ok(bbo) = event::Bbo::parse(payload) else {
            self.bad += 1;
            return;
        };
        let Some(file) = &mut self.bbo else { return };
        if let Err(error) = file.row(&bbo) {
            self.bbo_error = Some(error);
            self.bbo = None;
        }
    }

    /// Writes out what is buffered; rows written, or why they could not be.
    pub(crate) fn finish(&mut self, path: Option<&Path>) -> Result<(), Failure> {
        let error = match (self.bbo_error.take(), &mut self.bbo) {
            (Some(error), _) => error,
            (None, Some(file)) => match file.finish() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            (None, None) => return Ok(()),
        };
        Err(Failure::file("--bbo", path.unwrap_or(Path::new("")), &error))
    }
}
