//! Rows on their way into lists, from one list to others, and out of them.

use std::sync::Arc;

use super::Store;
use super::extend::{Unwritten, added};
use super::lists::range_of;
use super::rows::{Reader, Rows};
use super::statements::{blob, integer};
use crate::error::Result;
use crate::index::code::Coder;
use crate::index::{Crew, List, centres};
use crate::sqlite::{Statement, Value};

/// The lists while they change.
pub(super) struct State {
    pub(super) coder: Arc<Coder>,
    pub(super) lists: Vec<List>,
    pub(super) centres: Vec<f32>,
    pub(super) dimension: usize,
    /// How many compute what they become.
    pub(super) threads: usize,
    pub(super) unwritten: Unwritten,
}

impl State {
    pub(super) fn rows(&self) -> usize {
        self.lists.iter().map(|it| it.count).sum()
    }

    pub(super) fn centre(&self, at: usize) -> &[f32] {
        &self.centres[at * self.dimension..(at + 1) * self.dimension]
    }

    /// Adds a list that is written with the codes of its rows: what is read at once is to lie together in the file.
    pub(super) fn add_list(&mut self, centre: &[f32]) {
        let list = self.lists.iter().map(|it| it.list).max().unwrap_or(0) + 1;
        let centre = self.kept(centre);
        self.centres.extend(centre);
        self.unwritten.lists.insert(self.lists.len());
        self.lists.push(List { list, count: 0, spread: 0.0 });
    }

    /// A centre as it will be read again.
    fn kept(&self, centre: &[f32]) -> Vec<f32> {
        self.coder.centre_of(&self.coder.centre_bytes(centre))
    }

    /// The longest lists of more than `most` rows, of about so many rows together.
    pub(super) fn long(&self, most: usize, mut rows: usize) -> Vec<usize> {
        let count = |at: &usize| self.lists[*at].count;
        let mut long: Vec<usize> = (0..self.lists.len()).filter(|at| most < count(at)).collect();
        long.sort_by_key(|at| std::cmp::Reverse(count(at)));
        let some = long.into_iter().take_while(|at| {
            let more = 0 < rows;
            rows = rows.saturating_sub(count(at));
            more
        });
        some.collect()
    }

    pub(super) fn shortest(&self) -> Option<(usize, usize)> {
        let counts = self.lists.iter().map(|it| it.count).enumerate();
        counts.min_by_key(|it| it.1)
    }
}

impl Store {
    pub(super) fn write_list(&self, state: &State, at: usize) -> Result<()> {
        let List { list, count, spread } = state.lists[at];
        let centre = state.coder.centre_bytes(state.centre(at));
        self.run(
            "INSERT OR REPLACE INTO {lists}(list, count, spread, centre) VALUES (?1, ?2, ?3, ?4)",
            &[
                Value::Integer(list),
                Value::Integer(count as i64),
                Value::Real(f64::from(spread)),
                Value::Blob(&centre),
            ],
        )
    }

    fn taken_blocks(&self, blocks: &[i64]) -> Result<Rows> {
        let mut rows = Rows::none(&self.made.form());
        for block in blocks {
            self.add_block_rows(*block, &mut rows)?;
        }
        for block in blocks {
            self.drop_block(*block)?;
        }
        Ok(rows)
    }

    pub(super) fn taken_from_list(&self, list: i64) -> Result<Rows> {
        let (first, last) = range_of(list);
        let mut blocks = Vec::new();
        let sql = "SELECT block FROM {blocks} WHERE block BETWEEN ?1 AND ?2";
        self.each(sql, &[Value::Integer(first), Value::Integer(last)], |row| {
            blocks.push(integer(row, 0)?);
            Ok(())
        })?;
        self.taken_blocks(&blocks)
    }

    /// The rows of a block, whole.
    pub(super) fn block_rows(&self, block: i64) -> Result<Rows> {
        let mut rows = Rows::none(&self.made.form());
        self.add_block_rows(block, &mut rows)?;
        Ok(rows)
    }

