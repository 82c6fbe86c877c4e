//! Where each row is: an entry of `_rows` for each; from format 8 on, in tables with lists, one of `_places` for all whose
//! rowids are near each other.
//!
//! ```text
//! chunk c    │ rowids less 256 c, a byte each, rising │ as many places, all in 1 to 6 bytes │
//! place      a row in no list: 2 (4,096 block + slot); in a list: 2 (256 (block - 2^30) + slot) + 1
//! ```

use super::bits;
use super::blocks::{PLACE_BITS, ROWID_BYTES, packed};
use super::statements::{blob, integer, schema_of};
use super::{LISTED, PLACES_SCHEMA, Store};
use crate::error::{Error, Result};
use crate::sqlite::{Statement, Value};

/// Of a rowid, the lowest bits say which row of its chunk it is.
const CHUNK_BITS: u32 = 8;
const CHUNK_ROWS: usize = 1 << CHUNK_BITS;
/// Bits of a slot in a block that is in no list.
const SLOT_BITS: u32 = 12;
/// Bits of a slot in a list's block.
const LISTED_SLOT_BITS: u32 = 8;
/// Most bytes of a place.
const MOST_WIDTH: usize = 6;

/// Rowids and places of a chunk as it is stored.
struct Chunk<'a> {
    number: i64,
    rows: &'a [u8],
    places: &'a [u8],
    width: usize,
}

impl<'a> Chunk<'a> {
    /// None where the bytes are no chunk of so many rows.
    fn read(number: i64, count: i64, bytes: &'a [u8]) -> Option<Chunk<'a>> {
        let count = usize::try_from(count).ok().filter(|it| (1..=CHUNK_ROWS).contains(it))?;
        let width = (bytes.len() / count).checked_sub(1)?;
        let (rows, places) = bytes.split_at_checked(count)?;
        let fits = places.len() == count * width && (1..=MOST_WIDTH).contains(&width);
        let sound = fits && rows.is_sorted_by(|a, b| a < b);
        sound.then_some(Chunk { number, rows, places, width })
    }

    fn place(&self, nth: usize) -> i64 {
        whole(bits::get(self.places, nth, 8 * self.width))
    }

    fn find(&self, rowid: i64) -> Option<i64> {
        self.rows.binary_search(&(rowid as u8)).ok().map(|nth| self.place(nth))
    }

    /// Rowids and places, rising.
    fn entries(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        let first = self.number << CHUNK_BITS;
        self.rows.iter().enumerate().map(move |(nth, it)| (first | i64::from(*it), self.place(nth)))
    }

    fn written(entries: &[(i64, i64)]) -> Vec<u8> {
        let short = entries.iter().map(|it| shortened(it.1));
        let needed = bits::needed(short.clone().max().unwrap_or_default());
        let mut bytes: Vec<u8> = entries.iter().map(|it| it.0 as u8).collect();
        bits::put(&mut bytes, short, needed.next_multiple_of(8).max(8));
        bytes
    }
}

/// What becomes of places.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Added,
    Moved,
    Forgotten,
}

fn chunk_of(rowid: i64) -> i64 {
    rowid >> CHUNK_BITS
}

/// A place in fewer bits, as slots are few.
fn shortened(place: i64) -> u64 {
    let (block, slot) = (place >> PLACE_BITS, place & ((1 << PLACE_BITS) - 1));
    let number = match LISTED <= block {
        true => (((block - LISTED) << LISTED_SLOT_BITS) | slot) << 1 | 1,
        false => ((block << SLOT_BITS) | slot) << 1,
    };
    number as u64
}

/// What [`shortened`] was given.
fn whole(short: u64) -> i64 {
    let (in_list, number) = (short & 1 == 1, (short >> 1) as i64);
    let (bits, first) = if in_list { (LISTED_SLOT_BITS, LISTED) } else { (SLOT_BITS, 0) };
    packed(first + (number >> bits), (number & ((1 << bits) - 1)) as usize)
}

