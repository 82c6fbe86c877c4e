//! Sums of looked-up bytes, 32 rows at a time: a shuffle looks sixteen codes up at once.
//!
//! André et al., "Cache locality is not enough" (2015), called fast scan.

/// Rows that are summed at a time.
pub const LANES: usize = 32;
/// Bytes of a table, and of the rows' codes that look up in it.
pub const TABLE: usize = 16;
/// Tables whose largest sum fits in sixteen bits.
const MOST: usize = 256;

/// Sums what rows look up in the tables; their codes are laid as [`Lay`] lays them.
pub type Sums = fn(tables: &[u8], codes: &[u8]) -> [u32; LANES];

/// Adds codes to others, laid as these kernels read them.
pub type Lay = fn(codes: &[u8], out: &mut Vec<u8>);

/// As they are.
pub fn as_is(codes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(codes);
}

/// The twin of all the others.
pub fn plain(tables: &[u8], codes: &[u8]) -> [u32; LANES] {
    let mut sums = [0; LANES];
    for (table, codes) in tables.as_chunks::<TABLE>().0.iter().zip(codes.as_chunks::<TABLE>().0) {
        for (lane, byte) in codes.iter().enumerate() {
            sums[lane] += u32::from(table[usize::from(byte & 15)]);
            sums[lane + TABLE] += u32::from(table[usize::from(byte >> 4)]);
        }
    }
    sums
}

/// Sums parts that sixteen bits are enough for.
#[inline(always)]
fn in_parts(
    part: impl Fn(&[u8], &[u8]) -> [u16; LANES],
    tables: &[u8],
    codes: &[u8],
) -> [u32; LANES] {
    let mut sums = [0; LANES];
    for (tables, codes) in tables.chunks(TABLE * MOST).zip(codes.chunks(TABLE * MOST)) {
        let part = part(tables, codes);
        sums.iter_mut().zip(part).for_each(|(sum, it)| *sum += u32::from(it));
    }
    sums
}

/// Adds the sums of what the wide loop left over.
#[inline]
fn finished(mut sums: [u16; LANES], tables: &[u8], codes: &[u8]) -> [u16; LANES] {
    if tables.is_empty() {
        return sums;
    }
    for (sum, more) in sums.iter_mut().zip(plain(tables, codes)) {
        *sum += more as u16;
    }
    sums
}

/// Tables that one instruction looks up in.
#[cfg(target_arch = "x86_64")]
const FOUR: usize = 4;
#[cfg(target_arch = "x86_64")]
const FOUR_TABLES: usize = FOUR * TABLE;

/// Lays the codes of a row for four tables side by side.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vbmi")]
pub fn lay_fours(codes: &[u8], out: &mut Vec<u8>) {
    use std::arch::x86_64::*;
    let places: [u8; FOUR_TABLES] = std::array::from_fn(|at| (at % FOUR * TABLE + at / FOUR) as u8);
    let (fours, rest) = codes.as_chunks::<FOUR_TABLES>();
    for four in fours {
        let mut laid = [0u8; FOUR_TABLES];
        // SAFETY: each side holds 64 bytes; loads and stores need no alignment.
        unsafe {
            let places = _mm512_loadu_si512(places.as_ptr().cast());
            let codes = _mm512_loadu_si512(four.as_ptr().cast());
            let found = _mm512_permutexvar_epi8(places, codes);
            _mm512_storeu_si512(laid.as_mut_ptr().cast(), found);
        }
        out.extend_from_slice(&laid);
    }
    out.extend_from_slice(rest);
}

