//! Lists and codes as the index reads them, kept in memory while nothing changes.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::blocks::ROWID_BYTES;
use super::reading::Reading;
use super::statements::{blob, integer};
use super::{BOUNDED_FORMAT, FORMED_FORMAT, LIST_BLOCKS, LISTED, LISTED_FORMAT, Store};
use crate::error::Result;
use crate::index::code::{Coded, Coder, GROUP, MOST_BITS};
use crate::index::{Found, List, Listed, Lists, Metric, Planes, Show, ShowRow};
use crate::sqlite::Value;
use crate::vector::numbers_of_blob;

/// Bytes of codes and rowids that are kept.
const MOST_KEPT: usize = 48 * 1024 * 1024;

/// What was read of the lists in one state of the database.
pub struct Kept {
    version: u32,
    lists: Rc<Lists>,
    codes: HashMap<i64, Arc<Coded>>,
    rowids: HashMap<i64, Rc<Vec<i64>>>,
    bytes: usize,
}

impl Kept {
    /// Gives up whatever comes first until there is room, so that reading all lists one after the
    /// other leaves most of them kept.
    fn make_room(&mut self, bytes: usize) {
        self.bytes += bytes;
        while MOST_KEPT < self.bytes {
            if let Some(block) = self.rowids.keys().next().copied() {
                let rowids = self.rowids.remove(&block);
                self.bytes -= ROWID_BYTES * rowids.map_or(0, |it| it.len());
            } else if let Some(list) = self.codes.keys().next().copied() {
                self.bytes -= self.codes.remove(&list).map_or(0, |it| it.bytes());
            } else {
                return;
            }
        }
    }
}

/// The first and the last number that a block of a list can have.
pub(super) fn range_of(list: i64) -> (i64, i64) {
    let first = LISTED + list * LIST_BLOCKS;
    (first, first + LIST_BLOCKS - 1)
}

/// The list of a block.
pub(super) fn list_of(block: i64) -> Option<i64> {
    (LISTED <= block).then(|| (block - LISTED) / LIST_BLOCKS)
}

impl Store {
    /// Whether rows are in lists.
    pub fn is_listed(&self) -> Result<bool> {
        self.listed.or_find(self, || {
            let format = self.format()?;
            Ok(LISTED_FORMAT <= format && format != FORMED_FORMAT)
        })
    }

    pub(super) fn format(&self) -> Result<i64> {
        let sql = "SELECT value FROM {config} WHERE key = 'format'";
        Ok(self.first(sql, &[], |row| integer(row, 0))?.unwrap_or(0))
    }

    /// Forgets what was read of the lists, after a change to them or its end.
    pub fn changed(&self) {
        self.kept.borrow_mut().take();
    }

    /// Forgets also whether there are lists and pages, after a rollback.
    pub fn rolled_back(&self) {
        self.changed();
        self.listed.forget();
        self.pages.forget();
    }

    /// As [`Store::rolled_back`], where all that was written is gone.
    pub fn void(&self) {
        self.rolled_back();
        self.written.set(0);
    }

    /// The lists; none in a table that is searched exactly.
    pub fn lists(&self) -> Result<Option<Rc<Lists>>> {
        if !self.is_listed()? {
            return Ok(None);
        }
        let version = self.db.data_version(&self.schema)?;
        if let Some(kept) = self.kept.borrow().as_ref().filter(|it| it.version == version) {
            return Ok(Some(kept.lists.clone()));
        }
        let lists = Rc::new(self.read_lists()?);
        let (codes, rowids, bytes) = (HashMap::new(), HashMap::new(), 0);
        let kept = Kept { version, lists: lists.clone(), codes, rowids, bytes };
        *self.kept.borrow_mut() = Some(kept);
        Ok(Some(lists))
    }

    /// How codes of this table are written.
    pub(super) fn coder(&self) -> Result<Coder> {
        let sql = "SELECT value FROM {config} WHERE key = 'bits'";
        let bits = self.first(sql, &[], |row| integer(row, 0))?.unwrap_or(0);
        let sound = usize::try_from(bits).ok().filter(|it| (1..=MOST_BITS).contains(it));
        let Some(sound) = sound else {
            return Err(self.damaged("config", format!("'bits' is {bits} (1 to {MOST_BITS})")));
        };
        let (dimension, metric) = (self.made.dimension, self.made.metric);
        Ok(match metric {
            Metric::Cosine => Coder::new(dimension, sound, BOUNDED_FORMAT <= self.format()?),
            Metric::Dot => Coder::of_any_length(dimension, sound, metric, Vec::new()),
            Metric::L2 => Coder::of_any_length(dimension, sound, metric, self.origin()?),
        })
    }

    /// What codes of Euclidean distances are about.
    fn origin(&self) -> Result<Vec<f32>> {
        let sql = "SELECT value FROM {config} WHERE key = 'origin'";
        let origin = self.first(sql, &[], |row| Ok(numbers_of_blob(blob(row, 0)?)))?;
        let origin = origin.and_then(Result::ok).unwrap_or_default();
        let expected = self.made.dimension;
        if origin.len() != expected || origin.iter().any(|it| !it.is_finite()) {
            let reason = format!("'origin' is no vector of {expected} dimensions");
            return Err(self.damaged("config", reason));
        }
        Ok(origin)
    }

