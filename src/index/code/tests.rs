//! Estimates, their margins, and the slots that codes are kept in.

use super::super::rotation::Random;
use super::*;

fn unit(random: &mut Random, dimension: usize) -> Vec<f32> {
    // Twelve uniform numbers add up to nearly a normal one.
    let mut normal = || (0..12).map(|_| random.next() as f32 / u64::MAX as f32).sum::<f32>() - 6.0;
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
    for (slot, row) in rows.iter().enumerate() {
        coder.write(&mut groups, slot, &coder.code(&coder.rotated(row), centre));
    }
    let mut coded = Coded::default();
    assert!(coder.load(&mut coded, 1, &groups));
    coded
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
        for (slot, row) in rows.iter().enumerate() {
            coder.write(&mut groups, slot, &coder.code(&coder.rotated(row), &turned));
        }
        let mut coded = Coded::default();
        assert!(coder.load(&mut coded, 1, &groups));
        assert_eq!(coded.rows, rows.len());
        let asked = coder.ask(&coder.rotated(&query));
        let away: Vec<f32> = query.iter().zip(&centre).map(|(a, b)| a - b).collect();
        let away = dot(&away, &away).sqrt();
        let (mut sum, mut squares, mut expected) = (0.0, 0.0, 0.0);
        for (slot, row) in rows.iter().enumerate() {
            let group = slot / GROUP;
            let estimates = coder.estimate(&asked, &coded, group, dot(&query, &centre));
            let error = estimates[slot % GROUP] - dot(&query, row);
            sum += error;
            squares += error * error;
            expected += (coder.deviations(&coded, group)[slot % GROUP] * away).powi(2);
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
        let coder = Coder::new(dimension, u.int_in_range(1..=MOST_BITS)?, true);
        let mut random = Random::new(u.arbitrary()?);
        let query = unit(&mut random, dimension);
        let mut near = |to: &[f32], by: f32| -> Vec<f32> {
            let other = unit(&mut random, dimension);
            to.iter().zip(other).map(|(a, b)| a + by * b).collect()
        };
        let centre: Vec<f32> = near(&query, 0.7).iter().map(|it| 0.8 * it).collect();
        let centre = centre_of(&centre_bytes(&centre));
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
        let worst = centre.iter().zip(coordinate).map(|(a, b)| a + 0.3 * b).collect();
        let rows = [
            centre.clone(),
            query.clone(),
            query.iter().map(|it| -it).collect(),
            near(&centre, 1e-6),
            near(&centre, 1e-3),
            near(&query, 0.1),
            near(&query, 1.0),
            worst,
        ];
        let coded = coded(&coder, &rows, &turned);
        let asked = coder.ask(&coder.rotated(&query));
        let away: f32 = query.iter().zip(&centre).map(|(a, b)| (a - b).powi(2)).sum();
        let estimates = coder.estimate(&asked, &coded, 0, dot(&query, &centre));
        let margins = coder.margins(&asked, &coded, 0, away.sqrt());
        for (slot, row) in rows.iter().enumerate() {
            let exact: f64 =
                query.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let off = (exact - f64::from(estimates[slot])).abs();
            assert!(off <= f64::from(margins[slot]), "row {slot}: {off} {}", margins[slot]);
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
            let asked = coder.ask(&coder.rotated(&query));
            let highest = coder.highest(&asked, &coded, 0);
            let ahead = dot(&query, &rows[GROUP - 1]) - dot(&query, &centre);
            behind += usize::from(coder.is_behind(&asked, &coded, 0, &highest, 3.5, ahead));
            before += usize::from(!coder.is_behind(&asked, &coded, 0, &highest, -3.5, ahead));
        }
        assert!(behind <= 2 && before <= 2, "{dimension}, {bits}: {behind} {before}");
    }
}

#[test]
fn slots_are_written_copied_and_cleared() {
    arbtest::arbtest(|u| {
        let bounded = u.arbitrary()?;
        let coder = Coder::new(u.int_in_range(1..=40)?, u.int_in_range(1..=MOST_BITS)?, bounded);
        let slots = 70;
        let mut groups = coder.empty(slots);
        let mut twin: Vec<Option<Code>> = vec![None; slots];
        for _ in 0..40 {
            let (slot, other) = (u.int_in_range(0..=slots - 1)?, u.int_in_range(0..=slots - 1)?);
            match u.int_in_range(0..=2)? {
                0 => {
                    let levels = (0..coder.rotation.padded())
                        .map(|_| Ok(u.arbitrary::<u8>()? & ((1 << coder.bits) - 1)));
                    let levels = levels.collect::<arbtest::arbitrary::Result<_>>()?;
                    let number = |it: i8| f16::from_f32(f32::from(it));
                    let (shift, scale) = (number(u.arbitrary()?), number(u.arbitrary()?));
                    let code = Code { shift, scale, rest: number(u.arbitrary()?), levels };
                    coder.write(&mut groups, slot, &code);
                    twin[slot] = Some(code);
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
        for (slot, code) in twin.iter().enumerate() {
            code.iter().for_each(|it| coder.write(&mut expected, slot, it));
        }
        assert_eq!(groups, expected);
        Ok(())
    });
}
