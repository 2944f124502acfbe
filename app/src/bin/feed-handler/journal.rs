//! What `replay --journal` asks for, and what it adds to the screen.

use hybrid_abi::feed_job::{FeedJob, JOB_LENIENT};
use hybrid_abi::feed_journal::{
    JOB_JOURNAL, JOURNAL_FROM_MESSAGE, JOURNAL_FROM_SNAPSHOT, JOURNAL_FROM_TIME,
    JOURNAL_ORIGINAL_SPEED, JOURNAL_SAVE_SNAPSHOT, JournalFigures, JournalJob,
};
use hybrid_conventions::Count;
use serde_json::{Value, json};

use crate::cli::ReplayArgs;
use crate::failure::Failure;

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    Message(u64),
    /// Nanoseconds since 1970-01-01.
    Time(u64),
    Snapshot,
}

/// `--from`.
pub(crate) fn parse_begin(text: &str) -> Result<Begin, String> {
    let wrong =
        || format!("{text:?}: allowed are a message's number, @SECONDS since 1970, and snapshot");
    if text == "snapshot" {
        return Ok(Begin::Snapshot);
    }
    let Some(time) = text.strip_prefix('@') else {
        return text.parse().map(Begin::Message).map_err(|_| wrong());
    };
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds: u64 = seconds.parse().map_err(|_| wrong())?;
    let nanos: u64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let nanos = seconds.checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(nanos));
    nanos.map(Begin::Time).ok_or_else(wrong)
}

/// What of the journal `replay` asks for, if for any.
pub(crate) fn replay_job(
    args: &ReplayArgs,
    job: &mut FeedJob,
) -> Result<Option<JournalJob>, Failure> {
    let asked = &args.journal;
    if !asked.journal {
        return Ok(None);
    }
    if asked.save_snapshot && job.symbol_count != 0 {
        return Err(Failure::error("--save-snapshot wants the books of all symbols: no --symbols"));
    }
    job.flags |= JOB_JOURNAL;
    let mut how = JournalJob::new(0);
    match asked.from {
        None => {}
        Some(Begin::Message(number)) => {
            (how.flags, how.from) = (JOURNAL_FROM_MESSAGE, number);
        }
        Some(Begin::Time(ns)) => (how.flags, how.from) = (JOURNAL_FROM_TIME, ns),
        Some(Begin::Snapshot) => how.flags = JOURNAL_FROM_SNAPSHOT,
    }
    if asked.original_speed {
        how.flags |= JOURNAL_ORIGINAL_SPEED;
    }
    if asked.save_snapshot {
        if args.lenient {
            debug_assert!(job.has(JOB_LENIENT), "set before");
        }
        how.flags |= JOURNAL_SAVE_SNAPSHOT;
    }
    Ok(Some(how))
}

/// What a replay of a journal adds to the screen.
pub(crate) fn replay_lines(figures: &JournalFigures) -> String {
    let mut lines = format!(
        "journal   records {} to {} (exclusive), {} packets with {} messages replayed\n",
        Count(figures.front),
        Count(figures.end),
        Count(figures.packets),
        Count(figures.messages),
    );
    if figures.gaps > 0 {
        lines += &format!(
            "gaps      {}, {} messages missing, the first is {}\n",
            Count(figures.gaps),
            Count(figures.missing),
            Count(figures.first_missing),
        );
    }
    if figures.clock_jumps > 0 {
        lines += &format!(
            "clock     went back, or ahead by more than a minute, {} times, first before \
             record {}: no pause was made there\n",
            Count(figures.clock_jumps),
            Count(figures.first_jump),
        );
    }
    if figures.snapshot_bytes > 0 {
        lines += &format!(
            "snapshot  of the books in front of record {}, {} bytes\n",
            Count(figures.snapshot),
            Count(figures.snapshot_bytes),
        );
    }
    lines
}

/// The same for programs.
pub(crate) fn replay_json(figures: &JournalFigures) -> Value {
    json!({
        "front": figures.front,
        "end": figures.end,
        "packets": figures.packets,
        "messages": figures.messages,
        "gaps": figures.gaps,
        "missing": figures.missing,
        "first_missing": figures.first_missing,
        "clock_jumps": figures.clock_jumps,
        "first_jump": figures.first_jump,
        "snapshot": figures.snapshot,
        "snapshot_bytes": figures.snapshot_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_messages_times_and_the_snapshot() {
        assert_eq!(parse_begin("17"), Ok(Begin::Message(17)));
        assert_eq!(parse_begin("@2"), Ok(Begin::Time(2_000_000_000)));
        assert_eq!(parse_begin("@2.25"), Ok(Begin::Time(2_250_000_000)));
        assert_eq!(parse_begin("snapshot"), Ok(Begin::Snapshot));
        for wrong in ["", "x", "@", "@x", "@1.x", "@1.0000000001", "-1", "@99999999999999"] {
            assert!(parse_begin(wrong).is_err_and(|e| e.contains("snapshot")), "{wrong}");
        }
    }
}
