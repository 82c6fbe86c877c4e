//! The shadow tables of one virtual table: vectors in blocks, and where each row is.

mod check;
mod content;
mod learn;
mod lists;
mod upkeep;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

pub use self::content::{ContentTable, Kind, PictureColumn, Seen};
use self::lists::{Kept, list_of};

use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::index::code::GROUP;
use crate::index::plane::{self, BYTES};
use crate::index::{Found, Show, Source};
use crate::sqlite::{Blob, Db, Statement, Value, quoted};

/// The format number of a table of its own.
pub const FORMAT: i64 = 1;
/// The format number of a table over another.
pub const CONTENT_FORMAT: i64 = 2;
/// The format number of either, once rows are in lists, as versions wrote it whose codes have no bound.
pub const LISTED_FORMAT: i64 = 3;
/// The format number of either, once rows are in lists.
pub const BOUNDED_FORMAT: i64 = 4;
/// Most numbers a vector may have.
pub const MOST_DIMENSIONS: usize = 65_536;
/// Shadow tables are called after the table, `_`, and one of these.
pub const SHADOWS: &[&str] =
    &["config", "blocks", "low", "rows", "seen", "skipped", "lists", "codes"];

const SCHEMA: &str = include_str!("../../sql/schema.sql");
const CONTENT_SCHEMA: &str = include_str!("../../sql/content.sql");
const LISTS_SCHEMA: &str = include_str!("../../sql/lists.sql");
/// Those that a table has which is over no other: one of the rest's names may be a user's table.
const OWN_SHADOWS: &[&str] = &["config", "blocks", "low", "rows"];
const CONTENT_SHADOWS: &[&str] = &["seen", "skipped"];
const LISTED_SHADOWS: &[&str] = &["lists", "codes"];
/// Both planes of a full block.
const BLOCK_BYTES: usize = 256 * 1024;
const MOST_SLOTS: usize = 4_096;
/// About one plane of a full block in a list.
const LISTED_BYTES: usize = 32 * 1024;
/// Slots of a table's first block; it doubles until it is full.
const FIRST_SLOTS: usize = 8;
const PLACE_BITS: u32 = 16;
/// Blocks from here on are in lists.
const LISTED: i64 = 1 << 30;
/// Numbers that the blocks of a list may have.
const LIST_BLOCKS: i64 = 1 << 10;
const ROWID_BYTES: usize = 8;

/// What the table was made for.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Numbers in a vector.
    pub dimension: usize,
    /// Name and digest of the model; none where people bring their own vectors.
    pub model: Option<(String, String)>,
    /// The table that it is over.
    pub content: Option<ContentTable>,
    /// The share of the nearest rows that a search of a large table finds, where it was given.
    pub recall: Option<f64>,
}

/// The shadow tables, seen from one connection.
pub struct Store {
    db: Db,
    schema: String,
    name: String,
    made: Made,
    prepared: RefCell<HashMap<&'static str, Statement>>,
    /// Whether rows are in lists, once it is known.
    listed: Cell<Option<bool>>,
    kept: RefCell<Option<Kept>>,
    /// Rows written since lists were seen to.
    written: Cell<usize>,
}

impl Store {
    /// Makes the shadow tables.
    pub fn create(db: Db, schema: &str, name: &str, made: Made) -> Result<Store> {
        db.execute(&schema_of(SCHEMA, schema, name, made.dimension))?;
        let format = match &made.content {
            Some(_) => CONTENT_FORMAT,
            None => FORMAT,
        };
        let config = format!("{}.{}", quoted(schema), quoted(&format!("{name}_config")));
        let mut insert =
            db.prepare(&format!("INSERT INTO {config}(key, value) VALUES (?1, ?2)"))?;
        insert.run(&[Value::Text("format"), Value::Integer(format)])?;
        insert.run(&[Value::Text("dimension"), Value::Integer(made.dimension as i64)])?;
        if let Some((model, digest)) = &made.model {
            insert.run(&[Value::Text("model"), Value::Text(model)])?;
            insert.run(&[Value::Text("digest"), Value::Text(digest)])?;
        }
        if let Some(recall) = made.recall {
            insert.run(&[Value::Text("recall"), Value::Real(recall)])?;
        }
        if let Some(content) = &made.content {
            db.execute(&schema_of(CONTENT_SCHEMA, schema, name, made.dimension))?;
            for (key, value) in content.settings() {
                insert.run(&[Value::Text(key), Value::Text(value)])?;
            }
        }
        Ok(Store::new(db, schema, name, made))
    }

