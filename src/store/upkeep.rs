//! Keeping rows in lists: made when the table has grown enough, filled from the rows that came since,
//! split where they have become long, merged where they have become short.
//!
//! Xu et al., "SPFresh" (2023). All of it happens inside the transaction that caused it, in proportion
//! to what it wrote.

use std::collections::BTreeMap;

use super::lists::range_of;
use super::{
    BOUNDED_FORMAT, LISTS_SCHEMA, Made, ROWID_BYTES, Store, blob, integer, listed_slots, packed,
    planes, rowids, schema_of,
};
use crate::embedding::Embedding;
use crate::error::Result;
use crate::index::code::{Coder, GROUP, centre_bytes, centre_of};
use crate::index::plane::{self, BYTES};
use crate::index::{List, cluster};
use crate::sqlite::Value;

/// High planes of this many bytes are searched exactly in about three milliseconds, at the 33 ms that
/// `benches/record` has for 98 MiB.
const WORTH_BYTES: usize = 8 * 1024 * 1024;
/// High planes of rows in no list, which every search reads.
const MOST_TAIL_BYTES: usize = 1024 * 1024;
/// Floats of the rows that move at a time.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Floats of the rows that the first centres are made from.
const SAMPLE_BYTES: usize = 24 * 1024 * 1024;
/// Rows of that sample, per centre.
const SAMPLED: usize = 48;
/// Fewest rows that a list is meant for.
const LEAST_TARGET: usize = 32;
/// Rows that may move for each row that was written.
const MOVED: usize = 8;
/// Tables this many times larger than where lists begin to pay get them by a small commit.
const SMALL: usize = 4;
/// Rows per row written, of which a commit learns how they are found.
const LEARNED: usize = 16;
/// Lists that rows of a split one may go to besides its halves.
const NEIGHBOURS: usize = 6;

/// The lists while they change.
struct State {
    coder: Coder,
    lists: Vec<List>,
    centres: Vec<f32>,
    dimension: usize,
}

type Row = (i64, Embedding);

impl State {
    fn rows(&self) -> usize {
        self.lists.iter().map(|it| it.count).sum()
    }

    fn centre(&self, at: usize) -> &[f32] {
        &self.centres[at * self.dimension..(at + 1) * self.dimension]
    }

    fn longest(&self) -> Option<(usize, usize)> {
        let counts = self.lists.iter().map(|it| it.count).enumerate();
        counts.max_by_key(|it| it.1)
    }

    fn shortest(&self) -> Option<(usize, usize)> {
        let counts = self.lists.iter().map(|it| it.count).enumerate();
        counts.min_by_key(|it| it.1)
    }
}

/// How many rows a list is meant for in a table of that many.
fn target(rows: usize) -> usize {
    rows.isqrt().max(LEAST_TARGET)
}

/// Bits a number of codes: the fewer numbers, the more each must say.
fn bits(dimension: usize) -> i64 {
    match dimension {
        ..=64 => 4,
        65..=1024 => 2,
        _ => 1,
    }
}

/// A centre as it will be read again.
fn kept(centre: &[f32]) -> Vec<f32> {
    centre_of(&centre_bytes(centre))
}

fn flat(rows: &[Row]) -> Vec<f32> {
    rows.iter().flat_map(|it| it.1.as_slice().iter().copied()).collect()
}

impl Store {
    /// What a commit does for the lists, in proportion to what was written.
    pub fn tend(&self) -> Result<()> {
        match self.written.take() {
            0 => Ok(()),
            written => self.unnoticed(|| self.tend_lists(Some(written))),
        }
    }

    /// Does all there is to do: moves half-empty blocks together, and every row into its list.
    pub fn optimize(&self) -> Result<()> {
        self.written.set(0);
        self.unnoticed(|| {
            self.pack_tail()?;
            self.tend_lists(None)?;
            self.pack_lists()
        })
    }

    /// Writes lists anew that take more blocks than they need.
    fn pack_lists(&self) -> Result<()> {
        if !self.is_listed()? {
            return Ok(());
        }
        let mut state = self.state()?;
        for at in 0..state.lists.len() {
            let List { list, count, .. } = state.lists[at];
            let (first, last) = range_of(list);
            let sql = "SELECT count(*) FROM {blocks} WHERE block BETWEEN ?1 AND ?2";
            let blocks =
                self.first(sql, &[Value::Integer(first), Value::Integer(last)], |row| {
                    integer(row, 0)
                })?;
            if count.div_ceil(listed_slots(state.dimension)) < blocks.unwrap_or(0) as usize {
                let rows = self.taken_from_list(list)?;
                state.lists[at].count = 0;
                self.distribute(&mut state, rows, &[at])?;
            }
        }
        self.changed();
        Ok(())
    }

