//! Relative links of Markdown files, and paths that exist on one machine only.

use super::Violation;
use super::mask::is_word;

/// Starts of paths that belong to someone's machine.
const MACHINE_PATHS: [&str; 3] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Checks that every relative link of a Markdown file leads to a file of the repository.
pub(super) fn check(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (line, number) in text.lines().zip(1..) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for link in links(line) {
            match resolve(path, link) {
                None => {
                    let message = format!("link {link} leads out of the repository");
                    found.push(Violation::new(path, number, message));
                }
                Some(target) if !exists(&target) => {
                    let message = format!("link {link} leads nowhere");
                    found.push(Violation::new(path, number, message));
                }
                Some(_) => {}
            }
        }
    }
    found
}

/// The targets of `[text](target)` that are files: no address, no anchor of the same page.
fn links(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut code = false;
    for (at, c) in line.char_indices() {
        code ^= c == '`';
        if code || !line[at..].starts_with("](") {
            continue;
        }
        let rest = &line[at + 2..];
        let end = rest.find(')').unwrap_or(rest.len());
        let target = rest[..end].split([' ', '#']).next().unwrap_or_default();
        let target = target.trim_matches(['<', '>']);
        if !target.is_empty() && !target.contains(':') {
            targets.push(target);
        }
    }
    targets
}

/// The path of a link's target from the root, or [`None`] if it leaves the repository.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!link.starts_with('/')).then(|| parts.join("/"))
}

/// Finds paths that exist on one machine only, in any text file.
pub(super) fn machine_paths(path: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        for needle in MACHINE_PATHS {
            let is_absolute = |at: usize| {
                let before = at.checked_sub(1).and_then(|at| line.as_bytes().get(at));
                !before.is_some_and(|byte| is_word(*byte) || matches!(byte, b'.' | b'-' | b'/'))
            };
            if line.match_indices(needle).any(|(at, _)| is_absolute(at)) {
                let message = format!("{needle} is a path of one machine; make it relative");
                found.push(Violation::new(path, number, message));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, text: &str) -> Vec<String> {
        let files = ["README.md", "docs/a.md", "docs", "app/src/lib.rs"];
        let found = check(path, text, |path| files.contains(&path));
        found.into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        let text = "[a](docs/a.md) [b](docs/a.md#part \"title\") [c](#here) [d](https://x/y)\n\
            [e](docs/) ![f](./app/src/lib.rs) `[g](nowhere)` [h](mailto:x) [i](<docs/a.md>)\n\
            ```\n[j](nowhere)\n```\n";
        assert!(broken("README.md", text).is_empty());
        assert!(broken("docs/a.md", "[a](../README.md) [b](a.md)").is_empty());
    }

    #[test]
    fn links_that_lead_nowhere_are_caught() {
        assert_eq!(broken("README.md", "[a](b.md)"), ["link b.md leads nowhere"]);
        assert_eq!(broken("docs/a.md", "[a](docs/a.md)"), ["link docs/a.md leads nowhere"]);
        assert_eq!(broken("README.md", "```\n```\n[a](b.md#c)"), ["link b.md leads nowhere"]);
    }

    #[test]
    fn links_out_of_the_repository_are_caught() {
        for link in ["../x.md", "docs/../../x.md", "/etc/passwd"] {
            let expected = format!("link {link} leads out of the repository");
            assert_eq!(broken("README.md", &format!("[a]({link})")), [expected]);
        }
    }

    #[test]
    fn paths_of_one_machine_are_caught_and_their_likes_are_not() {
        for needle in MACHINE_PATHS {
            for text in [format!("cd {needle}x"), format!("\"{needle}\""), needle.to_owned()] {
                assert_eq!(machine_paths("a", &text).len(), 1, "{text}");
            }
            for text in [format!("target{needle}x"), format!("..{needle}x"), format!("-{needle}")] {
                assert!(machine_paths("a", &text).is_empty(), "{text}");
            }
        }
    }
}
