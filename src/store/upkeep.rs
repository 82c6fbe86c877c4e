//! Keeping rows in lists: made when the table has grown enough, filled from the rows that came since,
//! split where they have become long, merged where they have become short.
//!
//! Xu et al., "SPFresh" (2023). All of it happens inside the transaction that caused it, in proportion
//! to what it wrote.

use std::sync::Arc;

use super::blocks::{listed_slots, slots};
use super::extend::Unwritten;
use super::lists::range_of;
use super::moves::State;
use super::rows::Rows;
use super::statements::{integer, schema_of};
use super::{LISTS_SCHEMA, PACKED_FORMAT, PACKED_SHADOWS, Store};
use crate::error::Result;
use crate::index::{List, Metric, bulk_threads, cluster, crewed};
use crate::sqlite::{Value, quoted};

/// High planes of this many bytes are searched exactly in 0.3 to 0.4 ms, through lists in half of that; in a
/// smaller table lists gain little, make a file a fifth larger and cost ten times the time to insert
/// (128 and 512 dimensions).
const WORTH_BYTES: usize = 4 * 1024 * 1024;
/// High planes of rows in no list, which every search reads.
const MOST_TAIL_BYTES: usize = 1024 * 1024;
/// Floats of the rows that move at a time.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Floats of the rows that the first centres are made from.
const SAMPLE_BYTES: usize = 24 * 1024 * 1024;
/// Rows of that sample, per centre.
const SAMPLED: usize = 48;
/// Per cent of a list's share of the sample that it may have. At 200, where lists are split, a search costs more; at 150
/// no less, and queries from elsewhere find less in many small lists.
const UNEVEN: usize = 180;
/// Fewest rows that a list is meant for.
const LEAST_TARGET: usize = 32;
/// Rows that may move for each row that was written.
const MOVED: usize = 8;
/// Floats of the rows of lists that are split at a time.
const SPLIT_BYTES: usize = 8 * 1024 * 1024;
/// Floats of rows that are worth starting threads for: a commit of as many takes 0.15 s, and two threads gain a fourth of it.
const SHARED_BYTES: usize = 8 * 1024 * 1024;
/// Tables this many times larger than where lists begin to pay get them by a small commit.
const SMALL: usize = 4;

