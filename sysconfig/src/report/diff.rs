//! A file's change in the unified form that `diff -u` and `git diff` print.

use std::fmt::Write as _;

use super::Style;
use crate::place::State;

/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// The change of one file: its names, its mode where that changes, and the lines.
pub(crate) fn file(path: &str, now: &State, wanted: &State, style: Style) -> String {
    let (old, old_mode) = parts(now);
    let (new, new_mode) = parts(wanted);
    let mut out = String::new();
    let name = |mode: Option<u32>| match mode {
        None => "/dev/null".to_owned(),
        Some(_) => path.to_owned(),
    };
    let _ = writeln!(out, "{}", style.bold(&format!("--- {}", name(old_mode))));
    let _ = writeln!(out, "{}", style.bold(&format!("+++ {}", name(new_mode))));
    if let (Some(old), Some(new), true) = (old_mode, new_mode, old_mode != new_mode) {
        let _ = writeln!(out, "mode {old:04o} -> {new:04o}");
    }
    out.push_str(&unified(&old, &new, style));
    out
}

fn parts(state: &State) -> (String, Option<u32>) {
    match state {
        State::File { content, mode, .. } => (content.text(), Some(*mode)),
        State::Link { target } => (format!("link to {target}\n"), Some(0o777)),
        _ => (String::new(), None),
    }
}

/// One line of the common course of both texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit<'a> {
    Keep(&'a str),
    Take(&'a str),
    Add(&'a str),
}

/// The hunks.
fn unified(old: &str, new: &str, style: Style) -> String {
    let edits = edits(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let is_change = |edit: &Edit<'_>| !matches!(edit, Edit::Keep(_));
    let mut out = String::new();
    let mut at = 0;
    while let Some(first) = edits[at..].iter().position(is_change).map(|skip| at + skip) {
        let start = first.saturating_sub(CONTEXT).max(at);
        // A hunk goes on while the next change is near enough to share its context.
        let mut end = first;
        while let Some(next) = edits[end..].iter().position(is_change) {
            if next > 2 * CONTEXT {
                break;
            }
            end += next + 1;
        }
        let stop = (end + CONTEXT).min(edits.len());
        hunk(&mut out, &edits, start, stop, style);
        at = stop;
    }
    out
}

fn hunk(out: &mut String, edits: &[Edit<'_>], start: usize, stop: usize, style: Style) {
    let olds = |edits: &[Edit<'_>]| edits.iter().filter(|e| !matches!(e, Edit::Add(_))).count();
    let news = |edits: &[Edit<'_>]| edits.iter().filter(|e| !matches!(e, Edit::Take(_))).count();
    let range = |before: usize, len: usize| match len {
        0 => format!("{before},0"),
        1 => format!("{}", before + 1),
        _ => format!("{},{len}", before + 1),
    };
    let (before, inside) = (&edits[..start], &edits[start..stop]);
    let (old, new) = (range(olds(before), olds(inside)), range(news(before), news(inside)));
    let _ = writeln!(out, "@@ -{old} +{new} @@");
    for edit in inside {
        let line = match edit {
            Edit::Keep(line) => format!(" {line}"),
            Edit::Take(line) => style.red(&format!("-{line}")),
            Edit::Add(line) => style.green(&format!("+{line}")),
        };
        let _ = writeln!(out, "{line}");
    }
}

/// Longest common subsequence, by the plain table: these files have a few dozen lines.
fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Edit<'a>> {
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut edits = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            edits.push(Edit::Keep(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len() && (j == new.len() || common[i + 1][j] >= common[i][j + 1]) {
            edits.push(Edit::Take(old[i]));
            i += 1;
        } else {
            edits.push(Edit::Add(new[j]));
            j += 1;
        }
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_all_additions() {
        let diff = file("/etc/x", &State::Absent, &State::file("a\nb\n"), Style::Plain);
        assert_eq!(diff, "--- /dev/null\n+++ /etc/x\n@@ -0,0 +1,2 @@\n+a\n+b\n");
    }

    #[test]
    fn a_changed_line_stands_in_its_context() {
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let new = old.replace('5', "five");
        let expected = "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n";
        assert_eq!(unified(old, &new, Style::Plain), expected);
    }

    #[test]
    fn changes_far_apart_are_hunks_of_their_own() {
        let old: String = (1..=30).map(|n| format!("{n}\n")).collect();
        let new = old.replace("2\n3\n", "2\n3\nthree and a half\n").replace("28\n", "");
        let diff = unified(&old, &new, Style::Plain);
        assert_eq!(diff.matches("@@ -").count(), 2, "{diff}");
        assert!(diff.contains("@@ -1,6 +1,7 @@"), "{diff}");
        assert!(diff.contains("-28\n"), "{diff}");
    }

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        assert!(!unified("a\n", "b\n", Style::Plain).contains('\u{1b}'));
        assert!(unified("a\n", "b\n", Style::Colour).contains("\u{1b}[31m-a\u{1b}[0m"));
    }
}
