//! The inverse DCT of 8 x 8 numbers in whole numbers, by Loeffler, Ligtenberg and Moschytz (1989), as libjpeg's slow one with twelve
//! bits behind the point: what most decoders agree on.

use std::array;

/// Numbers a side.
const SIDE: usize = 8;
/// Bits behind the point of what numbers are multiplied by; and of what the first side leaves.
const PLACES: i32 = 12;
const KEPT: i32 = 2;

/// Waves by rows, whole numbers.
pub type Waves = [f32; SIDE * SIDE];

/// Writes the block as bytes about 128, rows `stride` apart.
pub type Inverse = fn(waves: &Waves, out: &mut [u8], stride: usize);

/// The operations of one side, on one number or on several at once.
struct Sums<A, S, M, W, N> {
    add: A,
    sub: S,
    times: M,
    /// To [`PLACES`] behind the point, and half of what is rounded to.
    widened: W,
    /// Back to what is rounded to.
    narrowed: N,
}

impl<A, S, M, W, N> Sums<A, S, M, W, N> {
    #[inline(always)]
    fn one_side<T: Copy>(&self, from: [T; SIDE]) -> [T; SIDE]
    where
        A: Fn(T, T) -> T,
        S: Fn(T, T) -> T,
        M: Fn(T, i32) -> T,
        W: Fn(T) -> T,
        N: Fn(T) -> T,
    {
        let Sums { add, sub, times, widened, narrowed } = self;
        let both = times(add(from[2], from[6]), 2217);
        let (less, more) = (add(both, times(from[6], -7567)), add(both, times(from[2], 3135)));
        let sum = widened(add(from[0], from[4]));
        let difference = widened(sub(from[0], from[4]));
        let even = [add(sum, more), add(difference, less), sub(difference, less), sub(sum, more)];
        let [a, b, c, d] = [from[7], from[5], from[3], from[1]];
        let all = times(add(add(a, c), add(b, d)), 4816);
        let outer = add(all, times(add(a, d), -3685));
        let inner = add(all, times(add(b, c), -10497));
        let (first, second) = (times(add(a, c), -8034), times(add(b, d), -1597));
        let odd = [
            add(times(d, 6149), add(outer, second)),
            add(times(c, 12586), add(inner, first)),
            add(times(b, 8410), add(inner, second)),
            add(times(a, 1223), add(outer, first)),
        ];
        array::from_fn(|at| match at {
            0..4 => narrowed(add(even[at], odd[at])),
            _ => narrowed(sub(even[7 - at], odd[7 - at])),
        })
    }
}

/// Half of what the first side is rounded to; of what the second is, with 128 and half of the first one.
const HALF: [i32; 2] = [1 << (PLACES - KEPT - 1), (1 << 16) + (1 << 9) + (128 << 17)];
/// Bits that either side drops: the second those that the first has kept and the eight of both transforms, too.
const DROPPED: [i32; 2] = [PLACES - KEPT, PLACES + KEPT + 3];

