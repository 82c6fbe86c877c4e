//! Adding rows to lists: what is written is computed by a crew, a few lists ahead of the calling thread, which writes it.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::Store;
use super::blocks::{listed_slots, packed};
use super::lists::{list_of, range_of};
use super::moves::State;
use super::pages::Pages;
use super::rows::{Reader, Rows};
use super::statements::{blob, integer};
use crate::error::Result;
use crate::index::code::Coder;
use crate::index::{Crew, List, Started};
use crate::sqlite::Value;

/// Bytes of rows that are computed while those before are written.
const AHEAD_BYTES: usize = 1024 * 1024;

/// Bytes of codes that wait to be written.
const UNWRITTEN_BYTES: usize = 20 * 1024 * 1024;
/// Bytes of them that go on waiting where more do.
const LEFT_BYTES: usize = UNWRITTEN_BYTES / 4 * 3;

/// Codes that were computed and are written after all else: those of a list come to lie beside each other in the file, not between
/// the vectors of other lists, and a search reads them at once.
#[derive(Default)]
pub(super) struct Unwritten {
    by_block: BTreeMap<i64, Box<[u8]>>,
    bytes: usize,
    /// Which lists are new or have changed since they were written.
    pub(super) lists: BTreeSet<usize>,
}

impl Unwritten {
    fn insert(&mut self, block: i64, codes: &[u8]) {
        self.bytes += codes.len();
        // Copied, as memory of the thread that computed them would stay with it.
        let before = self.by_block.insert(block, codes.into());
        self.bytes -= before.map_or(0, |it| it.len());
    }

    /// Takes out the codes of lists until no more than so many bytes are left: of those first that have most, so that the
    /// others have more when their turn comes.
    fn taken(&mut self, left: usize) -> BTreeMap<i64, Box<[u8]>> {
        let mut bytes = BTreeMap::<_, usize>::new();
        for (block, codes) in &self.by_block {
            *bytes.entry(list_of(*block)).or_default() += codes.len();
        }
        let mut longest: Vec<_> = bytes.into_iter().collect();
        longest.sort_by_key(|it| Reverse(it.1));
        let mut those = BTreeSet::new();
        for (list, bytes) in longest {
            if self.bytes <= left {
                break;
            }
            self.bytes -= bytes;
            those.insert(list);
        }
        self.by_block.extract_if(.., |block, _| those.contains(&list_of(*block))).collect()
    }
}

/// Rows that are added to a list.
pub(super) struct Addition {
    /// Which of all lists it is.
    pub(super) at: usize,
    pub(super) rows: Rows,
    /// The sum of the squares of how far they are from its centre.
    pub(super) squares: f64,
}

/// What is added to lists, by list: each row from `first` on to the one whose centre is nearest, of which `among` says what list
/// it is.
pub(super) fn added(
    rows: &Rows,
    first: usize,
    among: &[usize],
    nearest: Vec<(usize, f32)>,
) -> BTreeMap<usize, Addition> {
    let mut additions = BTreeMap::new();
    for (slot, (nearest, square)) in (first..).zip(nearest) {
        let at = among[nearest];
        let none = || Addition { at, rows: rows.like(), squares: 0.0 };
        let addition = additions.entry(at).or_insert_with(none);
        addition.rows.add(rows.part(slot..slot + 1));
        addition.squares += f64::from(square);
    }
    additions
}

/// Adds more to what is added to lists.
pub(super) fn merge(additions: &mut BTreeMap<usize, Addition>, more: BTreeMap<usize, Addition>) {
    for (at, more) in more {
        match additions.entry(at) {
            Entry::Vacant(it) => {
                it.insert(more);
            }
            Entry::Occupied(mut it) => {
                it.get_mut().rows.add(more.rows.part(more.rows.all()));
                it.get_mut().squares += more.squares;
            }
        }
    }
}

/// A block of a list.
struct Block {
    block: i64,
    /// How many of its rows are in the file.
    there: usize,
    rowids: Vec<i64>,
    /// All of them, if it has planes.
    rows: Rows,
    /// What is to stand behind the pages that are in the file, if it has pages.
    bytes: Vec<u8>,
    codes: Vec<u8>,
}

/// An addition and where it goes: first into a block that has room, if there is one.
struct Begun {
    addition: Addition,
    centre: Vec<f32>,
    open: Option<Block>,
    /// The first block that there is not yet.
    next: i64,
    pages: Option<Pages>,
}

/// Blocks as they are to be written.
struct Written {
    at: usize,
    rows: usize,
    squares: f64,
    blocks: Vec<Block>,
    places: Vec<(i64, i64)>,
}

