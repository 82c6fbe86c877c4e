//! The loops that searching and preprocessing spend their time in, by the widest instructions of the machine.
//!
//! Each has a plain twin that a property test compares it with.
#![allow(unsafe_code)]

mod bytes;
mod dot;
mod scan;
mod sums;
mod products;
mod panels;
mod tables;
mod lines;
mod waves;
mod widest;

use std::sync::LazyLock;

#[cfg(test)]
pub use bytes::plain as plain_bytes;
pub use bytes::{BytePanels, ByteRows, FOUR, Fars, MOVED};
pub use lines::{Across, Lines};
pub use panels::{ROWS, WIDTH, panels};
pub use products::{dot as product, summed};
pub use scan::{Groups, Line, Scanned};
pub use sums::{LANES, TABLE};
pub use tables::{NUMBERS, Scale};
pub use waves::Waves;
pub use widest::{Loops, side_by_side, widest};

struct Kernels {
    name: &'static str,
    dot: dot::Dot,
    lay: sums::Lay,
    sums: sums::Sums,
    scan: scan::Scan,
    products: products::Products,
    panel: panels::Panel,
    least: panels::Least,
    tables: tables::Tables,
    inverse: waves::Inverse,
}

static CHOSEN: LazyLock<Kernels> = LazyLock::new(choose);

/// The dot product of floats with a high plane; the shorter side decides the length.
pub fn dot(query: &[f32], high: &[u8]) -> f32 {
    (CHOSEN.dot)(query, high)
}

/// Adds a plane of codes to others, laid as [`sums`] and [`scan`] read them on this machine.
///
/// A plane holds [`TABLE`] bytes for each table: the rows' codes, row `i` in the lower half of byte `i` or, from 16 on, the
/// upper half of byte `i - 16`.
pub fn lay(plane: &[u8], out: &mut Vec<u8>) {
    (CHOSEN.lay)(plane, out);
}

/// For each of [`LANES`] rows, the sum of what its codes look up in the tables, of sixteen entries each.
pub fn sums(tables: &[u8], plane: &[u8]) -> [u32; LANES] {
    debug_assert_eq!(tables.len(), plane.len());
    (CHOSEN.sums)(tables, plane)
}

/// What a list's rows look up in the tables, and the most that comes out of each group.
pub fn scan(tables: &[u8], groups: Groups<'_>, line: Line, out: &mut Scanned) {
    (CHOSEN.scan)(tables, groups, line, out);
}

/// The dot products of [`ROWS`] rows with each of the [`WIDTH`] vectors of one of [`panels`].
pub fn panel(rows: &[&[f32]; ROWS], panel: &[[f32; WIDTH]]) -> [[f32; WIDTH]; ROWS] {
    (CHOSEN.panel)(rows, panel)
}

/// For each of [`ROWS`] rows, which vector of some [`panels`] has the least square less twice the product with the row,
/// the first of such, and how much that is; the square of a vector that is none is endless.
pub fn least(
    rows: &[&[f32]; ROWS],
    panels: &[[f32; WIDTH]],
    squares: &[[f32; WIDTH]],
) -> [(u32, f32); ROWS] {
    (CHOSEN.least)(rows, panels, squares)
}

/// The dot products of a query with each of the vectors, which lie one after another.
pub fn products(query: &[f32], vectors: &[f32], out: &mut Vec<f32>) {
    (CHOSEN.products)(query, vectors, out);
}

/// The tables of a query: [`TABLE`] bytes for every [`NUMBERS`] of its numbers, the sums of any of them in steps from
/// the least.
pub fn tables(query: &[f32], out: &mut Vec<u8>) -> Scale {
    (CHOSEN.tables)(query, out)
}

/// Writes the block of 8 x 8 bytes about 128 that waves make, rows `stride` apart.
pub fn inverse(waves: &Waves, out: &mut [u8], stride: usize) {
    (CHOSEN.inverse)(waves, out, stride);
}

/// Has the machine bring bytes near that are about to be read, where it can be told to.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
#[inline(always)]
pub fn fetch<T>(coming: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        /// Bytes that a processor fetches at a time.
        const LINE: usize = 64;
        let (start, bytes) = (coming.as_ptr().cast::<i8>(), size_of_val(coming));
        for at in (0..bytes).step_by(LINE) {
            // SAFETY: every x86-64 processor has the instruction, and it faults nowhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at)) };
        }
    }
}

/// The square of a vector's length.
pub fn square(vector: &[f32]) -> f32 {
    products::dot(vector, vector)
}

/// Kernels for lines of pixels, where there are such for this machine.
pub fn lines() -> Option<&'static Lines> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        return Some(&Lines {
            // SAFETY: the feature was just found.
            across: |across, line, out| unsafe { lines::across_avx2(across, line, out) },
            // SAFETY: the feature was just found.
            down: |lines, weights, places, out| unsafe {
                lines::down_avx2(lines, weights, places, out)
            },
        });
    }
    None
}

