//! `integrity-check`: every block, slot and row held against the others.

use std::collections::{BTreeSet, HashMap};

use super::blocks::{PLACE_BITS, ROWID_BYTES, packed};
use super::lists::list_of;
use super::rows::Rows;
use super::statements::integer;
use super::{LISTED, Store};
use crate::error::{Error, Result};
use crate::index::plane;
use crate::index::{Metric, Storage};
use crate::sqlite::{Statement, Value};

/// Findings after which the rest is only counted.
const MOST_FINDINGS: usize = 100;
/// How far from one a stored vector's length may be: float32 rounding of 65,536 numbers.
const LENGTH_SLACK: f64 = 1e-4;

impl Store {
    /// What is wrong, a line each; nothing in a sound table.
    pub fn check(&self) -> Result<Vec<String>> {
        let mut findings = Findings::default();
        if let Err(err) = self.pages() {
            // Without it no row of a list can be read.
            findings.add(err.to_string());
            return Ok(findings.listed());
        }
        let mut places: HashMap<i64, i64> = HashMap::new();
        let sql = "SELECT count, rowids, high, low, b.block, l.block IS NOT NULL FROM {blocks} b LEFT JOIN {low} l ON l.block = b.block";
        self.each(sql, &[], |row| {
            let block = integer(row, 4)?;
            let rows = match self.rows_or_fault(block, row)? {
                Ok(rows) => rows,
                Err(fault) => {
                    findings.add(fault);
                    return Ok(());
                }
            };
            for (slot, rowid) in rows.rowids().enumerate() {
                if places.insert(rowid, packed(block, slot)).is_some() {
                    findings.add(format!(
                        "row {rowid} is in two slots, one of them {slot} of block {block}"
                    ));
                }
                let [_, high, low] = rows.part(slot..slot + 1);
                if let Some(fault) = self.fault_of(high, low) {
                    findings.add(format!("row {rowid}: {fault}"));
                }
            }
            Ok(())
        })?;
        self.check_blocks_are_there(&mut findings)?;
        for fault in self.each_place(|rowid, place| match places.remove(&rowid) {
            Some(found) if found == place => {}
            Some(found) => findings.add(format!(
                "row {rowid} is in {}, its entry says {}",
                described(found),
                described(place)
            )),
            None => findings
                .add(format!("row {rowid} is in no block, its entry says {}", described(place))),
        })? {
            findings.add(fault);
        }
        let mut left: Vec<_> = places.into_iter().collect();
        left.sort();
        for (rowid, place) in left {
            findings.add(format!("row {rowid} is in {}, but has no entry", described(place)));
        }
        if self.made.content.is_some() {
            self.check_seen(&mut findings)?;
        }
        self.check_lists(&mut findings)?;
        Ok(findings.listed())
    }

    /// The rows of a block, or what is wrong with their bytes. An answer has count, rowids, high and low plane, the
    /// block, and whether it has a low plane.
    fn rows_or_fault(
        &self,
        block: i64,
        row: &Statement,
    ) -> Result<std::result::Result<Rows, String>> {
        let form = self.made.form();
        let mut rows = Rows::none(&form);
        let (Some(rowid_bytes), Some(high)) = (row.blob(1)?, row.blob(2)?) else {
            return Ok(Err(format!("block {block} has no rowids or no high plane")));
        };
        let (is_paged, has_low) = (self.pages_of(block)?.is_some(), integer(row, 5)? != 0);
        if has_low && (is_paged || form.storage != Storage::F32) {
            let other = if is_paged { "a block of pages" } else { form.storage.name() };
            return Ok(Err(format!("block {block} has a low plane, which {other} has not")));
        }
        if !is_paged {
            let low = match (form.storage, row.blob(3)?) {
                (Storage::F32, None) => return Ok(Err(format!("block {block} has no low plane"))),
                (_, low) => low.unwrap_or_default(),
            };
            if let Err(Error::Damaged { reason, .. }) =
                self.slot_count(block, integer(row, 0)?, rowid_bytes.len())
            {
                return Ok(Err(reason));
            }
            let capacity = rowid_bytes.len() / ROWID_BYTES;
            let planes = [("high", high, form.high_bytes()), ("low", low, form.low_bytes())];
            for (name, plane, width) in planes {
                if plane.len() != capacity * width {
                    return Ok(Err(format!(
                        "the {name} plane of block {block} has {} bytes, {capacity} slots need {}",
                        plane.len(),
                        capacity * width
                    )));
                }
            }
        }
        match self.add_answered(block, row, &mut rows) {
            Ok(()) => Ok(Ok(rows)),
            Err(Error::Damaged { reason, .. }) => Ok(Err(reason)),
            Err(err) => Err(err),
        }
    }