impl Store {
    /// A row's block and slot.
    pub(super) fn place(&self, rowid: i64) -> Result<Option<(i64, usize)>> {
        let place = if self.is_packed()? {
            let sql = "SELECT chunk, count, places FROM {places} WHERE chunk = ?1";
            let chunk = [Value::Integer(chunk_of(rowid))];
            self.first(sql, &chunk, |row| Ok(self.chunk(row)?.find(rowid)))?.flatten()
        } else {
            let sql = "SELECT place FROM {rows} WHERE rowid = ?1";
            self.first(sql, &[Value::Integer(rowid)], |row| integer(row, 0))?
        };
        Ok(place.map(|it| (it >> PLACE_BITS, (it & ((1 << PLACE_BITS) - 1)) as usize)))
    }

    /// Says where rows are that were nowhere before, from a slot on.
    pub(super) fn add_places(&self, block: i64, from: usize, rowid_bytes: &[u8]) -> Result<()> {
        let rowids = rowid_bytes.as_chunks::<ROWID_BYTES>().0.iter();
        let places = (from..)
            .zip(rowids)
            .map(|(slot, rowid)| (i64::from_le_bytes(*rowid), packed(block, slot)));
        if !self.is_packed()? {
            return self.run_each(
                "INSERT INTO {rows}(rowid, place) VALUES (?1, ?2)",
                places.map(|(rowid, place)| [rowid, place].map(Value::Integer)),
            );
        }
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        self.change_places(&places, Change::Added)
    }

    /// Says where rows are that were elsewhere before.
    pub(super) fn write_places(&self, places: &mut Vec<(i64, i64)>) -> Result<()> {
        places.sort_unstable();
        if !self.is_packed()? {
            return self.run_each(
                "UPDATE {rows} SET place = ?2 WHERE rowid = ?1",
                places.drain(..).map(|(rowid, place)| [rowid, place].map(Value::Integer)),
            );
        }
        self.change_places(places, Change::Moved)?;
        places.clear();
        Ok(())
    }

    /// Rows are nowhere any more.
    pub(super) fn forget_places(&self, rowids: impl Iterator<Item = i64>) -> Result<()> {
        if !self.is_packed()? {
            let sql = "DELETE FROM {rows} WHERE rowid = ?1";
            return self.run_each(sql, rowids.map(|it| [Value::Integer(it)]));
        }
        let mut rows: Vec<_> = rowids.map(|it| (it, 0)).collect();
        rows.sort_unstable();
        self.change_places(&rows, Change::Forgotten)
    }

    /// No row is anywhere any more.
    pub(super) fn forget_all_places(&self) -> Result<()> {
        self.run("DELETE FROM {rows}", &[])?;
        match self.is_packed()? {
            true => self.run("DELETE FROM {places}", &[]),
            false => Ok(()),
        }
    }

    /// Gives a row's place to another, free rowid.
    pub(super) fn rename_place(&self, from: i64, to: i64, place: i64) -> Result<()> {
        if !self.is_packed()? {
            let sql = "UPDATE {rows} SET rowid = ?2 WHERE rowid = ?1";
            return self.run(sql, &[from, to].map(Value::Integer));
        }
        self.forget_places([from].into_iter())?;
        self.change_places(&[(to, place)], Change::Added)
    }

    /// Shows every row and its place; what is wrong with those that cannot be shown.
    pub(super) fn each_place(&self, mut show: impl FnMut(i64, i64)) -> Result<Vec<String>> {
        let (mut faults, is_packed) = (Vec::new(), self.is_packed()?);
        self.each("SELECT rowid, place FROM {rows}", &[], |row| {
            let (rowid, place) = (integer(row, 0)?, integer(row, 1)?);
            match is_packed {
                true => faults.push(format!("row {rowid} has an entry where places lie in chunks")),
                false => show(rowid, place),
            }
            Ok(())
        })?;
        if is_packed {
            self.each("SELECT chunk, count, places FROM {places}", &[], |row| {
                match self.chunk(row) {
                    Ok(chunk) => chunk.entries().for_each(|(rowid, place)| show(rowid, place)),
                    Err(Error::Damaged { reason, .. }) => faults.push(reason),
                    Err(err) => return Err(err),
                }
                Ok(())
            })?;
        }
        Ok(faults)
    }