impl Store {
    /// Adds rows to lists, each of which comes once; their codes wait for [`Store::write_codes`].
    pub(super) fn extend<'scope>(
        &self,
        state: &mut State,
        crew: &Crew<'scope, '_>,
        mut additions: impl Iterator<Item = Addition>,
        places: &mut Vec<(i64, i64)>,
    ) -> Result<()> {
        let mut before: Option<Started<'scope, Result<Written>>> = None;
        loop {
            self.stop_if_interrupted()?;
            let begun = self.begun(state, &mut additions)?;
            if begun.is_empty() {
                break;
            }
            let (coder, reader) = (state.coder.clone(), self.reader());
            let mut started = Some(crew.start(begun, move |it: Begun| it.written(&coder, &reader)));
            if crew.is_several() {
                std::mem::swap(&mut before, &mut started);
            }
            self.finish(state, started, places)?;
        }
        self.finish(state, before, places)
    }

    /// The next additions, and where they go.
    fn begun(
        &self,
        state: &State,
        additions: &mut impl Iterator<Item = Addition>,
    ) -> Result<Vec<Begun>> {
        let (mut begun, mut bytes) = (Vec::new(), 0);
        while bytes < AHEAD_BYTES
            && let Some(addition) = additions.next()
        {
            bytes += 4 * state.dimension * addition.rows.count();
            begun.push(self.begun_one(state, addition)?);
        }
        Ok(begun)
    }

    fn begun_one(&self, state: &State, addition: Addition) -> Result<Begun> {
        let most = listed_slots(&self.made.form());
        let List { list, .. } = state.lists[addition.at];
        let (first, last) = range_of(list);
        let (mut open, mut next) = (None, first);
        let sql = "SELECT block, count FROM {blocks} WHERE block BETWEEN ?1 AND ?2";
        self.each(sql, &[Value::Integer(first), Value::Integer(last)], |row| {
            next = integer(row, 0)? + 1;
            if integer(row, 1)? < most as i64 {
                open = Some(next - 1);
            }
            Ok(())
        })?;
        let open = open.map(|it| self.open_block(state, it)).transpose()?;
        let room = open.as_ref().map_or(0, |it| most - it.there);
        let new = addition.rows.count().saturating_sub(room).div_ceil(most);
        if last + 1 < next + new as i64 {
            return Err(self.damaged("lists", format!("list {list} has no block left")));
        }
        let centre = state.centre(addition.at).to_vec();
        Ok(Begun { addition, centre, open, next, pages: self.pages()? })
    }

    /// A list's block that has room, and its codes; of rows in pages what is to be written again.
    fn open_block(&self, state: &State, block: i64) -> Result<Block> {
        let sql = "SELECT count, rowids, high, low, codes FROM {blocks} b LEFT JOIN {low} l ON l.block = b.block LEFT JOIN {codes} c ON c.block = b.block WHERE b.block = ?1";
        let unwritten = state.unwritten.by_block.get(&block);
        let found = self.first(sql, &[Value::Integer(block)], |row| {
            let rowid_bytes = blob(row, 1)?;
            let there = self.slot_count(block, integer(row, 0)?, rowid_bytes.len())?;
            let (mut rows, mut bytes) = (Rows::none(&self.made.form()), Vec::new());
            match self.pages_of(block)? {
                Some(pages) => {
                    bytes.extend(self.behind_pages(&pages, block, there, blob(row, 2)?)?)
                }
                None => self.add_answered(block, row, &mut rows)?,
            }
            let rowids = self.rowids_in(block, there, rowid_bytes)?;
            let codes = unwritten.map_or_else(|| blob(row, 4), |it| Ok(&**it))?.to_vec();
            Ok(Block { block, there, rowids, rows, bytes, codes })
        })?;
        let mut found =
            found.ok_or_else(|| self.damaged("blocks", format!("block {block} is missing")))?;
        let most = self.codes_bytes(&state.coder);
        let least = match self.is_packed()? {
            true => state.coder.bytes_of(found.rowids.len()),
            false => most,
        };
        let bytes = found.codes.len();
        if !(least..=most).contains(&bytes) || !bytes.is_multiple_of(state.coder.group_bytes()) {
            let reason = format!("block {block} has {bytes} bytes of codes, expected {least}");
            return Err(self.damaged("codes", reason));
        }
        let empty = state.coder.empty(listed_slots(&self.made.form()));
        found.codes.extend_from_slice(&empty[bytes..]);
        Ok(found)
    }

    /// `rest`, if it is as long as what so many rows of a block leave behind its pages.
    fn behind_pages<'a>(
        &self,
        pages: &Pages,
        block: i64,
        count: usize,
        rest: &'a [u8],
    ) -> Result<&'a [u8]> {
        let (found, left) = (rest.len(), pages.left(count));
        if found != left {
            let reason =
                format!("block {block} has {found} bytes behind its pages, expected {left}");
            return Err(self.damaged("blocks", reason));
        }
        Ok(rest)
    }

    /// Bytes of the codes of a full block.
    pub(super) fn codes_bytes(&self, coder: &Coder) -> usize {
        coder.bytes_of(listed_slots(&self.made.form()))
    }

    /// Writes what was started, once it is computed.
    fn finish(
        &self,
        state: &mut State,
        started: Option<Started<'_, Result<Written>>>,
        places: &mut Vec<(i64, i64)>,
    ) -> Result<()> {
        for written in started.map_or(Ok(Vec::new()), Started::finish)? {
            let mut written = written?;
            for block in written.blocks {
                self.write_block(&block)?;
                state.unwritten.insert(block.block, &block.codes);
            }
            places.append(&mut written.places);
            let list = &mut state.lists[written.at];
            let sum = f64::from(list.spread) * list.count as f64 + written.squares;
            list.count += written.rows;
            list.spread = (sum / list.count.max(1) as f64) as f32;
            state.unwritten.lists.insert(written.at);
        }
        match UNWRITTEN_BYTES < state.unwritten.bytes {
            true => self.write_codes_but(LEFT_BYTES, state),
            false => Ok(()),
        }
    }

    /// Writes the codes that wait, list by list, and what lists have become.
    pub(super) fn write_codes(&self, state: &mut State) -> Result<()> {
        let lists = std::mem::take(&mut state.unwritten.lists);
        lists.into_iter().try_for_each(|at| self.write_list(state, at))?;
        self.write_codes_but(0, state)
    }

    /// Writes codes that wait, list by list, until no more than so many bytes of them are left.
    fn write_codes_but(&self, left: usize, state: &mut State) -> Result<()> {
        let by_block = state.unwritten.taken(left);
        self.run_each(
            "INSERT OR REPLACE INTO {codes}(block, codes) VALUES (?1, ?2)",
            by_block.iter().map(|(block, codes)| [Value::Integer(*block), Value::Blob(codes)]),
        )
    }

    fn write_block(&self, it: &Block) -> Result<()> {
        let (count, block) = (it.rowids.len(), Value::Integer(it.block));
        let rowids = self.rowid_bytes(&it.rowids)?;
        let [_, mut high, low] = it.rows.part(it.rows.all());
        if let Some(pages) = self.pages_of(it.block)? {
            high = self.write_pages(&pages, it.block, it.there, &it.bytes)?;
        }
        self.run(
            "INSERT OR REPLACE INTO {blocks}(block, count, rowids, high) VALUES (?1, ?2, ?3, ?4)",
            &[block, Value::Integer(count as i64), Value::Blob(&rowids), Value::Blob(high)],
        )?;
        if !low.is_empty() {
            self.run(
                "INSERT OR REPLACE INTO {low}(block, low) VALUES (?1, ?2)",
                &[block, Value::Blob(low)],
            )?;
        }
        Ok(())
    }
}