/// How far rows are from each vector of some panels, all in bytes, where the machine has instructions for them.
pub fn bytes() -> Option<Fars> {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
        {
            return Some(Fars {
                // SAFETY: the features were just found.
                many: |rows, panels, far| unsafe { bytes::avx512(rows, panels, far) },
                // SAFETY: the features were just found.
                one: |rows, panels, far| unsafe { bytes::avx512(rows, panels, far) },
            });
        }
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("avxvnni")
        {
            return Some(Fars {
                // SAFETY: the features were just found.
                many: |rows, panels, far| unsafe { bytes::avx_vnni(rows, panels, far) },
                // SAFETY: the features were just found.
                one: |rows, panels, far| unsafe { bytes::avx_vnni(rows, panels, far) },
            });
        }
    }
    None
}

/// Which kernels run here: `avx512`, `avx2`, `neon` or `plain`.
pub fn name() -> &'static str {
    CHOSEN.name
}

fn choose() -> Kernels {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            let kernels = Kernels {
                name: "avx512",
                lay: sums::as_is,
                // SAFETY: the features were just found.
                dot: |query, high| unsafe { dot::avx512(query, high) },
                // SAFETY: the features were just found.
                sums: |tables, codes| unsafe { sums::avx512(tables, codes) },
                // SAFETY: the features were just found.
                scan: |tables, groups, line, out| unsafe {
                    scan::avx512(tables, groups, line, out)
                },
                // SAFETY: the features were just found.
                products: |query, vectors, out| unsafe { products::avx512(query, vectors, out) },
                // SAFETY: the features were just found.
                panel: |rows, panel| unsafe { panels::panel_avx512(rows, panel) },
                // SAFETY: the features were just found.
                least: |rows, panels, squares| unsafe {
                    panels::least_avx512(rows, panels, squares)
                },
                // SAFETY: the features were just found.
                tables: |query, out| unsafe { tables::avx512(query, out) },
                // SAFETY: the features were just found.
                inverse: |waves, out, stride| unsafe { waves::avx2(waves, out, stride) },
            };
            if !is_x86_feature_detected!("avx512vbmi") || !is_x86_feature_detected!("avx512vnni") {
                return kernels;
            }
            return Kernels {
                // SAFETY: the features were just found.
                lay: |codes, out| unsafe { sums::lay_fours(codes, out) },
                // SAFETY: the features were just found.
                sums: |tables, codes| unsafe { sums::fours(tables, codes) },
                // SAFETY: the features were just found.
                scan: |tables, groups, line, out| unsafe { scan::fours(tables, groups, line, out) },
                ..kernels
            };
        }
        return Kernels {
            name: "avx2",
            lay: sums::as_is,
            // SAFETY: the features were just found.
            dot: |query, high| unsafe { dot::avx2(query, high) },
            // SAFETY: the features were just found.
            sums: |tables, codes| unsafe { sums::avx2(tables, codes) },
            // SAFETY: the features were just found.
            scan: |tables, groups, line, out| unsafe { scan::avx2(tables, groups, line, out) },
            // SAFETY: the features were just found.
            products: |query, vectors, out| unsafe { products::avx2(query, vectors, out) },
            // SAFETY: the features were just found.
            panel: |rows, panel| unsafe { panels::panel_avx2(rows, panel) },
            // SAFETY: the features were just found.
            least: |rows, panels, squares| unsafe { panels::least_avx2(rows, panels, squares) },
            // SAFETY: the features were just found.
            tables: |query, out| unsafe { tables::avx2(query, out) },
            // SAFETY: the features were just found.
            inverse: |waves, out, stride| unsafe { waves::avx2(waves, out, stride) },
        };
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        return Kernels {
            name: "neon",
            lay: sums::as_is,
            // SAFETY: the feature was just found.
            dot: |query, high| unsafe { dot::neon(query, high) },
            // SAFETY: the feature was just found.
            sums: |tables, codes| unsafe { sums::neon(tables, codes) },
            // SAFETY: the feature was just found.
            scan: |tables, groups, line, out| unsafe { scan::neon(tables, groups, line, out) },
            // The compiler uses NEON by itself here, as every aarch64 has it.
            products: products::plain,
            panel: panels::panel_plain,
            least: panels::least_plain,
            tables: tables::plain,
            inverse: waves::plain,
        };
    }
    Kernels {
        name: "plain",
        lay: sums::as_is,
        dot: dot::plain,
        sums: sums::plain,
        scan: scan::plain,
        products: products::plain,
        panel: panels::panel_plain,
        least: panels::least_plain,
        tables: tables::plain,
        inverse: waves::plain,
    }
}
