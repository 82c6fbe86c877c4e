//! Rows that wait for others of their list, in memory that is used again: new memory is slow to come by.

use super::rows::Rows;
use crate::index::Form;

/// Rows that stand in no block, and which of them wait for each list.
pub(super) struct Gathered {
    /// As they were compared; some may be in a block by now.
    pub(super) parts: Vec<Rows>,
    /// How many rows wait.
    pub(super) rows: usize,
    pub(super) lists: Vec<Vec<Waiting>>,
    /// Rowids, and the places they have come to.
    pub(super) places: Vec<(i64, i64)>,
    /// Rows that a part has room for.
    most: usize,
    none: Rows,
    spare: Vec<Rows>,
}

/// A row that waits.
pub(super) struct Waiting {
    pub(super) part: u32,
    pub(super) slot: u32,
    /// The square of how far it is from the list's centre.
    pub(super) square: f32,
}

impl Gathered {
    /// Nothing yet, for so many lists and parts of at most so many rows.
    pub(super) fn new(lists: usize, most: usize, form: &Form) -> Gathered {
        let lists = (0..lists).map(|_| Vec::new()).collect();
        let (parts, places, spare) = (Vec::new(), Vec::new(), Vec::new());
        Gathered { parts, rows: 0, lists, places, most, none: Rows::none(form), spare }
    }

    /// Room for a part.
    pub(super) fn room(&mut self) -> Rows {
        self.spare.pop().unwrap_or_else(|| {
            let mut rows = self.none.like();
            rows.reserve(self.most);
            rows
        })
    }

    /// Takes in a part, and of each of its rows the list and the square of how far its centre is.
    pub(super) fn add(&mut self, rows: Rows, nearest: Vec<(usize, f32)>) {
        let part = self.parts.len() as u32;
        self.rows += rows.count();
        for (slot, (at, square)) in (0..).zip(nearest) {
            self.lists[at].push(Waiting { part, slot, square });
        }
        self.parts.push(rows);
    }

    /// Moves rows that still wait together, and keeps the others' room for those that come.
    pub(super) fn forget_written(&mut self) {
        let mut waits: Vec<Vec<bool>> =
            self.parts.iter().map(|it| vec![false; it.count()]).collect();
        for Waiting { part, slot, .. } in self.lists.iter().flatten() {
            waits[*part as usize][*slot as usize] = true;
        }
        let (mut kept, mut moved) = (Vec::<Rows>::new(), Vec::with_capacity(waits.len()));
        for (mut rows, mut waits) in std::mem::take(&mut self.parts).into_iter().zip(waits) {
            let (own, mut count) = (kept.len() as u32, 0);
            let mut places = vec![(0, 0); waits.len()];
            for (slot, waits) in waits.iter_mut().enumerate().filter(|it| *it.1) {
                places[slot] = match kept.last_mut().filter(|it| it.count() < self.most) {
                    Some(last) => {
                        last.add(rows.part(slot..slot + 1));
                        *waits = false;
                        (own - 1, last.count() as u32 - 1)
                    }
                    None => {
                        count += 1;
                        (own, count - 1)
                    }
                };
            }
            rows.retain(&waits);
            let those = if count == 0 { &mut self.spare } else { &mut kept };
            those.push(rows);
            moved.push(places);
        }
        self.parts = kept;
        for it in self.lists.iter_mut().flatten() {
            (it.part, it.slot) = moved[it.part as usize][it.slot as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Metric, Storage};
    use crate::vector::Vector;

    #[test]
    fn what_waits_is_what_was_added_and_not_written() {
        arbtest::arbtest(|u| {
            let form = Form { metric: Metric::L2, storage: Storage::F32, dimension: 2 };
            let mut gathered = Gathered::new(3, 4, &form);
            let mut twin: Vec<Vec<i64>> = vec![Vec::new(); 3];
            let mut rowid = 0;
            for _ in 0..u.int_in_range(1..=12)? {
                let (mut part, mut nearest) = (gathered.room(), Vec::new());
                assert_eq!(part.count(), 0);
                for _ in 0..u.int_in_range(0..=4)? {
                    let vector = Vector::new(vec![rowid as f32, -1.0]).unwrap();
                    let row = Rows::of(&form, std::iter::once((rowid, &vector)));
                    part.add(row.part(row.all()));
                    let at = u.int_in_range(0..=2)?;
                    nearest.push((at, rowid as f32));
                    twin[at].push(rowid);
                    rowid += 1;
                }
                gathered.add(part, nearest);
                if u.arbitrary()? {
                    let at = u.int_in_range(0..=2)?;
                    let count = u.int_in_range(0..=twin[at].len())?;
                    gathered.rows -= gathered.lists[at].drain(..count).count();
                    twin[at].drain(..count);
                    gathered.forget_written();
                }
            }
            for (waiting, twin) in gathered.lists.iter().zip(&twin) {
                let rowid = |it: &Waiting| {
                    gathered.parts[it.part as usize].rowids().nth(it.slot as usize).unwrap()
                };
                assert_eq!(&waiting.iter().map(rowid).collect::<Vec<_>>(), twin);
                assert!(waiting.iter().zip(twin).all(|(it, twin)| it.square == *twin as f32));
            }
            assert_eq!(gathered.rows, twin.iter().map(Vec::len).sum::<usize>());
            // All parts but the last are full, so that memory ends somewhere.
            gathered.forget_written();
            let counts: Vec<usize> = gathered.parts.iter().map(Rows::count).collect();
            assert!(counts.iter().rev().skip(1).all(|it| *it == 4), "{counts:?}");
            Ok(())
        });
    }
}
