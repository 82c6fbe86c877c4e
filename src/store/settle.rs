//! Rows on their way from no list into lists: gathered first, so that a block is written when it is full.

use super::Store;
use super::blocks::listed_slots;
use super::extend::Addition;
use super::moves::{Row, State, flat};
use super::statements::integer;
use crate::error::Result;
use crate::index::centres::Centres;
use crate::index::{Crew, List, Started, crewed};

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

/// Rows, and of each the nearest list and the square of how far its centre is.
type Compared = (Vec<Row>, Vec<(usize, f32)>);

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
        let centres = Centres::for_rows(found, &state.centres, state.dimension)?;
        let coder = state.coder.clone();
        crewed(state.threads, |crew| {
            self.settle_blocks(state, &blocks, crew, |rows| {
                let nearest = centres.nearest(&flat(&coder, &rows));
                (rows, nearest)
            })
        })
    }

    fn settle_blocks<'scope>(
        &self,
        state: &mut State,
        blocks: &[i64],
        crew: &Crew<'scope, '_>,
        compare: impl Fn(Vec<Row>) -> Compared + Send + Sync + Copy + 'scope,
    ) -> Result<usize> {
        let row_bytes = 4 * state.dimension + ROW_BYTES;
        let mut gathered = Gathered::new(state.lists.len());
        let (mut rows, mut settled, mut before) = (Vec::new(), 0, None);
        for (at, block) in blocks.iter().enumerate() {
            self.stop_if_interrupted()?;
            rows.append(&mut self.block_rows(*block)?);
            // At once, while its pages are in memory.
            self.drop_block(*block)?;
            if at + 1 < blocks.len() && rows.len() * row_bytes < COMPARED_BYTES {
                continue;
            }
            settled += rows.len();
            // Compared while the next are read.
            let started = crew.start(parts(crew, &mut rows), compare);
            self.gather(state, crew, &mut gathered, before.replace(started))?;
        }
        self.gather(state, crew, &mut gathered, before)?;
        self.write_longest(state, crew, &mut gathered, 0)?;
        self.write_codes(state)?;
        self.write_places(&mut gathered.places)?;
        Ok(settled)
    }

    /// Takes in rows that were compared, and writes some where many wait.
    fn gather<'scope>(
        &self,
        state: &mut State,
        crew: &Crew<'scope, '_>,
        gathered: &mut Gathered,
        compared: Option<Started<'scope, Compared>>,
    ) -> Result<()> {
        for (rows, nearest) in compared.map_or(Ok(Vec::new()), Started::finish)? {
            gathered.add(rows, nearest);
        }
        let most = GATHERED_BYTES / (4 * state.dimension + ROW_BYTES);
        if most < gathered.rows {
            self.write_full_blocks(state, crew, gathered)?;
            self.write_longest(state, crew, gathered, most)?;
        }
        match PLACES < gathered.places.len() {
            true => self.write_places(&mut gathered.places),
            false => Ok(()),
        }
    }

    /// Writes as many rows of each list as end with a full block.
    fn write_full_blocks<'scope>(
        &self,
        state: &mut State,
        crew: &Crew<'scope, '_>,
        gathered: &mut Gathered,
    ) -> Result<()> {
        let slots = listed_slots(&self.made.form());
        let full = |(list, (rows, _)): (&List, &(Vec<Row>, Vec<f32>))| {
            rows.len().saturating_sub((list.count + rows.len()) % slots)
        };
        let counts: Vec<usize> = state.lists.iter().zip(&gathered.lists).map(full).collect();
        let some = counts.into_iter().enumerate().filter(|it| 0 < it.1);
        self.write_rows(state, crew, gathered, some.collect())
    }

    /// Writes all rows of some lists, of the longest first; where more than `most` wait, until half of that do.
    fn write_longest<'scope>(
        &self,
        state: &mut State,
        crew: &Crew<'scope, '_>,
        gathered: &mut Gathered,
        most: usize,
    ) -> Result<()> {
        let mut left = gathered.rows;
        if left <= most {
            return Ok(());
        }
        let counts = gathered.lists.iter().map(|it| it.0.len());
        let mut longest: Vec<(usize, usize)> = counts.enumerate().collect();
        longest.sort_by_key(|it| std::cmp::Reverse(it.1));
        let some = longest.into_iter().take_while(|(_, count)| {
            let more = most / 2 < left && 0 < *count;
            left = left.saturating_sub(*count);
            more
        });
        let some = some.collect();
        self.write_rows(state, crew, gathered, some)
    }

    /// Writes the first of the rows that wait for some lists: which lists, and how many rows.
    fn write_rows<'scope>(
        &self,
        state: &mut State,
        crew: &Crew<'scope, '_>,
        gathered: &mut Gathered,
        some: Vec<(usize, usize)>,
    ) -> Result<()> {
        let Gathered { lists, rows, places } = gathered;
        let additions = some.into_iter().map(|(at, count)| {
            let (waiting, squares) = &mut lists[at];
            *rows -= count;
            let squares = squares.drain(..count).map(f64::from).sum();
            Addition { at, rows: waiting.drain(..count).collect(), squares }
        });
        self.extend(state, crew, additions, places)
    }
}

impl Gathered {
    fn new(lists: usize) -> Gathered {
        Gathered { lists: vec![Default::default(); lists], rows: 0, places: Vec::new() }
    }

    fn add(&mut self, rows: Vec<Row>, nearest: Vec<(usize, f32)>) {
        self.rows += rows.len();
        for (row, (at, square)) in rows.into_iter().zip(nearest) {
            self.lists[at].0.push(row);
            self.lists[at].1.push(square);
        }
    }
}

/// The rows in as many parts as a crew shares well.
fn parts(crew: &Crew<'_, '_>, rows: &mut Vec<Row>) -> Vec<Vec<Row>> {
    let share = crew.share(rows.len(), rows.len().max(1));
    let mut parts = Vec::new();
    while !rows.is_empty() {
        let rest = rows.split_off(share.min(rows.len()));
        parts.push(std::mem::replace(rows, rest));
    }
    parts
}
