//! Feeds: ITCH out of a file, ITCH out of packets.

use feed_handler::book::{BookStorage, Capacity, NoSink};
use feed_handler::error::FrameFault;
use feed_handler::framing::MoldFramer;
use feed_handler::pipeline::{Pipeline, PipelineConfig, Policy};

/// Room for few orders, so that a feed can fill it.
fn capacity() -> Capacity {
    Capacity { orders: 64, ..Capacity::for_feed(4096) }
}

/// A file of messages, in slices whose length its first byte gives: the books are whole after it.
pub(crate) fn itch(bytes: &[u8]) {
    let Some((first, feed)) = bytes.split_first() else { return };
    let capacity = capacity();
    let mut words = vec![0xA5A5_A5A5_A5A5_A5A5_u64; capacity.bytes() / 8 + 17];
    let memory = zerocopy::IntoBytes::as_mut_bytes(words.as_mut_slice());
    let skew = memory.as_ptr().align_offset(128);
    let storage = BookStorage::carve(&mut memory[skew..], capacity).expect("room");
    let policy = if first & 1 == 0 { Policy::Strict } else { Policy::Lenient };
    let config = PipelineConfig { policy, ..PipelineConfig::default() };
    let mut pipeline = Pipeline::new(storage, config);
    let mut slices = feed.chunks(1 + usize::from(first >> 1));
    let fed = slices.try_for_each(|slice| pipeline.feed(slice, &mut NoSink));
    if let Err(error) = fed.and_then(|()| pipeline.finish()) {
        assert!(error.at.offset <= feed.len() as u64, "{error}");
    }
    if let Err(broken) = pipeline.books().check_consistency() {
        panic!("{broken}");
    }
}

/// Packets, each behind its length in two bytes: a message is told once, in order.
pub(crate) fn mold(bytes: &[u8]) {
    let mut framer = MoldFramer::from_start();
    let mut rest = bytes;
    let mut last = 0;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (packet, next) = after.split_at(length);
        rest = next;
        let pushed = framer.push::<FrameFault>(
            packet,
            |frame| {
                assert!(frame.at.number > last, "{} after {last}", frame.at.number);
                last = frame.at.number;
                assert!(frame.bytes.len() <= packet.len());
                Ok(())
            },
            |_| {},
        );
        if pushed.is_err() {
            break;
        }
    }
}
