//! Rows on their way from no list into lists: gathered first, so that a block is written when it is full.

use super::Store;
use super::blocks::{listed_slots, slots};
use super::extend::Addition;
use super::gathered::{Gathered, Waiting};
use super::moves::State;
use super::rows::Rows;
use super::statements::integer;
use crate::error::Result;
use crate::index::centres::Centres;
use crate::index::{Crew, List, Started, crewed};

/// Bytes of rows that wait for others of their list.
const GATHERED_BYTES: usize = 24 * 1024 * 1024;
/// Bytes of rows that are compared with centres at a time; three times as many are on their way.
const COMPARED_BYTES: usize = 1536 * 1024;
/// Rows whose numbers are in memory together: fewer than would be memory that the system has to give anew each time.
const READ: usize = 480;
/// Bytes of a row in memory besides its numbers, about.
const ROW_BYTES: usize = 48;
/// Places that are written together, in the order of their rowids.
const PLACES: usize = 256 * 1024;

/// Rows, and of each the nearest list and the square of how far its centre is.
type Compared = Result<(Rows, Vec<(usize, f32)>)>;

impl Store {
    /// Puts up to about `most` rows that are in no list into the nearest ones; how many they were.
    pub(super) fn settle(&self, state: &mut State, most: usize) -> Result<usize> {
        let mut blocks = Vec::new();
        let sql = "SELECT block, count FROM {blocks} WHERE block < {listed} ORDER BY block";
        let mut found = 0usize;
        self.each(sql, &[], |row| {
            if found < most {
                blocks.push(integer(row, 0)?);
                found = found.saturating_add(integer(row, 1)?.max(0) as usize);
            }
            Ok(())
        })?;
        let centres = Centres::for_rows(found, &state.centres, state.dimension)?;
        let (coder, reader) = (state.coder.clone(), self.reader());
        crewed(state.threads, |crew| {
            self.settle_blocks(state, &blocks, found, crew, |rows| {
                let mut nearest = Vec::with_capacity(rows.count());
                for first in rows.all().step_by(READ) {
                    let some = first..rows.count().min(first + READ);
                    nearest.append(&mut centres.nearest(&reader.placed(&rows, some, &coder)?));
                }
                Ok((rows, nearest))
            })
        })
    }

    fn settle_blocks<'scope>(
        &self,
        state: &mut State,
        blocks: &[i64],
        found: usize,
        crew: &Crew<'scope, '_>,
        compare: impl Fn(Rows) -> Compared + Send + Sync + Copy + 'scope,
    ) -> Result<usize> {
        let form = self.made.form();
        let most = (COMPARED_BYTES / (4 * state.dimension + ROW_BYTES)).clamp(1, found.max(1));
        // Whole blocks: what a part has room for is memory, filled or not, once it is used again.
        let slots = slots(&form);
        let room = crew.share(most, most).next_multiple_of(slots);
        let mut gathered = Gathered::new(state.lists.len(), room, &form);
        let (mut parts, mut count, mut settled) = (Vec::<Rows>::new(), 0, 0);
        let mut before = None;
        for (at, block) in blocks.iter().enumerate() {
            self.stop_if_interrupted()?;
            if parts.last().is_none_or(|it| room < it.count() + slots) {
                parts.push(gathered.room());
            }
            if let Some(rows) = parts.last_mut() {
                count -= rows.count();
                self.add_block_rows(*block, rows)?;
                count += rows.count();
            }
            // At once, while its pages are in memory.
            self.drop_block(*block)?;
            if at + 1 < blocks.len() && count < most {
                continue;
            }
            settled += std::mem::take(&mut count);
            // Compared while the next are read.
            let started = crew.start(std::mem::take(&mut parts), compare);
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
        for compared in compared.map_or(Ok(Vec::new()), Started::finish)? {
            let (rows, nearest) = compared?;
            gathered.add(rows, nearest);
        }
        let most = GATHERED_BYTES / (4 * state.dimension + ROW_BYTES);
        if most < gathered.rows {
            self.write_full_blocks(state, crew, gathered)?;
            self.write_longest(state, crew, gathered, most)?;
            gathered.forget_written();
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
        let full = |(list, waiting): (&List, &Vec<Waiting>)| {
            waiting.len().saturating_sub((list.count + waiting.len()) % slots)
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
        let counts = gathered.lists.iter().map(Vec::len);
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
        let Gathered { parts, rows, lists, places, .. } = gathered;
        let none = Rows::none(&self.made.form());
        let additions = some.into_iter().map(|(at, count)| {
            *rows -= count;
            let mut addition = Addition { at, rows: none.like(), squares: 0.0 };
            addition.rows.reserve(count);
            for Waiting { part, slot, square } in lists[at].drain(..count) {
                let slot = slot as usize;
                addition.rows.add(parts[part as usize].part(slot..slot + 1));
                addition.squares += f64::from(square);
            }
            addition
        });
        self.extend(state, crew, additions, places)
    }
}
