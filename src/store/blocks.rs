//! Vectors in blocks: where each row is, and how rows come, change and go.

use std::borrow::Cow;

use super::Store;
use super::lists::list_of;
use super::rowids;
use super::rows::Rows;
use super::statements::{ERROR, blob, integer};
use crate::error::{Error, Result};
use crate::index::code::GROUP;
use crate::index::{Form, Show};
use crate::sqlite::{Blob, Value};
use crate::vector::Vector;

/// The high plane of a full block.
const BLOCK_BYTES: usize = 128 * 1024;
const MOST_SLOTS: usize = 4_096;
/// About the high plane of a full block in a list.
const LISTED_BYTES: usize = 32 * 1024;
/// Slots of a table's first block; it doubles until it is full.
const FIRST_SLOTS: usize = 8;
pub(super) const PLACE_BITS: u32 = 16;
pub(super) const ROWID_BYTES: usize = 8;

impl Store {
    /// Adds rows whose rowids are free.
    pub fn append(&self, rows: &[(i64, Vector)]) -> Result<()> {
        self.written.set(self.written.get() + rows.len());
        self.rough.forget();
        let form = self.made.form();
        self.unnoticed(|| {
            rows.chunks(slots(&form)).try_for_each(|some| {
                self.append_all(&Rows::of(&form, some.iter().map(|it| (it.0, &it.1))))
            })
        })
    }

    /// How many rows fill a block, as far as is known: a rollback may have taken some back.
    pub fn room(&self) -> usize {
        self.room.get()
    }

    pub(super) fn append_all(&self, rows: &Rows) -> Result<()> {
        let full = slots(&self.made.form());
        let mut done = 0;
        while done < rows.count() {
            let sql = "SELECT block, count, length(rowids) FROM {blocks} WHERE block < {listed} AND count < {full} LIMIT 1";
            let open = self.first(sql, &[], |row| {
                Ok((integer(row, 0)?, integer(row, 1)?, integer(row, 2)?))
            })?;
            let (rest, taken) = (rows.count() - done, done);
            if let Some((block, count, bytes)) = open {
                let capacity = bytes as usize / ROWID_BYTES;
                let count = self.slot_count(block, count, bytes as usize)?;
                done += rest.min(full - count);
                let end = count + done - taken;
                if capacity < end {
                    self.grow(block, count, end.next_power_of_two().min(full))?;
                }
                self.fill(block, count, rows.part(taken..done))?;
                self.room.set(full - end);
            } else {
                done += rest.min(full);
                self.add_block(rows.part(taken..done))?;
                self.room.set(full - (done - taken));
            }
        }
        if self.room.get() == 0 {
            self.room.set(full);
        }
        Ok(())
    }

    /// A new block for these rows.
    pub(super) fn add_block(&self, rows: [&[u8]; 3]) -> Result<()> {
        let full = slots(&self.made.form());
        let count = rows[0].len() / ROWID_BYTES;
        let capacity = count.next_power_of_two().max(FIRST_SLOTS).min(full);
        // Bytes are only copied where there are to be more.
        let [rowids, high, low] = rows.map(|it| {
            let mut plane = Cow::Borrowed(it);
            if count < capacity {
                plane.to_mut().resize(it.len() / count * capacity, 0);
            }
            plane
        });
        let next = self
            .first(
                "SELECT ifnull(max(block), 0) + 1 FROM {blocks} WHERE block < {listed}",
                &[],
                |row| integer(row, 0),
            )?
            .unwrap_or(1);
        self.run(
            "INSERT INTO {blocks}(block, count, rowids, high) VALUES (?1, ?2, ?3, ?4)",
            &[
                Value::Integer(next),
                Value::Integer(count as i64),
                Value::Blob(&rowids),
                Value::Blob(&high),
            ],
        )?;
        if !low.is_empty() {
            self.run(
                "INSERT INTO {low}(block, low) VALUES (?1, ?2)",
                &[Value::Integer(next), Value::Blob(&low)],
            )?;
        }
        self.add_places(next, 0, rows[0])
    }

    /// Gives a block more slots.
    fn grow(&self, block: i64, count: usize, capacity: usize) -> Result<()> {
        let mut copied = Vec::new();
        for (table, column, width) in self.columns() {
            let old = self.part(table, column, block, count * width)?;
            let mut bytes = vec![0; capacity * width];
            old.read(0, &mut bytes[..count * width])?;
            copied.push(bytes);
        }
        let [rowids, high, low @ ..] = &copied[..] else {
            return Ok(());
        };
        self.run(
            "UPDATE {blocks} SET rowids = ?2, high = ?3 WHERE block = ?1",
            &[Value::Integer(block), Value::Blob(rowids), Value::Blob(high)],
        )?;
        low.iter().try_for_each(|low| {
            self.run(
                "UPDATE {low} SET low = ?2 WHERE block = ?1",
                &[Value::Integer(block), Value::Blob(low)],
            )
        })
    }

