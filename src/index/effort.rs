//! How much a likely search may leave out, so that it finds the share that is asked for.
//!
//! Every search foresees how many answers it has not seen yet (`probe.rs`). What it foresees is not quite
//! what it misses: the curve here is what was measured, and each table learns its own by searching for
//! some of its rows. For a query that lies among the rows as they do themselves, what was learned holds; for
//! one from elsewhere, such as a photograph among sentences, the more careful of the two.

/// Answers foreseen to be missed, per answer, at which a table learns what it finds.
pub const LEVELS: [f64; 10] = [2.0, 1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015, 0.007, 0.003];
/// Of the answers that may be missed, the share that is aimed for where the table has learned what it finds:
/// a hundred rows tell that to about half of it, and 0.946 was found for 0.95 where it was 0.6 (100,000 x 128).
const AIMED_AMONG: f64 = 0.5;
/// The same for queries from elsewhere: with more, queries from elsewhere among
/// rows of twelve dimensions found less than was asked (`tests/lists.rs`).
const AIMED_ELSEWHERE: f64 = 0.3;
/// Nearest rows that a table learns from.
pub const LEARNED_OF: usize = 10;
/// For each time e as many that are asked for, by how much less may be missed: 300 nearest rows were found to 0.938 where ten were to
/// 0.96 (100,000 x 512).
const MORE: f64 = 0.1;
/// What was missed is about `MISSED * foreseen^GROWTH`: 200 photographs among 35,000 sentences of Flickr8k
/// missed 0.044 of their ten nearest at 0.05, 0.018 at 0.01 and 0.0025 at 0.001; 100,000 clustered rows
/// of 512 dimensions a little less.
const MISSED: f64 = 0.25;
const GROWTH: f64 = 0.58;
/// The largest level that the curve is fitted to: with less effort hardly more than the first lists are opened.
const MOST_TOLD: f64 = 0.5;
/// Least that can be foreseen.
const LEAST: f64 = 1e-5;
/// Of what may be foreseen, what codes may mislead about.
const MISLED: f64 = 0.12;

/// When a search may end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Answers per answer that are foreseen in lists that were not opened.
    pub unopened: f64,
    /// The share of answers whose codes may mislead.
    pub misled: f64,
}

impl Effort {
    /// With so many answers foreseen to be missed, per answer.
    pub fn foreseeing(missed: f64) -> Effort {
        Effort { unopened: missed, misled: missed * MISLED }
    }
}

/// When searches for one share of the nearest may end, by where their queries lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aim {
    /// Among the rows, as these lie among themselves.
    pub among: Effort,
    /// Farther from all of them.
    pub elsewhere: Effort,
}

impl Aim {
    /// The same effort for all.
    pub fn same(effort: Effort) -> Aim {
        Aim { among: effort, elsewhere: effort }
    }
}

/// What a table found of its own rows' neighbours at each of [`LEVELS`], or at the last of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Learned {
    /// The shares that were missed.
    seen: Vec<f64>,
    /// Those that are reckoned with.
    missed: Vec<f64>,
}

impl Learned {
    /// From the shares found.
    pub fn new(found: Vec<f64>) -> Learned {
        let mut seen: Vec<f64> = found.iter().map(|it| 1.0 - it).collect();
        // More effort never finds less, but for chance.
        for at in 1..seen.len() {
            seen[at] = seen[at].min(seen[at - 1]);
        }
        // With much effort a hundred rows miss a few answers, which is chance: what they miss with less says more.
        let levels = levels_of(seen.len());
        let curve: Vec<f64> = levels.iter().map(|it| it.powf(GROWTH)).collect();
        let told = levels.iter().filter(|it| **it <= MOST_TOLD).count();
        let sum = |of: &[f64]| of.iter().rev().take(told).sum::<f64>();
        let scale = sum(&seen) / sum(&curve);
        let missed = seen.iter().zip(curve).map(|(seen, curve)| seen.max(scale * curve)).collect();
        Learned { seen, missed }
    }

    /// The shares found.
    pub fn found(&self) -> impl Iterator<Item = f64> {
        self.seen.iter().map(|it| 1.0 - it)
    }

    fn levels(&self) -> &'static [f64] {
        levels_of(self.missed.len())
    }

    /// What is missed where so much is foreseen; none if nothing was learned.
    fn missed(&self, foreseen: f64) -> Option<f64> {
        let points = || self.levels().iter().copied().zip(self.missed.iter().copied());
        let above = points().rfind(|it| foreseen <= it.0);
        let below = points().find(|it| it.0 <= foreseen);
        Some(match (above?, below) {
            (above, None) => above.1 * (foreseen / above.0).powf(GROWTH),
            (above, Some(below)) if below.0 == above.0 => below.1,
            (above, Some(below)) => {
                let share = (foreseen / below.0).ln() / (above.0 / below.0).ln();
                below.1 + share * (above.1 - below.1)
            }
        })
    }

    /// The efforts that find at least about `recall`, below 1, of so many nearest rows.
    pub fn aim(&self, recall: f64, count: usize) -> Aim {
        let more = (count as f64 / LEARNED_OF as f64).max(1.0).ln();
        let missable = (1.0 - recall) / (1.0 + MORE * more);
        let general =
            (AIMED_ELSEWHERE * missable / MISSED).powf(1.0 / GROWTH).min(self.levels()[0]);
        let elsewhere = self.at_most(AIMED_ELSEWHERE * missable, general);
        let among = match self.missed.is_empty() {
            true => elsewhere,
            false => self.at_most(AIMED_AMONG * missable, self.levels()[0]),
        };
        Aim { among: Effort::foreseeing(among), elsewhere: Effort::foreseeing(elsewhere) }
    }

    /// What may be foreseen, from `foreseen` down, so that no more is missed.
    fn at_most(&self, missed: f64, mut foreseen: f64) -> f64 {
        while LEAST < foreseen && self.missed(foreseen).is_some_and(|it| missed < it) {
            foreseen *= 0.8;
        }
        foreseen
    }

    /// What a search is expected to find of which `recall` is asked; of rows like those of the table.
    pub fn expected(&self, recall: f64) -> f64 {
        self.missed(self.aim(recall, LEARNED_OF).among.unopened)
            .map_or(recall, |missed| 1.0 - missed)
    }
}

