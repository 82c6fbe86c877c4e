//! Loops over plain slices, compiled once for each width of registers; the compiler makes them as wide.

/// What is computed.
pub trait Loops {
    /// What comes of it.
    type Output;

    /// Computes it. To be `#[inline(always)]`: only what becomes part of its caller is compiled as that is.
    fn run(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<L: Loops>(loops: L) -> L::Output {
    loops.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
fn avx512<L: Loops>(loops: L) -> L::Output {
    loops.run()
}

/// Runs loops by the widest registers of the machine. No sum is taken in another order for it, so that all machines
/// say the same.
pub fn widest<L: Loops>(loops: L) -> L::Output {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        return match has_avx512 {
            // SAFETY: the features were just found.
            true => unsafe { avx512(loops) },
            // SAFETY: the features were just found.
            false => unsafe { avx2(loops) },
        };
    }
    loops.run()
}

/// In a loop over numbers of several vectors, keeps the compiler from taking the same vector's of several turns at once, which
/// lie apart: what is side by side fills a register.
#[inline(always)]
pub fn side_by_side<const VECTORS: usize>() {
    if 1 < VECTORS {
        std::hint::black_box(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Product<'a>(&'a [f32], &'a [f32]);

    impl Loops for Product<'_> {
        type Output = f32;

        #[inline(always)]
        fn run(self) -> f32 {
            super::super::products::dot(self.0, self.1)
        }
    }

    #[test]
    fn all_widths_say_the_same() {
        arbtest::arbtest(|u| {
            let count = u.int_in_range(0..=70)?;
            let mut numbers = || -> arbtest::arbitrary::Result<Vec<f32>> {
                (0..count).map(|_| Ok(f32::from(u.arbitrary::<i16>()?) / 777.0)).collect()
            };
            let (a, b) = (numbers()?, numbers()?);
            let expected = Product(&a, &b).run();
            assert_eq!(widest(Product(&a, &b)), expected);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the features were just found.
                assert_eq!(unsafe { avx2(Product(&a, &b)) }, expected);
            }
            Ok(())
        });
    }
}
