//! Vectors in blocks: where each row is, and how rows come, change and go.

use super::Store;
use super::lists::list_of;
use super::statements::{ERROR, blob, integer};
use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::index::code::GROUP;
use crate::index::plane::{self, BYTES};
use crate::index::{Found, Show, Source};
use crate::sqlite::{Blob, Value};

/// Both planes of a full block.
const BLOCK_BYTES: usize = 256 * 1024;
const MOST_SLOTS: usize = 4_096;
/// About one plane of a full block in a list.
const LISTED_BYTES: usize = 32 * 1024;
/// Slots of a table's first block; it doubles until it is full.
const FIRST_SLOTS: usize = 8;
pub(super) const PLACE_BITS: u32 = 16;
pub(super) const ROWID_BYTES: usize = 8;

impl Store {
    /// Adds rows whose rowids are free.
    pub fn append(&self, rows: &[(i64, Embedding)]) -> Result<()> {
        self.written.set(self.written.get() + rows.len());
        self.unnoticed(|| self.append_all(rows))
    }

    pub(super) fn append_all(&self, rows: &[(i64, Embedding)]) -> Result<()> {
        let full = slots(self.made.dimension);
        let mut rest = rows;
        while !rest.is_empty() {
            let sql = "SELECT block, count, length(rowids) FROM {blocks} WHERE block < {listed} AND count < {full} LIMIT 1";
            let open = self.first(sql, &[], |row| {
                Ok((integer(row, 0)?, integer(row, 1)?, integer(row, 2)?))
            })?;
            let taken;
            if let Some((block, count, bytes)) = open {
                let capacity = bytes as usize / ROWID_BYTES;
                let count = self.slot_count(block, count, bytes as usize)?;
                taken = rest.len().min(full - count);
                if capacity < count + taken {
                    self.grow(block, count, (count + taken).next_power_of_two().min(full))?;
                }
                self.fill(block, count, &rest[..taken])?;
            } else {
                taken = rest.len().min(full);
                self.add_block(&rest[..taken])?;
            }
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// A new block for these rows.
    fn add_block(&self, rows: &[(i64, Embedding)]) -> Result<()> {
        let full = slots(self.made.dimension);
        let capacity = rows.len().next_power_of_two().max(FIRST_SLOTS).min(full);
        let (mut rowids, mut high, mut low) = planes(rows);
        rowids.resize(capacity * ROWID_BYTES, 0);
        high.resize(capacity * self.plane_bytes(), 0);
        low.resize(capacity * self.plane_bytes(), 0);
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
                Value::Integer(rows.len() as i64),
                Value::Blob(&rowids),
                Value::Blob(&high),
            ],
        )?;
        self.run(
            "INSERT INTO {low}(block, low) VALUES (?1, ?2)",
            &[Value::Integer(next), Value::Blob(&low)],
        )?;
        self.map(next, 0, rows)
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
        let [rowids, high, low] = &copied[..] else {
            return Ok(());
        };
        self.run(
            "UPDATE {blocks} SET rowids = ?2, high = ?3 WHERE block = ?1",
            &[Value::Integer(block), Value::Blob(rowids), Value::Blob(high)],
        )?;
        self.run(
            "UPDATE {low} SET low = ?2 WHERE block = ?1",
            &[Value::Integer(block), Value::Blob(low)],
        )
    }

    /// Writes rows into a block's free slots, from `count` on.
    fn fill(&self, block: i64, count: usize, rows: &[(i64, Embedding)]) -> Result<()> {
        let (rowids, high, low) = planes(rows);
        for ((table, column, width), bytes) in self.columns().into_iter().zip([rowids, high, low]) {
            let end = count * width + bytes.len();
            self.part_mut(table, column, block, end)?.write(count * width, &bytes)?;
        }
        self.set_count(block, count + rows.len())?;
        self.map(block, count, rows)
    }

    pub(super) fn map(&self, block: i64, from: usize, rows: &[(i64, Embedding)]) -> Result<()> {
        for (slot, (rowid, _)) in (from..).zip(rows) {
            self.run(
                "INSERT INTO {rows}(rowid, place) VALUES (?1, ?2)",
                &[Value::Integer(*rowid), Value::Integer(packed(block, slot))],
            )?;
        }
        Ok(())
    }

