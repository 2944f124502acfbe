//! Splits Rust text into what is code and what is comment, both of the same shape.
//!
//! A rule that looks for a word must not find it in a string, and one that looks for a comment must
//! not find it in code. Both results have the length and the line ends of the source, so that
//! offsets and line numbers agree. The interior of literals is blank in both.

/// Code and comments of one file; see the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Masked {
    pub(super) code: String,
    pub(super) comments: String,
}

/// Splits `text`.
pub(super) fn mask(text: &str) -> Masked {
    let mut lexer = Lexer {
        src: text.as_bytes(),
        code: text.as_bytes().to_vec(),
        comments: blank(text.as_bytes()),
    };
    let mut at = 0;
    while at < lexer.src.len() {
        at = lexer.step(at);
    }
    Masked {
        code: String::from_utf8_lossy(&lexer.code).into_owned(),
        comments: String::from_utf8_lossy(&lexer.comments).into_owned(),
    }
}

fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }).collect()
}

/// Whether a byte can be part of an identifier.
pub(super) const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

struct Lexer<'a> {
    src: &'a [u8],
    code: Vec<u8>,
    comments: Vec<u8>,
}

impl Lexer<'_> {
    /// Handles what starts at `at`; gives where the next thing starts.
    fn step(&mut self, at: usize) -> usize {
        let rest = &self.src[at..];
        let in_word = at > 0 && is_word(self.src[at - 1]);
        match rest {
            [b'/', b'/', ..] => self.comment(at, line_end(rest)),
            [b'/', b'*', ..] => self.comment(at, block_end(rest)),
            [b'"', ..] => self.literal(at + 1, string_end(&rest[1..])),
            [b'\'', ..] => self.quote(at),
            [b'r', ..] if !in_word => self.raw(at, 1),
            [b'b' | b'c', b'r', ..] if !in_word => self.raw(at, 2),
            _ => at + 1,
        }
    }

    fn comment(&mut self, at: usize, len: usize) -> usize {
        let end = (at + len).min(self.src.len());
        self.comments[at..end].copy_from_slice(&self.src[at..end]);
        self.hide(at, end);
        end
    }

    /// Hides the interior of a literal of `len` bytes; gives the end with its closing quote.
    fn literal(&mut self, at: usize, len: usize) -> usize {
        let end = (at + len).min(self.src.len());
        self.hide(at, end);
        end + 1
    }

    /// A character literal, or else a lifetime.
    fn quote(&mut self, at: usize) -> usize {
        let rest = &self.src[at + 1..];
        let len = match rest {
            [b'\\', _, tail @ ..] => tail.iter().position(|b| *b == b'\'').map(|n| n + 2),
            [first, ..] => {
                let width = utf8_width(*first);
                (rest.get(width) == Some(&b'\'')).then_some(width)
            }
            [] => None,
        };
        match len {
            Some(len) => self.literal(at + 1, len),
            None => at + 1,
        }
    }

    /// A raw string after a prefix of `skip` bytes, or else a word that starts like one.
    fn raw(&mut self, at: usize, skip: usize) -> usize {
        let rest = &self.src[at + skip..];
        let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
        if rest.get(hashes) != Some(&b'"') {
            return at + 1;
        }
        let start = at + skip + hashes + 1;
        let mut close = vec![b'#'; hashes + 1];
        close[0] = b'"';
        let body = &self.src[start..];
        let len = body.windows(close.len()).position(|window| window == close);
        self.literal(start, len.unwrap_or(body.len())) + hashes
    }

    fn hide(&mut self, from: usize, to: usize) {
        for byte in &mut self.code[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
}

fn line_end(rest: &[u8]) -> usize {
    rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
}

/// Block comments nest.
fn block_end(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth.saturating_sub(1), at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn string_end(rest: &[u8]) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    rest.len()
}

const fn utf8_width(first: u8) -> usize {
    match first {
        0..0xc0 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        mask(text).code
    }

    #[test]
    fn comments_and_literals_are_blank_in_the_code() {
        for (text, expected) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b */ c", "a         c"),
            ("a /* /* b */ d */ c", "a                 c"),
            ("\"a//b\" c", "\"    \" c"),
            (r#""a\"b" c"#, "\"    \" c"),
            ("r\"a\\\" c", "r\"  \" c"),
            ("r#\"a\"b\"# c", "r#\"   \"# c"),
            ("br##\"a\"#b\"## c", "br##\"    \"## c"),
            ("'a' b", "' ' b"),
            ("'\\'' b", "'  ' b"),
            ("'\\u{1f}' b", "'      ' b"),
            ("'\"' b", "' ' b"),
            ("b'\"' b", "b' ' b"),
            ("'µ' b", "'  ' b"),
            ("&'a str '\"'", "&'a str ' '"),
            ("<'a>('b', 'c')", "<'a>(' ', ' ')"),
            ("r#type = 1", "r#type = 1"),
            ("for\"x\"", "for\" \""),
        ] {
            assert_eq!(code(text), expected, "{text:?}");
        }
    }

    #[test]
    fn comments_are_all_that_is_left_of_them() {
        let masked = mask("let a = \"// no\"; // yes\n/* and */ b");
        assert_eq!(masked.comments, "                 // yes\n/* and */  ");
    }

    #[test]
    fn both_have_the_shape_of_the_source() {
        let text = "//! µ\nfn a() { \"x\ny\" }\n/* \n */ 'b'\n\"open";
        let masked = mask(text);
        for result in [&masked.code, &masked.comments] {
            assert_eq!(result.len(), text.len());
            assert_eq!(result.matches('\n').count(), text.matches('\n').count());
        }
    }

    #[test]
    fn text_that_ends_anywhere_does_not_panic() {
        let text = "a /* b */ r#\"c\"# 'd' '\\n' \"e\\\"\" b'f' // g\n'";
        for end in 0..=text.len() {
            assert_eq!(code(&text[..end]).len(), end);
        }
    }
}
