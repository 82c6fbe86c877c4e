//! The inverse DCT of a block to fewer pixels than it was made of.

use std::f32::consts::PI;
use std::sync::LazyLock;

use super::BLOCK;
use super::huffman::Block;
use crate::kernel;

/// Of each frequency, what it adds to each pixel.
type Basis<const N: usize> = [[f32; N]; N];

static ONE_SIDE_2: LazyLock<Basis<2>> = LazyLock::new(basis);
static ONE_SIDE_4: LazyLock<Basis<4>> = LazyLock::new(basis);

/// The frequencies that fewer pixels can hold, and the others left out: what libjpeg does as well.
fn basis<const N: usize>() -> Basis<N> {
    let mut basis = [[0.0; N]; N];
    for (frequency, row) in basis.iter_mut().enumerate() {
        let scale = if frequency == 0 { 0.125f32.sqrt() } else { 0.5 };
        for (at, pixel) in row.iter_mut().enumerate() {
            let angle = (2 * at + 1) as f32 * frequency as f32 * PI / (2 * N) as f32;
            *pixel = scale * angle.cos();
        }
    }
    basis
}

/// Of each of `side` pixels, what it takes from each of a block's pixels in full size, along one side.
pub fn taken(side: usize) -> Vec<[f64; BLOCK]> {
    match side {
        1 => taken_by::<1>(),
        2 => taken_by::<2>(),
        4 => taken_by::<4>(),
        _ => taken_by::<8>(),
    }
}

fn taken_by<const N: usize>() -> Vec<[f64; BLOCK]> {
    let (fewer, full) = (basis::<N>(), basis::<BLOCK>());
    let of = |to: usize, from: usize| {
        let each = fewer.iter().zip(&full);
        each.map(|(fewer, full)| f64::from(fewer[to]) * f64::from(full[from])).sum()
    };
    (0..N).map(|to| std::array::from_fn(|from| of(to, from))).collect()
}

/// Places in zigzag order that so many pixels a side depend on.
pub fn wanted(side: usize) -> usize {
    match side {
        1 => 1,
        2 => 5,
        4 => 25,
        _ => 64,
    }
}

/// Writes a block of `side` x `side` pixels, rows `stride` apart: 1, 2, 4 or 8 a side.
#[inline(always)]
pub fn write(block: &Block, varies: bool, side: usize, pixels: &mut [u8], stride: usize) {
    match side {
        1 => pixels[0] = mean(block),
        _ if !varies => {
            let mean = mean(block);
            pixels.chunks_mut(stride).take(side).for_each(|row| row[..side].fill(mean));
        }
        2 => inverse(block, &ONE_SIDE_2, pixels, stride),
        4 => inverse(block, &ONE_SIDE_4, pixels, stride),
        _ => kernel::inverse(block, pixels, stride),
    }
}

fn mean(block: &Block) -> u8 {
    sample(block[0] / 8.0)
}

fn sample(value: f32) -> u8 {
    (value + 128.5) as u8
}

fn inverse<const N: usize>(block: &Block, basis: &Basis<N>, pixels: &mut [u8], stride: usize) {
    let mut across = [[0.0f32; N]; N];
    for (row, from) in across.iter_mut().zip(block.chunks_exact(8)) {
        for (coefficient, waves) in from.iter().zip(basis) {
            row.iter_mut().zip(waves).for_each(|(it, wave)| *it += coefficient * wave);
        }
    }
    for (y, to) in pixels.chunks_mut(stride).take(N).enumerate() {
        let mut row = [0.0f32; N];
        for (from, waves) in across.iter().zip(basis) {
            row.iter_mut().zip(from).for_each(|(it, value)| *it += value * waves[y]);
        }
        to[..N].iter_mut().zip(row).for_each(|(to, value)| *to = sample(value));
    }
}
