//! Rows on their way from no list into lists: gathered first, so that a block is written when it is full.

use super::Store;
use super::blocks::{listed_slots, slots};
use super::extend::Addition;
use super::moves::State;
use super::rows::Rows;
use super::statements::integer;
use crate::error::Result;
use crate::index::centres::Centres;
use crate::index::{Crew, Form, List, Started, crewed};

/// Bytes of rows that wait for others of their list.
const GATHERED_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of rows that are compared with centres at a time.
const COMPARED_BYTES: usize = 4 * 1024 * 1024;
/// Rows whose numbers are in memory together: fewer than would be memory that the system has to give anew each time.
const READ: usize = 480;
/// Bytes of a row in memory besides its numbers, about.
const ROW_BYTES: usize = 48;
/// Places that are written together, in the order of their rowids.
const PLACES: usize = 256 * 1024;

/// Rows that stand in no block, and which of them wait for each list.
struct Gathered {
    /// As they were compared; some may be in a block by now.
    parts: Vec<Rows>,
    /// Rows that a part has memory for, and such memory.
    most: usize,
    spare: Vec<Rows>,
    rows: usize,
    lists: Vec<Vec<Waiting>>,
    places: Vec<(i64, i64)>,
}

/// A row that waits for others of its list.
struct Waiting {
    part: usize,
    slot: usize,
    /// The square of how far it is from the list's centre.
    square: f32,
}

/// Rows, and of each the nearest list and the square of how far its centre is.
type Compared = Result<(Rows, Vec<(usize, f32)>)>;

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
        let most = (COMPARED_BYTES / (4 * state.dimension + ROW_BYTES)).clamp(1, found.max(1));
        let share = crew.share(most, most);
        let mut gathered = Gathered::new(state.lists.len(), share + slots(&self.made.form()));
        let (mut parts, mut count, mut settled) = (Vec::<Rows>::new(), 0, 0);
        let mut before = None;
        for (at, block) in blocks.iter().enumerate() {
            self.stop_if_interrupted()?;
            if parts.last().is_none_or(|it| share <= it.count()) {
                parts.push(gathered.room(&self.made.form()));
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
                addition.rows.add(parts[part].part(slot..slot + 1));
                addition.squares += f64::from(square);
            }
            addition
        });
        self.extend(state, crew, additions, places)
    }
}

impl Gathered {
    fn new(lists: usize, most: usize) -> Gathered {
        let lists = (0..lists).map(|_| Vec::new()).collect();
        let (parts, spare, places) = (Vec::new(), Vec::new(), Vec::new());
        Gathered { parts, most, spare, rows: 0, lists, places }
    }

    /// Room for a part: what others had before, as the system takes long to give new memory.
    fn room(&mut self, form: &Form) -> Rows {
        self.spare.pop().unwrap_or_else(|| {
            let mut rows = Rows::none(form);
            rows.reserve(self.most);
            rows
        })
    }

    fn add(&mut self, rows: Rows, nearest: Vec<(usize, f32)>) {
        let part = self.parts.len();
        self.rows += rows.count();
        for (slot, (at, square)) in nearest.into_iter().enumerate() {
            self.lists[at].push(Waiting { part, slot, square });
        }
        self.parts.push(rows);
    }

    /// Moves rows that still wait together, and leaves the rest's room to those that come.
    fn forget_written(&mut self) {
        let mut waits: Vec<Vec<bool>> =
            self.parts.iter().map(|it| vec![false; it.count()]).collect();
        for Waiting { part, slot, .. } in self.lists.iter().flatten() {
            waits[*part][*slot] = true;
        }
        // Where rows of each part go: which part, and the first slot there.
        let (mut moved, mut kept) = (Vec::with_capacity(waits.len()), Vec::<Rows>::new());
        for (mut rows, waits) in std::mem::take(&mut self.parts).into_iter().zip(&waits) {
            rows.retain(waits);
            match kept.last_mut().filter(|it| it.count() + rows.count() <= self.most) {
                Some(last) => {
                    let first = last.count();
                    last.add(rows.part(rows.all()));
                    rows.clear();
                    self.spare.push(rows);
                    moved.push((kept.len() - 1, first));
                }
                None => {
                    moved.push((kept.len(), 0));
                    kept.push(rows);
                }
            }
        }
        self.parts = kept;
        let mut slots: Vec<Vec<usize>> = Vec::with_capacity(waits.len());
        for (waits, (_, first)) in waits.iter().zip(&moved) {
            slots.push(
                waits
                    .iter()
                    .scan(*first, |next, waits| {
                        let slot = *next;
                        *next += usize::from(*waits);
                        Some(slot)
                    })
                    .collect(),
            );
        }
        for Waiting { part, slot, .. } in self.lists.iter_mut().flatten() {
            (*part, *slot) = (moved[*part].0, slots[*part][*slot]);
        }
    }
}
