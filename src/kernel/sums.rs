//! Sums of looked-up bytes, 32 rows at a time: a shuffle looks sixteen codes up at once.
//!
//! André et al., "Cache locality is not enough" (2015), called fast scan.

/// Rows that are summed at a time.
pub const LANES: usize = 32;
/// Bytes of a table, and of the rows' codes that look up in it.
pub const TABLE: usize = 16;
/// Tables whose largest sum fits in sixteen bits.
pub const MOST_TABLES: usize = 256;

pub type Sums = fn(tables: &[u8], codes: &[u8]) -> [u16; LANES];

/// The twin of all the others.
pub fn plain(tables: &[u8], codes: &[u8]) -> [u16; LANES] {
    let mut sums = [0u16; LANES];
    for (table, codes) in tables.as_chunks::<TABLE>().0.iter().zip(codes.as_chunks::<TABLE>().0) {
        for (lane, byte) in codes.iter().enumerate() {
            sums[lane] += u16::from(table[usize::from(byte & 15)]);
            sums[lane + TABLE] += u16::from(table[usize::from(byte >> 4)]);
        }
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
        *sum += more;
    }
    sums
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
pub fn avx2(tables: &[u8], codes: &[u8]) -> [u16; LANES] {
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
pub fn avx512(tables: &[u8], codes: &[u8]) -> [u16; LANES] {
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
pub fn neon(tables: &[u8], codes: &[u8]) -> [u16; LANES] {
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
            let tables = u.int_in_range(0..=MOST_TABLES)?;
            let mut bytes = |all: bool| -> arbtest::arbitrary::Result<Vec<u8>> {
                (0..TABLE * tables).map(|_| if all { Ok(255) } else { u.arbitrary() }).collect()
            };
            let codes = bytes(false)?;
            for tables in [bytes(false)?, bytes(true)?] {
                let expected = plain(&tables, &codes);
                assert_eq!(super::super::sums(&tables, &codes), expected);
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
