//! Feeds of several symbols: the leading column, and the filter.

use feed_handler::book::{BboChange, BookStorage, Capacity, QUOTE_CSV_HEADER, Sink};
use feed_handler::field::Symbol;
use feed_handler::pipeline::{Pipeline, PipelineConfig};

use crate::feeds;
use crate::machine::Machine;
use crate::real_data::same_rows;
use crate::temp::{TempDir, text};

/// Rows with their symbols, from the library without any device.
#[derive(Default)]
struct Rows {
    names: std::collections::BTreeMap<u16, String>,
    rows: Vec<(String, String)>,
}

impl Sink for Rows {
    fn stock(&mut self, locate: u16, symbol: Symbol) {
        let name = String::from_utf8_lossy(&symbol.0).trim_end().to_owned();
        self.names.insert(locate, name);
    }

    fn bbo(&mut self, change: &BboChange) {
        if change.in_session {
            let name = self.names.get(&change.locate).expect("a directory entry").clone();
            self.rows.push((name, change.quote.to_string()));
        }
    }
}

/// What the library says of `feed`.
fn rows(feed: &[u8]) -> Vec<(String, String)> {
    let capacity = Capacity::for_feed(feed.len() as u64);
    let mut memory = vec![0_u128; capacity.bytes() / 16 + 16];
    let bytes = zerocopy::IntoBytes::as_mut_bytes(memory.as_mut_slice());
    let skew = bytes.as_ptr().align_offset(128);
    let storage = BookStorage::carve(&mut bytes[skew..], capacity).expect("enough memory");
    let mut pipeline = Pipeline::new(storage, PipelineConfig::default());
    let mut rows = Rows::default();
    pipeline.feed(feed, &mut rows).expect("a right feed");
    rows.rows
}

fn csv<'a>(rows: impl Iterator<Item = &'a (String, String)>) -> String {
    let lines: String = rows.map(|(name, quote)| format!("{name},{quote}\n")).collect();
    format!("symbol,{QUOTE_CSV_HEADER}\n{lines}")
}

#[test]
fn quotes_of_several_symbols_have_a_leading_column() {
    let name = "quotes_of_several_symbols_have_a_leading_column";
    let Some(machine) = Machine::of(name) else { return };
    let (dir, day) = (TempDir::new(), feeds::day(5, 30, 30_000));
    let (feed, out) = (dir.file("day.itch", &day), dir.path("bbo.csv"));
    machine.run(&["replay", text(&feed), "--bbo", text(&out), "--no-probe"]).ok();
    let ours = std::fs::read_to_string(&out).expect("the program wrote it");
    same_rows(&ours, &csv(rows(&day).iter()), "all symbols");
}

#[test]
fn only_the_named_symbols_are_kept() {
    let name = "only_the_named_symbols_are_kept";
    let Some(machine) = Machine::of(name) else { return };
    let (dir, day) = (TempDir::new(), feeds::day(5, 30, 30_000));
    let (feed, out) = (dir.file("day.itch", &day), dir.path("bbo.csv"));
    let rows = rows(&day);
    let mut names: Vec<_> = rows.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    names.dedup();
    let [one, two] = [&names[0], &names[names.len() / 2]];

    let both = format!("{one},{two}");
    let mut args = vec!["replay", text(&feed), "--bbo", text(&out), "--no-probe", "--json"];
    args.extend(["--symbols", &both]);
    let run = machine.run(&args).ok();
    assert_eq!(run.json()["feed"]["books"], 2);
    let kept = rows.iter().filter(|(name, _)| name == one || name == two);
    same_rows(&std::fs::read_to_string(&out).expect("rows"), &csv(kept), &both);

    let last = args.len() - 1;
    args[last] = one;
    machine.run(&args).ok();
    let kept: String = rows
        .iter()
        .filter(|(name, _)| name == one)
        .map(|(_, quote)| format!("{quote}\n"))
        .collect();
    let expected = format!("{QUOTE_CSV_HEADER}\n{kept}");
    same_rows(&std::fs::read_to_string(&out).expect("rows"), &expected, one);
}

#[test]
fn a_symbol_that_the_feed_does_not_have_gives_no_rows() {
    let name = "a_symbol_that_the_feed_does_not_have_gives_no_rows";
    let Some(machine) = Machine::of(name) else { return };
    let (dir, feed) = (TempDir::new(), feeds::small());
    let out = dir.path("bbo.csv");
    let mut args = vec!["replay", text(&feed), "--bbo", text(&out), "--no-probe", "--json"];
    args.extend(["--symbols", "NOTHERE"]);
    let run = machine.run(&args).ok();
    assert_eq!(run.json()["feed"]["books"], 0);
    let rows = std::fs::read_to_string(&out).expect("a header");
    assert_eq!(rows, format!("{QUOTE_CSV_HEADER}\n"));
}
