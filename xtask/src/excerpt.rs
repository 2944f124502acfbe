//! What a failed test said, short enough for a screen that is cut: its panic first.
//!
//! libtest prints what it captured behind all tests of a binary, in a section `failures:`. Pure
//! text in, a few lines out; logs have all of it.

/// Lines of an excerpt.
const LINES: usize = 25;

/// Of these, lines from the panic on, if there is more to show.
const STORY_LINES: usize = 17;

/// Some lines of what a failed test said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excerpt {
    /// The failure, as it is listed.
    pub(crate) of: String,
    pub(crate) lines: Vec<String>,
    /// Where it panicked and with what, in a line.
    pub(crate) panic: Option<String>,
}

impl Excerpt {
    /// Of everything that a test said.
    pub(crate) fn new(of: impl Into<String>, said: &[&str]) -> Self {
        let said = without_backtraces(said);
        let story = said.iter().position(|line| is_panic(line) || line.starts_with("Error: "));
        let (before, story) = said.split_at(story.unwrap_or(said.len()));
        let before = trimmed(before);
        let head_lines = LINES - story.len().min(STORY_LINES);
        let story_lines = LINES - before.len().min(head_lines);
        let mut lines = first(story, story_lines);
        if !before.is_empty() {
            if !story.is_empty() {
                lines.push("before that it printed:".to_owned());
            }
            lines.extend(first(before, head_lines));
        }
        Self { of: of.into(), lines, panic: panic_line(story) }
    }

    /// The failure in a line, with what it panicked over.
    pub(crate) fn line(&self) -> String {
        match &self.panic {
            Some(panic) => format!("{}: {panic}", self.of),
            None => self.of.clone(),
        }
    }
}

/// The excerpts of a section `failures:`: of each of these tests that it has, by its name there and
/// the one under which it is listed.
pub(crate) fn of_section(section: &[&str], failed: &[(String, String)]) -> Vec<Excerpt> {
    let end = section.iter().rposition(|line| *line == "failures:").unwrap_or(section.len());
    let (mut excerpts, mut at) = (Vec::new(), 0);
    let listed = |line: &str| {
        let name = line.strip_prefix("---- ")?.strip_suffix(" stdout ----")?;
        failed.iter().find(|(own, _)| own == name).map(|(_, listed)| listed)
    };
    while at < end {
        let Some(name) = listed(section[at]) else {
            at += 1;
            continue;
        };
        let begin = at + 1;
        at = (begin..end).find(|&at| listed(section[at]).is_some()).unwrap_or(end);
        excerpts.push(Excerpt::new(name.as_str(), trimmed(&section[begin..at])));
    }
    excerpts
}

/// `thread 'ring::lost' (4711) panicked at src/ring.rs:12:5:`.
fn is_panic(line: &str) -> bool {
    line.starts_with("thread '") && line.contains(" panicked at ")
}

fn panic_line(story: &[&str]) -> Option<String> {
    let first = story.first()?;
    let Some((_, place)) = first.split_once(" panicked at ") else {
        return Some((*first).to_owned());
    };
    let message = story.get(1).copied().unwrap_or_default();
    Some(format!("panicked at {place} {message}").trim_end().to_owned())
}

/// Frames are many and seldom say more than the panic's own place.
fn without_backtraces<'a>(said: &[&'a str]) -> Vec<&'a str> {
    let mut frames = false;
    let mut kept = Vec::new();
    for line in said {
        if *line == "stack backtrace:" {
            frames = true;
        } else if frames && !is_frame(line) {
            frames = false;
        }
        if !frames && !line.starts_with("note: ") {
            kept.push(*line);
        }
    }
    trimmed(&kept).to_vec()
}

/// `  12: core::ops::function::FnOnce::call_once` or `             at /rustc/...`.
fn is_frame(line: &str) -> bool {
    let text = line.trim_start();
    let number = text.split_once(": ").map_or("", |(number, _)| number);
    let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    text.len() < line.len() && (numbered || text.starts_with("at "))
}