    /// Writes rows into a block's free slots, from `count` on.
    fn fill(&self, block: i64, count: usize, rows: [&[u8]; 3]) -> Result<()> {
        for ((table, column, width), bytes) in self.columns().zip(rows) {
            let end = count * width + bytes.len();
            self.part_mut(table, column, block, end)?.write(count * width, bytes)?;
        }
        self.set_count(block, count + rows[0].len() / ROWID_BYTES)?;
        self.add_places(block, count, rows[0])
    }

    /// Writes another vector over a row's.
    pub fn replace(&self, rowid: i64, vector: &Vector) -> Result<()> {
        let Some((block, slot)) = self.place(rowid)? else {
            return Ok(());
        };
        if list_of(block).is_some() {
            self.remove(rowid)?;
            return self.append(&[(rowid, vector.clone())]);
        }
        let row = Rows::of(&self.made.form(), std::iter::once((rowid, vector)));
        for ((table, column, width), bytes) in self.columns().zip(row.part(0..1)).skip(1) {
            let end = (slot + 1) * width;
            self.part_mut(table, column, block, end)?.write(slot * width, bytes)?;
        }
        Ok(())
    }

    /// Gives a row another, free rowid.
    pub fn move_row(&self, from: i64, to: i64) -> Result<()> {
        let Some((block, slot)) = self.place(from)? else {
            return Ok(());
        };
        self.changed();
        if self.pages_of(block)?.is_some() {
            let mut rowids = self.rowids_of(block)?;
            let count = rowids.len();
            *rowids.get_mut(slot).ok_or_else(|| self.no_slot(from, block, slot, count))? = to;
            self.run(
                "UPDATE {blocks} SET rowids = ?2 WHERE block = ?1",
                &[Value::Integer(block), Value::Blob(&self.rowid_bytes(&rowids)?)],
            )?;
        } else {
            self.part_mut("blocks", "rowids", block, (slot + 1) * ROWID_BYTES)?
                .write(slot * ROWID_BYTES, &to.to_le_bytes())?;
        }
        self.rename_place(from, to, packed(block, slot))
    }

    /// Removes a row; the block's last row takes its slot, an empty block goes.
    pub fn remove(&self, rowid: i64) -> Result<()> {
        let Some((block, slot)) = self.place(rowid)? else {
            return Ok(());
        };
        self.take_out(rowid, block, slot)?;
        self.forget_places([rowid].into_iter())
    }

    /// Takes a row out of its slot; where it is then, others say.
    pub(super) fn take_out(&self, rowid: i64, block: i64, slot: usize) -> Result<()> {
        let last = match self.pages_of(block)? {
            Some(pages) => self.take_from_pages(&pages, rowid, block, slot)?,
            None => self.take_from_planes(rowid, block, slot)?,
        };
        if let Some(list) = list_of(block) {
            self.unlist(list, block, slot, last)?;
        }
        match last {
            0 => self.drop_block(block),
            _ => Ok(()),
        }
    }

    /// Takes a row out of a block with planes; the last one comes into its slot. How many are left.
    fn take_from_planes(&self, rowid: i64, block: i64, slot: usize) -> Result<usize> {
        let count = self.count_of(block)?;
        if count <= slot {
            return Err(self.no_slot(rowid, block, slot, count));
        }
        let last = count - 1;
        if slot < last {
            for (table, column, width) in self.columns() {
                let mut blob = self.part_mut(table, column, block, count * width)?;
                let mut bytes = vec![0; width];
                blob.read(last * width, &mut bytes)?;
                blob.write(slot * width, &bytes)?;
                if column == "rowids" {
                    let moved = i64::from_le_bytes(bytes.try_into().unwrap_or_default());
                    self.write_places(&mut vec![(moved, packed(block, slot))])?;
                }
            }
        }
        self.set_count(block, last)?;
        Ok(last)
    }

    /// What is wrong where a row's entry names a slot that is not taken.
    pub(super) fn no_slot(&self, rowid: i64, block: i64, slot: usize, count: usize) -> Error {
        let reason = format!("row {rowid} is in slot {slot} of block {block}, which has {count}");
        self.damaged("rows", reason)
    }

