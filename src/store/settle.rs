//! Rows on their way from no list into lists: gathered first, so that a block is written when it is full.

use super::Store;
use super::blocks::listed_slots;
use super::moves::{Row, State};
use super::statements::integer;
use crate::error::Result;
use crate::index::cluster::Centres;

/// Bytes of rows that wait for others of their list.
const GATHERED_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of rows that are compared with centres at a time.
const COMPARED_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a row in memory besides its numbers, about.
const ROW_BYTES: usize = 48;
/// Places that are written together, in the order of their rowids.
const PLACES: usize = 256 * 1024;

/// Rows that stand in no block, by the list they belong to, with the squares of how far they are from its centre.
struct Gathered {
    lists: Vec<(Vec<Row>, Vec<f32>)>,
    rows: usize,
    places: Vec<(i64, i64)>,
}

impl Store {
    /// Puts up to about `most` rows that are in no list into the nearest ones; how many they were.
    pub(super) fn settle(&self, state: &mut State, most: usize) -> Result<usize> {
        let mut blocks = Vec::new();
        let sql = "SELECT block, count FROM {blocks} WHERE block < {listed} ORDER BY block";
        let mut found = 0;
        self.each(sql, &[], |row| {
            if found < most {
                blocks.push(integer(row, 0)?);
                found += integer(row, 1)?.max(0) as usize;
            }
            Ok(())
        })?;
        let row_bytes = 4 * state.dimension + ROW_BYTES;
        let lists = state.lists.iter().map(|_| Default::default()).collect();
        let mut gathered = Gathered { lists, rows: 0, places: Vec::new() };
        let centres = match found < state.lists.len() {
            true => Centres::ungrouped(&state.centres, state.dimension),
            false => Centres::new(&state.centres, state.dimension),
        };
        let (mut rows, mut settled) = (Vec::new(), 0);
        for (at, block) in blocks.iter().enumerate() {
            self.stop_if_interrupted()?;
            rows.append(&mut self.block_rows(*block)?);
            // At once, while its pages are in memory.
            self.drop_block(*block)?;
            if at + 1 < blocks.len() && rows.len() * row_bytes < COMPARED_BYTES {
                continue;
            }
            settled += rows.len();
            gathered.add(centres.nearest(&state.flat(&rows)), &mut rows);
            if GATHERED_BYTES < gathered.rows * row_bytes {
                self.write_full_blocks(state, &mut gathered)?;
                self.write_longest(state, &mut gathered, GATHERED_BYTES / row_bytes)?;
            }
            if PLACES < gathered.places.len() {
                self.write_places(&mut gathered.places)?;
            }
        }
        self.write_longest(state, &mut gathered, 0)?;
        self.write_places(&mut gathered.places)?;
        Ok(settled)
    }

    /// Writes as many rows of each list as end with a full block.
    fn write_full_blocks(&self, state: &mut State, gathered: &mut Gathered) -> Result<()> {
        let slots = listed_slots(&self.made.form());
        for at in 0..state.lists.len() {
            let rows = gathered.lists[at].0.len();
            let beyond = (state.lists[at].count + rows) % slots;
            if beyond < rows {
                self.write_rows(state, gathered, at, rows - beyond)?;
            }
        }
        Ok(())
    }

    /// Writes all rows of some lists, of the longest first; where more than `most` wait, until half of that do.
    fn write_longest(&self, state: &mut State, gathered: &mut Gathered, most: usize) -> Result<()> {
        if gathered.rows <= most {
            return Ok(());
        }
        let mut longest: Vec<usize> = (0..state.lists.len()).collect();
        longest.sort_by_key(|at| std::cmp::Reverse(gathered.lists[*at].0.len()));
        for at in longest {
            let rows = gathered.lists[at].0.len();
            if gathered.rows <= most / 2 || rows == 0 {
                break;
            }
            self.write_rows(state, gathered, at, rows)?;
        }
        Ok(())
    }

    /// Writes the first `count` rows that wait for a list.
    fn write_rows(
        &self,
        state: &mut State,
        gathered: &mut Gathered,
        at: usize,
        count: usize,
    ) -> Result<()> {
        let (rows, squares) = &mut gathered.lists[at];
        let rows: Vec<Row> = rows.drain(..count).collect();
        let square = squares.drain(..count).map(f64::from).sum();
        gathered.rows -= count;
        self.extend(state, at, &rows, square, &mut gathered.places)
    }
}

impl Gathered {
    fn add(&mut self, nearest: Vec<(usize, f32)>, rows: &mut Vec<Row>) {
        self.rows += rows.len();
        for (row, (at, square)) in rows.drain(..).zip(nearest) {
            self.lists[at].0.push(row);
            self.lists[at].1.push(square);
        }
    }
}