    /// Writes another embedding over a row's.
    pub fn replace(&self, rowid: i64, embedding: &Embedding) -> Result<()> {
        let Some((block, slot)) = self.place(rowid)? else {
            return Ok(());
        };
        if list_of(block).is_some() {
            self.remove(rowid)?;
            return self.append(&[(rowid, embedding.clone())]);
        }
        let (_, high, low) = planes(&[(rowid, embedding.clone())]);
        let [_, planes @ ..] = self.columns();
        for ((table, column, width), bytes) in planes.into_iter().zip([high, low]) {
            let end = (slot + 1) * width;
            self.part_mut(table, column, block, end)?.write(slot * width, &bytes)?;
        }
        Ok(())
    }

    /// Gives a row another, free rowid.
    pub fn move_row(&self, from: i64, to: i64) -> Result<()> {
        let Some((block, slot)) = self.place(from)? else {
            return Ok(());
        };
        self.changed();
        self.part_mut("blocks", "rowids", block, (slot + 1) * ROWID_BYTES)?
            .write(slot * ROWID_BYTES, &to.to_le_bytes())?;
        self.run(
            "UPDATE {rows} SET rowid = ?2 WHERE rowid = ?1",
            &[Value::Integer(from), Value::Integer(to)],
        )
    }

    /// Removes a row; the block's last row takes its slot, an empty block goes.
    pub fn remove(&self, rowid: i64) -> Result<()> {
        let Some((block, slot)) = self.place(rowid)? else {
            return Ok(());
        };
        let count = self.count_of(block)?;
        if count <= slot {
            return Err(self.damaged(
                "rows",
                format!("row {rowid} is in slot {slot} of block {block}, which has {count}"),
            ));
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
                    self.run(
                        "UPDATE {rows} SET place = ?2 WHERE rowid = ?1",
                        &[Value::Integer(moved), Value::Integer(packed(block, slot))],
                    )?;
                }
            }
        }
        self.run("DELETE FROM {rows} WHERE rowid = ?1", &[Value::Integer(rowid)])?;
        if let Some(list) = list_of(block) {
            self.unlist(list, block, slot, last)?;
        }
        if last == 0 {
            return self.drop_block(block);
        }
        self.set_count(block, last)
    }

    pub(super) fn drop_block(&self, block: i64) -> Result<()> {
        self.run("DELETE FROM {blocks} WHERE block = ?1", &[Value::Integer(block)])?;
        self.run("DELETE FROM {low} WHERE block = ?1", &[Value::Integer(block)])?;
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
        let mut rows = Vec::new();
        for block in loose {
            let places = self.slots_of(block)?;
            let mut taken = Vec::new();
            self.whole(&places, &mut |found, embedding| taken.push((found.rowid, embedding)))?;
            for (rowid, _) in &taken {
                self.run("DELETE FROM {rows} WHERE rowid = ?1", &[Value::Integer(*rowid)])?;
            }
            self.drop_block(block)?;
            rows.append(&mut taken);
            if slots(self.made.dimension) <= rows.len() {
                self.append(&rows)?;
                rows.clear();
            }
        }
        self.append(&rows)
    }

    pub(super) fn slots_of(&self, block: i64) -> Result<Vec<Found>> {
        let sql = "SELECT count, rowids FROM {blocks} WHERE block = ?1";
        let rowids = self.first(sql, &[Value::Integer(block)], |row| {
            let bytes = blob(row, 1)?;
            let count = self.slot_count(block, integer(row, 0)?, bytes.len())?;
            Ok(rowids(bytes, count))
        })?;
        let rowids = rowids.unwrap_or_default();
        Ok(rowids
            .into_iter()
            .enumerate()
            .map(|(slot, rowid)| Found { block, slot, rowid })
            .collect())
    }

    pub(super) fn place(&self, rowid: i64) -> Result<Option<(i64, usize)>> {
        let sql = "SELECT place FROM {rows} WHERE rowid = ?1";
        let place = self.first(sql, &[Value::Integer(rowid)], |row| integer(row, 0))?;
        Ok(place.map(|it| (it >> PLACE_BITS, (it & ((1 << PLACE_BITS) - 1)) as usize)))
    }

    fn count_of(&self, block: i64) -> Result<usize> {
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
        let capacity = rowid_bytes / ROWID_BYTES;
        match usize::try_from(count) {
            Ok(count) if (1..=capacity.min(self.slots_in(block))).contains(&count) => Ok(count),
            _ => Err(self.damaged(
                "blocks",
                format!("block {block} counts {count} rows, its rowids hold {capacity}"),
            )),
        }
    }

    /// Most rows of a block: those in lists are smaller, as a search reads single rows of them.
    pub(super) fn slots_in(&self, block: i64) -> usize {
        match list_of(block) {
            Some(_) => listed_slots(self.made.dimension),
            None => slots(self.made.dimension),
        }
    }

    pub(super) fn plane_bytes(&self) -> usize {
        self.made.dimension * BYTES
    }

    /// Shadow table, column and bytes a slot of the three blobs of a block.
    pub(super) fn columns(&self) -> [(&'static str, &'static str, usize); 3] {
        let width = self.plane_bytes();
        [("blocks", "rowids", ROWID_BYTES), ("blocks", "high", width), ("low", "low", width)]
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

    pub(super) fn reaches(&self, table: &str, block: i64, blob: &Blob, end: usize) -> Result<()> {
        let bytes = blob.length();
        if end <= bytes {
            return Ok(());
        }
        let reason = format!("block {block} has {bytes} bytes where a row ends at {end}");
        Err(self.damaged(table, reason))
    }

    /// SQLite's plain error for a blob that is not there; any other error keeps its own words.
    pub(super) fn missing(&self, table: &str, block: i64, err: Error) -> Error {
        match err {
            Error::Sqlite { code: ERROR, message } => {
                self.damaged(table, format!("block {block}: {message}"))
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
            let Some(high) = high.get(..count * self.plane_bytes()) else {
                return Err(self.damaged(
                    "blocks",
                    format!("the high plane of block {block} has {} bytes, {count} vectors of {} dimensions need {}", high.len(), self.made.dimension, count * self.plane_bytes()),
                ));
            };
            show(block, &rowids(rowid_bytes, count), high)
        })
    }
}

