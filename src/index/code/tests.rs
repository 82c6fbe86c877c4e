//! Estimates, their margins, and the slots that codes are kept in.

use std::sync::Arc;

use super::super::aspect::{Aspect, List, Lists};
use super::super::effort::Learned;
use super::super::form::{Form, Storage};
use super::super::measure::Measure;
use super::super::rotation::Random;
use super::*;
use crate::kernel::Scanned;
use crate::vector::Vector;

fn unit(random: &mut Random, dimension: usize) -> Vec<f32> {
    // Twelve uniform numbers add up to nearly a normal one.
    let mut normal = || (0..12).map(|_| random.bits() as f32 / u64::MAX as f32).sum::<f32>() - 6.0;
    let numbers: Vec<f32> = (0..dimension).map(|_| normal()).collect();
    let norm = numbers.iter().map(|it| it * it).sum::<f32>().sqrt();
    numbers.into_iter().map(|it| it / norm).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The codes of rows, around a centre that is rotated already.
fn coded(coder: &Coder, rows: &[Vec<f32>], centre: &[f32]) -> Coded {
    let mut groups = coder.empty(rows.len());
    coder.write(&mut groups, 0, &rows.concat(), centre);
    let mut coded = Coded::default();
    assert!(coder.load(&mut coded, 1, &groups));
    coded
}

/// A query, and how it sees a list of this centre.
fn seen(
    coder: Coder,
    metric: Metric,
    query: &[f32],
    centre: &[f32],
) -> (Lists, Measure, Arc<Asked>, Aspect) {
    let form = Form { metric, storage: Storage::F32, dimension: query.len() };
    let measure = Measure::new(form, Vector::new(query.to_vec()).unwrap());
    let list = List { list: 1, count: 1, spread: 0.5 };
    let lists = Lists::new(coder, vec![list], centre.to_vec(), Learned::default());
    let view = lists.seen_by(&measure);
    let (asked, aspect) = (view.asked.clone(), view.aspect(0));
    (lists, measure, asked, aspect)
}

/// Writes the code of one row, number by number: the twin of [`Coder::write`].
fn write_one(coder: &Coder, groups: &mut [u8], slot: usize, row: &[f32], centre: &[f32]) {
    let row = coder.rotated(&coder.placed(row));
    let numbers: Vec<f32> = row.iter().zip(centre).map(|(a, b)| a - b).collect();
    let sum = |of: &dyn Fn(usize) -> f32| (0..numbers.len()).fold(0.0, |sum, at| sum + of(at));
    let square = sum(&|at| numbers[at] * numbers[at]);
    let step = STEPS[coder.bits - 1] * (square / numbers.len() as f32).sqrt();
    let per_step = if 0.0 < step { 1.0 / step } else { 0.0 };
    let (most, half) = (coder.most_level(), coder.most_level() / 2.0);
    let level = |it: &f32| (it * per_step + half + 0.5).clamp(0.0, most).floor();
    let levels: Vec<f32> = numbers.iter().map(level).collect();
    let kept = |it: f32| if coder.is_wide() { it } else { f16::from_f32(it).to_f32() };
    let along = sum(&|at| numbers[at] * (levels[at] - half));
    let scale = kept(if 0.0 < along { square / along } else { 0.0 });
    let rest = |(number, level): (&f32, &f32)| f64::from(number - scale * (level - half)).powi(2);
    let rest = coder.kept_above(numbers.iter().zip(&levels).map(rest).sum::<f64>().sqrt());
    let own = match coder.metric {
        Metric::L2 => -square / 2.0,
        _ => sum(&|at| numbers[at] * centre[at]),
    };
    let shift = kept(own - scale * sum(&|at| centre[at] * (levels[at] - half)));
    let (factors, planes) = coder.lane(groups, slot);
    for (kind, number) in [shift, scale, rest].into_iter().enumerate().take(coder.kinds()) {
        let from = kind * coder.factor_bytes() + slot % GROUP * coder.number_bytes();
        coder.put_number(&mut factors[from..from + coder.number_bytes()], number);
    }
    for (at, level) in levels.iter().enumerate() {
        for plane in 0..coder.bits {
            let bit = (*level as u8) >> plane & 1;
            let byte =
                &mut planes[plane * coder.plane_bytes() + at / NUMBERS * TABLE + slot % TABLE];
            let place = at % NUMBERS + if slot % GROUP < TABLE { 0 } else { NUMBERS };
            *byte = *byte & !(1 << place) | bit << place;
        }
    }
}

fn a_coder(u: &mut arbtest::arbitrary::Unstructured<'_>) -> arbtest::arbitrary::Result<Coder> {
    let (dimension, bits) = (u.int_in_range(1..=70)?, u.int_in_range(1..=MOST_BITS)?);
    Ok(match u.int_in_range(0..=3)? {
        0 => Coder::of_any_length(dimension, bits, Metric::Dot, Vec::new()),
        1 => Coder::of_any_length(dimension, bits, Metric::L2, vec![0.5; dimension]),
        bounded => Coder::new(dimension, bits, bounded == 2),
    })
}

#[test]
fn codes_are_those_of_the_twin() {
    arbtest::arbtest(|u| {
        let coder = a_coder(u)?;
        let dimension = coder.rotation.dimension();
        let mut vector = |centre: &[f32]| -> arbtest::arbitrary::Result<Vec<f32>> {
            // Some rows are their centre.
            match u.int_in_range(0..=9)? {
                0 if !centre.is_empty() => Ok(centre.to_vec()),
                _ => (0..dimension).map(|_| Ok(f32::from(u.arbitrary::<i16>()?) / 3e4)).collect(),
            }
        };
        let centre = vector(&[])?;
        let rows =
            (0..40).map(|_| vector(&centre)).collect::<arbtest::arbitrary::Result<Vec<_>>>()?;
        let (slots, turned) = (96, coder.rotated(&centre));
        let (mut found, mut expected) = (coder.empty(slots), coder.empty(slots));
        let (first, count) = (u.int_in_range(0..=slots - 40)?, u.int_in_range(0..=40)?);
        coder.write(&mut found, first, &rows[..count].concat(), &turned);
        for (slot, row) in (first..).zip(&rows[..count]) {
            write_one(&coder, &mut expected, slot, row, &turned);
        }
        assert_eq!(found, expected);
        Ok(())
    });
}

#[test]
fn estimates_are_unbiased_and_as_exact_as_they_say() {
    for (dimension, bits) in [(512, 1), (128, 2), (100, 3), (64, 4), (1100, 2)] {
        let mut random = Random::new(7);
        let coder = Coder::new(dimension, bits, true);
        let centre: Vec<f32> = unit(&mut random, dimension).iter().map(|it| 0.5 * it).collect();
        let query = unit(&mut random, dimension);
        let rows: Vec<Vec<f32>> = (0..320).map(|_| unit(&mut random, dimension)).collect();
        let mut groups = coder.empty(rows.len());
        let turned = coder.rotated(&centre);
        coder.write(&mut groups, 0, &rows.concat(), &turned);
        let mut coded = Coded::default();
        assert!(coder.load(&mut coded, 1, &groups));
        assert_eq!(coded.rows, rows.len());
        let (lists, _, asked, aspect) = seen(coder, Metric::Cosine, &query, &centre);
        let coder = &lists.coder;
        let (mut sum, mut squares, mut expected) = (0.0, 0.0, 0.0);
        for (slot, row) in rows.iter().enumerate() {
            let group = slot / GROUP;
            let seen = Seen { asked: &asked, coded: &coded, group, list: &aspect };
            let estimates = coder.estimate(seen);
            let error = estimates[slot % GROUP] - dot(&query, row);
            sum += error;
            squares += error * error;
            let mut highest = Scanned::default();
            coder.scan(&asked, &coded, &aspect, 0.0, &mut highest);
            let guessed = coder.guess(seen, &highest.totals[group], 1.0, 0.0);
            assert_eq!(guessed.estimates, estimates);
            expected += guessed.errors[slot % GROUP].powi(2);
        }
        let count = rows.len() as f32;
        let (spread, said) = ((squares / count).sqrt(), (expected / count).sqrt());
        assert!((0.8..1.25).contains(&(spread / said)), "{dimension}, {bits}: {spread} {said}");
        assert!((sum / count).abs() < 4.0 * said / count.sqrt(), "{dimension}, {bits}");
    }
}

#[test]
fn margins_hold_for_whatever_rows() {
    arbtest::arbtest(|u| {
        let dimension = u.int_in_range(1..=200)?;
        let metric = *u.choose(&[Metric::Cosine, Metric::Dot, Metric::L2])?;
        let bits = u.int_in_range(1..=MOST_BITS)?;
        let mut random = Random::new(u.arbitrary()?);
        // Vectors of any length may be far from the origin, and so may the query.
        let (size, shift, query_size) = match metric {
            Metric::Cosine => (1.0, 0.0, 1.0),
            _ => {
                let size = 10f32.powi(u.int_in_range(-21i32..=12)?);
                let shift = size * 10f32.powi(u.int_in_range(-2i32..=2)?);
                (size, shift, 10f32.powi(u.int_in_range(-2i32..=2)?))
            }
        };
        let origin: Vec<f32> = unit(&mut random, dimension).iter().map(|it| it * shift).collect();
        let moved = |it: &[f32], by: f32| -> Vec<f32> {
            it.iter().zip(&origin).map(|(it, origin)| by * size * it + origin).collect()
        };
        let coder = match metric {
            Metric::Cosine => Coder::new(dimension, bits, true),
            Metric::Dot => Coder::of_any_length(dimension, bits, metric, Vec::new()),
            Metric::L2 => Coder::of_any_length(dimension, bits, metric, origin.clone()),
        };
        let direction = unit(&mut random, dimension);
        let query = moved(&direction, query_size);
        let mut near = |to: &[f32], by: f32| -> Vec<f32> {
            let other = unit(&mut random, dimension);
            to.iter().zip(other).map(|(a, b)| a + by * b).collect()
        };
        let about: Vec<f32> = near(&direction, 0.7).iter().map(|it| 0.8 * it).collect();
        let centre = coder.centre_of(&coder.centre_bytes(&coder.placed(&moved(&about, 1.0))));
        let turned = coder.rotated(&centre);
        // Where the rotated difference is a single number, codes are at their worst.
        let mut single = vec![0.0; coder.rotation.padded()];
        single[0] = 1.0;
        let coordinate: Vec<f32> = (0..dimension)
            .map(|at| {
                let mut axis = vec![0.0; dimension];
                axis[at] = 1.0;
                dot(&coder.rotated(&axis), &single)
            })
            .collect();
        let worst: Vec<f32> = about.iter().zip(coordinate).map(|(a, b)| a + 0.3 * b).collect();
        let negative: Vec<f32> = direction.iter().map(|it| -it).collect();
        let mut rows: Vec<Vec<f32>> = [
            about.clone(),
            direction.clone(),
            negative,
            near(&about, 1e-6),
            near(&about, 1e-3),
            near(&direction, 0.1),
            near(&direction, 1.0),
            worst,
        ]
        .iter()
        .map(|it| moved(it, 1.0))
        .collect();
        if metric != Metric::Cosine {
            rows.push(vec![0.0; dimension]);
            rows.push(moved(&direction, 30.0));
        }
        let coded = coded(&coder, &rows, &turned);
        let (lists, measure, asked, aspect) = seen(coder, metric, &query, &centre);
        let seen = Seen { asked: &asked, coded: &coded, group: 0, list: &aspect };
        let mut bounded = lists.coder.bound(seen, f32::NEG_INFINITY);
        let (estimates, margins, most) = (bounded.estimates, bounded.margins, bounded.most);
        lists.coder.narrow(seen, f32::NEG_INFINITY, &centre, &mut bounded);
        assert_eq!(bounded.left, (1 << rows.len()) - 1);
        for (slot, row) in rows.iter().enumerate() {
            // Rows of a cosine have length one only about, so its product is what counts.
            let exact = match metric {
                Metric::Cosine => {
                    query.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                }
                _ => -measure.key(measure.distance(&Vector::new(row.clone()).unwrap())),
            };
            let off = (exact - f64::from(estimates[slot])).abs();
            let margin = margins[slot];
            assert!(off <= f64::from(margin), "{metric:?} row {slot}: {off} {margin}");
            assert!(bounded.most[slot] <= most[slot]);
            let narrowed = f64::from(bounded.most[slot]);
            assert!(exact <= narrowed, "{metric:?} row {slot}: {exact} {narrowed}");
            if metric != Metric::Cosine && slot == 3 && 1e-12 < size {
                // Of a row that is nearly the centre a code leaves little to guess.
                let all = f64::from(asked.length + aspect.length + aspect.away);
                assert!(f64::from(margin) <= 0.1 * all * all, "{metric:?} {margin}");
            }
        }
        Ok(())
    });
}

/// What a slot's code stands for, number by number, and how long the rest is.
fn read_one(coder: &Coder, groups: &[u8], slot: usize) -> (Vec<f32>, f32) {
    let (factors, planes) = groups.split_at(coder.factors_bytes());
    let number = |kind: usize| {
        let from = kind * coder.factor_bytes() + slot * coder.number_bytes();
        coder.centre_of(&factors[from..from + coder.number_bytes()])[0]
    };
    let level = |at: usize| {
        let bit = |plane: usize| {
            let byte = planes[plane * coder.plane_bytes() + at / NUMBERS * TABLE + slot % TABLE];
            f32::from(taken(byte, slot) >> (at % NUMBERS) & 1)
        };
        (0..coder.bits).map(|it| bit(it) * (1 << it) as f32).sum::<f32>()
    };
    let half = coder.most_level() / 2.0;
    let numbers = 0..coder.rotation.padded();
    (numbers.map(|at| number(SCALES) * (level(at) - half)).collect(), number(RESTS))
}

#[test]
fn the_worst_query_reaches_the_bound_and_none_goes_beyond() {
    arbtest::arbtest(|u| {
        let (dimension, bits) = (16 * u.int_in_range(1..=8)?, u.int_in_range(1..=MOST_BITS)?);
        let mut random = Random::new(u.arbitrary()?);
        let coder = Coder::of_any_length(dimension, bits, Metric::L2, vec![0.0; dimension]);
        let centre: Vec<f32> = unit(&mut random, dimension).iter().map(|it| 0.5 * it).collect();
        let turned = coder.rotated(&centre);
        let row: Vec<f32> = unit(&mut random, dimension).iter().map(|it| 0.8 * it).collect();
        let mut groups = coder.empty(1);
        coder.write(&mut groups, 0, &row, &turned);
        let (code, rest_length) = read_one(&coder, &groups, 0);
        let moved: Vec<f32> =
            coder.rotated(&row).iter().zip(&turned).map(|(row, centre)| row - centre).collect();
        let rest: Vec<f32> = moved.iter().zip(&code).map(|(a, b)| a - b).collect();
        assert!((dot(&rest, &rest).sqrt() - rest_length).abs() < 1e-4);
        // Along the code by so much, and for the rest along what is left out of the row at a right angle to the code.
        let unit_of = |it: &[f32]| -> Vec<f32> {
            let length = dot(it, it).sqrt();
            it.iter().map(|it| it / length).collect()
        };
        let along = unit_of(&code);
        let on_code = dot(&rest, &along);
        let beside: Vec<f32> = rest.iter().zip(&along).map(|(a, b)| a - on_code * b).collect();
        let beside = unit_of(&beside);
        let angle = f32::from(u.int_in_range(20u8..=85)?).to_radians();
        let other = unit(&mut random, dimension);
        let share = *u.choose(&[0.0, 0.0, 0.3, 1.0])?;
        let query: Vec<f32> = (0..dimension)
            .map(|at| angle.cos() * along[at] + angle.sin() * (beside[at] + share * other[at]))
            .collect();
        // Turning back is turning by the transpose.
        let axis = |at: usize| (0..dimension).map(move |it| f32::from(u8::from(it == at)));
        let back: Vec<f32> = (0..dimension)
            .map(|at| dot(&coder.rotated(&axis(at).collect::<Vec<_>>()), &query) + centre[at])
            .collect();
        let coded = coded(&coder, std::slice::from_ref(&row), &turned);
        let (lists, measure, asked, aspect) = seen(coder, Metric::L2, &back, &centre);
        let seen = Seen { asked: &asked, coded: &coded, group: 0, list: &aspect };
        let mut bounded = lists.coder.bound(seen, f32::NEG_INFINITY);
        let usual = f64::from(bounded.most[0]);
        lists.coder.narrow(seen, f32::NEG_INFINITY, &centre, &mut bounded);
        let most = f64::from(bounded.most[0]);
        let exact = -measure.key(measure.distance(&Vector::new(row).unwrap()));
        assert!(exact <= most && most <= usual, "{exact} {most} {usual}");
        if share == 0.0 {
            // Nothing is given away but for what looking up in bytes rounds.
            assert!(most - exact <= 0.06, "{bits} bits: {exact} {most} {usual}");
        }
        Ok(())
    });
}

#[test]
fn highest_bits_tell_which_groups_are_behind() {
    for (dimension, bits) in [(512, 2), (128, 2), (100, 3), (64, 4)] {
        let mut random = Random::new(11);
        let coder = Coder::new(dimension, bits, true);
        let centre: Vec<f32> = unit(&mut random, dimension).iter().map(|it| 0.5 * it).collect();
        let turned = coder.rotated(&centre);
        let (mut behind, mut before) = (0, 0);
        for _ in 0..100 {
            let query = unit(&mut random, dimension);
            let mut rows: Vec<Vec<f32>> =
                (0..GROUP - 1).map(|_| unit(&mut random, dimension)).collect();
            rows.push(
                unit(&mut random, dimension)
                    .iter()
                    .zip(&query)
                    .map(|(a, b)| 0.8 * a + 0.6 * b)
                    .collect(),
            );
            let coded = coded(&coder, &rows, &turned);
            let again = Coder::new(dimension, bits, true);
            let (lists, _, asked, aspect) = seen(again, Metric::Cosine, &query, &centre);
            let score = dot(&query, &rows[GROUP - 1]);
            let is_behind = |reach: f32| {
                let mut scanned = Scanned::default();
                lists.coder.scan(&asked, &coded, &aspect, reach, &mut scanned);
                scanned.tops[0] < score - aspect.near
            };
            behind += usize::from(is_behind(3.5));
            before += usize::from(!is_behind(-3.5));
        }
        assert!(behind <= 2 && before <= 2, "{dimension}, {bits}: {behind} {before}");
    }
}

#[test]
fn slots_are_written_copied_and_cleared() {
    arbtest::arbtest(|u| {
        let coder = a_coder(u)?;
        let dimension = coder.rotation.dimension();
        let (slots, centre) = (70, coder.rotated(&vec![0.1; dimension]));
        let mut groups = coder.empty(slots);
        let mut twin: Vec<Option<Vec<f32>>> = vec![None; slots];
        for _ in 0..40 {
            let (slot, other) = (u.int_in_range(0..=slots - 1)?, u.int_in_range(0..=slots - 1)?);
            match u.int_in_range(0..=2)? {
                0 => {
                    let row = (0..dimension).map(|_| Ok(f32::from(u.arbitrary::<i16>()?) / 3e4));
                    let row = row.collect::<arbtest::arbitrary::Result<Vec<_>>>()?;
                    coder.write(&mut groups, slot, &row, &centre);
                    twin[slot] = Some(row);
                }
                1 => {
                    coder.copy(&mut groups, slot, other);
                    twin[other] = twin[slot].clone();
                }
                _ => {
                    coder.clear(&mut groups, slot);
                    twin[slot] = None;
                }
            }
        }
        let mut expected = coder.empty(slots);
        for (slot, row) in twin.iter().enumerate() {
            row.iter().for_each(|it| coder.write(&mut expected, slot, it, &centre));
        }
        assert_eq!(groups, expected);
        Ok(())
    });
}
