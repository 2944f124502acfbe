//! A pipeline that is left and taken up again, over the same memory, goes on as if nothing was.

use crate::support::{Events, Memory, Rng, synthetic_day};
use feed_handler::book::{Capacity, NoSink};
use feed_handler::pipeline::{Pipeline, PipelineConfig, PipelineMark};
use zerocopy::{FromBytes, IntoBytes};

/// The mark as it crosses to another process.
fn crossed(mark: &PipelineMark) -> PipelineMark {
    PipelineMark::read_from_bytes(mark.as_bytes()).expect("its own bytes")
}

#[test]
fn a_pipeline_that_is_taken_up_again_at_random_points_gives_the_same_events() {
    let (_, feed) = synthetic_day(7, 20, 30_000);
    let config = PipelineConfig::default();
    let mut memory = Memory::for_feed(&feed);
    let mut whole = Events::default();
    let mut pipeline = Pipeline::new(memory.storage(), config);
    pipeline.feed(&feed, &mut whole).expect("a good day");
    let (counts, stats) = (pipeline.counts().clone(), *pipeline.books().stats());
    for seed in 0..8 {
        let mut rng = Rng::new(seed);
        let mut memory = Memory::for_feed(&feed);
        let mut events = Events::default();
        let mut mark = Pipeline::new(memory.storage(), config).mark();
        let mut rest = &feed[..];
        while !rest.is_empty() {
            let (slice, after) = rest.split_at((1 + rng.below(90_000) as usize).min(rest.len()));
            let mut pipeline =
                Pipeline::resume(memory.storage(), config, &crossed(&mark)).expect("its own mark");
            pipeline.books().check_consistency().expect("whole books");
            pipeline.feed(slice, &mut events).expect("a good day");
            (mark, rest) = (pipeline.mark(), after);
        }
        let last = Pipeline::resume(memory.storage(), config, &mark).expect("its own mark");
        last.finish().expect("the end of a day");
        assert!(events == whole, "seed {seed}");
        assert_eq!((last.counts(), last.books().stats()), (&counts, &stats));
    }
}

/// Whatever somebody wrote into books or mark: an answer comes, and books that pass are whole.
#[test]
fn damaged_books_are_found_or_are_whole_and_never_panic() {
    let (_, feed) = synthetic_day(3, 10, 6_000);
    let config = PipelineConfig::default();
    let capacity = Capacity { symbols: 64, orders: 2048, levels: 2048 };
    let mut found = 0;
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut memory = Memory::new(capacity);
        let _ = Pipeline::new(memory.storage(), config);
        let empty = memory.copy();
        let mut pipeline = Pipeline::new(memory.storage(), config);
        pipeline.feed(&feed, &mut NoSink).expect("a good day");
        let mut mark = pipeline.mark();
        if seed % 4 == 0 {
            let at = rng.below(200) as usize;
            mark.as_mut_bytes()[at] ^= 1 << rng.below(8);
        } else {
            for _ in 0..=rng.below(3) {
                memory.spoil(&empty, rng.next());
            }
        }
        let books = Pipeline::resume(memory.storage(), config, &mark)
            .and_then(|pipeline| pipeline.books().check_consistency());
        found += u32::from(books.is_err());
    }
    // The rest hit what is free again, a count of the day, or a price that another order has too.
    assert!(found > 100, "{found} of 400");
}