    /// How many rows, counted.
    pub fn count(&self) -> Result<i64> {
        let sql = match self.is_packed()? {
            true => "SELECT ifnull(sum(count), 0) FROM {places}",
            false => "SELECT count(*) FROM {rows}",
        };
        self.first(sql, &[], |row| integer(row, 0)).map(Option::unwrap_or_default)
    }

    /// The largest rowid; none in an empty table.
    pub fn last(&self) -> Result<Option<i64>> {
        if !self.is_packed()? {
            let sql = "SELECT rowid FROM {rows} ORDER BY rowid DESC LIMIT 1";
            return self.first(sql, &[], |row| integer(row, 0));
        }
        let sql = "SELECT chunk, count, places FROM {places} ORDER BY chunk DESC LIMIT 1";
        self.first(sql, &[], |row| Ok(self.chunk(row)?.entries().last().map(|it| it.0)))
            .map(Option::flatten)
    }

    /// Up to `count` rowids from the range, rising.
    pub fn rowids(&self, first: i64, last: i64, count: usize) -> Result<Vec<i64>> {
        let mut rowids = Vec::new();
        let mut least = first;
        // A damaged b-tree may go in circles, and whoever reads on would never come to its end.
        let mut take = |rowid: i64| {
            if rowid < least || rowid > last {
                let reason = format!("rowid {rowid} where {least} to {last} are expected");
                return Err(self.damaged(self.places_table()?, reason));
            }
            rowids.push(rowid);
            least = rowid.saturating_add(1);
            Ok(())
        };
        if !self.is_packed()? {
            let sql =
                "SELECT rowid FROM {rows} WHERE rowid BETWEEN ?1 AND ?2 ORDER BY rowid LIMIT ?3";
            let arguments = [first, last, count as i64].map(Value::Integer);
            self.each(sql, &arguments, |row| take(integer(row, 0)?))?;
            return Ok(rowids);
        }
        let sql = "SELECT chunk, count, places FROM {places} WHERE chunk BETWEEN ?1 AND ?2 ORDER BY chunk LIMIT ?3";
        let (mut next, mut left) = (Some(chunk_of(first)), count);
        let more = |it: &i64| *it <= chunk_of(last);
        while let Some(chunk) = next.take().filter(more)
            && 0 < left
        {
            let some = left / CHUNK_ROWS + 1;
            let arguments = [chunk, chunk_of(last), some as i64].map(Value::Integer);
            self.each(sql, &arguments, |row| {
                let chunk = self.chunk(row)?;
                next = chunk.number.checked_add(1);
                let within =
                    chunk.entries().map(|it| it.0).filter(|it| (first..=last).contains(it));
                within.take(left).try_for_each(|it| {
                    left -= 1;
                    take(it)
                })
            })?;
        }
        Ok(rowids)
    }