fn first(lines: &[&str], count: usize) -> Vec<String> {
    let mut shown: Vec<_> = lines.iter().take(count).map(|line| (*line).to_owned()).collect();
    if lines.len() > count {
        let left_out = lines.len() - count;
        shown.push(format!("... {left_out} more lines in the log"));
    }
    shown
}

/// Without empty lines at both ends.
fn trimmed<'a, 'b>(lines: &'b [&'a str]) -> &'b [&'a str] {
    let is_text = |line: &&str| !line.trim().is_empty();
    let begin = lines.iter().position(is_text).unwrap_or(lines.len());
    let end = lines.iter().rposition(is_text).map_or(begin, |last| last + 1);
    &lines[begin..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: &str = "
---- ring::lost stdout ----
seed 7
step 1

thread 'ring::lost' (4711) panicked at src/ring.rs:12:5:
assertion `left == right` failed
  left: 1
 right: 2
stack backtrace:
   0: rust_begin_unwind
             at /rustc/0/library/std/src/panicking.rs:697:5
  11: ring::lost
             at ./src/ring.rs:12:5
note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.

---- ring::refused stdout ----
Error: no device

---- somebody stdout ----
is no test


failures:
    ring::lost
    ring::refused
";

    fn excerpts(section: &str) -> Vec<Excerpt> {
        let lines: Vec<_> = section.lines().collect();
        let names = ["ring::lost", "ring::refused"];
        let failed = names.map(|name| (name.to_owned(), format!("r (tests/r.rs): {name}")));
        of_section(&lines, &failed)
    }

    #[test]
    fn a_test_shows_its_panic_then_what_it_printed_and_no_frames() {
        let all = excerpts(SECTION);
        assert_eq!(all.len(), 2);
        assert_eq!(
            all[0].lines,
            [
                "thread 'ring::lost' (4711) panicked at src/ring.rs:12:5:",
                "assertion `left == right` failed",
                "  left: 1",
                " right: 2",
                "before that it printed:",
                "seed 7",
                "step 1",
            ]
        );
        let line = "panicked at src/ring.rs:12:5: assertion `left == right` failed";
        assert_eq!(all[0].line(), format!("r (tests/r.rs): ring::lost: {line}"));
    }

    #[test]
    fn a_test_that_returned_an_error_shows_it_and_a_strange_heading_is_its_text() {
        let all = excerpts(SECTION);
        assert_eq!(all[1].line(), "r (tests/r.rs): ring::refused: Error: no device");
        assert_eq!(all[1].lines[0], "Error: no device");
        assert_eq!(all[1].lines.last().map(String::as_str), Some("is no test"));
    }

    #[test]
    fn what_is_long_is_cut_and_the_panic_is_kept() {
        let printed: Vec<_> = (0..100).map(|n| format!("line {n}")).collect();
        let mut said: Vec<&str> = printed.iter().map(String::as_str).collect();
        said.extend(["thread 'x' panicked at a.rs:1:1:", "no"]);
        let excerpt = Excerpt::new("x", &said);
        assert_eq!(excerpt.lines[..2], ["thread 'x' panicked at a.rs:1:1:", "no"]);
        assert_eq!(excerpt.lines[3], "line 0");
        assert_eq!(excerpt.lines.last().expect("a line"), "... 77 more lines in the log");
        assert_eq!(excerpt.lines.len(), LINES + 2);
        // A panic with a long message leaves room for the head of the rest.
        let mut said = said[..100].to_vec();
        said.push("thread 'x' panicked at a.rs:1:1:");
        said.extend(printed.iter().map(String::as_str));
        let excerpt = Excerpt::new("x", &said);
        assert_eq!(excerpt.lines[STORY_LINES], "... 84 more lines in the log");
        assert_eq!(excerpt.lines[STORY_LINES + 2], "line 0");
    }

    #[test]
    fn without_a_panic_there_is_the_head_alone() {
        let excerpt = Excerpt::new("x", &["", "a", "b", ""]);
        assert_eq!((excerpt.lines.len(), excerpt.line()), (2, "x".to_owned()));
        assert_eq!(Excerpt::new("x", &[]).lines, [""; 0]);
        assert!(excerpts("").is_empty());
    }
}
