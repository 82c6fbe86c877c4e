//! Rows on their way into lists, from one list to others, and out of them.

use std::collections::BTreeMap;

use super::Store;
use super::blocks::{ROWID_BYTES, listed_slots, packed, planes, rowids};
use super::lists::range_of;
use super::statements::{blob, integer};
use crate::error::Result;
use crate::index::code::{Coder, GROUP};
use crate::index::{List, cluster};
use crate::sqlite::Value;
use crate::vector::Vector;

/// Lists that rows of a split one may go to besides its halves.
const NEIGHBOURS: usize = 6;

/// The lists while they change.
pub(super) struct State {
    pub(super) coder: Coder,
    pub(super) lists: Vec<List>,
    pub(super) centres: Vec<f32>,
    pub(super) dimension: usize,
}

pub(super) type Row = (i64, Vector);

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

    /// Rows laid end to end, where centres are.
    pub(super) fn flat(&self, rows: &[Row]) -> Vec<f32> {
        let mut flat = Vec::with_capacity(rows.len() * self.dimension);
        rows.iter().for_each(|it| flat.extend_from_slice(&self.coder.placed(it.1.as_slice())));
        flat
    }

    pub(super) fn longest(&self) -> Option<(usize, usize)> {
        let counts = self.lists.iter().map(|it| it.count).enumerate();
        counts.max_by_key(|it| it.1)
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

    fn write_list(&self, state: &State, at: usize) -> Result<()> {
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
        let nearest = cluster::assigned(&state.flat(&rows), &centres, state.dimension);
        let mut groups: BTreeMap<usize, (Vec<Row>, f64)> = BTreeMap::new();
        for (row, (nearest, square)) in rows.into_iter().zip(nearest) {
            let group = groups.entry(among[nearest]).or_default();
            group.0.push(row);
            group.1 += f64::from(square);
        }
        let mut places = Vec::new();
        for (at, (rows, squares)) in groups {
            self.extend(state, at, &rows, squares, &mut places)?;
        }
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

    /// Adds rows to a list; `squares` is the sum of their squared distances from its centre.
    pub(super) fn extend(
        &self,
        state: &mut State,
        at: usize,
        rows: &[Row],
        squares: f64,
        places: &mut Vec<(i64, i64)>,
    ) -> Result<()> {
        let form = self.made.form();
        let most = listed_slots(&form);
        let centre = state.coder.rotated(state.centre(at));
        let (first, last) = range_of(state.lists[at].list);
        let (mut open, mut next) = (None, first);
        let sql = "SELECT block, count FROM {blocks} WHERE block BETWEEN ?1 AND ?2";
        self.each(sql, &[Value::Integer(first), Value::Integer(last)], |row| {
            next = integer(row, 0)? + 1;
            if integer(row, 1)? < most as i64 {
                open = Some(next - 1);
            }
            Ok(())
        })?;
        let mut rest = rows;
        while !rest.is_empty() {
            let (block, mut bytes, mut codes) = match open.take() {
                Some(block) => {
                    let (bytes, codes) = self.block_bytes(block)?;
                    (block, bytes, codes)
                }
                None if last < next => {
                    let list = state.lists[at].list;
                    return Err(self.damaged("lists", format!("list {list} has no block left")));
                }
                None => {
                    next += 1;
                    (next - 1, Default::default(), state.coder.empty(most))
                }
            };
            let count = bytes[0].len() / ROWID_BYTES;
            let (now, later) = rest.split_at(rest.len().min(most - count));
            rest = later;
            for (bytes, more) in bytes.iter_mut().zip(planes(&form, now)) {
                bytes.extend(more);
            }
            for (slot, (rowid, vector)) in (count..).zip(now) {
                let row = state.coder.placed(vector.as_slice());
                let code = state.coder.code(&state.coder.rotated(&row), &centre);
                state.coder.write(&mut codes, slot, &code);
                places.push((*rowid, packed(block, slot)));
            }
            let count = count + now.len();
            let [rowids, high, low] = &bytes;
            let block = Value::Integer(block);
            self.run(
                "INSERT OR REPLACE INTO {blocks}(block, count, rowids, high) VALUES (?1, ?2, ?3, ?4)",
                &[block, Value::Integer(count as i64), Value::Blob(rowids), Value::Blob(high)],
            )?;
            if !low.is_empty() {
                self.run(
                    "INSERT OR REPLACE INTO {low}(block, low) VALUES (?1, ?2)",
                    &[block, Value::Blob(low)],
                )?;
            }
            self.run(
                "INSERT OR REPLACE INTO {codes}(block, codes) VALUES (?1, ?2)",
                &[block, Value::Blob(&codes)],
            )?;
        }
        let list = &mut state.lists[at];
        let sum = f64::from(list.spread) * list.count as f64 + squares;
        list.count += rows.len();
        list.spread = (sum / list.count.max(1) as f64) as f32;
        self.write_list(state, at)
    }

    /// Rowids, high and low planes of a list's block up to its last row; and its codes.
    fn block_bytes(&self, block: i64) -> Result<([Vec<u8>; 3], Vec<u8>)> {
        let sql = "SELECT count, rowids, high, low, codes FROM {blocks} b LEFT JOIN {low} l ON l.block = b.block JOIN {codes} c ON c.block = b.block WHERE b.block = ?1";
        let found = self.first(sql, &[Value::Integer(block)], |row| {
            let count = self.slot_count(block, integer(row, 0)?, blob(row, 1)?.len())?;
            let form = self.made.form();
            let part = |column: usize, width: usize| {
                let bytes = blob(row, column)?.get(..count * width);
                bytes.map(<[u8]>::to_vec).ok_or_else(|| {
                    self.damaged("blocks", format!("block {block} is too short for {count} rows"))
                })
            };
            let bytes =
                [part(1, ROWID_BYTES)?, part(2, form.high_bytes())?, part(3, form.low_bytes())?];
            Ok((bytes, blob(row, 4)?.to_vec()))
        })?;
        let expected = self.codes_bytes()?;
        match found {
            Some((bytes, codes)) if codes.len() == expected => Ok((bytes, codes)),
            Some((_, codes)) => Err(self.damaged(
                "codes",
                format!("block {block} has {} bytes of codes, expected {expected}", codes.len()),
            )),
            None => Err(self.damaged("codes", format!("block {block} has no codes"))),
        }
    }

    pub(super) fn codes_bytes(&self) -> Result<usize> {
        let groups = listed_slots(&self.made.form()) / GROUP;
        Ok(groups * self.coder()?.group_bytes())
    }

    /// Makes two lists of one.
    pub(super) fn split(&self, state: &mut State, at: usize) -> Result<()> {
        let dimension = state.dimension;
        let mut rows = self.taken_from_list(state.lists[at].list)?;
        // As they will be kept: rows that differ only beyond that would move in circles.
        let flat = state.flat(&rows);
        let halves = cluster::centres(&flat, dimension, 2);
        let halves = state.kept(&halves);
        let nearest = cluster::assigned(&flat, &halves, dimension);
        let left = nearest.iter().filter(|it| it.0 == 0).count();
        state.lists[at].count = 0;
        state.centres[at * dimension..(at + 1) * dimension].copy_from_slice(&halves[..dimension]);
        let other = self.add_list(state, &halves[halves.len() - dimension..])?;
        if left == 0 || left == rows.len() {
            // All the same: any half is as good.
            let half = rows.split_off(rows.len() / 2);
            self.distribute(state, rows, &[at])?;
            return self.distribute(state, half, &[other]);
        }
        let mut among = self.neighbours(state, at);
        among.extend([at, other]);
        among.sort_unstable();
        among.dedup();
        self.distribute(state, rows, &among)?;
        self.write_list(state, at)
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

    fn neighbours(&self, state: &State, at: usize) -> Vec<usize> {
        let centre = state.centre(at);
        let square = |other: usize| -> f32 {
            state.centre(other).iter().zip(centre).map(|(a, b)| (a - b) * (a - b)).sum()
        };
        let mut others: Vec<(f32, usize)> =
            (0..state.lists.len()).map(|it| (square(it), it)).collect();
        others.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        others.into_iter().take(NEIGHBOURS).map(|it| it.1).collect()
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
