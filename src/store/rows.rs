//! Rows as they are written, on their way from block to block: nothing is made of their numbers until somebody asks.

use std::ops::Range;

use super::blocks::ROWID_BYTES;
use crate::error::{Error, Result};
use crate::index::Form;
use crate::index::code::Coder;
use crate::vector::Vector;

/// Rowids, high and low planes.
pub(super) struct Rows {
    widths: [usize; 3],
    planes: [Vec<u8>; 3],
}

impl Rows {
    /// None yet.
    pub(super) fn none(form: &Form) -> Rows {
        let widths = [ROWID_BYTES, form.high_bytes(), form.low_bytes()];
        Rows { widths, planes: Default::default() }
    }

    /// None yet, of the same form.
    pub(super) fn like(&self) -> Rows {
        Rows { widths: self.widths, planes: Default::default() }
    }

    /// These, as the form writes them.
    pub(super) fn of<'a>(
        form: &Form,
        rows: impl ExactSizeIterator<Item = (i64, &'a Vector)>,
    ) -> Rows {
        let mut made = Rows::none(form);
        made.reserve(rows.len());
        let [rowids, high, low] = &mut made.planes;
        for (rowid, vector) in rows {
            rowids.extend(rowid.to_le_bytes());
            form.write(vector, high, low);
        }
        made
    }

    pub(super) fn reserve(&mut self, rows: usize) {
        for (plane, width) in self.planes.iter_mut().zip(self.widths) {
            plane.reserve_exact(rows * width);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.planes[0].len() / ROWID_BYTES
    }

    pub(super) fn rowids(
        &self,
    ) -> impl ExactSizeIterator<Item = i64> + DoubleEndedIterator + Clone + '_ {
        self.planes[0].as_chunks::<ROWID_BYTES>().0.iter().map(|it| i64::from_le_bytes(*it))
    }

    /// Where all are.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.count()
    }

    /// Rowids, high and low planes of some of them.
    pub(super) fn part(&self, slots: Range<usize>) -> [&[u8]; 3] {
        let one = |at: usize| {
            let width = self.widths[at];
            &self.planes[at][slots.start * width..slots.end * width]
        };
        [one(0), one(1), one(2)]
    }

    /// Adds what [`Rows::part`] gave.
    pub(super) fn add(&mut self, part: [&[u8]; 3]) {
        self.planes.iter_mut().zip(part).for_each(|(plane, more)| plane.extend_from_slice(more));
    }

    /// Adds the beginning of each plane, as many rows as there are rowids; false where a plane has fewer.
    pub(super) fn add_first(&mut self, count: usize, planes: [&[u8]; 3]) -> bool {
        let ends = self.widths.map(|it| it * count);
        let part = [0, 1, 2].map(|at: usize| planes[at].get(..ends[at]));
        let [Some(rowids), Some(high), Some(low)] = part else {
            return false;
        };
        self.add([rowids, high, low]);
        true
    }

    /// Some of them without rowids, all planes of one behind those of the other.
    pub(super) fn whole(&self, slots: Range<usize>) -> Vec<u8> {
        let [_, high, low] = self.widths;
        let mut bytes = Vec::with_capacity(slots.len() * (high + low));
        for slot in slots {
            bytes.extend_from_slice(&self.planes[1][slot * high..(slot + 1) * high]);
            bytes.extend_from_slice(&self.planes[2][slot * low..(slot + 1) * low]);
        }
        bytes
    }

    /// Adds what [`Rows::whole`] gave, with its rowids.
    pub(super) fn add_whole(&mut self, rowids: &[i64], bytes: &[u8]) {
        let [_, high, low] = self.widths;
        self.planes[0].extend(rowids.iter().flat_map(|it| it.to_le_bytes()));
        for row in bytes.chunks_exact(high + low) {
            let (row_high, row_low) = row.split_at(high);
            self.planes[1].extend_from_slice(row_high);
            self.planes[2].extend_from_slice(row_low);
        }
    }

    /// Leaves those for which `stays` says so.
    pub(super) fn retain(&mut self, stays: &[bool]) {
        for (plane, width) in self.planes.iter_mut().zip(self.widths) {
            let mut end = 0;
            for (slot, _) in stays.iter().enumerate().filter(|it| *it.1) {
                plane.copy_within(slot * width..(slot + 1) * width, end);
                end += width;
            }
            plane.truncate(end);
        }
    }
}

/// What makes numbers of rows again, on any thread.
pub(super) struct Reader {
    pub(super) form: Form,
    /// Of the table.
    pub(super) name: String,
}

impl Reader {
    /// The numbers of some rows, laid end to end.
    ///
    /// # Errors
    /// A row whose bytes are none of a vector.
    pub(super) fn numbers(&self, rows: &Rows, slots: Range<usize>) -> Result<Vec<f32>> {
        let first = slots.start;
        let [_, high, low] = rows.part(slots);
        self.form.numbers(high, low).map_err(|(slot, err)| Error::Damaged {
            table: format!("{}_blocks", self.name),
            name: self.name.clone(),
            reason: format!("row {}: {err}", rows.rowids().nth(first + slot).unwrap_or_default()),
        })
    }

    /// The same where centres are.
    pub(super) fn placed(
        &self,
        rows: &Rows,
        slots: Range<usize>,
        coder: &Coder,
    ) -> Result<Vec<f32>> {
        let mut numbers = self.numbers(rows, slots)?;
        coder.place_all(&mut numbers);
        Ok(numbers)
    }
}