/// The levels at which so many shares were learned; all, if none were.
fn levels_of(known: usize) -> &'static [f64] {
    match known {
        0 => &LEVELS,
        known => &LEVELS[LEVELS.len().saturating_sub(known)..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of as many as were learned from.
    fn aim(learned: &Learned, recall: f64) -> Aim {
        learned.aim(recall, LEARNED_OF)
    }

    #[test]
    fn more_is_opened_where_more_is_asked_or_more_was_missed() {
        let plain = Learned::default();
        let good = Learned::new(vec![0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0]);
        let bad = Learned::new(vec![0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99]);
        let recalls = [0.5, 0.8, 0.9, 0.95, 0.99, 0.999];
        for learned in [&plain, &good, &bad] {
            let elsewhere = recalls.map(|it| aim(learned, it).elsewhere.unopened);
            assert!(elsewhere.is_sorted_by(|a, b| b < a), "{elsewhere:?}");
            let among = recalls.map(|it| aim(learned, it).among.unopened);
            assert!(among.is_sorted_by(|a, b| b <= a), "{among:?}");
        }
        for count in [1, 3, LEARNED_OF, 30, 1_000] {
            let [ten, those] = [LEARNED_OF, count].map(|it| good.aim(0.9, it));
            assert_eq!(count <= LEARNED_OF, ten == those);
            assert!(those.among.unopened <= ten.among.unopened);
            assert!(those.elsewhere.unopened <= ten.elsewhere.unopened);
        }
        for recall in [0.8, 0.9, 0.95, 0.99] {
            assert_eq!(plain.expected(recall), recall);
            assert_eq!(aim(&plain, recall).among, aim(&plain, recall).elsewhere);
            for learned in [&good, &bad] {
                assert!(recall <= learned.expected(recall));
                let Aim { among, elsewhere } = aim(learned, recall);
                assert!(elsewhere.unopened <= among.unopened);
            }
            assert_eq!(aim(&good, recall).elsewhere, aim(&plain, recall).elsewhere);
            assert!(aim(&bad, recall).elsewhere.unopened < aim(&plain, recall).elsewhere.unopened);
        }
        // Just above what is asked, not far above.
        assert!((0.97..0.98).contains(&good.expected(0.95)), "{}", good.expected(0.95));
        assert!((0.97..0.98).contains(&bad.expected(0.95)), "{}", bad.expected(0.95));
        // Beyond the last level the curve goes on, so that a little short does not mean everything.
        let short = Learned::new(vec![0.9, 0.95, 0.957, 0.963, 0.976, 0.984, 0.99, 0.991]);
        let [more, plain] = [short, plain].map(|it| aim(&it, 0.99).elsewhere.unopened);
        assert!((0.5..1.0).contains(&(more / plain)), "{more} {plain}");
    }

    #[test]
    fn what_was_learned_before_the_first_levels_came_holds() {
        let eight = vec![0.93, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0];
        let ten: Vec<f64> = [0.8, 0.85].into_iter().chain(eight.iter().copied()).collect();
        let [old, new] = [eight, ten].map(Learned::new);
        for recall in [0.9, 0.95, 0.99] {
            let [old, new] = [&old, &new].map(|it| aim(it, recall));
            // They come down from another level, in steps of a fifth.
            assert!((0.8..1.25).contains(&(old.among.unopened / new.among.unopened)));
            assert_eq!(old.elsewhere, new.elsewhere);
        }
        assert_eq!(aim(&old, 0.7).among.unopened, 0.5);
        assert!(0.5 < aim(&new, 0.7).among.unopened);
    }

    #[test]
    fn a_lucky_last_level_is_not_believed() {
        let found = |last: [f64; 2]| -> Vec<f64> {
            [0.8, 0.9, 0.93, 0.95, 0.965, 0.975, 0.982, 0.987].into_iter().chain(last).collect()
        };
        let effort = |last| aim(&Learned::new(found(last)), 0.99).among.unopened;
        let (lucky, likely) = (effort([1.0, 1.0]), effort([0.993, 0.996]));
        assert!((1.0..1.3).contains(&(lucky / likely)), "{lucky} {likely}");
        // All that was found stays what is reported.
        let lucky = found([1.0, 1.0]);
        let reported: Vec<f64> = Learned::new(lucky.clone()).found().collect();
        assert!(reported.iter().zip(lucky).all(|(a, b)| (a - b).abs() < 1e-12), "{reported:?}");
    }

    #[test]
    fn chance_does_not_make_more_effort_find_less() {
        let learned = Learned::new(vec![0.9, 0.96, 0.95, 0.99, 0.98, 1.0, 1.0, 1.0]);
        assert!(learned.found().collect::<Vec<_>>().is_sorted());
    }
}
