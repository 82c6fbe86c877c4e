//! Rows on their way into lists, from one list to others, and out of them.

use std::sync::Arc;

use super::Store;
use super::blocks::rowids;
use super::extend::{Unwritten, added};
use super::lists::range_of;
use super::statements::{blob, integer};
use crate::error::Result;
use crate::index::code::Coder;
use crate::index::{Crew, List, centres};
use crate::sqlite::Value;
use crate::vector::Vector;

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

pub(super) type Row = (i64, Vector);

/// Rows laid end to end, where centres are.
pub(super) fn flat(coder: &Coder, rows: &[Row]) -> Vec<f32> {
    let mut flat = Vec::with_capacity(rows.iter().map(|it| it.1.dimension()).sum());
    rows.iter().for_each(|it| flat.extend_from_slice(&coder.placed(it.1.as_slice())));
    flat
}

impl State {
    pub(super) fn rows(&self) -> usize {
        self.lists.iter().map(|it| it.count).sum()
    }

    pub(super) fn centre(&self, at: usize) -> &[f32] {
        &self.centres[at * self.dimension..(at + 1) * self.dimension]
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
    pub(super) fn add_list(&self, state: &mut State, centre: &[f32]) -> Result<usize> {
        let list = state.lists.iter().map(|it| it.list).max().unwrap_or(0) + 1;
        state.lists.push(List { list, count: 0, spread: 0.0 });
        let centre = state.kept(centre);
        state.centres.extend(centre);
        let at = state.lists.len() - 1;
        self.write_list(state, at)?;
        Ok(at)
    }

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

    fn taken_blocks(&self, blocks: &[i64]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for block in blocks {
            rows.append(&mut self.block_rows(*block)?);
        }
        for block in blocks {
            self.drop_block(*block)?;
        }
        Ok(rows)
    }

    pub(super) fn taken_from_list(&self, list: i64) -> Result<Vec<Row>> {
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
    pub(super) fn block_rows(&self, block: i64) -> Result<Vec<Row>> {
        let sql = "SELECT count, rowids, high, low FROM {blocks} b LEFT JOIN {low} l ON l.block = b.block WHERE b.block = ?1";
        let form = self.made.form();
        let (width, low_width) = (form.high_bytes(), form.low_bytes());
        let rows = self.first(sql, &[Value::Integer(block)], |row| {
            let rowid_bytes = blob(row, 1)?;
            let count = self.slot_count(block, integer(row, 0)?, rowid_bytes.len())?;
            let (high, low) = (blob(row, 2)?, blob(row, 3)?);
            if high.len() < count * width || low.len() < count * low_width {
                return Err(self.damaged(
                    "blocks",
                    format!("the planes of block {block} are too short for {count} rows"),
                ));
            }
            rowids(rowid_bytes, count)
                .into_iter()
                .enumerate()
                .map(|(slot, rowid)| {
                    let high = &high[slot * width..(slot + 1) * width];
                    let low = &low[slot * low_width..(slot + 1) * low_width];
                    let vector = form.read(high, low).map_err(|err| {
                        self.damaged("blocks", format!("row {rowid} of block {block}: {err}"))
                    })?;
                    Ok((rowid, vector))
                })
                .collect::<Result<Vec<Row>>>()
        })?;
        rows.ok_or_else(|| self.damaged("blocks", format!("block {block} is missing")))
    }

    /// Puts rows that stand in no block into the nearest of these lists.
    pub(super) fn distribute(
        &self,
        state: &mut State,
        rows: Vec<Row>,
        among: &[usize],
    ) -> Result<()> {
        let centres: Vec<f32> =
            among.iter().flat_map(|at| state.centre(*at).iter().copied()).collect();
        let nearest = centres::assigned(&flat(&state.coder, &rows), &centres, state.dimension)?;
        let additions = added(rows, among, nearest).into_values();
        let mut places = Vec::new();
        self.extend(state, &Crew::alone(), additions, &mut places)?;
        self.write_codes(state)?;
        self.write_places(&mut places)
    }

    /// Says where rows are that were elsewhere before.
    pub(super) fn write_places(&self, places: &mut Vec<(i64, i64)>) -> Result<()> {
        places.sort_unstable();
        self.run_each(
            "UPDATE {rows} SET place = ?2 WHERE rowid = ?1",
            places.drain(..).map(|(rowid, place)| [rowid, place].map(Value::Integer)),
        )
    }

    /// Puts a short list's rows into others.
    pub(super) fn merge(&self, state: &mut State, at: usize) -> Result<()> {
        let rows = self.taken_from_list(state.lists[at].list)?;
        self.drop_list(state, at)?;
        let all: Vec<usize> = (0..state.lists.len()).collect();
        self.distribute(state, rows, &all)
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
            for (rowid, _) in &rows {
                self.run("DELETE FROM {rows} WHERE rowid = ?1", &[Value::Integer(*rowid)])?;
            }
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
            let expected = self.codes_bytes()?;
            let mut stored = self.part_mut("codes", "codes", block, expected)?;
            let mut codes = vec![0; expected];
            stored.read(0, &mut codes)?;
            coder.copy(&mut codes, last, slot);
            coder.clear(&mut codes, last);
            stored.write(0, &codes)?;
        }
        self.run("UPDATE {lists} SET count = count - 1 WHERE list = ?1", &[Value::Integer(list)])
    }
}
