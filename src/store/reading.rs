//! Single rows out of blocks, as a search reads them.

use std::cell::RefCell;

use super::Store;
use super::lists::list_of;
use super::pages::Pages;
use super::rows::Rows;
use super::statements::integer;
use crate::error::{Error, Result};
use crate::index::{Found, Listed, Planes, Show, ShowRow, Source};
use crate::sqlite::Blob;
use crate::vector::Vector;

/// High planes that are read together lie no farther apart: to pass over them takes less than to begin anew.
const NEAR_SLOTS: usize = 3;

/// The shadow tables as one search reads them: what it opened stays open until it ends.
pub struct Reading<'a> {
    pub(super) store: &'a Store,
    pages: RefCell<Opened>,
    blocks: RefCell<Opened>,
}

/// A column of blobs, at one of its rows.
pub(super) struct Opened {
    table: &'static str,
    column: &'static str,
    writes: bool,
    at: i64,
    blob: Option<Blob>,
}

impl Opened {
    fn to_read(table: &'static str, column: &'static str) -> Opened {
        Opened { table, column, writes: false, at: 0, blob: None }
    }

    pub(super) fn to_write(table: &'static str, column: &'static str) -> Opened {
        Opened { writes: true, ..Opened::to_read(table, column) }
    }

    /// The blob of a row, which is a block or a page of one.
    pub(super) fn at(&mut self, store: &Store, row: i64) -> Result<&mut Blob> {
        let outcome = match self.blob.take() {
            Some(blob) if self.at == row => Ok(blob),
            Some(mut blob) => blob.reopen(row).map(|()| blob),
            None if self.writes => {
                store.db.blob_mut(&store.schema, &store.shadow(self.table), self.column, row)
            }
            None => store.db.blob(&store.schema, &store.shadow(self.table), self.column, row),
        };
        let blob = outcome.map_err(|err| store.missing(self.table, row, err))?;
        self.at = row;
        Ok(self.blob.insert(blob))
    }
}

impl Store {
    /// For one search.
    pub fn reading(&self) -> Reading<'_> {
        let pages = RefCell::new(Opened::to_read("paged", "rows"));
        let blocks = RefCell::new(Opened::to_read("blocks", "high"));
        Reading { store: self, pages, blocks }
    }
}

