//! What a resize in full size would give, estimated from pixels at a part of the size.
//!
//! Resizing such a part as if it were the picture gives another one: its few pixels stand in the same
//! places below every wanted one where the sizes divide, so that all of them come out too soft, or too
//! sharp. But a pixel at a part of the size is a weighted sum of pixels in full size, and so is what the
//! resize would give: from one to the other leads the best linear estimate that is right on average and
//! for every ramp (universal kriging; Matheron, 1969), given how alike near pixels are.

use image::RgbImage;

use super::jpeg::{BLOCK, taken_from_block};
use super::preprocess::Filter;

/// Near pixels are alike, the farther the less: exp(-sqrt(distance² + SOFT²) / FAR), in wanted pixels.
const FAR: f64 = 8.0;
/// Neighbours within a part of a wanted pixel differ less than a walk at random would.
const SOFT: f64 = 0.2;
/// Variance of what quantization and rounding add to a decoded pixel, beside that of the pixels.
const NOISE: f64 = 1e-4;
/// Numbers added up side by side.
const LANES: usize = 32;

/// Where on a side the wanted pixels lie: in full size, the edge of the first, and how many make one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    pub from: f64,
    pub step: f64,
}

/// For each wanted pixel of a side, the decoded pixels that it is estimated from.
pub struct Weights {
    /// How many.
    taps: usize,
    /// The first of them, which never goes back.
    firsts: Vec<usize>,
    /// (wanted, taps)
    values: Vec<f32>,
}

impl Weights {
    /// For `size` pixels of a side that has `length` pixels in full size.
    pub fn new(length: u32, part: u32, span: Span, size: u32, filter: Filter) -> Weights {
        let reach = filter.reach() * span.step;
        let decoded = length.div_ceil(part) as usize;
        let reached = (2.0 * reach / f64::from(part)).ceil() as usize;
        let taps = decoded.min(reached + 1);
        let margin = taps * part as usize + 2 * reach as usize + 3 * BLOCK;
        let alike = Alike::new(part, span.step, margin);
        // Where in its block the first pixel stands makes the difference between windows.
        let windows: Vec<_> = (0..alike.pixels()).map(|it| Window::new(&alike, it, taps)).collect();
        let mut weights = Weights { taps, firsts: Vec::new(), values: Vec::new() };
        for wanted in 0..size {
            let middle = span.from + (f64::from(wanted) + 0.5) * span.step;
            let first = ((middle - reach) / f64::from(part)).floor() as isize;
            let first = first.clamp(0, (decoded - taps) as isize) as usize;
            let target = target(length, middle, span.step, filter);
            let window = &windows[first % alike.pixels()];
            weights.firsts.push(first);
            weights.values.extend(window.weights(&alike, first, target));
        }
        weights
    }

    pub fn each(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.firsts.iter().copied().zip(self.values.chunks_exact(self.taps))
    }
}

/// The first pixel in full size that makes a wanted one, and what it and those behind it give.
fn target(length: u32, middle: f64, step: f64, filter: Filter) -> (usize, Vec<f64>) {
    let mut weights = Vec::new();
    (filter.taken(length, middle, step, &mut weights), weights)
}

/// How alike a decoded pixel and pixels in full size are.
struct Alike {
    /// Of each decoded pixel of a block, what it takes from the block's in full size.
    taken: Vec<[f64; BLOCK]>,
    /// Of each decoded pixel of a block, with the pixels around, from `margin` before the block on.
    covariances: Vec<Vec<f64>>,
    margin: usize,
}

impl Alike {
    fn new(part: u32, step: f64, margin: usize) -> Alike {
        let taken = taken_from_block(part);
        let alike: Vec<f64> =
            (0..margin + BLOCK).map(|it| (-(it as f64 / step).hypot(SOFT) / FAR).exp()).collect();
        let of = |taken: &[f64; BLOCK], at: usize| {
            let each = taken.iter().enumerate();
            each.map(|(it, weight)| weight * alike[at.abs_diff(margin + it)]).sum()
        };
        let of_all = |it| (0..2 * margin).map(|at| of(it, at)).collect();
        let covariances = taken.iter().map(of_all).collect();
        Alike { taken, covariances, margin }
    }

    /// Decoded pixels a block.
    fn pixels(&self) -> usize {
        self.taken.len()
    }

    /// Of a decoded pixel with the pixels in full size from `first` on.
    fn with(&self, decoded: usize, first: usize) -> &[f64] {
        let block = decoded / self.pixels() * BLOCK;
        &self.covariances[decoded % self.pixels()][self.margin + first - block..]
    }

    /// Where a decoded pixel lies in full size.
    fn place(&self, decoded: usize) -> f64 {
        let block = (decoded / self.pixels() * BLOCK) as f64;
        let each = self.taken[decoded % self.pixels()].iter().zip(0..);
        each.map(|(weight, it)| weight * (block + f64::from(it) + 0.5)).sum()
    }
}

/// Neighbouring decoded pixels, and what solves the equations of an estimate from them.
struct Window {
    /// Where its first pixel stands in its block.
    phase: usize,
    taps: usize,
    /// Of the covariances among them.
    inverse: Vec<f64>,
    /// What is to come out right: a constant, and a ramp from the block's first edge on.
    held: [Vec<f64>; 2],
    /// The inverse times each of these.
    solved: [Vec<f64>; 2],
}

