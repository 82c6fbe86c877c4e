//! Lines of bytes as weighted sums: several lines into one, and one into a line of another length.
//!
//! A byte comes to `(half + sum of weight * byte) >> places`, within what a byte holds; `half` is what rounds.

/// Bytes that are made at once, four and four.
const STEP: usize = 16;
/// Those that are made of the same [`READ`] bytes.
const FOUR: usize = 4;
/// Bytes that are read at once.
const READ: usize = 16;
/// A place that nothing is read from.
const NOWHERE: u8 = 0x80;

/// What sixteen bytes take of two neighbours each. The first four lie beside the third, the second beside the last, as kernels have
/// them in one register.
#[derive(Clone)]
struct Pair {
    /// Where each four read from.
    from: [usize; STEP / FOUR],
    /// Where the neighbours are within what is read, nothing behind each.
    places: [[u8; 2 * READ]; 2],
    weights: [[i16; READ]; 2],
}

/// How a line becomes one of another length.
pub struct Across {
    /// (steps, pairs of neighbours)
    taken: Vec<Pair>,
    pairs: usize,
    places: u32,
    /// Bytes of the line that is read, at least, and of the one that is written.
    read: usize,
    written: usize,
}

impl Across {
    /// For a line of so many bytes, each of which takes from as many others, `apart` from each other: `of` says which is the first, and
    /// with what weights. None where what four bytes take lies too far apart.
    pub fn new<'a>(
        bytes: usize,
        apart: usize,
        of: impl Fn(usize) -> (usize, &'a [i16]),
        places: u32,
    ) -> Option<Across> {
        let pairs = of(0).1.len().div_ceil(2);
        let steps = bytes.div_ceil(STEP);
        let nothing = Pair {
            from: [0; STEP / FOUR],
            places: [[NOWHERE; 2 * READ]; 2],
            weights: [[0; READ]; 2],
        };
        let mut across = Across {
            taken: vec![nothing; steps * pairs],
            pairs,
            places,
            read: READ,
            written: STEP * steps,
        };
        for first in (0..bytes).step_by(FOUR) {
            let (step, four) = (first / STEP, first % STEP / FOUR);
            let those = first..bytes.min(first + FOUR);
            for pair in 0..pairs {
                let taken = those.clone().zip(0..).flat_map(|(byte, lane)| {
                    let (from, weights) = of(byte);
                    let weights = weights.iter().enumerate().skip(2 * pair).take(2);
                    let taken = weights.filter(|it| *it.1 != 0);
                    taken.map(move |(at, it)| (2 * lane + at % 2, from + apart * at, *it))
                });
                let Some(from) = taken.clone().map(|it| it.1).min() else { continue };
                across.read = across.read.max(from + READ);
                let to = &mut across.taken[step * pairs + pair];
                to.from[four] = from;
                let (side, half) = (four % 2, four / 2);
                for (lane, at, weight) in taken {
                    let place =
                        u8::try_from(at - from).ok().filter(|it| usize::from(*it) < READ)?;
                    to.places[side][READ * half + 2 * lane] = place;
                    to.weights[side][READ / 2 * half + lane] = weight;
                }
            }
        }
        Some(across)
    }

    /// Bytes that the line must have that is read: some behind the last that is taken.
    pub fn read(&self) -> usize {
        self.read
    }

    /// Bytes that are written: some behind those asked for.
    pub fn written(&self) -> usize {
        self.written
    }

    fn fits(&self, line: &[u8], out: &[u8]) -> bool {
        self.read <= line.len() && self.written <= out.len()
    }
}

/// What rounds a sum whose last so many bits are dropped.
fn half(places: u32) -> i32 {
    (1 << places) >> 1
}

/// One line into another; the lines are as long as [`Across`] says.
type IntoOther = fn(across: &Across, line: &[u8], out: &mut [u8]);
/// Lines into one, whose length is that of each.
type IntoOne = fn(lines: &[&[u8]], weights: &[i16], places: u32, out: &mut [u8]);

/// The kernels of one set of instructions.
pub struct Lines {
    pub across: IntoOther,
    pub down: IntoOne,
}

