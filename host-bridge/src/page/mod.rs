//! Reports as pages: one file that holds everything it shows, light and dark, readable on a phone.
//!
//! Used by programs of the host's side (`feed-handler --report`, `storage-bench --report`). It
//! knows charts ([`svg`], [`latency`]), the frame of a page, and distributions with the percentile
//! files of HdrHistogram, and nothing of what is measured. Nothing is loaded from anywhere.

mod beside;
mod distribution;
pub mod latency;
pub mod svg;

pub use beside::Beside;
pub use distribution::Distribution;

use std::fmt::Write as _;

/// The style sheet: colours of both schemes are variables, which charts use too.
pub const STYLE: &str = include_str!("page.css");

/// To a whole number of nanoseconds.
#[expect(clippy::cast_possible_truncation, reason = "saturates")]
#[expect(clippy::cast_sign_loss, reason = "saturates at 0")]
const fn whole(ns: f64) -> u64 {
    ns as u64
}

/// Text for a page.
#[must_use]
pub fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;")
}

/// The beginning: a badge, a title, and what it means.
#[must_use]
pub fn begin(program: &str, badge: &str, title: &str, means: &str) -> String {
    let [program, badge, title, means] = [program, badge, title, means].map(escape);
    format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <title>{program}: {title}</title>\n<style>\n{STYLE}</style>\n<main>\n\
         <header><p class=on>{badge}</p><h1>{title}</h1><p class=means>{means}</p></header>\n"
    )
}

/// The big figures: name, value, and a line below.
#[must_use]
pub fn tiles(tiles: &[(&str, String, String)]) -> String {
    let mut out = String::from("<div class=tiles>\n");
    for (name, value, below) in tiles {
        let _ = writeln!(
            out,
            "<div class=tile><span class=name>{}</span><span class=value>{}</span>\
             <span class=below>{}</span></div>",
            escape(name),
            escape(value),
            escape(below)
        );
    }
    out.push_str("</div>\n");
    out
}

/// A chart with its title, the keys of its lines (class and name), and a few words.
#[must_use]
pub fn section(title: &str, keys: &[(&str, &str)], chart: &str, words: &str) -> String {
    let mut legend = String::new();
    for (class, name) in keys {
        let _ = write!(legend, "<span class=\"key {class}\">{}</span>", escape(name));
    }
    format!(
        "<section><h2>{}</h2><p class=legend>{legend}</p>{chart}<p class=words>{}</p></section>\n",
        escape(title),
        escape(words)
    )
}

/// A table of rows, each with a name in front; of several columns the first row is the titles.
/// Figures and titles are not broken, words are.
#[must_use]
pub fn table(title: &str, rows: &[Vec<String>]) -> String {
    let mut out = format!("<section><h2>{}</h2><div class=wide><table>\n", escape(title));
    for (line, row) in rows.iter().enumerate() {
        out.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let figure = cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
            let open = match column {
                0 => "<th>",
                _ if row.len() > 2 && (figure || line == 0) && cell.len() < 16 => {
                    "<td class=number>"
                }
                _ => "<td>",
            };
            let _ = write!(out, "{open}{}", escape(cell));
        }
        out.push('\n');
    }
    out.push_str("</table></div></section>\n");
    out
}

/// The end.
#[must_use]
pub fn end(program: &str, version: &str, help: &str) -> String {
    format!("<footer>{program} {version}: {help}</footer>\n</main>\n</html>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_is_text_on_a_page() {
        let title = begin("p", "b", "<script>", "\"m\"");
        assert!(title.contains("<h1>&lt;script&gt;</h1>") && title.contains("&quot;m&quot;"));
        let rows = [vec!["a".to_owned(), "<b>".to_owned()]];
        assert!(table("t", &rows).contains("<tr><th>a<td>&lt;b&gt;"));
    }
}