impl Begun {
    /// The blocks with the rows in them.
    fn written(self, coder: &Coder, reader: &Reader) -> Result<Written> {
        let Begun { addition: Addition { at, rows, squares }, centre, mut open, next, pages } =
            self;
        let (most, centre) = (listed_slots(&reader.form), coder.rotated(&centre));
        let (mut blocks, mut places) = (Vec::new(), Vec::with_capacity(rows.count()));
        let (mut done, mut rowids, mut free) = (0, rows.rowids(), next..);
        while done < rows.count() {
            let mut it = open.take().or_else(|| {
                let (rowids, rows, bytes) = (Vec::new(), rows.like(), Vec::new());
                let codes = coder.empty(most);
                free.next().map(|block| Block { block, there: 0, rowids, rows, bytes, codes })
            });
            let Some(block) = &mut it else {
                break;
            };
            let count = block.rowids.len();
            let taken = done..rows.count().min(done + most - count);
            done = taken.end;
            let numbers = reader.numbers(&rows, taken.clone())?;
            coder.write(&mut block.codes, count, &numbers, &centre);
            match &pages {
                Some(pages) => {
                    block.bytes.extend_from_slice(&rows.whole(taken.clone()));
                    if pages.is_packed() {
                        block.codes.truncate(coder.bytes_of(count + taken.len()));
                    }
                }
                None => block.rows.add(rows.part(taken.clone())),
            }
            for (slot, rowid) in (count..).zip(rowids.by_ref().take(taken.len())) {
                block.rowids.push(rowid);
                places.push((rowid, packed(block.block, slot)));
            }
            blocks.extend(it);
        }
        Ok(Written { at, rows: rows.count(), squares, blocks, places })
    }
}
