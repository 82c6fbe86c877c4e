//! Dot products of a query with high planes: floats times bfloat16.

/// Adds up `query[i] * high[i]`, `high` being little-endian bfloat16, two bytes a number; the
/// shorter side decides the length.
pub type Dot = fn(query: &[f32], high: &[u8]) -> f32;

/// The twin of all the others.
pub fn plain(query: &[f32], high: &[u8]) -> f32 {
    query.iter().zip(high.as_chunks::<2>().0).map(|(a, b)| a * widened(*b)).sum()
}

fn widened(high: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(high)) << 16)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub fn avx2(query: &[f32], high: &[u8]) -> f32 {
    use std::arch::x86_64::*;
    const LANES: usize = 8;
    const AT_ONCE: usize = 4 * LANES;
    let length = query.len().min(high.len() / 2);
    let mut sums = [_mm256_setzero_ps(); 4];
    let whole = length - length % AT_ONCE;
    for at in (0..whole).step_by(AT_ONCE) {
        for (part, sum) in sums.iter_mut().enumerate() {
            let at = at + part * LANES;
            // SAFETY: `at + LANES <= length`, and both sides hold `length` numbers; loads need no alignment.
            let (numbers, halves) = unsafe {
                (
                    _mm256_loadu_ps(query.as_ptr().add(at)),
                    _mm_loadu_si128(high.as_ptr().add(2 * at).cast()),
                )
            };
            let widened = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves));
            *sum = _mm256_fmadd_ps(numbers, _mm256_castsi256_ps(widened), *sum);
        }
    }
    let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    let mut lanes = [0.0f32; LANES];
    // SAFETY: the array holds eight floats.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
    lanes.iter().sum::<f32>() + plain(&query[whole..length], &high[2 * whole..])
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub fn avx512(query: &[f32], high: &[u8]) -> f32 {
    use std::arch::x86_64::*;
    const LANES: usize = 16;
    const AT_ONCE: usize = 4 * LANES;
    let length = query.len().min(high.len() / 2);
    let mut sums = [_mm512_setzero_ps(); 4];
    let whole = length - length % AT_ONCE;
    for at in (0..whole).step_by(AT_ONCE) {
        for (part, sum) in sums.iter_mut().enumerate() {
            let at = at + part * LANES;
            // SAFETY: `at + LANES <= length`, and both sides hold `length` numbers; loads need no alignment.
            let (numbers, halves) = unsafe {
                (
                    _mm512_loadu_ps(query.as_ptr().add(at)),
                    _mm256_loadu_si256(high.as_ptr().add(2 * at).cast()),
                )
            };
            let widened = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves));
            *sum = _mm512_fmadd_ps(numbers, _mm512_castsi512_ps(widened), *sum);
        }
    }
    let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    _mm512_reduce_add_ps(sum) + plain(&query[whole..length], &high[2 * whole..])
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
pub fn neon(query: &[f32], high: &[u8]) -> f32 {
    use std::arch::aarch64::*;
    const LANES: usize = 4;
    const AT_ONCE: usize = 4 * LANES;
    let length = query.len().min(high.len() / 2);
    let mut sums = [vdupq_n_f32(0.0); 4];
    let whole = length - length % AT_ONCE;
    for at in (0..whole).step_by(AT_ONCE) {
        for (part, sum) in sums.iter_mut().enumerate() {
            let at = at + part * LANES;
            // SAFETY: `at + LANES <= length`, and both sides hold `length` numbers; loads need no alignment.
            let (numbers, halves) =
                unsafe { (vld1q_f32(query.as_ptr().add(at)), vld1_u8(high.as_ptr().add(2 * at))) };
            let widened = vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(halves)));
            *sum = vfmaq_f32(*sum, numbers, widened);
        }
    }
    let sum = vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]));
    vaddvq_f32(sum) + plain(&query[whole..length], &high[2 * whole..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_agree_with_the_plain_twin() {
        arbtest::arbtest(|u| {
            let numbers: Vec<(i16, i16)> = u.arbitrary()?;
            let query: Vec<f32> = numbers.iter().map(|it| f32::from(it.0) / 32768.0).collect();
            let other: Vec<f32> = numbers.iter().map(|it| f32::from(it.1) / 32768.0).collect();
            let high = other.iter().map(|it| (it.to_bits() >> 16) as u16);
            let high: Vec<u8> = high.flat_map(u16::to_le_bytes).collect();
            let expected = plain(&query, &high);
            let most = 1e-6 * (1.0 + query.len() as f32);
            assert!((super::super::dot(&query, &high) - expected).abs() <= most);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: both features were just found.
                assert!((unsafe { avx2(&query, &high) } - expected).abs() <= most);
            }
            Ok(())
        });
    }
}
