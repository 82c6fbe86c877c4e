//! Vectors of a block in a list: one behind the other, cut into parts that fill a page of the file.
//!
//! A search reads single rows of such blocks. SQLite finds a table's row that fits a page by its number, but the middle of
//! a large blob only by walking through all pages before it.
//!
//! ```text
//! rows     │ row 0  │ row 1  │ row 2  │ row 3  │    high plane, then low plane of each
//! pages    │ page 0      │ page 1      │ rest  │    in `_paged`; what fills none in the place of `_blocks`' high plane
//! ```

use std::ops::Range;

use super::blocks::{listed_slots, packed};
use super::lists::list_of;
use super::reading::Opened;
use super::statements::{blob, integer, schema_of};
use super::{LISTED, PACKED_FORMAT, PAGED_FORMAT, PAGED_SCHEMA, Store};
use crate::error::Result;
use crate::index::Form;
use crate::sqlite::Value;

/// What SQLite keeps on a page besides a row's one blob, where the page is to hold that row alone: 35 bytes of a table's leaf
/// (<https://sqlite.org/fileformat2.html>, 1.6), 5 of the record.
const AROUND: usize = 40;
/// The largest page of a file.
const MOST_PAGE: usize = 65_536;

/// How the rows of a table's lists lie in pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages {
    /// Bytes of a page.
    bytes: usize,
    /// Bytes of a row with all its planes.
    width: usize,
    /// Pages of a full block.
    most: usize,
    /// Whether rowids take as few bytes as they can, places lie in chunks, and codes end with the rows: format 8.
    is_packed: bool,
}

impl Pages {
    fn new(bytes: usize, form: &Form, is_packed: bool) -> Pages {
        let width = form.high_bytes() + form.low_bytes();
        let most = (listed_slots(form) * width / bytes).max(1);
        Pages { bytes, width, most, is_packed }
    }

    /// Whether the table is of format 8.
    pub(super) fn is_packed(&self) -> bool {
        self.is_packed
    }

    /// Bytes of a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The number of a block's page: small ones take little room in SQLite's tree.
    pub(super) fn number(&self, block: i64, nth: usize) -> i64 {
        (block - LISTED) * self.most as i64 + nth as i64
    }

    /// The numbers that pages of a block may have.
    pub(super) fn numbers(&self, block: i64) -> Range<i64> {
        self.number(block, 0)..self.number(block + 1, 0)
    }

    /// How many pages so many rows fill.
    pub(super) fn filled(&self, rows: usize) -> usize {
        rows * self.width / self.bytes
    }

    /// How many bytes of so many rows fill none.
    pub(super) fn left(&self, rows: usize) -> usize {
        rows * self.width % self.bytes
    }

    /// Where some bytes of a block lie: which page, from where in it, and which of the bytes.
    pub(super) fn pieces(
        &self,
        bytes: Range<usize>,
    ) -> impl Iterator<Item = (usize, usize, Range<usize>)> + use<> {
        let page = self.bytes;
        let pages = bytes.start / page..bytes.end.div_ceil(page);
        let some = pages.map(move |nth| {
            let first = bytes.start.max(nth * page);
            let last = bytes.end.min((nth + 1) * page);
            (nth, first - nth * page, first - bytes.start..last - bytes.start)
        });
        some.filter(|it| !it.2.is_empty())
    }
}

impl Store {
    /// How rows of lists lie in pages; none where they lie in planes, as earlier versions wrote them.
    pub(super) fn pages(&self) -> Result<Option<Pages>> {
        self.pages.or_find(self, || {
            let (format, sql) = (self.format()?, "SELECT value FROM {config} WHERE key = 'page'");
            let Some(bytes) = self.first(sql, &[], |row| integer(row, 0))? else {
                return match format < PAGED_FORMAT {
                    true => Ok(None),
                    false => Err(self.damaged("config", "'page' is missing".to_owned())),
                };
            };
            let sound = |it: &usize| (1..=MOST_PAGE).contains(it);
            let Some(sound) = usize::try_from(bytes).ok().filter(sound) else {
                let reason = format!("'page' is {bytes} (1 to {MOST_PAGE})");
                return Err(self.damaged("config", reason));
            };
            Ok(Some(Pages::new(sound, &self.made.form(), PACKED_FORMAT <= format)))
        })
    }