    pub(super) fn drop_block(&self, block: i64) -> Result<()> {
        self.run("DELETE FROM {blocks} WHERE block = ?1", &[Value::Integer(block)])?;
        match self.pages_of(block)? {
            Some(pages) => self.drop_pages(pages.numbers(block))?,
            None => self.run("DELETE FROM {low} WHERE block = ?1", &[Value::Integer(block)])?,
        }
        match list_of(block) {
            Some(_) => self.run("DELETE FROM {codes} WHERE block = ?1", &[Value::Integer(block)]),
            None => Ok(()),
        }
    }

    /// Moves the rows of half-empty blocks together, so that all but one are full.
    pub(super) fn pack_tail(&self) -> Result<()> {
        let mut loose = Vec::new();
        self.each(
            "SELECT block FROM {blocks} WHERE block < {listed} AND count < {full}",
            &[],
            |row| {
                loose.push(integer(row, 0)?);
                Ok(())
            },
        )?;
        if loose.len() < 2 {
            return Ok(());
        }
        let mut rows = Rows::none(&self.made.form());
        for block in loose {
            let taken = self.block_rows(block)?;
            self.forget_places(taken.rowids())?;
            self.drop_block(block)?;
            rows.add(taken.part(taken.all()));
            if slots(&self.made.form()) <= rows.count() {
                self.append_all(&rows)?;
                rows = Rows::none(&self.made.form());
            }
        }
        self.append_all(&rows)
    }

    /// The rowids of a block, slot by slot; none of one that is not there.
    pub(super) fn rowids_of(&self, block: i64) -> Result<Vec<i64>> {
        let sql = "SELECT count, rowids FROM {blocks} WHERE block = ?1";
        let rowids = self.first(sql, &[Value::Integer(block)], |row| {
            let bytes = blob(row, 1)?;
            let count = self.slot_count(block, integer(row, 0)?, bytes.len())?;
            self.rowids_in(block, count, bytes)
        })?;
        Ok(rowids.unwrap_or_default())
    }

    /// The rowids in these bytes of a block, of which there are so many.
    pub(super) fn rowids_in(&self, block: i64, count: usize, bytes: &[u8]) -> Result<Vec<i64>> {
        match self.is_packed_block(block)? {
            true => rowids::unpacked(bytes, count)
                .ok_or_else(|| self.miscounted(block, count as i64, bytes.len())),
            false => Ok(rowids(bytes, count)),
        }
    }

    /// What a list's block has of these rowids.
    pub(super) fn rowid_bytes(&self, rowids: &[i64]) -> Result<Vec<u8>> {
        Ok(match self.is_packed()? {
            true => rowids::packed(rowids),
            false => rowids.iter().flat_map(|it| it.to_le_bytes()).collect(),
        })
    }

    pub(super) fn count_of(&self, block: i64) -> Result<usize> {
        let sql = "SELECT count, length(rowids) FROM {blocks} WHERE block = ?1";
        let count = self.first(sql, &[Value::Integer(block)], |row| {
            self.slot_count(block, integer(row, 0)?, integer(row, 1)? as usize)
        })?;
        count.ok_or_else(|| self.damaged("blocks", format!("block {block} is missing")))
    }

    fn set_count(&self, block: i64, count: usize) -> Result<()> {
        self.run(
            "UPDATE {blocks} SET count = ?2 WHERE block = ?1",
            &[Value::Integer(block), Value::Integer(count as i64)],
        )
    }

    /// How many slots of a block are taken, if its bytes can hold them.
    pub(super) fn slot_count(&self, block: i64, count: i64, rowid_bytes: usize) -> Result<usize> {
        let most = self.slots_in(block);
        let sound = usize::try_from(count).ok().filter(|it| (1..=most).contains(it));
        let held = |count: &usize| match self.is_packed_block(block) {
            Ok(true) => rowids::fits(rowid_bytes, *count),
            _ => *count <= rowid_bytes / ROWID_BYTES,
        };
        sound.filter(held).ok_or_else(|| self.miscounted(block, count, rowid_bytes))
    }

    fn miscounted(&self, block: i64, count: i64, rowid_bytes: usize) -> Error {
        let reason = match self.is_packed_block(block) {
            Ok(true) => format!(
                "block {block} counts {count} rows, which have no {rowid_bytes} bytes of rowids"
            ),
            _ => {
                let capacity = rowid_bytes / ROWID_BYTES;
                format!("block {block} counts {count} rows, its rowids hold {capacity}")
            }
        };
        self.damaged("blocks", reason)
    }

