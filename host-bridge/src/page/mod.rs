//! Reports as pages: one file that holds everything it shows, light and dark, readable on a phone.
//!
//! Used by programs of the host's side (`feed-handler --report`, `storage-bench --report`). It
//! knows charts ([`svg`]), the frame of a page, and the percentile files of HdrHistogram, and
//! nothing of what is measured. Nothing is loaded from anywhere.

pub mod svg;

use std::fmt::Write as _;

/// The style sheet: colours of both schemes are variables, which charts use too.
pub const STYLE: &str = include_str!("page.css");

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
#[must_use]
pub fn table(title: &str, rows: &[Vec<String>]) -> String {
    let mut out = format!("<section><h2>{}</h2><div class=wide><table>\n", escape(title));
    for row in rows {
        out.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let open = match column {
                0 => "<th>",
                _ if row.len() > 2 => "<td class=number>",
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

/// A distribution as HdrHistogram's tools read it (`.hgrm`): upper bounds and counts of buckets in
/// nanoseconds, ascending, in microseconds there.
#[must_use]
pub fn hgrm(buckets: &[(u64, u64)], sum_ns: u64, max_ns: u64) -> String {
    let total: u64 = buckets.iter().map(|(_, count)| count).sum();
    let mut out = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let us = |ns: u64| ns as f64 / 1e3;
    let mut seen = 0;
    for (upper, count) in buckets.iter().filter(|(_, count)| *count != 0) {
        seen += count;
        let value = us((*upper).min(max_ns));
        let share = seen as f64 / total.max(1) as f64;
        let _ = match seen == total {
            true => writeln!(out, "{value:12.3} {share:2.12} {seen:10}"),
            false => {
                writeln!(out, "{value:12.3} {share:2.12} {seen:10} {:14.2}", 1.0 / (1.0 - share))
            }
        };
    }
    let mean = us(sum_ns) / total.max(1) as f64;
    let off = |(upper, count): &(u64, u64)| *count as f64 * (us(*upper) - mean).powi(2);
    let deviation = (buckets.iter().map(off).sum::<f64>() / total.max(1) as f64).sqrt();
    let _ = write!(
        out,
        "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n\
         #[Max     = {:12.3}, Total count    = {total:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]\n",
        us(max_ns),
        64,
        32
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_file_has_the_columns_of_hdrhistogram() {
        let text = hgrm(&[(999, 0), (1000, 3), (5000, 1)], 7000, 4000);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().count(), 4);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(lines[2]), ["1.000", "0.750000000000", "3", "4.00"]);
        assert_eq!(words(lines[3]), ["4.000", "1.000000000000", "4"]);
        assert!(lines[4].starts_with("#[Mean    =        1.750,"), "{text}");
        assert!(lines[5].contains("Total count    =            4]"), "{text}");
    }

    #[test]
    fn what_comes_from_outside_is_text_on_a_page() {
        let title = begin("p", "b", "<script>", "\"m\"");
        assert!(title.contains("<h1>&lt;script&gt;</h1>") && title.contains("&quot;m&quot;"));
        let rows = [vec!["a".to_owned(), "<b>".to_owned()]];
        assert!(table("t", &rows).contains("<tr><th>a<td>&lt;b&gt;"));
    }
}
