//! `unsafe` stays in its rooms, and each block says why it is sound.
//!
//! Clippy checks SAFETY lines too, but only of what it compiles: not the code under `cfg(loom)`.

use super::Violation;
use super::source::{Line, Source, is_whole_word};
use super::tables::{FORBID_UNSAFE, UNSAFE_ROOMS};

/// Checks one file.
pub(super) fn check(source: &Source<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let lines: Vec<Line<'_>> = source.lines().collect();
    let in_room = UNSAFE_ROOMS.iter().any(|(room, _)| source.path.starts_with(room));
    if FORBID_UNSAFE.contains(&source.path) && !source.text.contains("#![forbid(unsafe_code)]") {
        let message = "this crate must say `#![forbid(unsafe_code)]`";
        found.push(Violation::new(source.path, 1, message));
    }
    for (index, line) in lines.iter().enumerate() {
        let Some(after) = after_unsafe(line.code) else {
            continue;
        };
        if !in_room {
            let message = "`unsafe` outside its rooms; use what core-runtime or host-bridge offer";
            found.push(Violation::new(source.path, line.number, message));
        } else if needs_reason(after, lines.get(index + 1)) && !has_safety(&lines, index) {
            let message = "`unsafe` without a `// SAFETY:` line that names its invariants";
            found.push(Violation::new(source.path, line.number, message));
        }
    }
    found
}

/// What follows the keyword `unsafe` on this line.
fn after_unsafe(code: &str) -> Option<&str> {
    const WORD: &str = "unsafe";
    let mut hits = code.match_indices(WORD);
    let (at, _) = hits.find(|(at, _)| is_whole_word(code, *at, WORD.len()))?;
    Some(code[at + WORD.len()..].trim_start())
}

/// Blocks and impls give a reason; declarations have a `# Safety` section, which clippy checks.
fn needs_reason(after: &str, next: Option<&Line<'_>>) -> bool {
    let after = match after {
        "" => next.map_or("", |line| line.code.trim_start()),
        after => after,
    };
    after.starts_with('{') || after.starts_with("impl")
}

/// Looks on the line, then upwards: through the rest of the statement, attributes and comments, to
/// where another statement ends.
fn has_safety(lines: &[Line<'_>], index: usize) -> bool {
    let says = |line: &Line<'_>| line.comment.contains("SAFETY:");
    if says(&lines[index]) {
        return true;
    }
    for line in lines[..index].iter().rev() {
        let code = line.code.trim();
        if code.is_empty() && line.comment.trim().is_empty() {
            return false;
        }
        if says(line) {
            return true;
        }
        if code.ends_with([';', '{', '}']) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: &str = "core-runtime/src/mem/bump.rs";

    fn found(path: &str, text: &str) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn unsafe_outside_its_rooms_is_caught() {
        for path in ["nvme-driver/src/queue.rs", "core-runtime/src/metrics.rs", "xtask/src/a.rs"] {
            assert_eq!(found(path, "// SAFETY: sure\nunsafe { a() }\n"), 1, "{path}");
            assert_eq!(found(path, "unsafe impl Send for A {}\n"), 1, "{path}");
        }
    }

    #[test]
    fn every_room_is_a_room_and_has_a_reason() {
        for (room, reason) in UNSAFE_ROOMS {
            assert_eq!(found(&format!("{room}x.rs"), "// SAFETY: sure\nunsafe { a() }\n"), 0);
            assert!(!reason.is_empty());
        }
    }

    #[test]
    fn the_word_in_other_places_is_no_unsafe() {
        for text in ["#![deny(unsafe_op_in_unsafe_fn)]", "// unsafe {", "let a = \"unsafe {\";"] {
            assert_eq!(found("nvme-driver/src/a.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn a_block_without_a_reason_is_caught() {
        for text in [
            "fn f() {\n    unsafe { a() }\n}\n",
            "// SAFETY: of another\nb();\nunsafe { a() }\n",
            "// SAFETY: too far\n\nunsafe { a() }\n",
            "unsafe impl Send for A {}\n",
            "// sure\nunsafe\n{ a() }\n",
            "// SAFETY: first\nunsafe impl Send for A {}\nunsafe impl Sync for A {}\n",
        ] {
            assert_eq!(found(ROOM, text), 1, "{text}");
        }
    }

    #[test]
    fn a_reason_may_stand_above_the_statement() {
        for text in [
            "// SAFETY: invariant 1\nunsafe { a() }\n",
            "// SAFETY: invariant 1,\n// which holds\nlet x = unsafe { a() };\n",
            "// SAFETY: invariant 1\nlet x =\n    b(c, unsafe { a() });\n",
            "// SAFETY: invariant 1\n#[cfg(x)]\nunsafe impl Send for A {}\n",
            "unsafe { a() } // SAFETY: invariant 1\n",
            "/// # Safety\n/// Hold it.\nunsafe fn a() {}\n",
            "type F = unsafe fn(u8);\n",
        ] {
            assert_eq!(found(ROOM, text), 0, "{text}");
        }
    }

    #[test]
    fn a_crate_that_must_forbid_unsafe_says_so() {
        assert_eq!(found("nvme-driver/src/lib.rs", "//! Docs.\n"), 1);
        assert_eq!(found("nvme-driver/src/lib.rs", "#![forbid(unsafe_code)]\n"), 0);
        assert_eq!(found("host-bridge/src/lib.rs", "//! Docs.\n"), 0);
    }
}