    /// Whether rowids of a block take as few bytes as they can.
    fn is_packed_block(&self, block: i64) -> Result<bool> {
        Ok(self.pages_of(block)?.is_some_and(|it| it.is_packed()))
    }

    /// Most rows of a block: those in lists are smaller, as a list's last block is written anew with each addition.
    pub(super) fn slots_in(&self, block: i64) -> usize {
        match list_of(block) {
            Some(_) => listed_slots(&self.made.form()),
            None => slots(&self.made.form()),
        }
    }

    /// Shadow table, column and bytes a slot of the blobs of a block.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&'static str, &'static str, usize)> {
        let form = self.made.form();
        let all = [
            ("blocks", "rowids", ROWID_BYTES),
            ("blocks", "high", form.high_bytes()),
            ("low", "low", form.low_bytes()),
        ];
        all.into_iter().filter(|it| 0 < it.2)
    }

    /// One blob of a block, at least `end` bytes long.
    pub(super) fn part(
        &self,
        table: &'static str,
        column: &str,
        block: i64,
        end: usize,
    ) -> Result<Blob> {
        let blob = self.db.blob(&self.schema, &self.shadow(table), column, block);
        self.reaching(table, block, end, blob)
    }

    /// [`Store::part`], to be written in place.
    pub(super) fn part_mut(
        &self,
        table: &'static str,
        column: &str,
        block: i64,
        end: usize,
    ) -> Result<Blob> {
        let blob = self.db.blob_mut(&self.schema, &self.shadow(table), column, block);
        self.reaching(table, block, end, blob)
    }

    fn reaching(&self, table: &str, block: i64, end: usize, blob: Result<Blob>) -> Result<Blob> {
        let blob = blob.map_err(|err| self.missing(table, block, err))?;
        self.reaches(table, block, &blob, end)?;
        Ok(blob)
    }

    pub(super) fn reaches(&self, table: &str, row: i64, blob: &Blob, end: usize) -> Result<()> {
        let bytes = blob.length();
        if end <= bytes {
            return Ok(());
        }
        let what = what_is_in(table);
        let reason = format!("{what} {row} has {bytes} bytes where a row ends at {end}");
        Err(self.damaged(table, reason))
    }

    /// SQLite's plain error for a blob that is not there; any other error keeps its own words.
    pub(super) fn missing(&self, table: &str, row: i64, err: Error) -> Error {
        match err {
            Error::Sqlite { code: ERROR, message } => {
                self.damaged(table, format!("{} {row}: {message}", what_is_in(table)))
            }
            other => other,
        }
    }

    /// Shows what a statement answers of blocks.
    pub(super) fn show_blocks(&self, sql: &'static str, show: &mut Show<'_>) -> Result<()> {
        self.each(sql, &[], |row| {
            self.stop_if_interrupted()?;
            let block = integer(row, 0)?;
            let rowid_bytes = blob(row, 2)?;
            let count = self.slot_count(block, integer(row, 1)?, rowid_bytes.len())?;
            let high = blob(row, 3)?;
            let needed = count * self.made.form().high_bytes();
            let Some(high) = high.get(..needed) else {
                return Err(self.damaged(
                    "blocks",
                    format!("the high plane of block {block} has {} bytes, {count} vectors of {} dimensions need {needed}", high.len(), self.made.dimension),
                ));
            };
            show(block, &rowids(rowid_bytes, count), high)
        })
    }
}

/// What a row of a shadow table of blobs is.
fn what_is_in(table: &str) -> &'static str {
    if table == "paged" { "page" } else { "block" }
}

/// Vectors of a full block.
pub fn slots(form: &Form) -> usize {
    (BLOCK_BYTES / form.high_bytes()).clamp(1, MOST_SLOTS)
}

/// Vectors of a full block in a list.
pub fn listed_slots(form: &Form) -> usize {
    (LISTED_BYTES / form.high_bytes()).next_multiple_of(GROUP).clamp(GROUP, 8 * GROUP)
}

pub(super) fn packed(block: i64, slot: usize) -> i64 {
    (block << PLACE_BITS) | slot as i64
}

/// The rowids of a block with planes.
fn rowids(bytes: &[u8], count: usize) -> Vec<i64> {
    bytes
        .as_chunks::<ROWID_BYTES>()
        .0
        .iter()
        .take(count)
        .map(|it| i64::from_le_bytes(*it))
        .collect()
}