    /// Finds the shadow tables of an existing table.
    ///
    /// # Errors
    /// Another format number; a config that is missing or makes no sense.
    pub fn open(db: Db, schema: &str, name: &str) -> Result<Store> {
        let config = format!("{name}_config");
        let mut select =
            db.prepare(&format!("SELECT key, value FROM {}.{}", quoted(schema), quoted(&config)))?;
        let (mut format, mut dimension, mut model, mut digest) = (None, None, None, None);
        let (mut settings, mut recall) = (Vec::new(), None);
        select.start(&[])?;
        while select.step()? {
            match (select.value(0)?, select.value(1)?) {
                (Value::Text("format"), Value::Integer(it)) => format = Some(it),
                (Value::Text("dimension"), Value::Integer(it)) => dimension = Some(it),
                (Value::Text("model"), Value::Text(it)) => model = Some(it.to_owned()),
                (Value::Text("digest"), Value::Text(it)) => digest = Some(it.to_owned()),
                (Value::Text("recall"), Value::Real(it)) => recall = Some(it),
                (Value::Text(key), Value::Text(it)) => {
                    settings.push((key.to_owned(), it.to_owned()));
                }
                _ => {}
            }
        }
        select.reset();
        if format.is_some_and(|it| !(FORMAT..=BOUNDED_FORMAT).contains(&it)) {
            return Err(Error::Usage(format!(
                "the table has format {}, this version of dualpath reads {FORMAT} to {BOUNDED_FORMAT} (use the version that wrote it)",
                format.unwrap_or_default()
            )));
        }
        let dimension = dimension
            .and_then(|it| usize::try_from(it).ok())
            .filter(|it| (1..=MOST_DIMENSIONS).contains(it));
        let damaged =
            |reason| Error::Damaged { table: config.clone(), name: name.to_owned(), reason };
        let (Some(format), Some(dimension)) = (format, dimension) else {
            return Err(damaged(format!(
                "it lacks 'format' or 'dimension' (1 to {MOST_DIMENSIONS})"
            )));
        };
        let content = match format {
            LISTED_FORMAT.. if settings.iter().all(|it| it.0 != "content") => None,
            CONTENT_FORMAT.. => Some(ContentTable::from_settings(&settings).ok_or_else(|| {
                damaged("it lacks 'content', 'content_rowid', or a column to encode".to_owned())
            })?),
            _ => None,
        };
        if let Some(it) = recall.filter(|it| !(0.0 < *it && *it <= 1.0)) {
            return Err(damaged(format!("'recall' is {it} (above 0, up to 1)")));
        }
        let made = Made { dimension, model: model.zip(digest), content, recall };
        Ok(Store::new(db, schema, name, made))
    }

    fn new(db: Db, schema: &str, name: &str, made: Made) -> Store {
        let (schema, name) = (schema.to_owned(), name.to_owned());
        let (prepared, listed, kept) = (RefCell::default(), Cell::new(None), RefCell::default());
        let written = Cell::new(0);
        Store { db, schema, name, made, prepared, listed, kept, written }
    }

    /// What the table was made for.
    pub fn made(&self) -> &Made {
        &self.made
    }

    /// The connection.
    pub fn db(&self) -> Db {
        self.db
    }

    /// Where the table stands: `main`, `temp` or an attached schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// What the table's shadow tables are called after.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Drops the shadow tables.
    pub fn destroy(&self) -> Result<()> {
        self.forget();
        for part in self.shadows()? {
            self.db.execute(&format!("DROP TABLE IF EXISTS {}", self.table(part)))?;
        }
        Ok(())
    }

    /// Renames the shadow tables.
    pub fn rename(&self, name: &str) -> Result<()> {
        self.forget();
        for part in self.shadows()? {
            let to = quoted(&format!("{name}_{part}"));
            self.db.execute(&format!("ALTER TABLE {} RENAME TO {to}", self.table(part)))?;
        }
        Ok(())
    }

