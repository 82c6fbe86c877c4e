//! Rows of a list that may be nearer to other centres, told by their codes.
//!
//! A row x is nearer to a centre a than to its own, c, where <x - c, a - c> is more than |a - c|^2 / 2, and a code estimates
//! what lies left of that.

use super::aspect::Aspect;
use super::code::{Coded, Coder, Seen};

/// The places of a list's rows, rising, that are nearer to one of some other centres than to their own by so much of a square, by
/// estimate.
pub fn leaning(
    coder: &Coder,
    coded: &Coded,
    centre: &[f32],
    others: &[&[f32]],
    gain: f32,
) -> Vec<(i64, usize)> {
    let mut leaning = Vec::new();
    let directions = others.iter().map(|other| {
        let way: Vec<f32> = other.iter().zip(centre).map(|(other, own)| other - own).collect();
        let half = way.iter().map(|it| it * it).sum::<f32>() / 2.0;
        (coder.ask(&coder.rotated(&way)), half)
    });
    let directions: Vec<_> = directions.collect();
    for (group, (block, first)) in coded.groups.iter().enumerate() {
        let mut leans = 0u32;
        for (asked, half) in &directions {
            let list = &Aspect::along();
            let along = coder.estimate(Seen { asked, coded, group, list });
            // Of empty slots it is no number.
            let beyond = along.iter().map(|it| u32::from(half + gain / 2.0 < *it));
            leans |= beyond.enumerate().fold(0, |bits, (at, it)| bits | it << at);
        }
        let slots = (0..u32::BITS as usize).filter(|at| leans >> at & 1 == 1);
        leaning.extend(slots.map(|at| (*block, first + at)));
    }
    leaning
}

#[cfg(test)]
mod tests {
    use super::super::code::GROUP;
    use super::super::metric::Metric;
    use super::super::rotation::Random;
    use super::*;

    #[test]
    fn rows_lean_to_the_centres_that_are_nearer() {
        arbtest::arbtest(|u| {
            let dimension = u.int_in_range(16..=80)?;
            let metric = *u.choose(&[Metric::Cosine, Metric::Dot, Metric::L2])?;
            let mut random = Random::new(u.arbitrary()?);
            let mut vector = |size: f32| -> Vec<f32> {
                let number = |_| size * (random.bits() as f32 / u64::MAX as f32 - 0.5);
                (0..dimension).map(number).collect()
            };
            let coder = match metric {
                Metric::Cosine => Coder::new(dimension, 4, true),
                Metric::Dot => Coder::of_any_length(dimension, 4, metric, Vec::new()),
                Metric::L2 => Coder::of_any_length(dimension, 4, metric, vector(3.0)),
            };
            let centre = coder.centre_of(&coder.centre_bytes(&vector(1.0)));
            let others = [vector(1.0), vector(2.0)];
            // From one centre on to each other, and beyond; as they lie where centres are.
            let count = u.int_in_range(1..=2 * GROUP)?;
            let placed: Vec<Vec<f32>> = (0..count)
                .map(|at| {
                    let part = at as f32 / count as f32 * 1.4;
                    let pairs = centre.iter().zip(&others[at % 2]).zip(vector(0.3));
                    pairs.map(|((own, other), it)| own + part * (other - own) + it).collect()
                })
                .collect();
            let origin = coder.placed(&vec![0.0; dimension]).into_owned();
            let rows: Vec<f32> = placed
                .iter()
                .flat_map(|it| it.iter().zip(&origin).map(|(it, origin)| it - origin))
                .collect();
            let mut groups = coder.empty(count);
            coder.write(&mut groups, 0, &rows, &coder.rotated(&centre));
            let mut coded = Coded::default();
            assert!(coder.load(&mut coded, 7, &groups));
            let others: Vec<&[f32]> = others.iter().map(Vec::as_slice).collect();
            let leaning = leaning(&coder, &coded, &centre, &others, 0.0);
            assert!(leaning.is_sorted() && leaning.iter().all(|it| it.0 == 7 && it.1 < count));
            let far = |a: &[f32], b: &[f32]| -> f32 {
                a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
            };
            for (slot, row) in placed.iter().enumerate() {
                let own = far(row, &centre);
                let sure = |other: &&&[f32]| {
                    let (away, gain) = (far(&centre, other), own.powi(2) - far(row, other).powi(2));
                    // Four bits leave a tenth of a row's way from its centre, of which little points here.
                    (gain / 2.0, away * own * 0.11 + 1e-3)
                };
                let leans = leaning.contains(&(7, slot));
                let surely = others.iter().any(|it| {
                    let (gain, off) = sure(&it);
                    off < gain
                });
                let not = others.iter().all(|it| {
                    let (gain, off) = sure(&it);
                    gain < -off
                });
                assert!(leans || !surely, "{metric:?} slot {slot} of {count} leans");
                assert!(!leans || !not, "{metric:?} slot {slot} of {count} does not lean");
            }
            Ok(())
        });
    }
}