    /// Makes lists, codes and places anew from the vectors alone.
    pub fn rebuild(&self) -> Result<()> {
        self.unnoticed(|| {
            let mut blocks = Vec::new();
            self.each("SELECT block FROM {blocks} ORDER BY block", &[], |row| {
                blocks.push(integer(row, 0)?);
                Ok(())
            })?;
            if self.is_listed()? {
                self.run("DELETE FROM {codes}", &[])?;
                self.run("DELETE FROM {lists}", &[])?;
                self.set_bits()?;
            }
            self.run("DELETE FROM {rows}", &[])?;
            let mut pending = Vec::new();
            for block in blocks {
                pending.append(&mut self.block_rows(block)?);
                self.drop_block(block)?;
                if BATCH_BYTES <= 4 * self.made.dimension * pending.len() {
                    self.append(&pending)?;
                    pending.clear();
                }
            }
            self.append(&pending)?;
            self.run("DELETE FROM {low} WHERE block NOT IN (SELECT block FROM {blocks})", &[])?;
            self.changed();
            self.tend_lists(None)
        })
    }

    fn worth(&self) -> Result<usize> {
        let sql = "SELECT value FROM {config} WHERE key = 'worth'";
        let bytes = self.first(sql, &[], |row| integer(row, 0))?;
        let bytes = bytes.and_then(|it| usize::try_from(it).ok()).unwrap_or(WORTH_BYTES);
        Ok(bytes / (BYTES * self.made.dimension))
    }

    fn tail_rows(&self) -> Result<usize> {
        let sql = "SELECT sum(count) FROM {blocks} WHERE block < {listed}";
        let rows = self.first(sql, &[], |row| integer(row, 0))?.unwrap_or(0);
        Ok(usize::try_from(rows).unwrap_or(0))
    }

    /// `written` bounds the work; without it all is done.
    fn tend_lists(&self, written: Option<usize>) -> Result<()> {
        let tail = self.tail_rows()?;
        let batch = (BATCH_BYTES / (4 * self.made.dimension)).max(1);
        if !self.is_listed()? {
            let worth = self.worth()?;
            let pays = written.is_none_or(|it| tail <= SMALL * worth || tail <= 16 * it);
            if tail < worth || !pays {
                return Ok(());
            }
            self.begin_lists()?;
        } else if written.is_some() && tail * BYTES * self.made.dimension <= MOST_TAIL_BYTES {
            return Ok(());
        }
        let mut state = self.state()?;
        let mut new = false;
        // Lists that were made for a small part of the rows would all have to be split.
        if 3 * state.rows() <= tail {
            self.dissolve(&mut state)?;
        }
        if state.lists.is_empty() {
            if tail == 0 {
                return Ok(());
            }
            self.train(&mut state, tail)?;
            new = true;
        }
        let mut work = written.map_or(usize::MAX, |it| MOVED * it + 2 * batch);
        while 0 < work {
            let rows = self.taken_from_tail(batch)?;
            if rows.is_empty() {
                break;
            }
            work = work.saturating_sub(rows.len());
            let all: Vec<usize> = (0..state.lists.len()).collect();
            self.distribute(&mut state, rows, &all)?;
        }
        let target = target(state.rows());
        while let Some((at, count)) = state.longest().filter(|it| 2 * target < it.1) {
            if work == 0 {
                break;
            }
            self.split(&mut state, at)?;
            work = work.saturating_sub(count);
        }
        while let Some((at, count)) = state.shortest().filter(|it| it.1 < target / 8) {
            if work == 0 || state.lists.len() < 2 {
                break;
            }
            self.merge(&mut state, at)?;
            work = work.saturating_sub(count.max(1));
        }
        self.changed();
        match written.is_none_or(|it| state.rows() <= LEARNED * it) {
            true => self.learn(new),
            false => Ok(()),
        }
    }

    fn begin_lists(&self) -> Result<()> {
        let Made { dimension, .. } = self.made;
        self.db.execute(&schema_of(LISTS_SCHEMA, &self.schema, &self.name, dimension))?;
        self.set_bits()?;
        self.rolled_back();
        Ok(())
    }