    /// Whether the table is of format 8.
    pub(super) fn is_packed(&self) -> Result<bool> {
        Ok(self.pages()?.is_some_and(|it| it.is_packed))
    }

    /// The same for a block; none of one that has planes.
    pub(super) fn pages_of(&self, block: i64) -> Result<Option<Pages>> {
        match list_of(block) {
            Some(_) => self.pages(),
            None => Ok(None),
        }
    }

    /// From now on blocks in lists, of which there are none, have pages.
    pub(super) fn begin_pages(&self) -> Result<()> {
        if self.pages()?.is_none() {
            self.db.execute(&schema_of(PAGED_SCHEMA, &self.schema, &self.name, &self.made))?;
        }
        let page = self.db.page_bytes(&self.schema)?.saturating_sub(AROUND).max(1);
        self.run(
            "INSERT OR REPLACE INTO {config}(key, value) VALUES ('page', ?1)",
            &[Value::Integer(page as i64)],
        )
    }

    /// Has 'page' say what most pages have, if there are any.
    pub(super) fn restore_page_bytes(&self) -> Result<()> {
        if self.format()? < PAGED_FORMAT {
            return Ok(());
        }
        let sql = "SELECT length(rows) FROM {paged} GROUP BY 1 ORDER BY count(*) DESC LIMIT 1";
        let bytes = match self.first(sql, &[], |row| integer(row, 0))? {
            Some(most) => most,
            None if self.pages().is_ok() => return Ok(()),
            None => MOST_PAGE as i64,
        };
        self.pages.forget();
        self.run(
            "INSERT OR REPLACE INTO {config}(key, value) VALUES ('page', ?1)",
            &[Value::Integer(bytes)],
        )
    }