    /// Gives up prepared statements, so that nothing stands in the way of a schema change.
    pub fn forget(&self) {
        self.prepared.borrow_mut().clear();
    }

    /// How many rows, counted.
    pub fn count(&self) -> Result<i64> {
        let sql = "SELECT count(*) FROM {rows}";
        self.first(sql, &[], |row| integer(row, 0)).map(Option::unwrap_or_default)
    }

    /// About how many rows, without looking.
    pub fn roughly(&self) -> Result<i64> {
        let sql = "SELECT max(block) FROM {blocks} WHERE block < {listed}";
        let last = self.first(sql, &[], |row| integer(row, 0)).unwrap_or_default().unwrap_or(0);
        let listed = self.lists().unwrap_or_default().map_or(0, |it| it.rows());
        Ok(last.saturating_mul(slots(self.made.dimension) as i64).saturating_add(listed as i64))
    }

    /// The largest rowid; none in an empty table.
    pub fn last(&self) -> Result<Option<i64>> {
        let sql = "SELECT max(rowid) FROM {rows}";
        self.first(sql, &[], |row| match row.value(0)? {
            Value::Integer(it) => Ok(Some(it)),
            _ => Ok(None),
        })
        .map(Option::flatten)
    }

    /// Up to `count` rowids from the range, rising.
    pub fn rowids(&self, first: i64, last: i64, count: usize) -> Result<Vec<i64>> {
        let sql = "SELECT rowid FROM {rows} WHERE rowid BETWEEN ?1 AND ?2 ORDER BY rowid LIMIT ?3";
        let arguments = [first, last, count as i64].map(Value::Integer);
        let mut rowids = Vec::new();
        let mut least = first;
        self.each(sql, &arguments, |row| {
            let rowid = integer(row, 0)?;
            // A damaged b-tree may go in circles, and whoever reads on would never come to its end.
            if rowid < least || rowid > last {
                let reason = format!("rowid {rowid} where {least} to {last} are expected");
                return Err(self.damaged("rows", reason));
            }
            rowids.push(rowid);
            least = rowid.saturating_add(1);
            Ok(())
        })?;
        Ok(rowids)
    }

    /// Whether the row is there.
    pub fn holds(&self, rowid: i64) -> Result<bool> {
        self.place(rowid).map(|it| it.is_some())
    }

    /// A row's embedding.
    pub fn embedding(&self, rowid: i64) -> Result<Option<Embedding>> {
        let Some((block, slot)) = self.place(rowid)? else {
            return Ok(None);
        };
        let mut found = None;
        let rows = [Found { block, slot, rowid }];
        self.whole(&rows, &mut |_, embedding| found = Some(embedding))?;
        Ok(found)
    }

    /// The places of those rows that are there.
    pub fn places(&self, rowids: impl IntoIterator<Item = i64>) -> Result<Vec<Found>> {
        let mut places = Vec::new();
        for rowid in rowids {
            if let Some((block, slot)) = self.place(rowid)? {
                places.push(Found { block, slot, rowid });
            }
        }
        places.sort_by_key(|it| (it.block, it.slot));
        Ok(places)
    }

    /// Adds rows whose rowids are free.
    pub fn append(&self, rows: &[(i64, Embedding)]) -> Result<()> {
        self.written.set(self.written.get() + rows.len());
        self.unnoticed(|| self.append_all(rows))
    }