    fn read_lists(&self) -> Result<Lists> {
        self.read_mapped();
        let (mut lists, mut centres) = (Vec::new(), Vec::new());
        let (coder, dimension) = (self.coder()?, self.made.dimension);
        let sql =
            "SELECT list, count, spread, centre, (SELECT max(list) FROM {lists}) FROM {lists}";
        self.each(sql, &[], |row| {
            let list = integer(row, 0)?;
            let count = usize::try_from(integer(row, 1)?).ok();
            let spread = row.value(2)?.number().filter(|it| it.is_finite() && 0.0 <= *it);
            let bytes = blob(row, 3)?;
            let (Some(count), Some(spread)) = (count, spread) else {
                return Err(self.damaged("lists", format!("list {list} has no count or spread")));
            };
            if lists.is_empty() {
                // A damaged number asks for no more than is kept of codes; what is never written to costs nothing.
                let most = usize::try_from(integer(row, 4)?).unwrap_or(0);
                centres.reserve_exact(dimension * most.min(MOST_KEPT / (4 * dimension)));
            }
            let from = centres.len();
            centres.resize(from + dimension, 0.0);
            if !coder.read_centre(bytes, &mut centres[from..]) {
                let expected = coder.centre_bytes_of(dimension);
                return Err(self.damaged(
                    "lists",
                    format!(
                        "the centre of list {list} has {} bytes or odd numbers, {dimension} dimensions need {expected}",
                        bytes.len(),
                    ),
                ));
            }
            lists.push(List { list, count, spread: spread as f32 });
            Ok(())
        })?;
        Ok(Lists::new(coder, lists, centres, self.learned()?))
    }

    /// The codes of a list that counts so many rows.
    pub(super) fn read_codes(&self, coder: &Coder, list: i64, expected: usize) -> Result<Coded> {
        // A damaged count asks for no more than is kept.
        let most = MOST_KEPT / coder.group_bytes() * GROUP;
        let mut coded = coder.room_for(expected.min(most));
        let sql = "SELECT block, codes FROM {codes} WHERE block BETWEEN ?1 AND ?2 ORDER BY block";
        let ((first, last), is_packed) = (range_of(list), self.is_packed()?);
        self.each(sql, &[Value::Integer(first), Value::Integer(last)], |row| {
            let (block, codes) = (integer(row, 0)?, blob(row, 1)?);
            let most = self.slots_in(block).next_multiple_of(GROUP);
            let bytes = coder.bytes_of(most);
            let fits = codes.len() == bytes || is_packed && codes.len() < bytes;
            if !fits || !coder.load(&mut coded, block, codes) {
                return Err(self.damaged(
                    "codes",
                    format!("block {block} of list {list} has no sound codes of {bytes} bytes"),
                ));
            }
            Ok(())
        })?;
        if coded.rows != expected {
            let found = coded.rows;
            return Err(self.damaged(
                "codes",
                format!("list {list} counts {expected} rows and has codes of {found}"),
            ));
        }
        Ok(coded)
    }

    fn read_rowids(&self, block: i64) -> Result<Rc<Vec<i64>>> {
        let found = Rc::new(self.rowids_of(block)?);
        if found.is_empty() {
            return Err(self.damaged("blocks", format!("block {block} has codes, but no rows")));
        }
        self.with_kept(|it| {
            it.make_room(ROWID_BYTES * found.len());
            it.rowids.insert(block, found.clone());
        });
        Ok(found)
    }

    /// How many rows a block of a list has.
    pub(super) fn rows_in(&self, block: i64) -> Result<usize> {
        let list = list_of(block).unwrap_or_default();
        let known = self.with_kept(|it| it.codes.get(&list).and_then(|it| it.rows_of(block)));
        known.flatten().map_or_else(|| self.count_of(block), Ok)
    }

    /// Runs with what is kept, which [`Store::lists`] made.
    fn with_kept<T>(&self, body: impl FnOnce(&mut Kept) -> T) -> Option<T> {
        self.kept.borrow_mut().as_mut().map(body)
    }
}

impl Listed for Reading<'_> {
    fn tail(&self, show: &mut Show<'_>) -> Result<()> {
        self.store.show_blocks(
            "SELECT block, count, rowids, high FROM {blocks} WHERE block < {listed}",
            show,
        )
    }

    fn codes(&self, list: i64) -> Result<Arc<Coded>> {
        let store = self.store;
        if let Some(Some(codes)) = store.with_kept(|it| it.codes.get(&list).cloned()) {
            return Ok(codes);
        }
        store.stop_if_interrupted()?;
        let Some(lists) = store.lists()? else {
            return Ok(Arc::default());
        };
        let count = lists.lists.iter().find(|it| it.list == list).map_or(0, |it| it.count);
        let codes = Arc::new(store.read_codes(&lists.coder, list, count)?);
        store.with_kept(|it| {
            it.make_room(codes.bytes());
            it.codes.insert(list, codes.clone());
        });
        Ok(codes)
    }

    fn rowid(&self, found: &Found) -> Result<i64> {
        let Found { block, slot, rowid } = *found;
        if list_of(block).is_none() {
            // Shown with its block.
            return Ok(rowid);
        }
        let store = self.store;
        let rowids = match store.with_kept(|it| it.rowids.get(&block).cloned()).flatten() {
            Some(rowids) => rowids,
            None => store.read_rowids(block)?,
        };
        rowids.get(slot).copied().ok_or_else(|| {
            let count = rowids.len();
            let reason =
                format!("slot {slot} of block {block} has a code, but {count} rows are there");
            store.damaged("codes", reason)
        })
    }

    fn rows(&self, rows: &[Found], planes: Planes, show: &mut ShowRow<'_>) -> Result<()> {
        self.show_rows(rows, planes, show)
    }
}