    /// Writes what a block has behind so many rows' pages into pages; what is left behind them.
    pub(super) fn write_pages<'a>(
        &self,
        pages: &Pages,
        block: i64,
        there: usize,
        bytes: &'a [u8],
    ) -> Result<&'a [u8]> {
        let parts = bytes.chunks_exact(pages.bytes);
        let rest = parts.remainder();
        let numbered = (pages.filled(there)..).zip(parts);
        self.run_each(
            "INSERT INTO {paged}(page, rows) VALUES (?1, ?2)",
            numbered.map(|(nth, it)| [Value::Integer(pages.number(block, nth)), Value::Blob(it)]),
        )?;
        Ok(rest)
    }

    /// A block's rows, one behind the other, of which `rest` is what fills no page.
    pub(super) fn read_pages(
        &self,
        pages: &Pages,
        block: i64,
        count: usize,
        rest: &[u8],
    ) -> Result<Vec<u8>> {
        let (filled, left) = (pages.filled(count), pages.left(count));
        let (mut bytes, mut found) = (Vec::with_capacity(count * pages.width), 0);
        let numbers = pages.numbers(block);
        let sql = "SELECT page, rows FROM {paged} WHERE ?1 <= page AND page < ?2 ORDER BY page";
        self.each(sql, &[numbers.start, numbers.end].map(Value::Integer), |row| {
            let (nth, part) = (integer(row, 0)? - numbers.start, blob(row, 1)?);
            if found == filled {
                let reason = format!("block {block} has page {nth}, {count} rows fill {filled}");
                return Err(self.damaged("paged", reason));
            }
            if nth != found as i64 || part.len() != pages.bytes {
                let reason = format!(
                    "page {nth} of block {block} has {} bytes, expected page {found} of {}",
                    part.len(),
                    pages.bytes,
                );
                return Err(self.damaged("paged", reason));
            }
            found += 1;
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        if found != filled || rest.len() != left {
            let reason = format!(
                "block {block} has {found} pages and {} bytes behind them, {count} rows need {filled} and {left}",
                rest.len(),
            );
            return Err(self.damaged("paged", reason));
        }
        bytes.extend_from_slice(rest);
        Ok(bytes)
    }

    /// Takes a row out of a block; the last one comes into its slot. How many are left.
    pub(super) fn take_from_pages(
        &self,
        pages: &Pages,
        rowid: i64,
        block: i64,
        slot: usize,
    ) -> Result<usize> {
        let mut rowids = self.rowids_of(block)?;
        let count = rowids.len();
        if count <= slot {
            return Err(self.no_slot(rowid, block, slot, count));
        }
        let last = count - 1;
        rowids.swap_remove(slot);
        if let Some(moved) = rowids.get(slot) {
            self.write_places(&mut vec![(*moved, packed(block, slot))])?;
        }
        let (before, after) = (pages.filled(count), pages.filled(last));
        let reading = self.reading();
        if slot < last {
            let mut moved = vec![0; pages.width];
            reading.read(pages, (block, count), last * pages.width, &mut moved)?;
            let mut written = Opened::to_write("paged", "rows");
            let mut rest = Opened::to_write("blocks", "high");
            for (nth, start, part) in pages.pieces(slot * pages.width..(slot + 1) * pages.width) {
                let (table, opened, row) = match nth < before {
                    true => ("paged", &mut written, pages.number(block, nth)),
                    false => ("blocks", &mut rest, block),
                };
                let blob = opened.at(self, row)?;
                self.reaches(table, row, blob, start + part.len())?;
                blob.write(start, &moved[part])?;
            }
        }
        let mut rest = vec![0; pages.left(last)];
        reading.read(pages, (block, count), after * pages.bytes, &mut rest)?;
        drop(reading);
        let rowids = self.rowid_bytes(&rowids)?;
        self.run(
            "UPDATE {blocks} SET count = ?2, rowids = ?3, high = ?4 WHERE block = ?1",
            &[
                Value::Integer(block),
                Value::Integer(last as i64),
                Value::Blob(&rowids),
                Value::Blob(&rest),
            ],
        )?;
        if after < before {
            self.drop_pages(pages.number(block, after)..pages.number(block, before))?;
        }
        Ok(last)
    }

    /// Removes pages.
    pub(super) fn drop_pages(&self, numbers: Range<i64>) -> Result<()> {
        self.run(
            "DELETE FROM {paged} WHERE ?1 <= page AND page < ?2",
            &[Value::Integer(numbers.start), Value::Integer(numbers.end)],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::LIST_BLOCKS;
    use super::*;
    use crate::index::{Metric, Storage};

    #[test]
    fn pieces_are_all_bytes_in_their_order() {
        arbtest::arbtest(|u| {
            let form = Form { metric: Metric::L2, storage: Storage::F32, dimension: 3 };
            let pages = Pages::new(u.int_in_range(1..=9)?, &form, true);
            let first = u.int_in_range(0..=40)?;
            let bytes = first..first + u.int_in_range(0..=30)?;
            let mut at = bytes.start;
            for (nth, start, part) in pages.pieces(bytes.clone()) {
                assert_eq!((nth * pages.bytes + start, bytes.start + part.start), (at, at));
                assert!(!part.is_empty() && start + part.len() <= pages.bytes);
                at += part.len();
            }
            assert_eq!(at, bytes.end);
            Ok(())
        });
    }

    #[test]
    fn no_page_has_the_number_of_another() {
        for bytes in [1, 472, 4_056, 65_496] {
            for dimension in [1, 128, 512, 65_536] {
                let form = Form { metric: Metric::L2, storage: Storage::F32, dimension };
                let pages = Pages::new(bytes, &form, true);
                let last = pages.filled(listed_slots(&form)).saturating_sub(1);
                let block = LISTED + LIST_BLOCKS;
                assert!(pages.number(block, last) < pages.number(block + 1, 0));
                assert!(pages.numbers(block).contains(&pages.number(block, last)));
            }
        }
    }
}