/// Of [`lay_fours`]: sixteen rows look four tables up at once, and another instruction adds the four to their sum.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
#[inline]
pub fn fours(tables: &[u8], codes: &[u8]) -> [u32; LANES] {
    use std::arch::x86_64::*;
    /// `(a & b) | c`
    const MASKED_OR: i32 = 0xEA;
    let (tables, last_tables) = tables.as_chunks::<FOUR_TABLES>();
    let (codes, last_codes) = codes.as_chunks::<FOUR_TABLES>();
    let (low, one) = (_mm512_set1_epi8(15), _mm512_set1_epi8(1));
    // A byte's own table among the four.
    let own = _mm512_set1_epi32(0x3020_1000);
    // Two sums of each half, as one waits for the one before.
    let mut halves = [[_mm512_setzero_si512(); 2]; 2];
    for (table, code) in tables.chunks(2).zip(codes.chunks(2)) {
        // By numbers that the compiler knows, so that sums stay in registers.
        for turn in 0..2 {
            let (Some(table), Some(code)) = (table.get(turn), code.get(turn)) else {
                break;
            };
            // SAFETY: each side holds 64 bytes; loads need no alignment.
            let (table, code) = unsafe {
                (
                    _mm512_loadu_si512(table.as_ptr().cast()),
                    _mm512_loadu_si512(code.as_ptr().cast()),
                )
            };
            let codes = [code, _mm512_srli_epi16::<4>(code)];
            for (half, code) in halves.iter_mut().zip(codes) {
                let place = _mm512_ternarylogic_epi32::<MASKED_OR>(code, low, own);
                let found = _mm512_permutexvar_epi8(place, table);
                half[turn] = _mm512_dpbusd_epi32(half[turn], found, one);
            }
        }
    }
    let mut sums = [0u32; LANES];
    for (sums, [a, b]) in sums.as_chunks_mut::<TABLE>().0.iter_mut().zip(halves) {
        // SAFETY: the array holds sixteen numbers.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), _mm512_add_epi32(a, b)) };
    }
    if !last_tables.is_empty() {
        let last = plain(last_tables, last_codes);
        sums.iter_mut().zip(last).for_each(|(sum, it)| *sum += it);
    }
    sums
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
pub fn avx2(tables: &[u8], codes: &[u8]) -> [u32; LANES] {
    in_parts(|tables, codes| avx2_part(tables, codes), tables, codes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn avx2_part(tables: &[u8], codes: &[u8]) -> [u16; LANES] {
    use std::arch::x86_64::*;
    const WIDTH: usize = 32;
    let length = tables.len().min(codes.len());
    let whole = length - length % WIDTH;
    let low = _mm256_set1_epi8(15);
    // Sixteen-bit lanes hold an even row's sum plus 256 times the odd row's; and the odd row's alone.
    let mut mixed = [_mm256_setzero_si256(); 2];
    let mut odd = [_mm256_setzero_si256(); 2];
    for at in (0..whole).step_by(WIDTH) {
        // SAFETY: `at + WIDTH <= length`, and both sides hold `length` bytes; loads need no alignment.
        let (table, code) = unsafe {
            (
                _mm256_loadu_si256(tables.as_ptr().add(at).cast()),
                _mm256_loadu_si256(codes.as_ptr().add(at).cast()),
            )
        };
        let halves =
            [_mm256_and_si256(code, low), _mm256_and_si256(_mm256_srli_epi16::<4>(code), low)];
        for (half, code) in halves.into_iter().enumerate() {
            let found = _mm256_shuffle_epi8(table, code);
            mixed[half] = _mm256_add_epi16(mixed[half], found);
            odd[half] = _mm256_add_epi16(odd[half], _mm256_srli_epi16::<8>(found));
        }
    }
    let folded = |it| _mm_add_epi16(_mm256_castsi256_si128(it), _mm256_extracti128_si256::<1>(it));
    let mut sums = [0u16; LANES];
    for half in 0..2 {
        interleave(folded(mixed[half]), folded(odd[half]), &mut sums, half);
    }
    finished(sums, &tables[whole..length], &codes[whole..length])
}

/// Writes sixteen rows' sums: those of odd rows, and those of even rows, to which 256 times the others
/// were added.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn interleave(
    mixed: std::arch::x86_64::__m128i,
    odd: std::arch::x86_64::__m128i,
    sums: &mut [u16; LANES],
    half: usize,
) {
    use std::arch::x86_64::*;
    let even = _mm_sub_epi16(mixed, _mm_slli_epi16::<8>(odd));
    let both = [_mm_unpacklo_epi16(even, odd), _mm_unpackhi_epi16(even, odd)];
    for (sums, both) in sums[TABLE * half..].as_chunks_mut::<8>().0.iter_mut().zip(both) {
        // SAFETY: the array holds eight numbers.
        unsafe { _mm_storeu_si128(sums.as_mut_ptr().cast(), both) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub fn avx512(tables: &[u8], codes: &[u8]) -> [u32; LANES] {
    in_parts(|tables, codes| avx512_part(tables, codes), tables, codes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn avx512_part(tables: &[u8], codes: &[u8]) -> [u16; LANES] {
    use std::arch::x86_64::*;
    const WIDTH: usize = 64;
    let length = tables.len().min(codes.len());
    let whole = length - length % WIDTH;
    let low = _mm512_set1_epi8(15);
    // As in `avx2`, with four tables at once.
    let mut mixed = [_mm512_setzero_si512(); 2];
    let mut odd = [_mm512_setzero_si512(); 2];
    for at in (0..whole).step_by(WIDTH) {
        // SAFETY: `at + WIDTH <= length`, and both sides hold `length` bytes; loads need no alignment.
        let (table, code) = unsafe {
            (
                _mm512_loadu_si512(tables.as_ptr().add(at).cast()),
                _mm512_loadu_si512(codes.as_ptr().add(at).cast()),
            )
        };
        let halves =
            [_mm512_and_si512(code, low), _mm512_and_si512(_mm512_srli_epi16::<4>(code), low)];
        for (half, code) in halves.into_iter().enumerate() {
            let found = _mm512_shuffle_epi8(table, code);
            mixed[half] = _mm512_add_epi16(mixed[half], found);
            odd[half] = _mm512_add_epi16(odd[half], _mm512_srli_epi16::<8>(found));
        }
    }
    let folded = |it| {
        let half = _mm256_add_epi16(_mm512_castsi512_si256(it), _mm512_extracti64x4_epi64::<1>(it));
        _mm_add_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
    };
    let mut sums = [0u16; LANES];
    for half in 0..2 {
        interleave(folded(mixed[half]), folded(odd[half]), &mut sums, half);
    }
    finished(sums, &tables[whole..length], &codes[whole..length])
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
#[inline]
pub fn neon(tables: &[u8], codes: &[u8]) -> [u32; LANES] {
    in_parts(|tables, codes| neon_part(tables, codes), tables, codes)
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
#[inline]
fn neon_part(tables: &[u8], codes: &[u8]) -> [u16; LANES] {
    use std::arch::aarch64::*;
    let mut totals = [vdupq_n_u16(0); 4];
    for (table, codes) in tables.as_chunks::<TABLE>().0.iter().zip(codes.as_chunks::<TABLE>().0) {
        // SAFETY: both arrays hold sixteen bytes.
        let (table, code) = unsafe { (vld1q_u8(table.as_ptr()), vld1q_u8(codes.as_ptr())) };
        let halves = [vandq_u8(code, vdupq_n_u8(15)), vshrq_n_u8::<4>(code)];
        for (half, code) in halves.into_iter().enumerate() {
            let found = vqtbl1q_u8(table, code);
            totals[2 * half] = vaddw_u8(totals[2 * half], vget_low_u8(found));
            totals[2 * half + 1] = vaddw_high_u8(totals[2 * half + 1], found);
        }
    }
    let mut sums = [0u16; LANES];
    for (at, lanes) in totals.into_iter().enumerate() {
        // SAFETY: eight numbers from `8 * at` on are within the 32.
        unsafe { vst1q_u16(sums.as_mut_ptr().add(8 * at), lanes) };
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_agree_with_the_plain_twin() {
        arbtest::arbtest(|u| {
            let tables = u.int_in_range(0..=MOST + 9)?;
            let mut bytes = |all: bool| -> arbtest::arbitrary::Result<Vec<u8>> {
                (0..TABLE * tables).map(|_| if all { Ok(255) } else { u.arbitrary() }).collect()
            };
            let codes = bytes(false)?;
            for tables in [bytes(false)?, bytes(true)?] {
                let expected = plain(&tables, &codes);
                let mut laid = vec![1];
                super::super::lay(&codes, &mut laid);
                assert_eq!(super::super::sums(&tables, &laid[1..]), expected);
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx512bw") {
                    // SAFETY: the feature was just found.
                    assert_eq!(unsafe { avx512(&tables, &codes) }, expected);
                }
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the feature was just found.
                    assert_eq!(unsafe { avx2(&tables, &codes) }, expected);
                }
            }
            Ok(())
        });
    }
}
