//! Lists for rows that are far from all lists there are: rows of another kind would be scattered over many of them,
//! of which a search opens few.

use super::Store;
use super::moves::State;
use super::upkeep::target;
use crate::error::Result;
use crate::index::{Listed, Random, centres, cluster};

/// Rows that are looked at.
const LOOKED_AT: usize = 4096;
/// A row is far from a list whose rows are so many times nearer on average, in squares; of one that fits there one in fifty is.
const FAR: f32 = 1.5;
/// How many times nearer to lists of their own such rows must be, in squares.
const NEARER: f64 = 1.25;
/// Fewest rows looked at that are worth lists of their own, for each of those.
const LEAST: usize = 16;

impl Store {
    /// Makes lists for rows that are far from all, if these are as many as fill one.
    pub(super) fn welcome(&self, state: &mut State, tail: usize) -> Result<()> {
        let (dimension, target) = (state.dimension, target(state.rows() + tail));
        let every = tail.div_ceil(LOOKED_AT).max(1);
        let mut sample = self.sample_of_tail(tail, every)?;
        state.coder.place_all(&mut sample);
        let nearest = centres::assigned(&sample, &state.centres, dimension)?;
        let (mut far, mut squares) = (Vec::new(), 0.0);
        for (row, (at, square)) in sample.chunks_exact(dimension).zip(nearest) {
            if FAR * state.lists[at].spread < square {
                far.extend_from_slice(row);
                squares += f64::from(square);
            }
        }
        let count = far.len() / dimension;
        let lists = (count * every / target).min(count / LEAST);
        if lists == 0 {
            return Ok(());
        }
        let centres = cluster::centres(&far, dimension, lists)?;
        let own: f64 =
            centres::assigned(&far, &centres, dimension)?.iter().map(|it| f64::from(it.1)).sum();
        // Rows that are far from each other, too, are as well off where they are.
        if squares < NEARER * own {
            return Ok(());
        }
        centres.chunks_exact(dimension).for_each(|it| state.add_list(it));
        Ok(())
    }

    /// One of so many rows that are in no list.
    pub(super) fn sample_of_tail(&self, tail: usize, every: usize) -> Result<Vec<f32>> {
        // Anywhere among so many rows, as every n-th may be of a kind of its own: captions come five a picture.
        let mut random = Random::new(tail as u64);
        let (mut sample, mut met, mut next) = (Vec::new(), 0, random.below(every));
        let form = self.made.form();
        let width = form.high_bytes();
        self.reading().tail(&mut |_, rowids, high| {
            for slot in 0..rowids.len() {
                if met == next {
                    sample.extend(form.roughly(&high[slot * width..(slot + 1) * width]));
                    next += every - next % every + random.below(every);
                }
                met += 1;
            }
            Ok(())
        })?;
        Ok(sample)
    }
}
