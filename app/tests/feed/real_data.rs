//! The real order flow of `shared/data`, where it lies beside the checkout: the best bids and
//! offers have to be those of LOBSTER's own reconstruction, line by line.

use crate::support::{Memory, QuoteRows};
use feed_handler::pipeline::{Pipeline, PipelineConfig};
use std::path::PathBuf;

fn shared(name: &str) -> Option<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    let bytes = std::fs::read(path).ok();
    if bytes.is_none() {
        println!("SKIPPED: shared/data/{name} is not there");
    }
    bytes
}

#[test]
fn real_aapl_flow_gives_the_published_quotes_line_by_line() {
    let (Some(feed), Some(truth)) =
        (shared("aapl-2012-06-21-open.itch"), shared("aapl-2012-06-21-open.bbo.csv"))
    else {
        return;
    };
    let truth = String::from_utf8(truth).unwrap();
    for step in [feed.len(), 65_536, 4096, 7] {
        let mut memory = Memory::for_feed(&feed);
        let mut pipeline = Pipeline::new(memory.storage(), PipelineConfig::default());
        let mut rows = QuoteRows::default();
        for slice in feed.chunks(step) {
            pipeline.feed(slice, &mut rows).unwrap();
        }
        pipeline.finish().unwrap();
        assert_eq!(pipeline.messages(), 20_044);
        assert_eq!(rows.count, 7_968);
        assert_eq!(rows.csv.lines().count(), truth.lines().count());
        for (number, (ours, theirs)) in rows.csv.lines().zip(truth.lines()).enumerate() {
            assert_eq!(ours, theirs, "row {number}");
        }
        pipeline.books().check_consistency().unwrap();
    }
}

#[test]
fn the_longer_real_stretch_is_read_to_its_end() {
    let Some(feed) = shared("aapl-2012-06-21-morning.itch") else {
        return;
    };
    let mut memory = Memory::for_feed(&feed);
    let mut pipeline = Pipeline::new(memory.storage(), PipelineConfig::default());
    let mut rows = QuoteRows::default();
    pipeline.feed(&feed, &mut rows).unwrap();
    pipeline.finish().unwrap();
    assert_eq!(pipeline.messages(), 54_644);
    assert_eq!(pipeline.counts().by_kind[usize::from(b'E')], 2701);
    pipeline.books().check_consistency().unwrap();
}
