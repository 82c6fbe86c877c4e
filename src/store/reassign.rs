//! After a split: rows of the lists beside it that are nearer to its halves than to their own centre go there.
//!
//! Xu et al., "SPFresh" (2023), 3.3. Where rows of another kind come, those of before lie in lists that were the nearest of
//! many far ones, until the first of these is split.

use std::collections::{BTreeMap, BTreeSet};

use super::Store;
use super::extend::{Addition, added, merge};
use super::moves::State;
use crate::error::Result;
use crate::index::{Crew, List, centres, leaning};

/// Lists beside each half whose rows are looked at.
const BESIDE: usize = 16;
/// Of so many rows of a list one has to go for all to be written anew, which costs as much as taking this one out.
const FEW: usize = 16;
/// How much nearer a row must come, as a share of its list's mean square: of those that gain nothing much as many would move, and a
/// table that grows by small commits would take a third more time.
const GAIN: f32 = 0.1;

impl Store {
    /// Has rows of the lists beside these, which are halves of others, go to them. How many went.
    pub(super) fn reassign<'scope>(
        &self,
        state: &mut State,
        crew: &Crew<'scope, '_>,
        halves: &[usize],
    ) -> Result<usize> {
        let (mut additions, mut places, mut gone) = (BTreeMap::new(), Vec::new(), 0);
        for (at, halves) in beside(state, halves) {
            self.stop_if_interrupted()?;
            gone += self.leave(state, at, &halves, &mut additions)?;
        }
        self.extend(state, crew, additions.into_values(), &mut places)?;
        self.write_codes(state)?;
        self.write_places(&mut places)?;
        Ok(gone)
    }

    /// Takes those rows out of a list that are nearer to some others, and maybe all.
    fn leave(
        &self,
        state: &mut State,
        at: usize,
        others: &[usize],
        additions: &mut BTreeMap<usize, Addition>,
    ) -> Result<usize> {
        let List { list, count, spread } = state.lists[at];
        let coded = self.read_codes(&state.coder, list, count)?;
        let centres: Vec<&[f32]> = others.iter().map(|it| state.centre(*it)).collect();
        let leaning = leaning(&state.coder, &coded, state.centre(at), &centres, GAIN * spread);
        let among = [&[at], others].concat();
        let centres = [&[state.centre(at)], &centres[..]].concat().concat();
        // By block: the slots that go, their rows, and where to.
        let (mut going, mut gone) = (Vec::new(), 0);
        for leaning in leaning.chunk_by(|a, b| a.0 == b.0) {
            let (block, all) = (leaning[0].0, self.block_rows(leaning[0].0)?);
            let (mut slots, mut rows) = (Vec::new(), all.like());
            for (_, slot) in leaning.iter().filter(|it| it.1 < all.count()) {
                slots.push(*slot);
                rows.add(all.part(*slot..slot + 1));
            }
            let numbers = self.reader().placed(&rows, rows.all(), &state.coder)?;
            let nearest = centres::assigned(&numbers, &centres, state.dimension)?;
            let goes: Vec<bool> = nearest.iter().map(|it| it.0 != 0).collect();
            rows.retain(&goes);
            let mut go = goes.iter();
            slots.retain(|_| go.next() == Some(&true));
            gone += slots.len();
            going.push((block, slots, rows, nearest.into_iter().filter(|it| it.0 != 0).collect()));
        }
        if gone == 0 {
            return Ok(0);
        }
        if count <= FEW * gone {
            let rows = self.taken_from_list(list)?;
            state.lists[at].count = 0;
            state.unwritten.lists.insert(at);
            let numbers = self.reader().placed(&rows, rows.all(), &state.coder)?;
            let nearest = centres::assigned(&numbers, &centres, state.dimension)?;
            merge(additions, added(&rows, 0, &among, nearest));
            return Ok(gone);
        }
        for (block, slots, rows, nearest) in going {
            // From the last one on, so that what comes into a slot is none of these.
            for (slot, rowid) in slots.iter().zip(rows.rowids()).rev() {
                self.take_out(rowid, block, *slot)?;
            }
            state.lists[at].count -= slots.len();
            merge(additions, added(&rows, 0, &among, nearest));
        }
        Ok(gone)
    }
}

/// The lists that are beside some halves, and which.
fn beside(state: &State, halves: &[usize]) -> BTreeMap<usize, Vec<usize>> {
    let those: BTreeSet<usize> = halves.iter().copied().collect();
    let mut beside: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for half in &those {
        for at in centres::beside(&state.centres, state.dimension, *half, &those, BESIDE) {
            beside.entry(at).or_default().push(*half);
        }
    }
    beside
}