    /// The shadow table that says where rows are.
    fn places_table(&self) -> Result<&'static str> {
        Ok(if self.is_packed()? { "places" } else { "rows" })
    }

    /// From now on places lie in chunks.
    pub(super) fn begin_places(&self) -> Result<()> {
        if self.is_packed()? {
            return Ok(());
        }
        self.db.execute(&schema_of(PLACES_SCHEMA, &self.schema, &self.name, &self.made))?;
        let mut entries: Vec<(i64, i64)> = Vec::with_capacity(CHUNK_ROWS);
        self.each("SELECT rowid, place FROM {rows} ORDER BY rowid", &[], |row| {
            let entry = (integer(row, 0)?, integer(row, 1)?);
            if entries.first().is_some_and(|it| chunk_of(it.0) != chunk_of(entry.0)) {
                self.write_chunk(&entries)?;
                entries.clear();
            }
            entries.push(entry);
            Ok(())
        })?;
        self.write_chunk(&entries)?;
        self.run("DELETE FROM {rows}", &[])
    }

    /// Changes the places of rows, which are sorted by rowid.
    ///
    /// # Errors
    /// One that is to be added and is somewhere already.
    fn change_places(&self, places: &[(i64, i64)], change: Change) -> Result<()> {
        for places in places.chunk_by(|a, b| chunk_of(a.0) == chunk_of(b.0)) {
            let chunk = chunk_of(places[0].0);
            let sql = "SELECT chunk, count, places FROM {places} WHERE chunk = ?1";
            let before = self.first(sql, &[Value::Integer(chunk)], |row| {
                Ok(self.chunk(row)?.entries().collect::<Vec<_>>())
            })?;
            let mut before = before.unwrap_or_default().into_iter().peekable();
            let mut entries = Vec::with_capacity(before.len() + places.len());
            for (rowid, place) in places {
                while let Some(it) = before.next_if(|it| it.0 < *rowid) {
                    entries.push(it);
                }
                let was = before.next_if(|it| it.0 == *rowid);
                if was.is_some() && change == Change::Added {
                    let reason = format!("row {rowid} is to be new, and has an entry");
                    return Err(self.damaged("places", reason));
                }
                if change != Change::Forgotten {
                    entries.push((*rowid, *place));
                }
            }
            entries.extend(before);
            match entries.is_empty() {
                true => {
                    self.run("DELETE FROM {places} WHERE chunk = ?1", &[Value::Integer(chunk)])?
                }
                false => self.write_chunk(&entries)?,
            }
        }
        Ok(())
    }

    /// Writes the entries of a chunk; nothing for none.
    ///
    /// # Errors
    /// A place that is none.
    fn write_chunk(&self, entries: &[(i64, i64)]) -> Result<()> {
        let Some((rowid, _)) = entries.first() else {
            return Ok(());
        };
        if let Some((rowid, place)) = entries.iter().find(|it| whole(shortened(it.1)) != it.1) {
            let reason = format!("row {rowid} has the place {place}, which is none");
            return Err(self.damaged("rows", reason));
        }
        self.run(
            "INSERT OR REPLACE INTO {places}(chunk, count, places) VALUES (?1, ?2, ?3)",
            &[
                Value::Integer(chunk_of(*rowid)),
                Value::Integer(entries.len() as i64),
                Value::Blob(&Chunk::written(entries)),
            ],
        )
    }

    /// The chunk that an answer is: its number, count and places.
    fn chunk<'a>(&self, row: &'a Statement) -> Result<Chunk<'a>> {
        let (number, count, bytes) = (integer(row, 0)?, integer(row, 1)?, blob(row, 2)?);
        Chunk::read(number, count, bytes).ok_or_else(|| {
            let length = bytes.len();
            self.damaged(
                "places",
                format!("chunk {number} has {length} bytes that are not of {count} rows"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_read_as_they_were_written() {
        arbtest::arbtest(|u| {
            let number = u.int_in_range(i64::MIN >> CHUNK_BITS..=i64::MAX >> CHUNK_BITS)?;
            let mut entries = Vec::new();
            for row in 0..CHUNK_ROWS as i64 {
                if u.arbitrary()? {
                    let (block, slot) = match u.arbitrary()? {
                        true => (LISTED + u.int_in_range(0..=1 << 38)?, u.int_in_range(0..=255)?),
                        false => (u.int_in_range(0..=LISTED - 1)?, u.int_in_range(0..=4_095)?),
                    };
                    entries.push((number << CHUNK_BITS | row, packed(block, slot)));
                }
            }
            let bytes = Chunk::written(&entries);
            let read = Chunk::read(number, entries.len() as i64, &bytes);
            let found = read.as_ref().map(|it| it.entries().collect::<Vec<_>>());
            assert_eq!(found.unwrap_or_default(), entries);
            if let Some(chunk) = read {
                for row in 0..CHUNK_ROWS as i64 {
                    let rowid = number << CHUNK_BITS | row;
                    let expected = entries.iter().find(|it| it.0 == rowid).map(|it| it.1);
                    assert_eq!(chunk.find(rowid), expected);
                }
            }
            // Whatever bytes are found, they are a chunk or none.
            let length = u.int_in_range(0..=u.len().min(64))?;
            let odd = u.bytes(length)?;
            let count = u.int_in_range(-1..=300)?;
            if let Some(chunk) = Chunk::read(number, count, odd) {
                assert_eq!(chunk.entries().count() as i64, count);
            }
            Ok(())
        });
    }

    #[test]
    fn places_of_a_million_rows_take_four_bytes() {
        let place = packed(LISTED + 1_086 * 1_024, 127);
        assert_eq!(Chunk::written(&[(5, place)]).len(), 1 + 4);
    }
}