/// The twins of all the others.
#[cfg(test)]
const PLAIN: Lines = Lines { across: across_plain, down: down_plain };

#[cfg(test)]
fn across_plain(across: &Across, line: &[u8], out: &mut [u8]) {
    assert!(across.fits(line, out));
    let steps = across.taken.chunks(across.pairs.max(1));
    for (pairs, out) in steps.zip(out.as_chunks_mut::<STEP>().0) {
        for (at, out) in out.iter_mut().enumerate() {
            let (four, lane) = (at / FOUR, at % FOUR);
            let (side, half_at) = (four % 2, four / 2);
            let mut sum = half(across.places);
            for pair in pairs {
                for lane in 2 * lane..2 * lane + 2 {
                    let place = pair.places[side][READ * half_at + 2 * lane];
                    if place != NOWHERE {
                        let byte = line[pair.from[four] + usize::from(place)];
                        let weight = pair.weights[side][READ / 2 * half_at + lane];
                        sum += i32::from(weight) * i32::from(byte);
                    }
                }
            }
            *out = (sum >> across.places).clamp(0, 255) as u8;
        }
    }
}

fn down_plain(lines: &[&[u8]], weights: &[i16], places: u32, out: &mut [u8]) {
    for (at, out) in out.iter_mut().enumerate() {
        let each = lines.iter().zip(weights);
        let sum: i32 = each.map(|(line, it)| i32::from(*it) * i32::from(line[at])).sum();
        *out = ((sum + half(places)) >> places).clamp(0, 255) as u8;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub fn across_avx2(across: &Across, line: &[u8], out: &mut [u8]) {
    use std::arch::x86_64::*;
    assert!(across.fits(line, out));
    let half = _mm256_set1_epi32(half(across.places));
    let places = _mm_cvtsi32_si128(across.places as i32);
    // SAFETY: what is read ends within the line, as was asserted and `Across::new` sees to; loads need no alignment.
    let read = |from: usize| unsafe { _mm_loadu_si128(line.as_ptr().add(from).cast()) };
    let steps = across.taken.chunks(across.pairs.max(1));
    for (pairs, out) in steps.zip(out.as_chunks_mut::<STEP>().0) {
        let mut sums = [half; 2];
        for pair in pairs {
            for (side, sum) in sums.iter_mut().enumerate() {
                let bytes = _mm256_set_m128i(read(pair.from[side + 2]), read(pair.from[side]));
                // SAFETY: both arrays hold 32 bytes.
                let (places, weights) = unsafe {
                    (
                        _mm256_loadu_si256(pair.places[side].as_ptr().cast()),
                        _mm256_loadu_si256(pair.weights[side].as_ptr().cast()),
                    )
                };
                let taken = _mm256_shuffle_epi8(bytes, places);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(taken, weights));
            }
        }
        let [first, second] = sums.map(|it| _mm256_sra_epi32(it, places));
        let packed = _mm256_packs_epi32(first, second);
        let packed = _mm256_packus_epi16(packed, packed);
        let (low, high) = (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
        // SAFETY: the array holds sixteen bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_unpacklo_epi64(low, high)) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub fn down_avx2(lines: &[&[u8]], weights: &[i16], places: u32, out: &mut [u8]) {
    use std::arch::x86_64::*;
    const WIDTH: usize = 32;
    assert!(lines.iter().all(|it| out.len() <= it.len()));
    if out.len() < WIDTH {
        return down_plain(lines, weights, places, out);
    }
    let half = _mm256_set1_epi32(half(places));
    let shift = _mm_cvtsi32_si128(places as i32);
    let zero = _mm256_setzero_si256();
    for at in (0..out.len()).step_by(WIDTH) {
        // The last ones are made twice where the length is no multiple.
        let at = at.min(out.len() - WIDTH);
        // SAFETY: the bytes from `at` on are within every line; loads need no alignment.
        let read = |line: &[u8]| unsafe { _mm256_loadu_si256(line.as_ptr().add(at).cast()) };
        let mut sums = [half; 4];
        for (lines, weights) in lines.chunks(2).zip(weights.chunks(2)) {
            let (first, second) = (read(lines[0]), read(lines[lines.len() - 1]));
            // An odd one is beside itself, with no weight.
            let other = if lines.len() == 2 { weights[1] } else { 0 };
            let both = _mm256_set1_epi32(i32::from(other) << 16 | i32::from(weights[0]) & 0xFFFF);
            let low = _mm256_unpacklo_epi8(first, second);
            let high = _mm256_unpackhi_epi8(first, second);
            let mixed = [
                _mm256_unpacklo_epi8(low, zero),
                _mm256_unpackhi_epi8(low, zero),
                _mm256_unpacklo_epi8(high, zero),
                _mm256_unpackhi_epi8(high, zero),
            ];
            for (sum, mixed) in sums.iter_mut().zip(mixed) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(mixed, both));
            }
        }
        let [a, b, c, d] = sums.map(|it| _mm256_sra_epi32(it, shift));
        // Packing undoes the order that unpacking made.
        let packed = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        // SAFETY: the bytes from `at` on are within what is written.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), packed) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that can run here.
    fn kernels() -> impl Iterator<Item = &'static Lines> {
        std::iter::once(&PLAIN).chain(super::super::lines())
    }

    #[test]
    fn a_line_across_is_that_of_sums_byte_by_byte() {
        arbtest::arbtest(|u| {
            let (bytes, taps, places) =
                (u.int_in_range(1..=70)?, u.int_in_range(1..=5)?, u.int_in_range(0..=15)?);
            let apart = u.int_in_range(1..=3)?;
            let firsts: Vec<usize> = (0..bytes).map(|at| at / 2).collect();
            let weights: Vec<i16> =
                (0..bytes * taps).map(|_| u.arbitrary()).collect::<Result<_, _>>()?;
            let of = |byte: usize| (firsts[byte], &weights[byte * taps..][..taps]);
            let across = Across::new(bytes, apart, of, places).unwrap();
            let length = across.read().max(bytes + apart * taps);
            let line: Vec<u8> = (0..length).map(|_| u.arbitrary()).collect::<Result<_, _>>()?;
            let expected: Vec<u8> = (0..bytes)
                .map(|byte| {
                    let (from, weights) = of(byte);
                    let each = weights.iter().zip(line[from..].iter().step_by(apart));
                    let sum: i32 = each.map(|(it, byte)| i32::from(*it) * i32::from(*byte)).sum();
                    ((sum + half(places)) >> places).clamp(0, 255) as u8
                })
                .collect();
            for kernels in kernels() {
                let mut out = vec![7; across.written() + 3];
                (kernels.across)(&across, &line, &mut out);
                assert_eq!(out[..bytes], expected);
                assert_eq!(out[across.written()..], [7; 3]);
            }
            Ok(())
        });
    }

    #[test]
    fn what_lies_too_far_apart_is_left_to_others() {
        let of = |apart: usize| move |byte: usize| (apart * byte, &[1i16, 1][..]);
        assert!(Across::new(40, 3, of(4), 0).is_some());
        assert!(Across::new(40, 3, of(5), 0).is_none());
        assert!(Across::new(40, 16, of(0), 0).is_none());
    }

    #[test]
    fn lines_down_are_those_of_the_plain_twin() {
        arbtest::arbtest(|u| {
            let (count, bytes) = (u.int_in_range(1..=6)?, u.int_in_range(0..=70)?);
            let places = u.int_in_range(0..=15)?;
            let mut lines = Vec::new();
            for _ in 0..count {
                lines.push(u.bytes(bytes)?);
            }
            let weights: Vec<i16> = (0..count).map(|_| u.arbitrary()).collect::<Result<_, _>>()?;
            let (mut expected, mut out) = (vec![0; bytes], vec![0; bytes]);
            down_plain(&lines, &weights, places, &mut expected);
            for kernels in kernels() {
                (kernels.down)(&lines, &weights, places, &mut out);
                assert_eq!(out, expected);
            }
            Ok(())
        });
    }
}