/// The twin of the other.
pub fn plain(waves: &Waves, out: &mut [u8], stride: usize) {
    let side = |at: usize| Sums {
        add: i32::wrapping_add,
        sub: i32::wrapping_sub,
        times: i32::wrapping_mul,
        widened: move |it: i32| (it << PLACES).wrapping_add(HALF[at]),
        narrowed: move |it: i32| it >> DROPPED[at],
    };
    let mut block = waves.map(|it| it as i32);
    for column in 0..SIDE {
        let found = side(0).one_side(array::from_fn(|at| block[at * SIDE + column]));
        found.into_iter().enumerate().for_each(|(at, it)| block[at * SIDE + column] = it);
    }
    for (row, out) in block.as_chunks::<SIDE>().0.iter().zip(out.chunks_mut(stride)) {
        let row = side(1).one_side(*row);
        out.iter_mut().zip(row).for_each(|(out, it)| *out = it.clamp(0, 255) as u8);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub fn avx2(waves: &Waves, out: &mut [u8], stride: usize) {
    use std::arch::x86_64::*;
    assert!((SIDE - 1) * stride + SIDE <= out.len());
    let add = |a, b| _mm256_add_epi32(a, b);
    let sub = |a, b| _mm256_sub_epi32(a, b);
    let times = |a, by| _mm256_mullo_epi32(a, _mm256_set1_epi32(by));
    let widen = |it, half| add(_mm256_slli_epi32::<PLACES>(it), _mm256_set1_epi32(half));
    let widened = |it| widen(it, HALF[0]);
    let narrowed = |it| _mm256_srai_epi32::<{ DROPPED[0] }>(it);
    let first = Sums { add, sub, times, widened, narrowed };
    let widened = |it| widen(it, HALF[1]);
    let narrowed = |it| _mm256_srai_epi32::<{ DROPPED[1] }>(it);
    let second = Sums { add, sub, times, widened, narrowed };
    let turned = |from: [__m256i; SIDE]| {
        let mut pairs = from;
        for at in 0..4 {
            pairs[2 * at] = _mm256_unpacklo_epi32(from[2 * at], from[2 * at + 1]);
            pairs[2 * at + 1] = _mm256_unpackhi_epi32(from[2 * at], from[2 * at + 1]);
        }
        let mut fours = from;
        for at in 0..2 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|it| pairs[4 * at + it]);
            fours[4 * at] = _mm256_unpacklo_epi64(a, c);
            fours[4 * at + 1] = _mm256_unpackhi_epi64(a, c);
            fours[4 * at + 2] = _mm256_unpacklo_epi64(b, d);
            fours[4 * at + 3] = _mm256_unpackhi_epi64(b, d);
        }
        let mut all = from;
        for at in 0..4 {
            all[at] = _mm256_permute2x128_si256::<0x20>(fours[at], fours[at + 4]);
            all[at + 4] = _mm256_permute2x128_si256::<0x31>(fours[at], fours[at + 4]);
        }
        all
    };
    let rows = array::from_fn(|at| {
        // SAFETY: eight rows of eight numbers are there; loads need no alignment.
        _mm256_cvttps_epi32(unsafe { _mm256_loadu_ps(waves.as_ptr().add(at * SIDE)) })
    });
    let rows = turned(second.one_side(turned(first.one_side(rows))));
    // Packing takes turns between the halves of the rows.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for at in 0..2 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|it| rows[4 * at + it]);
        let packed = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let packed = _mm256_permutevar8x32_epi32(packed, order);
        let (low, high) = (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
        let four = [low, _mm_unpackhi_epi64(low, low), high, _mm_unpackhi_epi64(high, high)];
        for (row, bytes) in four.into_iter().enumerate() {
            // SAFETY: eight bytes of the last row end within `out`, as was asserted.
            unsafe {
                _mm_storel_epi64(out.as_mut_ptr().add((4 * at + row) * stride).cast(), bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each number, the sum of all waves at its place.
    fn slowly(waves: &Waves, x: usize, y: usize) -> f64 {
        let wave = |at: usize, of: usize| {
            let scale = if of == 0 { 0.125f64.sqrt() } else { 0.5 };
            scale * ((2 * at + 1) as f64 * of as f64 * std::f64::consts::PI / 16.0).cos()
        };
        let each = waves.iter().enumerate();
        each.map(|(at, it)| f64::from(*it) * wave(y, at / SIDE) * wave(x, at % SIDE)).sum()
    }

    #[test]
    fn blocks_are_the_sum_of_their_waves() {
        arbtest::arbtest(|u| {
            let mut waves = [0.0; SIDE * SIDE];
            for wave in &mut waves {
                let is_some = u.ratio(1, 4)?;
                *wave = if is_some { f32::from(u.int_in_range(-900i16..=900)?) } else { 0.0 };
            }
            let stride = u.int_in_range(SIDE..=20)?;
            let mut expected = vec![9; 8 * stride];
            plain(&waves, &mut expected, stride);
            for (at, byte) in expected.iter().enumerate() {
                let (x, y) = (at % stride, at / stride);
                if SIDE <= x {
                    assert_eq!(*byte, 9);
                    continue;
                }
                let off = (slowly(&waves, x, y) + 128.0).clamp(0.0, 255.0) - f64::from(*byte);
                assert!(off.abs() < 1.5, "{off} at {x}, {y}");
            }
            let mut found = vec![9; 8 * stride];
            super::super::inverse(&waves, &mut found, stride);
            assert_eq!(found, expected);
            Ok(())
        });
    }
}
