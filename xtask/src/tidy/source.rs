//! One Rust file as the rules see it: lines, code, comments, functions, and which lines are tests.

use super::mask::{is_word, mask};

/// A file, split once for all rules.
pub(super) struct Source<'a> {
    /// Relative to the root, with slashes.
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    code: String,
    comments: String,
    /// For each line, whether only tests compile it.
    test_lines: Vec<bool>,
    pub(super) functions: Vec<Function>,
}

/// One function with a body; lines from 1, both inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) first: usize,
    pub(super) last: usize,
}

impl Function {
    pub(super) const fn lines(&self) -> usize {
        self.last + 1 - self.first
    }
}

/// One line of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// From 1.
    pub(super) number: usize,
    pub(super) code: &'a str,
    pub(super) comment: &'a str,
    pub(super) is_test: bool,
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a str, text: &'a str) -> Self {
        let masked = mask(text);
        let code = masked.code;
        let whole = is_test_path(path) || code.contains("#![cfg(test)]");
        let mut test_lines = vec![whole; text.lines().count()];
        for (from, to) in test_items(&code) {
            let (from, to) = (line_of(&code, from), line_of(&code, to));
            test_lines[from - 1..to].fill(true);
        }
        Self {
            path,
            text,
            functions: functions(&code),
            code,
            comments: masked.comments,
            test_lines,
        }
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let both = self.code.lines().zip(self.comments.lines());
        both.zip(&self.test_lines).zip(1..).map(|(((code, comment), is_test), number)| Line {
            number,
            code,
            comment,
            is_test: *is_test,
        })
    }

    pub(super) fn is_test_line(&self, number: usize) -> bool {
        self.test_lines.get(number - 1).copied().unwrap_or(false)
    }
}

/// Files that hold nothing but tests.
fn is_test_path(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    path.split('/').rev().skip(1).any(|dir| dir == "tests")
        || stem == "tests"
        || stem.ends_with("_tests")
}

/// The line, from 1, of a byte.
fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

/// Start and end of every item behind `#[cfg(test)]`, `#[cfg(all(test, ...))]` or `#[test]`.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mut items = Vec::new();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test,", "#[test]"] {
        for (at, _) in code.match_indices(attribute) {
            let end = attribute_end(code, at);
            items.push((at, item_end(code, end)));
        }
    }
    items
}

fn attribute_end(code: &str, at: usize) -> usize {
    let open = at + code[at..].find('[').unwrap_or(0);
    matching(code, open) + 1
}

/// Where an item ends: at its `;`, or at the brace that closes its first one. Attributes that
/// stand before it are passed over.
fn item_end(code: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(offset) = code[at..].find(|c: char| !c.is_whitespace()) {
        at += offset;
        if !code[at..].starts_with("#[") {
            break;
        }
        at = attribute_end(code, at);
    }
    match body_or_end(code, at) {
        Some((open, true)) => matching(code, open),
        Some((end, false)) => end,
        None => code.len(),
    }
}

/// The next `{` (true) or `;` (false) outside of parentheses and brackets.
fn body_or_end(code: &str, from: usize) -> Option<(usize, bool)> {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return Some((at, true)),
            b';' if depth == 0 => return Some((at, false)),
            _ => {}
        }
    }
    None
}

/// The byte that closes the bracket at `open`, or the end of the text.
fn matching(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    code.len().saturating_sub(1)
}

/// Whether `code[at..at + len]` stands by itself, not inside a longer word.
pub(super) fn is_whole_word(code: &str, at: usize, len: usize) -> bool {
    let bytes = code.as_bytes();
    let before = at.checked_sub(1).and_then(|at| bytes.get(at));
    !before.is_some_and(|byte| is_word(*byte))
        && !bytes.get(at + len).is_some_and(|byte| is_word(*byte))
}

fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn") {
        if !is_whole_word(code, at, 2) {
            continue;
        }
        let rest = code[at + 2..].trim_start();
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // A function pointer's type has no name.
        if name.is_empty() {
            continue;
        }
        if let Some((open, true)) = body_or_end(code, at) {
            found.push(Function {
                name,
                first: line_of(code, at),
                last: line_of(code, matching(code, open)),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_lines(path: &str, text: &str) -> Vec<usize> {
        let source = Source::new(path, text);
        source.lines().filter(|line| line.is_test).map(|line| line.number).collect()
    }

    #[test]
    fn functions_are_found_with_their_lines() {
        let text = "fn a() {}\n\
            pub const fn b<T>(x: [u8; 4]) -> fn(u8) -> u8\nwhere\n    T: Sized,\n{\n    {}\n}\n\
            trait T { fn c(); fn d() { } }\n\
            // fn e() {}\nconst F: &str = \"fn g() {\";\n";
        let functions = Source::new("a.rs", text).functions;
        let found: Vec<_> = functions.iter().map(|f| (&*f.name, f.first, f.last)).collect();
        assert_eq!(found, [("a", 1, 1), ("b", 2, 7), ("d", 8, 8)]);
        assert_eq!(functions[1].lines(), 6);
    }

    #[test]
    fn braces_in_literals_do_not_end_a_function() {
        let text = "fn a() {\n    let _ = ('}', \"}\", r#\"}\"#);\n    // }\n}\nfn b() {}\n";
        let functions = Source::new("a.rs", text).functions;
        assert_eq!((functions[0].first, functions[0].last), (1, 4));
        assert_eq!((functions[1].first, functions[1].last), (5, 5));
    }

    #[test]
    fn test_items_are_known_by_their_attribute() {
        let text = "fn a() {}\n#[cfg(test)]\n#[path = \"x\"]\nmod tests {\n    fn b() {}\n}\n\
            fn c() {}\n#[cfg(test)]\nuse std::vec;\nfn d() {}\n\
            #[cfg(all(test, not(loom)))]\nmod e {\n}\nfn f() {}\n";
        assert_eq!(test_lines("a.rs", text), [2, 3, 4, 5, 6, 8, 9, 11, 12, 13]);
    }

    #[test]
    fn other_conditions_are_not_tests() {
        assert!(test_lines("a.rs", "#[cfg(not(test))]\nmod a {\n}\n").is_empty());
        assert!(test_lines("a.rs", "#[cfg(any(feature = \"x\", test))]\nmod a;\n").is_empty());
    }

    #[test]
    fn test_files_are_known_by_their_place() {
        for path in ["a/tests/b.rs", "a/tests/b/c.rs", "a/src/tests.rs", "a/src/ring_tests.rs"] {
            assert_eq!(test_lines(path, "fn a() {}\n"), [1], "{path}");
        }
        for path in ["a/src/testing.rs", "tests.d/src/a.rs", "a/src/contests/b.rs"] {
            assert!(test_lines(path, "fn a() {}\n").is_empty(), "{path}");
        }
        assert_eq!(test_lines("a.rs", "#![cfg(test)]\nfn a() {}\n"), [1, 2]);
    }
}
