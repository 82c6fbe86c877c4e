//! `integrity-check`: every block, slot and row held against the others.

use std::collections::HashMap;

use super::Store;
use super::blocks::{PLACE_BITS, ROWID_BYTES, packed, rowids};
use super::lists::list_of;
use super::statements::{blob, integer};
use crate::error::Result;
use crate::index::plane;
use crate::index::{Metric, Storage};

/// Findings after which the rest is only counted.
const MOST_FINDINGS: usize = 100;
/// How far from one a stored vector's length may be: float32 rounding of 65,536 numbers.
const LENGTH_SLACK: f64 = 1e-4;

impl Store {
    /// What is wrong, a line each; nothing in a sound table.
    pub fn check(&self) -> Result<Vec<String>> {
        let mut findings = Findings::default();
        let mut places: HashMap<i64, i64> = HashMap::new();
        let form = self.made.form();
        let sql = "SELECT b.block, count, rowids, high, low, l.block IS NOT NULL FROM {blocks} b LEFT JOIN {low} l ON l.block = b.block";
        self.each(sql, &[], |row| {
            let block = integer(row, 0)?;
            let (Some(rowid_bytes), Some(high)) = (row.blob(2)?, row.blob(3)?) else {
                findings.add(format!("block {block} has no rowids or no high plane"));
                return Ok(());
            };
            let low = match (form.storage, row.blob(4)?) {
                (Storage::F32, Some(low)) => low,
                (Storage::F32, None) => {
                    findings.add(format!("block {block} has no low plane"));
                    return Ok(());
                }
                _ if integer(row, 5)? == 0 => &[],
                (other, _) => {
                    let name = other.name();
                    findings.add(format!("block {block} has a low plane, which {name} has not"));
                    return Ok(());
                }
            };
            let (count, capacity) = (integer(row, 1)?, rowid_bytes.len() / ROWID_BYTES);
            let most = capacity.min(self.slots_in(block));
            let Some(count) = usize::try_from(count).ok().filter(|it| (1..=most).contains(it))
            else {
                findings
                    .add(format!("block {block} counts {count} rows, its rowids hold {capacity}"));
                return Ok(());
            };
            let (width, low_width) = (form.high_bytes(), form.low_bytes());
            for (name, plane, width) in [("high", high, width), ("low", low, low_width)] {
                if plane.len() != capacity * width {
                    findings.add(format!(
                        "the {name} plane of block {block} has {} bytes, {capacity} slots need {}",
                        plane.len(),
                        capacity * width
                    ));
                    return Ok(());
                }
            }
            for (slot, rowid) in rowids(rowid_bytes, count).into_iter().enumerate() {
                if places.insert(rowid, packed(block, slot)).is_some() {
                    findings.add(format!(
                        "row {rowid} is in two slots, one of them {slot} of block {block}"
                    ));
                }
                let high = &high[slot * width..(slot + 1) * width];
                let low = &low[slot * low_width..(slot + 1) * low_width];
                if let Some(fault) = self.fault_of(high, low) {
                    findings.add(format!("row {rowid}: {fault}"));
                }
            }
            Ok(())
        })?;
        self.each(
            "SELECT block FROM {low} WHERE block NOT IN (SELECT block FROM {blocks})",
            &[],
            |row| {
                findings.add(format!("the low plane of block {} has no block", integer(row, 0)?));
                Ok(())
            },
        )?;
        self.each("SELECT rowid, place FROM {rows}", &[], |row| {
            let (rowid, place) = (integer(row, 0)?, integer(row, 1)?);
            match places.remove(&rowid) {
                Some(found) if found == place => {}
                Some(found) => findings.add(format!(
                    "row {rowid} is in {}, its entry says {}",
                    described(found),
                    described(place)
                )),
                None => findings.add(format!(
                    "row {rowid} is in no block, its entry says {}",
                    described(place)
                )),
            }
            Ok(())
        })?;
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
        let sql = "SELECT b.block, count, high, low, codes FROM {blocks} b LEFT JOIN {low} l ON l.block = b.block LEFT JOIN {codes} c ON c.block = b.block WHERE {listed} <= b.block";
        let form = self.made.form();
        let (width, low_width) = (form.high_bytes(), form.low_bytes());
        self.each(sql, &[], |row| {
            let block = integer(row, 0)?;
            let list = list_of(block).unwrap_or_default();
            let Some((left, centre)) = lists.get_mut(&list) else {
                findings.add(format!("block {block} is in list {list}, which is missing"));
                return Ok(());
            };
            let count = usize::try_from(integer(row, 1)?).unwrap_or(0);
            *left -= count as i64;
            let (high, low) = (blob(row, 2)?, blob(row, 3)?);
            let most = self.slots_in(block);
            if most < count || high.len() < count * width || low.len() < count * low_width {
                return Ok(());
            }
            let mut rows = Vec::with_capacity(count * self.made.dimension);
            for slot in 0..count {
                let high = &high[slot * width..(slot + 1) * width];
                let low = &low[slot * low_width..(slot + 1) * low_width];
                let Ok(vector) = form.read(high, low) else {
                    return Ok(());
                };
                rows.extend_from_slice(vector.as_slice());
            }
            let mut expected = coder.empty(most);
            coder.write(&mut expected, 0, &rows, centre);
            if row.blob(4)? != Some(expected.as_slice()) {
                findings.add(format!("the codes of block {block} are not those of its rows"));
            }
            Ok(())
        })?;
        let mut lists: Vec<_> = lists.into_iter().filter(|it| it.1.0 != 0).collect();
        lists.sort_unstable_by_key(|it| it.0);
        for (list, (left, _)) in lists {
            findings.add(format!("list {list} counts {left} rows more than its blocks have"));
        }
        self.each(
            "SELECT block FROM {codes} WHERE block NOT IN (SELECT block FROM {blocks})",
            &[],
            |row| {
                findings.add(format!("the codes of block {} have no block", integer(row, 0)?));
                Ok(())
            },
        )
    }

    /// Whatever was seen is either in the index or skipped, and nothing else is.
    fn check_seen(&self, findings: &mut Findings) -> Result<()> {
        for (sql, fault) in [
            (
                "SELECT rowid FROM {seen} WHERE rowid NOT IN (SELECT rowid FROM {rows}) AND rowid NOT IN (SELECT rowid FROM {skipped})",
                "was seen, but is neither in the index nor skipped",
            ),
            (
                "SELECT rowid FROM {rows} WHERE rowid IN (SELECT rowid FROM {skipped})",
                "is in the index and skipped",
            ),
            (
                "SELECT rowid FROM {rows} WHERE rowid NOT IN (SELECT rowid FROM {seen})",
                "is in the index, but was never seen",
            ),
            (
                "SELECT rowid FROM {skipped} WHERE rowid NOT IN (SELECT rowid FROM {seen})",
                "is skipped, but was never seen",
            ),
        ] {
            self.each(sql, &[], |row| {
                findings.add(format!("row {} {fault}", integer(row, 0)?));
                Ok(())
            })?;
        }
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