impl Reading<'_> {
    /// Fills `bytes` from those of a block's rows, of which there are so many.
    pub(super) fn read(
        &self,
        pages: &Pages,
        (block, count): (i64, usize),
        from: usize,
        bytes: &mut [u8],
    ) -> Result<()> {
        let filled = pages.filled(count);
        for (nth, start, part) in pages.pieces(from..from + bytes.len()) {
            let (table, opened, row) = match nth < filled {
                true => ("paged", &self.pages, pages.number(block, nth)),
                false => ("blocks", &self.blocks, block),
            };
            let mut opened = opened.borrow_mut();
            let blob = opened.at(self.store, row)?;
            self.store.reaches(table, row, blob, start + part.len())?;
            blob.read(start, &mut bytes[part])?;
        }
        Ok(())
    }

    /// Shows rows of blocks that have pages.
    fn show_from_pages(
        &self,
        pages: &Pages,
        rows: &[Found],
        planes: Planes,
        show: &mut ShowRow<'_>,
    ) -> Result<()> {
        let high_bytes = self.store.made.form().high_bytes();
        let wanted = if planes == Planes::High { high_bytes } else { pages.width() };
        let mut bytes = vec![0; wanted];
        let (mut block, mut count) = (0, 0);
        for (at, found) in rows.iter().enumerate() {
            if found.block != block {
                block = found.block;
                count = self.store.rows_in(block)?;
            }
            if count <= found.slot {
                let slot = found.slot;
                let reason =
                    format!("slot {slot} of block {block} is asked for, which has {count} rows");
                return Err(self.store.damaged("blocks", reason));
            }
            self.read(pages, (block, count), found.slot * pages.width(), &mut bytes)?;
            let (high, low) = bytes.split_at(high_bytes);
            let low = (wanted == pages.width()).then_some(low);
            show(at, high, low).map_err(|err| self.unsound(found, &err))?;
        }
        Ok(())
    }

    /// Shows rows of blocks that have planes, without the low ones: those lie elsewhere.
    fn show_high_planes(&self, rows: &[Found], show: &mut ShowRow<'_>) -> Result<()> {
        let store = self.store;
        let form = store.made.form();
        let width = form.high_bytes();
        let low = (form.low_bytes() == 0).then_some(&[][..]);
        let (mut bytes, mut at) = (Vec::new(), 0);
        let mut opened = self.blocks.borrow_mut();
        // What lies near each other is read at once.
        for run in rows.chunk_by(|a, b| a.block == b.block && b.slot <= a.slot + NEAR_SLOTS) {
            let (first, last) = (run[0].slot, run[run.len() - 1].slot);
            let blob = opened.at(store, run[0].block)?;
            store.reaches("blocks", run[0].block, blob, (last + 1) * width)?;
            bytes.resize((last + 1 - first) * width, 0);
            blob.read(first * width, &mut bytes)?;
            for found in run {
                let high = &bytes[(found.slot - first) * width..][..width];
                show(at, high, low).map_err(|err| self.unsound(found, &err))?;
                at += 1;
            }
        }
        Ok(())
    }

    /// Shows rows, sorted by block and slot, that are all in lists or all in none.
    pub(super) fn show_rows(
        &self,
        rows: &[Found],
        planes: Planes,
        show: &mut ShowRow<'_>,
    ) -> Result<()> {
        let Some(first) = rows.first() else {
            return Ok(());
        };
        match self.store.pages_of(first.block)? {
            Some(pages) => self.show_from_pages(&pages, rows, planes, show),
            None => self.show_high_planes(rows, show),
        }
    }

    /// Shows the vectors of rows in blocks that have planes.
    fn show_whole_planes(&self, rows: &[Found], show: &mut dyn FnMut(Found, Vector)) -> Result<()> {
        let (store, form) = (self.store, self.store.made.form());
        // Of each plane that the form has, and what was read of it.
        let mut planes = Vec::new();
        for (table, column, width) in store.columns().skip(1) {
            planes.push((table, Opened::to_read(table, column), vec![0; width]));
        }
        for found in rows {
            for (table, opened, bytes) in &mut planes {
                let blob = opened.at(store, found.block)?;
                let end = (found.slot + 1).saturating_mul(bytes.len());
                store.reaches(table, found.block, blob, end)?;
                blob.read(end - bytes.len(), bytes)?;
            }
            let plane = |at: usize| planes.get(at).map_or(&[][..], |it| &it.2);
            let vector = form.read(plane(0), plane(1)).map_err(|err| self.unsound(found, &err))?;
            show(*found, vector);
        }
        Ok(())
    }

    fn unsound(&self, found: &Found, err: &Error) -> Error {
        let Found { block, slot, .. } = found;
        self.store.damaged("blocks", format!("slot {slot} of block {block}: {err}"))
    }
}

impl Source for Reading<'_> {
    fn scan(&self, show: &mut Show<'_>) -> Result<()> {
        let store = self.store;
        let form = store.made.form();
        if store.pages()?.is_none() {
            return store.show_blocks("SELECT block, count, rowids, high FROM {blocks}", show);
        }
        self.tail(show)?;
        let sql = "SELECT count, rowids, high, NULL, block FROM {blocks} WHERE {listed} <= block";
        store.each(sql, &[], |row| {
            store.stop_if_interrupted()?;
            let block = integer(row, 4)?;
            let mut rows = Rows::none(&form);
            store.add_answered(block, row, &mut rows)?;
            let rowids: Vec<i64> = rows.rowids().collect();
            show(block, &rowids, rows.part(rows.all())[1])
        })
    }

    fn whole(&self, rows: &[Found], show: &mut dyn FnMut(Found, Vector)) -> Result<()> {
        // Blocks in lists have the larger numbers.
        let listed = rows.partition_point(|it| list_of(it.block).is_none());
        let (loose, listed) = rows.split_at(listed);
        self.show_whole_planes(loose, show)?;
        let Some(pages) = self.store.pages()? else {
            return self.show_whole_planes(listed, show);
        };
        let form = self.store.made.form();
        self.show_from_pages(&pages, listed, Planes::Both, &mut |at, high, low| {
            show(listed[at], form.read(high, low.unwrap_or_default())?);
            Ok(())
        })
    }
}
