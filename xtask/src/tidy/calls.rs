//! Banned calls with their replacement, and what was left over from writing.

use super::Violation;
use super::source::{Line, Source, is_whole_word};
use super::tables::{self, CALLS, LEFTOVER_CODE, LEFTOVER_WORDS, Where};

/// Checks one file.
pub(super) fn check(source: &Source<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for line in source.lines() {
        for (needle, place, instead) in CALLS {
            if is_banned(*place, source.path, &line) && has(line.code, needle) {
                let message = format!("`{needle}`: instead {instead}");
                found.push(Violation::new(source.path, line.number, message));
            }
        }
        for (needle, advice) in LEFTOVER_CODE {
            if has(line.code, needle) {
                let message = format!("`{needle}` is left over: {advice}");
                found.push(Violation::new(source.path, line.number, message));
            }
        }
        for word in LEFTOVER_WORDS {
            if has_word(line.comment, word) {
                let message = format!("`{word}` is left over: do it, or open an issue");
                found.push(Violation::new(source.path, line.number, message));
            }
        }
    }
    found
}

fn is_banned(place: Where, path: &str, line: &Line<'_>) -> bool {
    match place {
        Where::Everywhere => true,
        Where::Libraries => !line.is_test && !tables::is_at_the_edge(path),
        Where::Partition => !line.is_test && tables::is_no_std(path),
        Where::Tests => line.is_test,
    }
}

/// Finds text that doesn't start in the middle of a word or a lifetime: `print!(` is not in
/// `eprint!(`, nor `static mut` in `&'static mut`.
fn has(code: &str, needle: &str) -> bool {
    let starts_a_word = needle.starts_with(|c: char| c.is_alphanumeric());
    code.match_indices(needle).any(|(at, _)| {
        let starts_here = is_whole_word(&code[..=at], at, 1) && !code[..at].ends_with('\'');
        !starts_a_word || starts_here
    })
}

fn has_word(comment: &str, word: &str) -> bool {
    comment.match_indices(word).any(|(at, _)| is_whole_word(comment, at, word.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER: &str = "nvme-driver/src/queue.rs";
    const HOST: &str = "host-bridge/src/runtime.rs";
    const BIN: &str = "app/src/bin/feed-handler/main.rs";
    const TEST: &str = "host-bridge/tests/start.rs";

    fn caught(path: &str, text: &str) -> bool {
        !check(&Source::new(path, text)).is_empty()
    }

    #[test]
    fn each_banned_call_is_caught_where_it_is_banned_and_nowhere_else() {
        for (text, where_caught) in [
            ("let a = std::env::var(\"A\");", [true, true, false, false]),
            ("let a = env::var_os(\"A\");", [true, true, false, false]),
            ("println!(\"a\");", [true, true, false, false]),
            ("eprint!(\"a\");", [true, true, false, false]),
            ("std::process::exit(1);", [true, true, false, false]),
            ("a.unwrap();", [true, false, false, false]),
            ("extern crate alloc;", [true, false, false, false]),
            ("std::thread::sleep(t);", [false, false, false, true]),
            ("static mut A: u8 = 0;", [true; 4]),
            ("core::mem::transmute(a);", [true; 4]),
            ("#![feature(test)]", [true; 4]),
        ] {
            let here = [DRIVER, HOST, BIN, TEST].map(|path| caught(path, text));
            assert_eq!(here, where_caught, "{text}");
        }
    }

    #[test]
    fn every_row_of_the_table_catches_its_own_text() {
        for (needle, place, instead) in CALLS {
            let path = if *place == Where::Tests { TEST } else { DRIVER };
            assert!(caught(path, &format!("{needle} x")), "{needle}");
            assert!(!instead.is_empty());
        }
    }

    #[test]
    fn tests_inside_a_library_may_unwrap() {
        assert!(!caught(DRIVER, "#[cfg(test)]\nmod tests {\n    fn a() { b.unwrap(); }\n}\n"));
        assert!(caught(DRIVER, "#[cfg(test)]\nmod tests {\n}\nfn a() { b.unwrap(); }\n"));
    }

    #[test]
    fn words_in_strings_and_longer_words_are_not_calls() {
        for text in [
            "let a = \"println!(\";",
            "// println!(",
            "my_println!(a);",
            "my_env::variable();",
            "a.unwrap_or(b);",
            "fn a(b: &'static mut u8) {}",
        ] {
            assert!(!caught(HOST, text), "{text}");
        }
    }

    #[test]
    fn leftovers_are_caught_in_code_and_in_comments() {
        let [fix, three, later] = [0, 1, 2].map(|index| LEFTOVER_WORDS[index]);
        // In halves, so that nobody who searches the tree takes them for leftovers of this file.
        for text in [
            concat!("fn a() { to", "do!() }").to_owned(),
            concat!("fn a() { unimpl", "emented!(\"b\") }").to_owned(),
            concat!("db", "g!(a);").to_owned(),
            concat!("#[ign", "ore]\nfn a() {}").to_owned(),
            concat!("#[ign", "ore = \"slow\"]\nfn a() {}").to_owned(),
            concat!("#[al", "low(dead_code)]").to_owned(),
            concat!("#![al", "low(dead_code)]").to_owned(),
            format!("// {fix}: later"),
            format!("/* {three} */"),
            format!("a(); // {later} b"),
        ] {
            assert!(caught(BIN, &text) && caught(TEST, &text), "{text}");
        }
        for text in [
            "#[expect(dead_code, reason = \"x\")]".to_owned(),
            format!("// 0{three}h is the register"),
            "#[allowed]".to_owned(),
        ] {
            assert!(!caught(BIN, &text), "{text}");
        }
    }
}