/// How many rows a list is meant for in a table of that many.
pub(super) fn target(rows: usize) -> usize {
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

impl Store {
    /// What a commit does for the lists, in proportion to what was written.
    pub fn tend(&self) -> Result<()> {
        match self.written.take() {
            0 => Ok(()),
            _ if !self.is_there()? => Ok(()),
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
            if count.div_ceil(listed_slots(&self.made.form())) < blocks.unwrap_or(0) as usize {
                let rows = self.taken_from_list(list)?;
                state.lists[at].count = 0;
                self.distribute(&mut state, &rows, &[at])?;
            }
        }
        self.changed();
        Ok(())
    }

    /// Makes lists, codes and places anew from the vectors alone.
    pub fn rebuild(&self) -> Result<()> {
        self.unnoticed(|| {
            self.restore_page_bytes()?;
            let mut blocks = Vec::new();
            self.each("SELECT block FROM {blocks} ORDER BY block", &[], |row| {
                blocks.push(integer(row, 0)?);
                Ok(())
            })?;
            if self.is_listed()? {
                self.run("DELETE FROM {codes}", &[])?;
                self.run("DELETE FROM {lists}", &[])?;
            }
            self.forget_all_places()?;
            let (form, reader) = (self.made.form(), self.reader());
            let (full, mut pending) = (slots(&form), Rows::none(&form));
            for block in blocks {
                let rows = self.block_rows(block)?;
                self.drop_block(block)?;
                // As they are read, which is of length one again.
                let numbers = reader.numbers(&rows, rows.all())?;
                let vectors =
                    numbers.chunks(form.dimension).map(|it| form.metric.vector(it.to_vec()));
                let vectors = vectors.collect::<Result<Vec<_>>>()?;
                let rows = Rows::of(&form, rows.rowids().zip(&vectors));
                pending.add(rows.part(rows.all()));
                if full <= pending.count() {
                    // Into new blocks alone: older ones that have room are still to be read.
                    self.add_block(pending.part(0..full))?;
                    let mut rest = pending.like();
                    rest.add(pending.part(full..pending.count()));
                    pending = rest;
                }
            }
            if 0 < pending.count() {
                self.add_block(pending.part(pending.all()))?;
            }
            self.run("DELETE FROM {low} WHERE block NOT IN (SELECT block FROM {blocks})", &[])?;
            if self.pages()?.is_some() {
                self.run("DELETE FROM {paged}", &[])?;
            }
            if self.is_listed()? && !self.names_are_taken()? {
                self.begin_format()?;
            }
            self.changed();
            self.tend_lists(None)
        })
    }

    fn worth(&self) -> Result<usize> {
        let sql = "SELECT value FROM {config} WHERE key = 'worth'";
        let bytes = self.first(sql, &[], |row| integer(row, 0))?;
        let bytes = bytes.and_then(|it| usize::try_from(it).ok()).unwrap_or(WORTH_BYTES);
        Ok(bytes / self.made.form().high_bytes())
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
            if tail < worth || !pays || self.names_are_taken()? {
                return Ok(());
            }
            self.begin_lists()?;
        } else if written.is_some() && tail * self.made.form().high_bytes() <= MOST_TAIL_BYTES {
            return Ok(());
        }
        let mut state = self.state()?;
        state.threads = self.threads_for(tail);
        let mut new = false;
        // Lists that were made for a small part of the rows would all have to be split.
        if 3 * state.rows() <= tail {
            self.dissolve(&mut state)?;
        }
        if state.lists.is_empty() {
            if tail == 0 {
                return Ok(());
            }
            self.read_mapped();
            if !self.is_packed()? && !self.names_are_taken()? {
                // Those of an earlier format are gone.
                self.begin_format()?;
                state.coder = Arc::new(self.coder()?);
            }
            self.train(&mut state, tail)?;
            new = true;
        }
        if !new {
            self.welcome(&mut state, tail)?;
        }
        let mut work = written.map_or(usize::MAX, |it| MOVED * it + 2 * batch);
        work = work.saturating_sub(self.settle(&mut state, work)?);
        let target = target(state.rows());
        // Each makes a list; more of them than lists that short would mean that rows go in circles.
        let mut splits = state.lists.len() + 4 * state.rows() / target;
        let together = SPLIT_BYTES / (4 * self.made.dimension);
        crewed(state.threads, |crew| {
            loop {
                let mut long = state.long(2 * target, together.min(work));
                long.truncate(splits);
                if long.is_empty() {
                    return Ok(());
                }
                splits -= long.len();
                let rows: usize = long.iter().map(|at| state.lists[*at].count).sum();
                let came = self.split(&mut state, crew, &long)?;
                work = work.saturating_sub(rows + came);
            }
        })?;
        while let Some((at, count)) = state.shortest().filter(|it| it.1 < target / 8) {
            if work == 0 || state.lists.len() < 2 {
                break;
            }
            self.merge(&mut state, at)?;
            work = work.saturating_sub(count.max(1));
        }
        self.changed();
        self.learn(new, state.threads)
    }

    /// How many threads compute where so many rows wait for lists.
    fn threads_for(&self, rows: usize) -> usize {
        match rows * 4 * self.made.dimension < SHARED_BYTES {
            true => 1,
            false => bulk_threads(),
        }
    }

    /// Whether something of the user's is called as a table that lists need: without them a search is exact, and with those of
    /// an earlier format as good, but a commit that failed for it would take the user's rows back.
    fn names_are_taken(&self) -> Result<bool> {
        let own = self.shadows()?;
        let schema = quoted(&self.schema);
        let sql = format!("SELECT 1 FROM {schema}.sqlite_schema WHERE name = ?1 COLLATE NOCASE");
        let mut select = self.db.prepare(&sql)?;
        for part in PACKED_SHADOWS.iter().filter(|it| !own.contains(it)) {
            select.start(&[Value::Text(&self.shadow(part))])?;
            if select.step()? {
                return Ok(true);
            }
            select.reset();
        }
        Ok(false)
    }

    fn begin_lists(&self) -> Result<()> {
        self.db.execute(&schema_of(LISTS_SCHEMA, &self.schema, &self.name, &self.made))?;
        self.begin_format()?;
        self.rolled_back();
        Ok(())
    }

    /// Says how rows of lists and their codes are written from now on, where there are none.
    fn begin_format(&self) -> Result<()> {
        self.begin_pages()?;
        self.begin_places()?;
        let (metric, storage) = (self.made.metric.name(), self.made.storage.name());
        for (key, value) in [
            ("format", Value::Integer(PACKED_FORMAT)),
            ("metric", Value::Text(metric)),
            ("storage", Value::Text(storage)),
        ] {
            self.run(
                "INSERT OR REPLACE INTO {config}(key, value) VALUES (?1, ?2)",
                &[Value::Text(key), value],
            )?;
        }
        self.pages.forget();
        self.set_origin(&vec![0.0; self.made.dimension])?;
        self.run(
            "INSERT OR REPLACE INTO {config}(key, value) VALUES ('bits', ?1)",
            &[Value::Integer(bits(self.made.dimension))],
        )
    }

    /// Says what codes of Euclidean distances are about, where there are none.
    fn set_origin(&self, origin: &[f32]) -> Result<()> {
        if self.made.metric != Metric::L2 {
            return Ok(());
        }
        let bytes: Vec<u8> = origin.iter().flat_map(|it| it.to_le_bytes()).collect();
        self.run(
            "INSERT OR REPLACE INTO {config}(key, value) VALUES ('origin', ?1)",
            &[Value::Blob(&bytes)],
        )
    }

    fn state(&self) -> Result<State> {
        let dimension = self.made.dimension;
        self.changed();
        let (lists, centres) = match self.lists()? {
            Some(it) => (it.lists.clone(), it.centres.clone()),
            None => (Vec::new(), Vec::new()),
        };
        let (coder, unwritten) = (Arc::new(self.coder()?), Unwritten::default());
        Ok(State { coder, lists, centres, dimension, threads: 1, unwritten })
    }

    /// The first centres, from rows all over the tail.
    fn train(&self, state: &mut State, tail: usize) -> Result<()> {
        let lists = tail.isqrt().clamp(1, tail.div_ceil(LEAST_TARGET));
        let most = (SAMPLE_BYTES / (4 * state.dimension)).max(lists);
        let every = tail.div_ceil(most.min(SAMPLED * lists)).max(1);
        let mut sample = self.sample_of_tail(tail, every)?;
        if self.made.metric == Metric::L2 {
            // Numbers are the more exact the smaller they are.
            self.set_origin(&mean(&sample, state.dimension))?;
            state.coder = Arc::new(self.coder()?);
            state.coder.place_all(&mut sample);
        }
        // Lists would be split later on where they are too long: in the sample it costs nothing.
        let most = UNEVEN * (sample.len() / state.dimension) / lists / 100;
        let centres = crewed(state.threads, |crew| {
            let go_on = || self.stop_if_interrupted();
            cluster::halved_centres(crew, &sample, state.dimension, lists, most.max(1), &go_on)
        })?;
        centres.chunks_exact(state.dimension).for_each(|it| state.add_list(it));
        Ok(())
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

/// The mean of vectors laid end to end.
fn mean(rows: &[f32], dimension: usize) -> Vec<f32> {
    let count = (rows.len() / dimension).max(1) as f64;
    let mut sums = vec![0.0f64; dimension];
    for row in rows.chunks_exact(dimension) {
        sums.iter_mut().zip(row).for_each(|(sum, it)| *sum += f64::from(*it));
    }
    sums.into_iter().map(|it| (it / count) as f32).collect()
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
