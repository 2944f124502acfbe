//! A small aligned table over [`core::fmt::Write`], for `status`, `list` and reports.
//!
//! Every cell is formatted twice: once to measure it, once to print it. That costs time where time
//! is cheap and saves the heap that this crate doesn't have.

use core::fmt::{self, Display, Write};

/// Which side the padding of a column is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Align {
    /// Text: padding on the right.
    #[default]
    Left,
    /// Numbers: padding on the left.
    Right,
}

/// A column's title and alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    title: &'static str,
    align: Align,
}

impl Column {
    /// A column of text.
    #[must_use]
    pub const fn left(title: &'static str) -> Self {
        Self { title, align: Align::Left }
    }

    /// A column of numbers.
    #[must_use]
    pub const fn right(title: &'static str) -> Self {
        Self { title, align: Align::Right }
    }
}

/// A table of `N` columns.
#[derive(Clone, Copy, Debug)]
pub struct Table<const N: usize> {
    columns: [Column; N],
}

impl<const N: usize> Table<N> {
    /// Columns are separated by two spaces, as in `ps` and `lsblk`.
    pub const GAP: usize = 2;

    /// A table with these columns; a table whose titles are all empty prints no title line.
    #[must_use]
    pub const fn new(columns: [Column; N]) -> Self {
        Self { columns }
    }

    /// Writes the titles and the rows, one a line, without trailing spaces.
    ///
    /// # Errors
    /// That of `out` or of a cell's own formatting.
    pub fn write(&self, out: &mut dyn Write, rows: &[[&dyn Display; N]]) -> fmt::Result {
        let widths = self.widths(rows)?;
        let titles = self.columns.each_ref().map(|column| column.title);
        if titles.iter().any(|title| !title.is_empty()) {
            self.line(out, &widths, titles.each_ref().map(|title| title as &dyn Display))?;
        }
        for row in rows {
            self.line(out, &widths, *row)?;
        }
        Ok(())
    }

    fn widths(&self, rows: &[[&dyn Display; N]]) -> Result<[usize; N], fmt::Error> {
        let mut widths = self.columns.each_ref().map(|column| column.title.chars().count());
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(width_of(*cell)?);
            }
        }
        Ok(widths)
    }

    fn line(
        &self,
        out: &mut dyn Write,
        widths: &[usize; N],
        row: [&dyn Display; N],
    ) -> fmt::Result {
        let mut owed = 0;
        for ((cell, width), column) in row.into_iter().zip(widths).zip(&self.columns) {
            let cell_width = width_of(cell)?;
            let pad = width - cell_width;
            if column.align == Align::Right {
                owed += pad;
            }
            if cell_width > 0 {
                write!(out, "{:owed$}{cell}", "")?;
                owed = 0;
            }
            owed += if column.align == Align::Left { pad } else { 0 } + Self::GAP;
        }
        out.write_char('\n')
    }
}

/// Counts characters instead of keeping them.
struct Width(usize);

impl Write for Width {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.chars().count();
        Ok(())
    }
}

fn width_of(cell: &dyn Display) -> Result<usize, fmt::Error> {
    let mut width = Width(0);
    write!(width, "{cell}")?;
    Ok(width.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::human::Count;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let table =
            Table::new([Column::left("BDF"), Column::right("IOPS"), Column::left("Driver")]);
        let mut out = String::new();
        table
            .write(
                &mut out,
                &[[&"0000:03:00.0", &Count(1_300_000), &"vfio-pci"], [&"04:00.0", &7, &"nvme"]],
            )
            .expect("a string takes everything");
        assert_eq!(
            out,
            "BDF                IOPS  Driver\n\
             0000:03:00.0  1,300,000  vfio-pci\n\
             04:00.0               7  nvme\n"
        );
    }

    #[test]
    fn empty_cells_leave_no_trailing_spaces() {
        let table = Table::new([Column::left("a"), Column::left("b"), Column::right("c")]);
        let mut out = String::new();
        table
            .write(&mut out, &[[&"x", &"", &""], [&"", &"", &"10"], [&"", &"yyy", &""]])
            .expect("a string takes everything");
        assert_eq!(out, "a  b     c\nx\n        10\n   yyy\n");
    }

    #[test]
    fn untitled_tables_print_rows_only_and_count_characters() {
        let table = Table::new([Column::left(""), Column::right("")]);
        let mut out = String::new();
        table.write(&mut out, &[[&"µs", &1], [&"long", &22]]).expect("a string takes everything");
        assert_eq!(out, "µs     1\nlong  22\n");
    }

    #[test]
    fn a_table_without_rows_is_its_titles() {
        let mut out = String::new();
        Table::new([Column::left("Type")]).write(&mut out, &[]).expect("a string");
        assert_eq!(out, "Type\n");
    }
}