    /// What is wrong with a row's planes.
    fn fault_of(&self, high: &[u8], low: &[u8]) -> Option<String> {
        let form = self.made.form();
        let vector = match form.read(high, low) {
            Ok(vector) => vector,
            Err(err) => return Some(err.to_string()),
        };
        if form.metric == Metric::Cosine {
            // As it stands there, as reading makes it one.
            let numbers = match form.storage {
                Storage::F32 => plane::join(high, low),
                _ => form.roughly(high),
            };
            let square: f64 = numbers.iter().map(|it| f64::from(*it).powi(2)).sum();
            let length = square.sqrt();
            if LENGTH_SLACK < (length - 1.0).abs() {
                return Some(format!("the vector has length {length:.4}, expected 1"));
            }
        }
        if form.storage == Storage::F32 {
            return None;
        }
        let mut again = Vec::new();
        form.write(&vector, &mut again, &mut Vec::new());
        (again != high).then(|| format!("no vector is written so in {}", form.storage.name()))
    }

    /// Whatever belongs to a block has one.
    fn check_blocks_are_there(&self, findings: &mut Findings) -> Result<()> {
        let low = "SELECT block FROM {low} WHERE block NOT IN (SELECT block FROM {blocks})";
        let codes = "SELECT block FROM {codes} WHERE block NOT IN (SELECT block FROM {blocks})";
        let pages = "SELECT page FROM {paged} WHERE page / ?1 + {listed} NOT IN (SELECT block FROM {blocks})";
        let most = self.pages()?.map(|it| it.number(LISTED + 1, 0));
        for (is_there, sql, arguments, what, has) in [
            (true, low, &[][..], "the low plane of block", "has"),
            (self.is_listed()?, codes, &[], "the codes of block", "have"),
            (most.is_some(), pages, &[Value::Integer(most.unwrap_or(1))], "page", "has"),
        ] {
            if is_there {
                self.each(sql, arguments, |row| {
                    findings.add(format!("{what} {} {has} no block", integer(row, 0)?));
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Every block from the first number of lists on belongs to one, with the codes that follow from
    /// its vectors; every list counts its rows.
    fn check_lists(&self, findings: &mut Findings) -> Result<()> {
        if !self.is_listed()? {
            return self.each("SELECT block FROM {blocks} WHERE {listed} <= block", &[], |row| {
                let block = integer(row, 0)?;
                findings.add(format!("block {block} is in a list, but the table has none"));
                Ok(())
            });
        }
        let coder = match self.coder() {
            Ok(coder) => coder,
            Err(err) => {
                findings.add(err.to_string());
                return Ok(());
            }
        };
        let mut lists: HashMap<i64, (i64, Vec<f32>)> = HashMap::new();
        self.each("SELECT list, count, spread, centre FROM {lists}", &[], |row| {
            let (list, count) = (integer(row, 0)?, integer(row, 1)?);
            let expected = coder.centre_bytes_of(self.made.dimension);
            let centre = match row.blob(3)? {
                Some(it) if it.len() == expected => coder.centre_of(it),
                _ => Vec::new(),
            };
            if centre.is_empty() || centre.iter().any(|it| !it.is_finite()) {
                findings.add(format!("the centre of list {list} is no vector"));
                return Ok(());
            }
            let most = if self.made.metric == Metric::Cosine { 4.0 } else { f64::from(f32::MAX) };
            if row.value(2)?.number().is_none_or(|it| !(0.0..=most).contains(&it)) {
                findings.add(format!("the spread of list {list} is none (0 to {most})"));
            }
            lists.insert(list, (count, coder.rotated(&centre)));
            Ok(())
        })?;
        let sql = "SELECT count, rowids, high, low, b.block, codes FROM {blocks} b LEFT JOIN {low} l ON l.block = b.block LEFT JOIN {codes} c ON c.block = b.block WHERE {listed} <= b.block";
        let (form, reader, is_packed) = (self.made.form(), self.reader(), self.is_packed()?);
        self.each(sql, &[], |row| {
            let block = integer(row, 4)?;
            let list = list_of(block).unwrap_or_default();
            let Some((left, centre)) = lists.get_mut(&list) else {
                findings.add(format!("block {block} is in list {list}, which is missing"));
                return Ok(());
            };
            *left -= integer(row, 0)?.max(0);
            // What is wrong with the rows themselves was found before.
            let mut rows = Rows::none(&form);
            match self.add_answered(block, row, &mut rows) {
                Err(Error::Damaged { .. }) => return Ok(()),
                outcome => outcome?,
            }
            let Ok(numbers) = reader.numbers(&rows, rows.all()) else {
                return Ok(());
            };
            let mut expected = coder.empty(self.slots_in(block));
            coder.write(&mut expected, 0, &numbers, centre);
            let codes = row.blob(5)?.unwrap_or_default();
            let most = expected.len();
            let least = if is_packed { coder.bytes_of(rows.count()) } else { most };
            let whole = codes.len().is_multiple_of(coder.group_bytes());
            let fits = whole && (least..=most).contains(&codes.len());
            if !fits || codes != &expected[..codes.len()] {
                findings.add(format!("the codes of block {block} are not those of its rows"));
            }
            Ok(())
        })?;
        let mut lists: Vec<_> = lists.into_iter().filter(|it| it.1.0 != 0).collect();
        lists.sort_unstable_by_key(|it| it.0);
        for (list, (left, _)) in lists {
            findings.add(format!("list {list} counts {left} rows more than its blocks have"));
        }
        Ok(())
    }

    /// Whatever was seen is either in the index or skipped, and nothing else is.
    fn check_seen(&self, findings: &mut Findings) -> Result<()> {
        let rowids = |sql| {
            let mut rowids = BTreeSet::new();
            self.each(sql, &[], |row| {
                rowids.insert(integer(row, 0)?);
                Ok(())
            })?;
            Ok::<_, Error>(rowids)
        };
        let seen = rowids("SELECT rowid FROM {seen}")?;
        let skipped = rowids("SELECT rowid FROM {skipped}")?;
        let mut there = BTreeSet::new();
        // What is wrong with places themselves was found before.
        self.each_place(|rowid, _| {
            there.insert(rowid);
        })?;
        let mut say = |rowid: &i64, fault| findings.add(format!("row {rowid} {fault}"));
        for it in seen.iter().filter(|it| !there.contains(it) && !skipped.contains(it)) {
            say(it, "was seen, but is neither in the index nor skipped");
        }
        there.intersection(&skipped).for_each(|it| say(it, "is in the index and skipped"));
        there.difference(&seen).for_each(|it| say(it, "is in the index, but was never seen"));
        skipped.difference(&seen).for_each(|it| say(it, "is skipped, but was never seen"));
        Ok(())
    }
}

fn described(place: i64) -> String {
    format!("slot {} of block {}", place & ((1 << PLACE_BITS) - 1), place >> PLACE_BITS)
}

#[derive(Default)]
struct Findings {
    lines: Vec<String>,
    more: usize,
}

impl Findings {
    fn add(&mut self, line: String) {
        if self.lines.len() < MOST_FINDINGS {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }

    fn listed(mut self) -> Vec<String> {
        if 0 < self.more {
            self.lines.push(format!("and {} more", self.more));
        }
        self.lines
    }
}