    /// Runs what inserts into shadow tables, which is not the user's last insert.
    pub fn unnoticed<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let last_insert = self.db.last_insert_rowid();
        let outcome = body();
        self.db.set_last_insert_rowid(last_insert);
        outcome
    }

    fn append_all(&self, rows: &[(i64, Embedding)]) -> Result<()> {
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

    fn map(&self, block: i64, from: usize, rows: &[(i64, Embedding)]) -> Result<()> {
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

    fn drop_block(&self, block: i64) -> Result<()> {
        self.run("DELETE FROM {blocks} WHERE block = ?1", &[Value::Integer(block)])?;
        self.run("DELETE FROM {low} WHERE block = ?1", &[Value::Integer(block)])?;
        match list_of(block) {
            Some(_) => self.run("DELETE FROM {codes} WHERE block = ?1", &[Value::Integer(block)]),
            None => Ok(()),
        }
    }

    /// Moves the rows of half-empty blocks together, so that all but one are full.
    fn pack_tail(&self) -> Result<()> {
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

    fn slots_of(&self, block: i64) -> Result<Vec<Found>> {
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

    fn place(&self, rowid: i64) -> Result<Option<(i64, usize)>> {
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
    fn slot_count(&self, block: i64, count: i64, rowid_bytes: usize) -> Result<usize> {
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
    fn slots_in(&self, block: i64) -> usize {
        match list_of(block) {
            Some(_) => listed_slots(self.made.dimension),
            None => slots(self.made.dimension),
        }
    }

    fn plane_bytes(&self) -> usize {
        self.made.dimension * BYTES
    }

    /// Shadow table, column and bytes a slot of the three blobs of a block.
    fn columns(&self) -> [(&'static str, &'static str, usize); 3] {
        let width = self.plane_bytes();
        [("blocks", "rowids", ROWID_BYTES), ("blocks", "high", width), ("low", "low", width)]
    }

    /// One blob of a block, at least `end` bytes long.
    fn part(&self, table: &'static str, column: &str, block: i64, end: usize) -> Result<Blob> {
        let blob = self.db.blob(&self.schema, &self.shadow(table), column, block);
        let blob = blob.map_err(|err| self.missing(table, block, err))?;
        self.reaches(table, block, &blob, end)?;
        Ok(blob)
    }

    /// [`Store::part`], to be written in place.
    fn part_mut(&self, table: &'static str, column: &str, block: i64, end: usize) -> Result<Blob> {
        let blob = self.db.blob_mut(&self.schema, &self.shadow(table), column, block);
        let blob = blob.map_err(|err| self.missing(table, block, err))?;
        self.reaches(table, block, &blob, end)?;
        Ok(blob)
    }

    fn reaches(&self, table: &str, block: i64, blob: &Blob, end: usize) -> Result<()> {
        let bytes = blob.length();
        if end <= bytes {
            return Ok(());
        }
        let reason = format!("block {block} has {bytes} bytes where a row ends at {end}");
        Err(self.damaged(table, reason))
    }

    /// SQLite's plain error for a blob that is not there; any other error keeps its own words.
    fn missing(&self, table: &str, block: i64, err: Error) -> Error {
        match err {
            Error::Sqlite { code: ERROR, message } => {
                self.damaged(table, format!("block {block}: {message}"))
            }
            other => other,
        }
    }

    pub(crate) fn damaged(&self, part: &str, reason: String) -> Error {
        Error::Damaged { table: self.shadow(part), name: self.name.clone(), reason }
    }

    fn shadows(&self) -> Result<Vec<&'static str>> {
        let mut shadows = OWN_SHADOWS.to_vec();
        if self.made.content.is_some() {
            shadows.extend(CONTENT_SHADOWS);
        }
        if self.is_listed()? {
            shadows.extend(LISTED_SHADOWS);
        }
        self.forget();
        Ok(shadows)
    }

    fn shadow(&self, part: &str) -> String {
        format!("{}_{part}", self.name)
    }

    fn table(&self, part: &str) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.shadow(part)))
    }

    /// Runs a statement that answers nothing.
    fn run(&self, sql: &'static str, arguments: &[Value<'_>]) -> Result<()> {
        self.each(sql, arguments, |_| Ok(())).map_err(|err| match err {
            // What is written was looked up as free: the shadow tables contradict each other.
            Error::Sqlite { code, message } if code & 0xFF == CONSTRAINT => {
                let part = SHADOWS.iter().find(|it| sql.contains(&format!("{{{it}}}")));
                self.damaged(part.unwrap_or(&"blocks"), message)
            }
            other => other,
        })
    }

    /// What the first row of an answer says.
    fn first<T>(
        &self,
        sql: &'static str,
        arguments: &[Value<'_>],
        take: impl Fn(&Statement) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut statement = self.taken(sql)?;
        statement.start(arguments)?;
        let outcome = match statement.step() {
            Ok(true) => take(&statement).map(Some),
            Ok(false) => Ok(None),
            Err(err) => Err(err),
        };
        self.give_back(sql, statement);
        outcome
    }

    /// Shows every row of an answer.
    pub(crate) fn each(
        &self,
        sql: &'static str,
        arguments: &[Value<'_>],
        mut show: impl FnMut(&Statement) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self.taken(sql)?;
        statement.start(arguments)?;
        let outcome = loop {
            match statement.step() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(err) => break Err(err),
            }
            if let Err(err) = show(&statement) {
                break Err(err);
            }
        };
        self.give_back(sql, statement);
        outcome
    }

    fn stop_if_interrupted(&self) -> Result<()> {
        match self.db.interrupted() {
            true => Err(Error::Sqlite { code: INTERRUPT, message: "interrupted".to_owned() }),
            false => Ok(()),
        }
    }

    /// Shows what a statement answers of blocks.
    fn show_blocks(&self, sql: &'static str, show: &mut Show<'_>) -> Result<()> {
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

    /// A prepared statement out of the shelf, so that a nested run of the same text gets its own.
    fn taken(&self, sql: &'static str) -> Result<Statement> {
        if let Some(statement) = self.prepared.borrow_mut().remove(sql) {
            return Ok(statement);
        }
        self.db.prepare(&filled(sql, |word| match word {
            "full" => Some(slots(self.made.dimension).to_string()),
            "listed" => Some(LISTED.to_string()),
            part => SHADOWS.contains(&part).then(|| self.table(part)),
        }))
    }

    fn give_back(&self, sql: &'static str, mut statement: Statement) {
        statement.reset();
        self.prepared.borrow_mut().insert(sql, statement);
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

/// `sql/schema.sql` or `sql/content.sql` for one table.
fn schema_of(text: &str, schema: &str, name: &str, dimension: usize) -> String {
    filled(text, |word| match word {
        "full" => Some(slots(dimension).to_string()),
        _ => {
            let part = word.strip_prefix("t_").filter(|it| SHADOWS.contains(it))?;
            Some(format!("{}.{}", quoted(schema), quoted(&format!("{name}_{part}"))))
        }
    })
}

/// Puts values for words in braces, but not for those within a value: a table's name may have braces.
fn filled(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut parts = text.split('{');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}').and_then(|(word, rest)| Some((value(word)?, rest))) {
            Some((value, rest)) => filled.extend([value.as_str(), rest]),
            None => filled.extend(["{", part]),
        }
    }
    filled
}

/// `SQLITE_ERROR`
const ERROR: i32 = 1;
/// `SQLITE_CONSTRAINT`, the low byte of its kinds.
const CONSTRAINT: i32 = 19;
/// `SQLITE_INTERRUPT`
pub const INTERRUPT: i32 = 9;

/// Vectors of a full block.
pub fn slots(dimension: usize) -> usize {
    (BLOCK_BYTES / (2 * BYTES * dimension)).clamp(1, MOST_SLOTS)
}

/// Vectors of a full block in a list.
pub fn listed_slots(dimension: usize) -> usize {
    (LISTED_BYTES / (BYTES * dimension)).next_multiple_of(GROUP).clamp(GROUP, 8 * GROUP)
}

fn packed(block: i64, slot: usize) -> i64 {
    (block << PLACE_BITS) | slot as i64
}

fn planes(rows: &[(i64, Embedding)]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (mut rowids, mut high, mut low) = (Vec::new(), Vec::new(), Vec::new());
    for (rowid, embedding) in rows {
        rowids.extend(rowid.to_le_bytes());
        plane::split(embedding.as_slice(), &mut high, &mut low);
    }
    (rowids, high, low)
}

fn rowids(bytes: &[u8], count: usize) -> Vec<i64> {
    bytes
        .as_chunks::<ROWID_BYTES>()
        .0
        .iter()
        .take(count)
        .map(|it| i64::from_le_bytes(*it))
        .collect()
}

fn integer(row: &Statement, column: usize) -> Result<i64> {
    match row.value(column)? {
        Value::Integer(it) => Ok(it),
        // An aggregate over no rows.
        _ => Ok(0),
    }
}

fn blob(row: &Statement, column: usize) -> Result<&[u8]> {
    match row.value(column)? {
        Value::Blob(it) => Ok(it),
        _ => Ok(&[]),
    }
}
