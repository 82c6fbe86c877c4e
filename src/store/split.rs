//! Making two lists of each that has become long: some at a time, so that a crew shares out their rows and a list
//! beside several of them is written once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Store;
use super::extend::{Addition, added, merge};
use super::moves::State;
use super::rows::{Reader, Rows};
use crate::error::Result;
use crate::index::code::Coder;
use crate::index::{Crew, centres, cluster};

/// Lists that rows of a split one may go to besides its halves.
const NEIGHBOURS: usize = 6;

/// A list's rows, and the lists that they go to.
struct Halved {
    /// Of the first half, which takes the list's place.
    first: Vec<f32>,
    last: Vec<f32>,
    additions: BTreeMap<usize, Addition>,
}

/// The lists as they are before some are split.
struct Before {
    coder: Arc<Coder>,
    reader: Reader,
    dimension: usize,
    /// Which are split.
    those: BTreeSet<usize>,
    centres: Vec<f32>,
}

impl Store {
    /// Makes two lists of each of these, which are no longer beside each other then. How many rows came to them besides.
    pub(super) fn split<'scope>(
        &self,
        state: &mut State,
        crew: &Crew<'scope, '_>,
        those: &[usize],
    ) -> Result<usize> {
        let (dimension, before_all) = (state.dimension, state.lists.len());
        let mut taken = Vec::with_capacity(those.len());
        for (at, other) in those.iter().zip(state.lists.len()..) {
            taken.push(([*at, other], self.taken_from_list(state.lists[*at].list)?));
            state.lists[*at].count = 0;
        }
        let before = Before {
            coder: state.coder.clone(),
            reader: self.reader(),
            dimension,
            those: those.iter().copied().collect(),
            centres: state.centres.clone(),
        };
        let halved = crew.each(taken, move |(halves, rows)| before.halved(halves, &rows))?;
        let mut additions: BTreeMap<usize, Addition> = BTreeMap::new();
        for (at, halved) in those.iter().zip(halved) {
            let Halved { first, last, additions: more } = halved?;
            state.centres[at * dimension..(at + 1) * dimension].copy_from_slice(&first);
            state.add_list(&last);
            // Also where nothing is added to it.
            state.unwritten.lists.insert(*at);
            merge(&mut additions, more);
        }
        let mut places = Vec::new();
        self.extend(state, crew, additions.into_values(), &mut places)?;
        self.write_codes(state)?;
        self.write_places(&mut places)?;
        let halves: Vec<usize> =
            those.iter().copied().chain(before_all..state.lists.len()).collect();
        self.reassign(state, crew, &halves)
    }
}

impl Before {
    /// Where the rows of a list go whose halves are to be these.
    fn halved(&self, halves: [usize; 2], rows: &Rows) -> Result<Halved> {
        let dimension = self.dimension;
        // As they will be kept: rows that differ only beyond that would move in circles.
        let flat = self.reader.placed(rows, rows.all(), &self.coder)?;
        let centres = cluster::centres(&flat, dimension, 2)?;
        let kept = |it| self.coder.centre_of(&self.coder.centre_bytes(it));
        let first = kept(&centres[..dimension]);
        // Rows that are all the same have one.
        let last = kept(&centres[centres.len() - dimension..]);
        let own = [&first[..], &last].concat();
        let nearest = centres::assigned(&flat, &own, dimension)?;
        let is_first = nearest.iter().filter(|it| it.0 == 0).count();
        let additions = if is_first == 0 || is_first == nearest.len() {
            // All the same: any half is as good.
            let (half, [at, other]) = (rows.count() / 2, halves);
            let (flat, others) = flat.split_at(half * dimension);
            let nearest = centres::assigned(flat, &first, dimension)?;
            let mut additions = added(rows, 0, &[at], nearest);
            let nearest = centres::assigned(others, &last, dimension)?;
            additions.append(&mut added(rows, half, &[other], nearest));
            additions
        } else {
            let beside =
                centres::beside(&self.centres, dimension, halves[0], &self.those, NEIGHBOURS);
            let centres = beside.iter().flat_map(|at| self.centre(*at)).chain(&own);
            let centres: Vec<f32> = centres.copied().collect();
            let among = [&beside[..], &halves].concat();
            added(rows, 0, &among, centres::assigned(&flat, &centres, dimension)?)
        };
        Ok(Halved { first, last, additions })
    }

    fn centre(&self, at: usize) -> &[f32] {
        &self.centres[at * self.dimension..(at + 1) * self.dimension]
    }
}