impl Source for Store {
    fn scan(&self, show: &mut Show<'_>) -> Result<()> {
        self.show_blocks("SELECT block, count, rowids, high FROM {blocks}", show)
    }

    fn whole(&self, rows: &[Found], show: &mut dyn FnMut(Found, Embedding)) -> Result<()> {
        let width = self.plane_bytes();
        let (Some(first), [_, high, low]) = (rows.first(), self.columns()) else {
            return Ok(());
        };
        let open = |(table, column, _): (&'static str, &'static str, usize)| {
            self.part(table, column, first.block, 0)
        };
        let (mut high_blob, mut low_blob) = (open(high)?, open(low)?);
        let (mut high, mut low) = (vec![0; width], vec![0; width]);
        let mut block = first.block;
        for found in rows {
            let end = (found.slot + 1).saturating_mul(width);
            for (table, blob) in [("blocks", &mut high_blob), ("low", &mut low_blob)] {
                if found.block != block {
                    blob.reopen(found.block)
                        .map_err(|err| self.missing(table, found.block, err))?;
                }
                self.reaches(table, found.block, blob, end)?;
            }
            block = found.block;
            high_blob.read(end - width, &mut high)?;
            low_blob.read(end - width, &mut low)?;
            let embedding = Embedding::new(plane::join(&high, &low)).map_err(|err| {
                self.damaged("blocks", format!("slot {} of block {block}: {err}", found.slot))
            })?;
            show(*found, embedding);
        }
        Ok(())
    }
}

/// Vectors of a full block.
pub fn slots(dimension: usize) -> usize {
    (BLOCK_BYTES / (2 * BYTES * dimension)).clamp(1, MOST_SLOTS)
}

/// Vectors of a full block in a list.
pub fn listed_slots(dimension: usize) -> usize {
    (LISTED_BYTES / (BYTES * dimension)).next_multiple_of(GROUP).clamp(GROUP, 8 * GROUP)
}

pub(super) fn packed(block: i64, slot: usize) -> i64 {
    (block << PLACE_BITS) | slot as i64
}

pub(super) fn planes(rows: &[(i64, Embedding)]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (mut rowids, mut high, mut low) = (Vec::new(), Vec::new(), Vec::new());
    for (rowid, embedding) in rows {
        rowids.extend(rowid.to_le_bytes());
        plane::split(embedding.as_slice(), &mut high, &mut low);
    }
    (rowids, high, low)
}

pub(super) fn rowids(bytes: &[u8], count: usize) -> Vec<i64> {
    bytes
        .as_chunks::<ROWID_BYTES>()
        .0
        .iter()
        .take(count)
        .map(|it| i64::from_le_bytes(*it))
        .collect()
}
