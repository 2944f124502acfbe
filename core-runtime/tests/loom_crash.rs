//! A crash record under every interleaving of its writer with a reader that does not wait for the
//! writer's end: what a mark vouches for is there. Run with `--cfg loom`.
#![cfg(loom)]

use core::mem::offset_of;
use std::cell::RefCell;

use core_runtime::crash::{RecordHead, Recorder, Store};
use hybrid_abi::LINE_BYTES;
use hybrid_abi::crash::{
    CRASH_COMPLETE, CRASH_EMPTY, CRASH_WRITING, CrashHeader, SectionHeader, SectionKind,
};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

const STATE: usize = offset_of!(CrashHeader, state);
const COMMITTED: usize = offset_of!(CrashHeader, committed);

/// What a record stores, in order: where, and how many bytes.
struct Stores(RefCell<Vec<(usize, usize)>>);

impl Store for Stores {
    fn bytes(&self, offset: usize, bytes: &[u8]) {
        // Padding of no bytes is no store.
        if !bytes.is_empty() {
            self.0.borrow_mut().push((offset, bytes.len()));
        }
    }

    fn word(&self, _: usize, _: u32) {}
}

/// A record of two sections.
fn record(store: &dyn Store) {
    let head = RecordHead { reason: 1, sequence: 2, tsc: 3, incarnation: 4 };
    let mut recorder = Recorder::begin(store, head);
    for text in [&b"twelve bytes"[..], b"eight by"] {
        recorder.section(SectionKind::MESSAGE, 64, |section| {
            assert!(section.put(text));
        });
    }
    recorder.finish();
}

/// A slot of which each store is one flag, and each mark an atomic word.
struct Slot {
    pieces: Vec<(usize, usize, AtomicBool)>,
    state: AtomicU32,
    committed: AtomicU32,
}

impl Store for Slot {
    fn bytes(&self, offset: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            let piece = self.pieces.iter().find(|(at, ..)| *at == offset).expect("as before");
            piece.2.store(true, Ordering::Relaxed);
        }
    }

    fn word(&self, offset: usize, value: u32) {
        match offset {
            STATE => self.state.store(value, Ordering::Release),
            COMMITTED => self.committed.store(value, Ordering::Release),
            other => panic!("a mark at {other}"),
        }
    }
}

impl Slot {
    fn is_there(&self, end: usize) -> bool {
        let before_end = |(at, len, _): &&(usize, usize, AtomicBool)| at + len <= end;
        let mut pieces = self.pieces.iter().filter(before_end);
        pieces.all(|(.., there)| there.load(Ordering::Relaxed))
    }

    /// What a reader believes: the header once it is being written, sections up to the committed
    /// length, everything once it is complete.
    fn look(&self) {
        let state = self.state.load(Ordering::Acquire);
        if state == CRASH_EMPTY {
            return;
        }
        assert!(self.is_there(LINE_BYTES), "the header is whole");
        let committed = self.committed.load(Ordering::Acquire) as usize;
        assert!(self.is_there(LINE_BYTES + committed), "{committed} bytes were committed");
        if state == CRASH_COMPLETE {
            assert!(self.is_there(usize::MAX), "complete, and something is missing");
        } else {
            assert_eq!(state, CRASH_WRITING);
        }
    }
}

#[test]
fn what_a_mark_of_a_crash_record_vouches_for_is_there() {
    let stores = Stores(RefCell::new(Vec::new()));
    record(&stores);
    let stores = stores.0.into_inner();
    assert!(stores.iter().any(|(_, len)| *len == size_of::<SectionHeader>()));
    loom::model(move || {
        let pieces = stores.iter().map(|(at, len)| (*at, *len, AtomicBool::new(false)));
        let slot = Arc::new(Slot {
            pieces: pieces.collect(),
            state: AtomicU32::new(CRASH_EMPTY),
            committed: AtomicU32::new(0),
        });
        let writer = {
            let slot = slot.clone();
            thread::spawn(move || record(&*slot))
        };
        slot.look();
        slot.look();
        writer.join().expect("the writer");
        assert_eq!(slot.state.load(Ordering::Acquire), CRASH_COMPLETE);
        slot.look();
    });
}