    /// Says how codes are written from now on, where there are none.
    fn set_bits(&self) -> Result<()> {
        self.run(
            "INSERT OR REPLACE INTO {config}(key, value) VALUES ('format', ?1)",
            &[Value::Integer(BOUNDED_FORMAT)],
        )?;
        self.run(
            "INSERT OR REPLACE INTO {config}(key, value) VALUES ('bits', ?1)",
            &[Value::Integer(bits(self.made.dimension))],
        )
    }

    fn state(&self) -> Result<State> {
        let dimension = self.made.dimension;
        self.changed();
        let (lists, centres) = match self.lists()? {
            Some(it) => (it.lists.clone(), it.centres.clone()),
            None => (Vec::new(), Vec::new()),
        };
        Ok(State { coder: self.coder()?, lists, centres, dimension })
    }

    /// The first centres, from rows all over the tail.
    fn train(&self, state: &mut State, tail: usize) -> Result<()> {
        let lists = tail.isqrt().clamp(1, tail.div_ceil(LEAST_TARGET));
        let most = (SAMPLE_BYTES / (4 * state.dimension)).max(lists);
        let every = tail.div_ceil(most.min(SAMPLED * lists)).max(1);
        let (mut sample, mut met) = (Vec::new(), 0);
        let width = self.plane_bytes();
        crate::index::Listed::tail(self, &mut |_, rowids, high| {
            for slot in 0..rowids.len() {
                if met % every == 0 {
                    sample.extend(plane::widened(&high[slot * width..(slot + 1) * width]));
                }
                met += 1;
            }
            Ok(())
        })?;
        let centres = cluster::centres(&sample, state.dimension, lists);
        for centre in centres.chunks_exact(state.dimension) {
            self.add_list(state, centre)?;
        }
        Ok(())
    }

    fn add_list(&self, state: &mut State, centre: &[f32]) -> Result<usize> {
        let list = state.lists.iter().map(|it| it.list).max().unwrap_or(0) + 1;
        state.lists.push(List { list, count: 0, spread: 0.0 });
        state.centres.extend(kept(centre));
        let at = state.lists.len() - 1;
        self.write_list(state, at)?;
        Ok(at)
    }

