//! The `--bbo` file: each change of the best bid and offer within the trading session.
//!
//! Four columns, as in the truth that comes with the public samples. As soon as a second symbol
//! appears the rows get a leading `symbol` column, those written before too.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use feed_handler::book::{QUOTE_CSV_HEADER, Quote};
use hybrid_abi::event::{BBO_BEFORE_SESSION, Bbo};

/// A file of BBO changes.
pub(crate) struct BboFile {
    out: BufWriter<File>,
    first: Option<[u8; 8]>,
    many: bool,
}

impl BboFile {
    /// Makes the file, with its header.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        writeln!(out, "{QUOTE_CSV_HEADER}")?;
        Ok(Self { out, first: None, many: false })
    }

    /// Throws the rows away: the job begins anew.
    pub(crate) fn rewind(&mut self) -> io::Result<()> {
        self.out.flush()?;
        let file = self.out.get_mut();
        file.set_len(0)?;
        file.rewind()?;
        (self.first, self.many) = (None, false);
        writeln!(self.out, "{QUOTE_CSV_HEADER}")
    }

    /// Writes a change, unless it is from before the session.
    pub(crate) fn row(&mut self, bbo: &Bbo) -> io::Result<()> {
        if bbo.flags & BBO_BEFORE_SESSION != 0 {
            return Ok(());
        }
        let first = *self.first.get_or_insert(bbo.symbol);
        if first != bbo.symbol && !self.many {
            self.name_rows(first)?;
        }
        if self.many {
            write!(self.out, "{},", text(&bbo.symbol))?;
        }
        let quote = Quote {
            bid_price: bbo.bid_price,
            bid_shares: bbo.bid_shares,
            ask_price: bbo.ask_price,
            ask_shares: bbo.ask_shares,
        };
        writeln!(self.out, "{quote}")
    }

    /// Writes out what is buffered.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Gives the rows so far, which are all of `symbol`, their leading column.
    fn name_rows(&mut self, symbol: [u8; 8]) -> io::Result<()> {
        self.out.flush()?;
        let file = self.out.get_mut();
        let mut rows = String::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_string(&mut rows)?;
        file.seek(SeekFrom::Start(0))?;
        file.set_len(0)?;
        writeln!(self.out, "symbol,{QUOTE_CSV_HEADER}")?;
        let symbol = text(&symbol);
        for row in rows.lines().skip(1) {
            writeln!(self.out, "{symbol},{row}")?;
        }
        self.many = true;
        Ok(())
    }
}

/// A symbol without its padding; what is not printable is escaped.
fn text(symbol: &[u8; 8]) -> String {
    symbol.trim_ascii_end().escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bbo(symbol: &[u8; 8], price: u32, flags: u16) -> Bbo {
        Bbo {
            timestamp_ns: 0,
            message: 0,
            bid_shares: 1,
            ask_shares: 2,
            bid_price: price,
            ask_price: price + 1,
            symbol: *symbol,
            locate: 1,
            flags,
            reserved: 0,
        }
    }

    fn written(name: &str, rows: &[Bbo]) -> String {
        let path = std::env::temp_dir().join(format!("bbo-{name}-{}", std::process::id()));
        let mut file = BboFile::create(&path).expect("a file");
        for row in rows {
            file.row(row).expect("a row");
        }
        file.finish().expect("room on the disk");
        let text = std::fs::read_to_string(&path).expect("the file");
        let _ = std::fs::remove_file(&path);
        text
    }

    #[test]
    fn one_symbol_has_four_columns_and_nothing_from_before_the_session() {
        let rows = [bbo(b"AAPL    ", 9, BBO_BEFORE_SESSION), bbo(b"AAPL    ", 10, 0)];
        let text = written("one", &rows);
        assert_eq!(text, "bid_price,bid_shares,ask_price,ask_shares\n10,1,11,2\n");
    }

    #[test]
    fn a_second_symbol_names_all_rows() {
        let rows = [bbo(b"AAPL    ", 10, 0), bbo(b"MSFT    ", 20, 0), bbo(b"AAPL    ", 30, 0)];
        let text = written("two", &rows);
        assert_eq!(
            text,
            "symbol,bid_price,bid_shares,ask_price,ask_shares\n\
             AAPL,10,1,11,2\nMSFT,20,1,21,2\nAAPL,30,1,31,2\n"
        );
    }
}