impl Window {
    fn new(alike: &Alike, phase: usize, taps: usize) -> Window {
        let mut matrix = vec![0.0; taps * taps];
        for (row, one) in matrix.chunks_exact_mut(taps).zip(phase..) {
            for (value, other) in row.iter_mut().zip(phase..) {
                let near = alike.with(one, other / alike.pixels() * BLOCK);
                *value = dot(&alike.taken[other % alike.pixels()], near);
            }
            row[one - phase] += NOISE;
        }
        invert(&mut matrix, taps);
        let held = [vec![1.0; taps], (phase..phase + taps).map(|it| alike.place(it)).collect()];
        let solved = [times(&matrix, &held[0]), times(&matrix, &held[1])];
        Window { phase, taps, inverse: matrix, held, solved }
    }

    /// Of the pixels from `first` on, for a weighted sum of pixels in full size.
    fn weights(
        &self,
        alike: &Alike,
        first: usize,
        (start, target): (usize, Vec<f64>),
    ) -> impl Iterator<Item = f32> {
        let covariances: Vec<f64> =
            (first..first + self.taps).map(|it| dot(&target, alike.with(it, start))).collect();
        let estimate = times(&self.inverse, &covariances);
        let origin = ((first - self.phase) / alike.pixels() * BLOCK) as f64;
        let ramp: f64 = target.iter().zip(start..).map(|(it, at)| it * (at as f64 + 0.5)).sum();
        // What the estimate falls short of for a constant and a ramp, made up for in the cheapest way.
        let [constant, slope] = &self.held;
        let missing = [1.0 - dot(constant, &estimate), ramp - origin - dot(slope, &estimate)];
        let (a, b) = (dot(constant, &self.solved[0]), dot(constant, &self.solved[1]));
        let d = dot(slope, &self.solved[1]);
        let scale = 1.0 / (a * d - b * b);
        let added =
            [scale * (d * missing[0] - b * missing[1]), scale * (a * missing[1] - b * missing[0])];
        let parts = estimate.into_iter().zip(&self.solved[0]).zip(&self.solved[1]);
        parts.map(move |((it, one), other)| (it + added[0] * one + added[1] * other) as f32)
    }
}

/// As long as the shorter of the two.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let length = a.len().min(b.len());
    let ((a, rest), (b, other)) = (a[..length].as_chunks::<4>(), b[..length].as_chunks::<4>());
    let mut sums = [0.0; 4];
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f64>() + rest.iter().zip(other).map(|(a, b)| a * b).sum::<f64>()
}

fn times(matrix: &[f64], vector: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(vector.len()).map(|row| dot(row, vector)).collect()
}

/// In place, by Gauss and Jordan; covariances need no pivots.
fn invert(matrix: &mut [f64], side: usize) {
    for at in 0..side {
        let mut row = matrix[at * side..][..side].to_vec();
        let pivot = 1.0 / std::mem::replace(&mut row[at], 1.0);
        row.iter_mut().for_each(|it| *it *= pivot);
        for (number, other) in matrix.chunks_exact_mut(side).enumerate() {
            if number == at {
                other.copy_from_slice(&row);
                continue;
            }
            let factor = std::mem::take(&mut other[at]);
            other.iter_mut().zip(&row).for_each(|(it, own)| *it -= factor * own);
        }
    }
}

/// RGB bytes, (wanted down, wanted across, 3).
pub fn estimated(picture: &RgbImage, across: &Weights, down: &Weights) -> Vec<u8> {
    let length = 3 * picture.width() as usize;
    // A pixel is read with the number behind it.
    let stride = (length + 1).next_multiple_of(LANES);
    let mut rows = vec![vec![0.0f32; stride]; down.taps];
    let mut line = vec![0.0f32; stride];
    let mut bytes = vec![0; 3 * across.firsts.len() * down.firsts.len()];
    let mut read = 0;
    for ((first, weights), row) in down.each().zip(bytes.chunks_mut(3 * across.firsts.len())) {
        for at in read.max(first)..first + down.taps {
            let from = picture.as_raw()[at * length..][..length].iter();
            rows[at % down.taps].iter_mut().zip(from).for_each(|(to, it)| *to = f32::from(*it));
        }
        read = first + down.taps;
        let lines = weights.iter().zip(first..).map(|(it, at)| (*it, &rows[at % down.taps][..]));
        add_up(&lines.collect::<Vec<_>>(), &mut line);
        for ((first, weights), to) in across.each().zip(row.as_chunks_mut::<3>().0) {
            *to = pixel(weights, &line[3 * first..]);
        }
    }
    bytes
}

/// The weighted sum of neighbours: by two sums, as one addition waits for the one before it.
#[inline(always)]
fn pixel(weights: &[f32], line: &[f32]) -> [u8; 3] {
    let (pairs, last) = weights.as_chunks::<2>();
    // Red, green, blue, and a number that is left out.
    let (mut sums, mut others) = ([0.5f32; 4], [0.0f32; 4]);
    let mut line = &line[..3 * weights.len() + 1];
    for [one, other] in pairs {
        let from: &[f32; 7] = line.first_chunk().expect("three numbers a weight, and one");
        for at in 0..4 {
            sums[at] += one * from[at];
            others[at] += other * from[3 + at];
        }
        line = &line[6..];
    }
    if let ([one], Some(from)) = (last, line.first_chunk::<4>()) {
        for at in 0..4 {
            others[at] += one * from[at];
        }
    }
    for at in 0..4 {
        sums[at] += others[at];
    }
    [sums[0] as u8, sums[1] as u8, sums[2] as u8]
}

/// The weighted sum of rows, within what a byte holds, as a resize clips it between its passes.
fn add_up(rows: &[(f32, &[f32])], line: &mut [f32]) {
    for (number, chunk) in line.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut sums = [0.0f32; LANES];
        for (weight, row) in rows {
            let from = &row[number * LANES..][..LANES];
            sums.iter_mut().zip(from).for_each(|(sum, it)| *sum += weight * it);
        }
        *chunk = sums.map(|it| it.clamp(0.0, 255.0));
    }
}
