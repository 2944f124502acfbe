//! What the feed handler writes to the probe ring: the stages of a chunk.

core_runtime::probe! {
    /// The oldest read is there.
    pub(super) CHUNK = "feed.chunk", FEED, DEBUG, "a chunk was read, and is the next one"
        (none: NUMBER COUNT, chunk: NUMBER COUNT);
    /// Header and checksum are right.
    pub(super) CHECKED = "feed.checked", FEED, DEBUG, "a chunk's checksum was confirmed"
        (bytes: NUMBER BYTES, chunk: NUMBER COUNT);
    /// All of it is in the books.
    pub(super) DECODED = "feed.decoded", FEED, DEBUG, "a chunk is in the books"
        (none: NUMBER COUNT, chunk: NUMBER COUNT, messages: NUMBER COUNT);
    /// A chunk is on its way to the device.
    pub(super) WRITTEN = "feed.written", FEED, DEBUG, "a chunk was framed, sealed and posted"
        (bytes: NUMBER BYTES, chunk: NUMBER COUNT);
    /// The device confirmed what was written.
    pub(super) FLUSHED = "feed.flushed", FEED, INFO, "everything written was flushed"
        (none: NUMBER COUNT, chunks: NUMBER COUNT);
    /// The event ring has no room.
    pub(super) RING_FULL = "ring.full", RING, ERROR, "the event ring had no room; the task waits"
        (wanted: NUMBER BYTES, waits: NUMBER COUNT);
}
