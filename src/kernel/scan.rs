//! A whole list by the highest plane of its codes: what each row looks up, and the most that comes out of each group.

use half::f16;

use super::sums::{self, LANES};

/// A list's groups, one after the other.
#[derive(Clone, Copy)]
pub struct Groups<'a> {
    /// One plane of codes for each, laid as [`super::lay`] lays them.
    pub planes: &'a [u8],
    /// The numbers of each, [`LANES`] of a kind together: shifts, scales, and others that are not
    /// looked at. Either these are empty or `floats` are.
    pub halves: &'a [f16],
    pub floats: &'a [f32],
    /// How many kinds there are.
    pub kinds: usize,
}

/// What a row comes to: `share * shift + scale * (per_sum * sum + constant)`.
#[derive(Clone, Copy)]
pub struct Line {
    pub share: f32,
    pub per_sum: f32,
    pub constant: f32,
}

/// What was found of each group.
#[derive(Default)]
pub struct Scanned {
    /// What each row looks up.
    pub totals: Vec<[u32; LANES]>,
    /// The most that any row comes to.
    pub tops: Vec<f32>,
}

pub type Scan = fn(tables: &[u8], groups: Groups<'_>, line: Line, out: &mut Scanned);

/// The twin of all the others.
pub fn plain(tables: &[u8], groups: Groups<'_>, line: Line, out: &mut Scanned) {
    each(sums::plain, Groups::numbers, tables, groups, line, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub fn avx2(tables: &[u8], groups: Groups<'_>, line: Line, out: &mut Scanned) {
    each(|tables, codes| sums::avx2(tables, codes), Groups::numbers, tables, groups, line, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn avx512(tables: &[u8], groups: Groups<'_>, line: Line, out: &mut Scanned) {
    let sums = |tables: &[u8], codes: &[u8]| sums::avx512(tables, codes);
    each(sums, |it, group, kind| numbers_avx512(it, group, kind), tables, groups, line, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
pub fn fours(tables: &[u8], groups: Groups<'_>, line: Line, out: &mut Scanned) {
    let sums = |tables: &[u8], codes: &[u8]| sums::fours(tables, codes);
    each(sums, |it, group, kind| numbers_avx512(it, group, kind), tables, groups, line, out);
}

/// [`Groups::numbers`], by the instruction that widens halves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn numbers_avx512(groups: &Groups<'_>, group: usize, kind: usize) -> [f32; LANES] {
    use std::arch::x86_64::*;
    if groups.halves.is_empty() {
        return groups.numbers(group, kind);
    }
    let halves = &groups.halves[(group * groups.kinds + kind) * LANES..][..LANES];
    let mut numbers = [0.0f32; LANES];
    for at in [0, LANES / 2] {
        // SAFETY: sixteen numbers from either place on are within the 32 of both sides; neither needs alignment.
        unsafe {
            let halves = _mm256_loadu_si256(halves.as_ptr().add(at).cast());
            _mm512_storeu_ps(numbers.as_mut_ptr().add(at), _mm512_cvtph_ps(halves));
        }
    }
    numbers
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
pub fn neon(tables: &[u8], groups: Groups<'_>, line: Line, out: &mut Scanned) {
    each(|tables, codes| sums::neon(tables, codes), Groups::numbers, tables, groups, line, out);
}

/// Compiled once for each set of instructions.
#[inline(always)]
fn each<'a>(
    sums: impl Fn(&[u8], &[u8]) -> [u32; LANES],
    numbers: impl Fn(&Groups<'a>, usize, usize) -> [f32; LANES],
    tables: &[u8],
    groups: Groups<'a>,
    line: Line,
    out: &mut Scanned,
) {
    let planes = groups.planes.chunks_exact(tables.len());
    out.totals.resize(planes.len(), [0; LANES]);
    out.tops.resize(planes.len(), 0.0);
    let found = out.totals.iter_mut().zip(&mut out.tops);
    for ((at, plane), (totals, top)) in planes.enumerate().zip(found) {
        *totals = sums(tables, plane);
        let (shifts, scales) = (numbers(&groups, at, 0), numbers(&groups, at, 1));
        // The compiler takes a loop for vectors, where it takes `from_fn` for single numbers.
        let mut rows = [0.0; LANES];
        for (at, row) in rows.iter_mut().enumerate() {
            let sum = line.per_sum * totals[at] as f32 + line.constant;
            *row = line.share * shifts[at] + scales[at] * sum;
        }
        *top = largest(rows);
    }
}

impl Groups<'_> {
    /// One kind of a group's numbers.
    #[inline(always)]
    pub fn numbers(&self, group: usize, kind: usize) -> [f32; LANES] {
        let from = (group * self.kinds + kind) * LANES;
        let mut numbers = [0.0; LANES];
        if self.halves.is_empty() {
            numbers.copy_from_slice(&self.floats[from..from + LANES]);
        } else {
            let halves = &self.halves[from..from + LANES];
            numbers.iter_mut().zip(halves).for_each(|(it, half)| *it = widened(*half));
        }
        numbers
    }
}

/// [`f16::to_f32`], of infinities too, in steps that compilers can take for many numbers at once.
#[inline(always)]
pub fn widened(half: f16) -> f32 {
    const MOVED: u32 = 13;
    const INFINITE: u32 = 0x7c00 << MOVED;
    const REBIASED: u32 = 112 << 23;
    let bits = u32::from(half.to_bits());
    let (size, sign) = ((bits & 0x7fff) << MOVED, (bits & 0x8000) << 16);
    let small = f32::from_bits(size + REBIASED + (1 << 23)) - f32::from_bits(REBIASED + (1 << 23));
    let usual = f32::from_bits(size + if INFINITE <= size { 2 * REBIASED } else { REBIASED });
    let found = if size < 1 << 23 { small } else { usual };
    f32::from_bits(found.to_bits() | sign)
}

/// The largest of numbers that are numbers.
#[inline(always)]
fn largest(mut of: [f32; LANES]) -> f32 {
    let mut left = LANES;
    while 1 < left {
        left /= 2;
        let (low, high) = of.split_at_mut(left);
        for (low, high) in low.iter_mut().zip(high) {
            *low = if *low < *high { *high } else { *low };
        }
    }
    of[0]
}

#[cfg(test)]
mod tests {
    use super::super::sums::TABLE;
    use super::*;

    #[test]
    fn every_half_is_widened_as_by_its_library() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            let (found, expected) = (widened(half), half.to_f32());
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{half:?}: {found}");
        }
    }

    #[test]
    fn kernels_agree_with_the_plain_twin() {
        arbtest::arbtest(|u| {
            let (tables, groups) = (u.int_in_range(1..=265)?, u.int_in_range(0..=3)?);
            let mut bytes = |count: usize| -> arbtest::arbitrary::Result<Vec<u8>> {
                (0..count).map(|_| u.arbitrary()).collect()
            };
            let (tables, planes) = (bytes(TABLE * tables)?, bytes(TABLE * tables * groups)?);
            let kinds = u.int_in_range(2..=3)?;
            let mut floats: Vec<f32> = (0..groups * kinds * LANES)
                .map(|_| Ok(f32::from(u.int_in_range(-100i8..=100)?) / 64.0))
                .collect::<arbtest::arbitrary::Result<_>>()?;
            if let Some(shift) = floats.first_mut() {
                *shift = f32::NEG_INFINITY;
            }
            let halves: Vec<f16> = floats.iter().map(|it| f16::from_f32(*it)).collect();
            let mut number = || Ok(f32::from(u.int_in_range(-100i8..=100)?) / 64.0);
            let line = Line { share: 0.5, per_sum: number()?, constant: number()? };
            let as_floats = Groups { planes: &planes, halves: &[], floats: &floats, kinds };
            let as_halves = Groups { halves: &halves, floats: &[], ..as_floats };
            let mut expected = Scanned::default();
            plain(&tables, as_floats, line, &mut expected);
            for (at, (totals, top)) in expected.totals.iter().zip(&expected.tops).enumerate() {
                let [shifts, scales] = [0, 1].map(|kind| &floats[(at * kinds + kind) * LANES..]);
                let most = (0..LANES).map(|row| {
                    let sum = line.per_sum * totals[row] as f32 + line.constant;
                    line.share * shifts[row] + scales[row] * sum
                });
                assert_eq!(*top, most.fold(f32::NEG_INFINITY, f32::max));
            }
            let same = |found: &Scanned| {
                assert_eq!(found.totals, expected.totals);
                for (found, expected) in found.tops.iter().zip(&expected.tops) {
                    assert!(
                        (found - expected).abs() <= 1e-5 * expected.abs(),
                        "{found} {expected}"
                    );
                }
                assert_eq!(found.tops.len(), groups);
            };
            let mut laid = Vec::new();
            for plane in planes.chunks_exact(tables.len()) {
                super::super::lay(plane, &mut laid);
            }
            for groups in [as_floats, as_halves] {
                let mut found = Scanned::default();
                super::super::scan(&tables, Groups { planes: &laid, ..groups }, line, &mut found);
                same(&found);
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx512bw") {
                    // SAFETY: the feature was just found.
                    unsafe { avx512(&tables, groups, line, &mut found) };
                    same(&found);
                }
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features were just found.
                    unsafe { avx2(&tables, groups, line, &mut found) };
                    same(&found);
                }
            }
            Ok(())
        });
    }
}
