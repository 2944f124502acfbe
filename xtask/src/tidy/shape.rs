//! Lengths of files, lines and functions, and the documentation that opens each module.

use super::Violation;
use super::source::Source;

/// Lines of a file from which it holds more than one noun.
const FILE_LINES: usize = 700;

/// Lines of a file from which to think about splitting it.
const FILE_LINES_AIM: usize = 500;

/// Characters of a line that fit two editors side by side.
const LINE_CHARS: usize = 100;

/// Lines of a function that fit a screen.
const FUNCTION_LINES: usize = 70;

/// What should change, and does not fail the build.
pub(super) fn warnings(source: &Source<'_>) -> Option<Violation> {
    let lines = source.text.lines().count();
    let message = format!("{lines} lines; aim at {FILE_LINES_AIM}");
    let long = lines > FILE_LINES_AIM && lines <= FILE_LINES;
    long.then(|| Violation::new(source.path, 0, message))
}

/// What must change.
pub(super) fn check(source: &Source<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let path = source.path;
    let lines = source.text.lines().count();
    if lines > FILE_LINES {
        let message = format!("{lines} lines; at most {FILE_LINES}: split it by noun");
        found.push(Violation::new(path, 0, message));
    }
    if !opens_with_docs(source.text) {
        let message = "does not open with `//!`: say what it is, who calls it, its invariants";
        found.push(Violation::new(path, 1, message));
    }
    for (line, number) in source.text.lines().zip(1..) {
        let chars = line.chars().count();
        if chars > LINE_CHARS && !line.contains("://") {
            let message = format!("{chars} characters; at most {LINE_CHARS}");
            found.push(Violation::new(path, number, message));
        }
    }
    for function in &source.functions {
        if function.lines() > FUNCTION_LINES && !source.is_test_line(function.first) {
            let (name, lines) = (&function.name, function.lines());
            let message = format!("function {name} has {lines} lines; at most {FUNCTION_LINES}");
            found.push(Violation::new(path, function.first, message));
        }
    }
    found
}

/// The first line that is neither blank nor an inner attribute is module documentation.
fn opens_with_docs(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with("#!["));
    first.is_none_or(|line| line.starts_with("//!"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, String)> {
        let found = check(&Source::new("app/src/a.rs", text));
        found.into_iter().map(|v| (v.line, v.message)).collect()
    }

    #[test]
    fn a_file_within_the_limits_is_fine() {
        assert!(found("//! Docs.\n\nfn a() {}\n").is_empty());
        assert!(found("#![no_std]\n//! Docs.\n").is_empty());
        assert!(found("").is_empty());
    }

    #[test]
    fn a_long_file_is_caught_and_a_longish_one_is_warned_about() {
        let text = |lines: usize| format!("//! Docs.\n{}", "//\n".repeat(lines - 1));
        assert!(found(&text(700)).is_empty());
        assert_eq!(found(&text(701))[0].1, "701 lines; at most 700: split it by noun");
        let warned = |lines| warnings(&Source::new("a.rs", &text(lines))).is_some();
        assert_eq!([500, 501, 700, 701].map(warned), [false, true, true, false]);
    }

    #[test]
    fn a_long_line_is_caught_in_characters_not_bytes() {
        let text = format!("//! Docs.\n// {}\n// {}\n", "µ".repeat(97), "x".repeat(98));
        assert_eq!(found(&text), [(3, "101 characters; at most 100".to_owned())]);
        assert!(found(&format!("//! https://x/{}\n", "y".repeat(100))).is_empty());
    }

    #[test]
    fn a_long_function_is_caught_outside_tests() {
        let body = "    x();\n".repeat(69);
        let text = format!("//! Docs.\nfn long() {{\n{body}}}\n");
        assert_eq!(found(&text), [(2, "function long has 71 lines; at most 70".to_owned())]);
        let body = "    x();\n".repeat(68);
        assert!(found(&format!("//! Docs.\nfn fits() {{\n{body}}}\n")).is_empty());
        let test = format!("//! Docs.\n#[cfg(test)]\nmod t {{\nfn a() {{\n{body}{body}}}\n}}\n");
        assert!(found(&test).is_empty());
    }

    #[test]
    fn a_file_without_module_docs_is_caught() {
        for text in ["fn a() {}\n//! late\n", "// plain\n", "/// outer\nfn a() {}\n"] {
            assert_eq!(found(text).len(), 1, "{text:?}");
        }
    }
}