    /// Adds the rows of a block.
    pub(super) fn add_block_rows(&self, block: i64, rows: &mut Rows) -> Result<()> {
        let sql = "SELECT count, rowids, high, low FROM {blocks} b LEFT JOIN {low} l ON l.block = b.block WHERE b.block = ?1";
        let found =
            self.first(sql, &[Value::Integer(block)], |row| self.add_answered(block, row, rows))?;
        found.ok_or_else(|| self.damaged("blocks", format!("block {block} is missing")))
    }

    /// Adds the rows of a block, of which an answer begins with count, rowids, high and low plane.
    pub(super) fn add_answered(&self, block: i64, row: &Statement, rows: &mut Rows) -> Result<()> {
        let rowid_bytes = blob(row, 1)?;
        let count = self.slot_count(block, integer(row, 0)?, rowid_bytes.len())?;
        let high = blob(row, 2)?;
        if let Some(pages) = self.pages_of(block)? {
            let rowids = self.rowids_in(block, count, rowid_bytes)?;
            rows.add_whole(&rowids, &self.read_pages(&pages, block, count, high)?);
            return Ok(());
        }
        match rows.add_first(count, [rowid_bytes, high, blob(row, 3)?]) {
            true => Ok(()),
            false => Err(self.damaged(
                "blocks",
                format!("the planes of block {block} are too short for {count} rows"),
            )),
        }
    }

    /// Puts rows that stand in no block into the nearest of these lists.
    pub(super) fn distribute(&self, state: &mut State, rows: &Rows, among: &[usize]) -> Result<()> {
        let centres: Vec<f32> =
            among.iter().flat_map(|at| state.centre(*at).iter().copied()).collect();
        let numbers = self.reader().placed(rows, rows.all(), &state.coder)?;
        let nearest = centres::assigned(&numbers, &centres, state.dimension)?;
        let additions = added(rows, 0, among, nearest).into_values();
        let mut places = Vec::new();
        self.extend(state, &Crew::alone(), additions, &mut places)?;
        self.write_codes(state)?;
        self.write_places(&mut places)
    }

    pub(super) fn reader(&self) -> Reader {
        Reader { form: self.made.form(), name: self.name.clone() }
    }

    /// Puts a short list's rows into others.
    pub(super) fn merge(&self, state: &mut State, at: usize) -> Result<()> {
        let rows = self.taken_from_list(state.lists[at].list)?;
        self.drop_list(state, at)?;
        let all: Vec<usize> = (0..state.lists.len()).collect();
        self.distribute(state, &rows, &all)
    }

    fn drop_list(&self, state: &mut State, at: usize) -> Result<()> {
        let List { list, .. } = state.lists.remove(at);
        state.centres.drain(at * state.dimension..(at + 1) * state.dimension);
        self.run("DELETE FROM {lists} WHERE list = ?1", &[Value::Integer(list)])
    }

    /// Puts all rows back into no list.
    pub(super) fn dissolve(&self, state: &mut State) -> Result<()> {
        while !state.lists.is_empty() {
            let at = state.lists.len() - 1;
            let rows = self.taken_from_list(state.lists[at].list)?;
            self.forget_places(rows.rowids())?;
            self.append_all(&rows)?;
            self.drop_list(state, at)?;
        }
        Ok(())
    }

    /// A row has left a block of a list, and the one in slot `last` has taken its slot.
    pub(super) fn unlist(&self, list: i64, block: i64, slot: usize, last: usize) -> Result<()> {
        self.changed();
        if 0 < last {
            let coder = self.coder()?;
            // A block that is packed has no more codes than it had rows.
            let least = match self.is_packed()? {
                true => coder.bytes_of(last + 1),
                false => self.codes_bytes(&coder),
            };
            let mut stored = self.part_mut("codes", "codes", block, least)?;
            let mut codes = vec![0; stored.length()];
            stored.read(0, &mut codes)?;
            coder.copy(&mut codes, last, slot);
            coder.clear(&mut codes, last);
            stored.write(0, &codes)?;
        }
        self.run("UPDATE {lists} SET count = count - 1 WHERE list = ?1", &[Value::Integer(list)])
    }
}