    fn write_list(&self, state: &State, at: usize) -> Result<()> {
        let List { list, count, spread } = state.lists[at];
        let centre = centre_bytes(state.centre(at));
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

    /// Up to about `most` rows, which then stand in no block.
    fn taken_from_tail(&self, most: usize) -> Result<Vec<Row>> {
        let mut blocks = Vec::new();
        let mut rows = 0;
        let sql = "SELECT block, count FROM {blocks} WHERE block < {listed} ORDER BY block";
        self.each(sql, &[], |row| {
            if rows < most {
                blocks.push(integer(row, 0)?);
                rows += integer(row, 1)? as usize;
            }
            Ok(())
        })?;
        self.taken_blocks(&blocks)
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

    fn taken_from_list(&self, list: i64) -> Result<Vec<Row>> {
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
    fn block_rows(&self, block: i64) -> Result<Vec<Row>> {
        let sql = "SELECT count, rowids, high, low FROM {blocks} b LEFT JOIN {low} l ON l.block = b.block WHERE b.block = ?1";
        let width = self.plane_bytes();
        let rows = self.first(sql, &[Value::Integer(block)], |row| {
            let rowid_bytes = blob(row, 1)?;
            let count = self.slot_count(block, integer(row, 0)?, rowid_bytes.len())?;
            let (high, low) = (blob(row, 2)?, blob(row, 3)?);
            if high.len() < count * width || low.len() < count * width {
                return Err(self.damaged(
                    "blocks",
                    format!("the planes of block {block} are too short for {count} rows"),
                ));
            }
            let planes = high.chunks_exact(width).zip(low.chunks_exact(width));
            rowids(rowid_bytes, count)
                .into_iter()
                .zip(planes)
                .map(|(rowid, (high, low))| {
                    let embedding = Embedding::new(plane::join(high, low)).map_err(|err| {
                        self.damaged("blocks", format!("row {rowid} of block {block}: {err}"))
                    })?;
                    Ok((rowid, embedding))
                })
                .collect::<Result<Vec<Row>>>()
        })?;
        rows.ok_or_else(|| self.damaged("blocks", format!("block {block} is missing")))
    }

    /// Puts rows that stand in no block into the nearest of these lists.
    fn distribute(&self, state: &mut State, rows: Vec<Row>, among: &[usize]) -> Result<()> {
        let centres: Vec<f32> =
            among.iter().flat_map(|at| state.centre(*at).iter().copied()).collect();
        let nearest = cluster::assigned(&flat(&rows), &centres, state.dimension);
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
        places.sort_unstable();
        for (rowid, place) in places {
            self.run(
                "INSERT OR REPLACE INTO {rows}(rowid, place) VALUES (?1, ?2)",
                &[Value::Integer(rowid), Value::Integer(place)],
            )?;
        }
        Ok(())
    }

    /// Adds rows to a list; `squares` is the sum of their squared distances from its centre.
    fn extend(
        &self,
        state: &mut State,
        at: usize,
        rows: &[Row],
        squares: f64,
        places: &mut Vec<(i64, i64)>,
    ) -> Result<()> {
        let (most, width) = (listed_slots(state.dimension), self.plane_bytes());
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
            let (rowids, high, low) = planes(now);
            for (bytes, more) in bytes.iter_mut().zip([rowids, high, low]) {
                bytes.extend(more);
            }
            for (slot, (rowid, embedding)) in (count..).zip(now) {
                let code = state.coder.code(&state.coder.rotated(embedding.as_slice()), &centre);
                state.coder.write(&mut codes, slot, &code);
                places.push((*rowid, packed(block, slot)));
            }
            let count = count + now.len();
            let capacity = count.next_multiple_of(8).min(most);
            for (bytes, width) in bytes.iter_mut().zip([ROWID_BYTES, width, width]) {
                bytes.resize(capacity * width, 0);
            }
            let [rowids, high, low] = &bytes;
            let block = Value::Integer(block);
            self.run(
                "INSERT OR REPLACE INTO {blocks}(block, count, rowids, high) VALUES (?1, ?2, ?3, ?4)",
                &[block, Value::Integer(count as i64), Value::Blob(rowids), Value::Blob(high)],
            )?;
            self.run(
                "INSERT OR REPLACE INTO {low}(block, low) VALUES (?1, ?2)",
                &[block, Value::Blob(low)],
            )?;
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
        let sql = "SELECT count, rowids, high, low, codes FROM {blocks} b JOIN {low} l ON l.block = b.block JOIN {codes} c ON c.block = b.block WHERE b.block = ?1";
        let found = self.first(sql, &[Value::Integer(block)], |row| {
            let count = self.slot_count(block, integer(row, 0)?, blob(row, 1)?.len())?;
            let width = self.plane_bytes();
            let part = |column: usize, width: usize| {
                let bytes = blob(row, column)?.get(..count * width);
                bytes.map(<[u8]>::to_vec).ok_or_else(|| {
                    self.damaged("blocks", format!("block {block} is too short for {count} rows"))
                })
            };
            let bytes = [part(1, ROWID_BYTES)?, part(2, width)?, part(3, width)?];
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
        let groups = listed_slots(self.made.dimension) / GROUP;
        Ok(groups * self.coder()?.group_bytes())
    }

    /// Makes two lists of one.
    fn split(&self, state: &mut State, at: usize) -> Result<()> {
        let dimension = state.dimension;
        let mut rows = self.taken_from_list(state.lists[at].list)?;
        let halves = cluster::centres(&flat(&rows), dimension, 2);
        let nearest = cluster::assigned(&flat(&rows), &halves, dimension);
        let left = nearest.iter().filter(|it| it.0 == 0).count();
        state.lists[at].count = 0;
        let half = kept(&halves[..dimension]);
        state.centres[at * dimension..(at + 1) * dimension].copy_from_slice(&half);
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
    fn merge(&self, state: &mut State, at: usize) -> Result<()> {
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
    fn dissolve(&self, state: &mut State) -> Result<()> {
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

    /// How the lists are; none in a table that is searched exactly.
    pub fn listed(&self) -> Result<Option<Listing>> {
        let Some(lists) = self.lists()? else {
            return Ok(None);
        };
        let one = |sql: &'static str| Ok(self.first(sql, &[], |row| integer(row, 0))?.unwrap_or(0));
        let bytes = one("SELECT ifnull(sum(length(codes)), 0) FROM {codes}")?
            + one("SELECT ifnull(sum(length(centre)), 0) FROM {lists}")?;
        let target = target(lists.rows());
        Ok(Some(Listing {
            lists: lists.lists.len(),
            pending: self.tail_rows()?,
            long: lists.lists.iter().filter(|it| 2 * target < it.count).count(),
            bytes,
        }))
    }
}

/// How the lists of a table are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Listing {
    /// How many.
    pub lists: usize,
    /// Rows that are in none yet.
    pub pending: usize,
    /// Lists that are to be split.
    pub long: usize,
    /// Bytes of centres and codes.
    pub bytes: i64,
}
