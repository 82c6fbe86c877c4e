//! How a table's vectors are written: their metric, and the bytes of each number.
//!
//! ```text
//! f32    high │ d x u16 bfloat16 │      low │ d x u16 │     two planes, which lose nothing (`plane.rs`)
//! f16    high │ f32 scale │ d x f16 │                      a number is the scale times its half
//! int8   high │ f32 scale │ d x i8  │                      a number is the scale times its byte
//! ```
//!
//! What was written is read and written again as the same bytes, so that rows may move.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::metric::Metric;
use super::plane;
use crate::error::{Error, Result};
use crate::vector::Vector;

/// Bytes of a row's scale.
const SCALE: usize = 4;
/// The largest byte of a row.
const MOST_LEVEL: f32 = 127.0;
/// Smallest scale: the numbers it makes stay clear of float32's least, where bits are lost.
const LEAST_SCALE: f32 = 1.0 / (1u128 << 100) as f32;
/// Numbers that are read at a time.
pub const CHUNK: usize = 64;

/// How exact a table keeps its vectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Storage {
    /// As they are given.
    #[default]
    F32,
    /// Two bytes a number, eleven significant bits.
    F16,
    /// One byte a number, in steps of a 127th of the row's largest.
    Int8,
}

impl Storage {
    const ALL: [Storage; 3] = [Storage::F32, Storage::F16, Storage::Int8];
    /// Their names, for an error.
    pub const NAMES: &str = "'f32', 'f16' or 'int8'";

    /// The storage of a name in any case.
    pub fn named(name: &str) -> Result<Storage> {
        let found = Storage::ALL.into_iter().find(|it| it.name().eq_ignore_ascii_case(name));
        let names = Storage::NAMES;
        found.ok_or_else(|| Error::Usage(format!("storage is '{name}' (one of {names})")))
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Int8 => "int8",
        }
    }
}

/// How vectors of a table are compared and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// How they are compared.
    pub metric: Metric,
    /// How exact they are.
    pub storage: Storage,
    /// Numbers of each.
    pub dimension: usize,
}

impl Form {
    /// Bytes of a row in the high plane, which a search reads.
    pub fn high_bytes(&self) -> usize {
        match self.storage {
            Storage::F32 => plane::BYTES * self.dimension,
            Storage::F16 => SCALE + 2 * self.dimension,
            Storage::Int8 => SCALE + self.dimension,
        }
    }

    /// Bytes of a row in the low plane, which only float32 has.
    pub fn low_bytes(&self) -> usize {
        match self.storage {
            Storage::F32 => plane::BYTES * self.dimension,
            _ => 0,
        }
    }

    /// Appends a vector to both planes.
    pub fn write(&self, vector: &Vector, high: &mut Vec<u8>, low: &mut Vec<u8>) {
        let numbers = vector.as_slice();
        let most = || numbers.iter().fold(0.0f32, |most, it| most.max(it.abs()));
        match self.storage {
            Storage::F32 => plane::split(numbers, high, low),
            Storage::F16 => self.write_halves(numbers, most(), high),
            Storage::Int8 => self.write_bytes(numbers, most(), high),
        }
    }

    fn write_halves(&self, numbers: &[f32], most: f32, high: &mut Vec<u8>) {
        let unit = match self.metric {
            Metric::Cosine => most,
            _ => power_below(most),
        };
        let halves: Vec<f16> = numbers
            .iter()
            .map(|it| f16::from_f32(if 0.0 < unit { it / unit } else { 0.0 }))
            .collect();
        let scale = match self.metric {
            Metric::Cosine => one_over_length(halves.iter().map(|it| it.to_f64())),
            _ => unit,
        };
        if halves.iter().all(|it| *it == f16::ZERO) {
            return high.resize(high.len() + self.high_bytes(), 0);
        }
        high.extend(scale.to_le_bytes());
        high.extend(halves.iter().flat_map(|it| it.to_le_bytes()));
    }

    fn write_bytes(&self, numbers: &[f32], most: f32, high: &mut Vec<u8>) {
        let unit = match self.metric {
            Metric::Cosine => most / MOST_LEVEL,
            _ => short_above(most / MOST_LEVEL),
        };
        let level = |it: &f32| if 0.0 < unit { (it / unit).round() } else { 0.0 };
        let levels: Vec<i8> =
            numbers.iter().map(|it| level(it).clamp(-MOST_LEVEL, MOST_LEVEL) as i8).collect();
        let scale = match self.metric {
            Metric::Cosine => one_over_length(levels.iter().map(|it| f64::from(*it))),
            _ => unit,
        };
        if levels.iter().all(|it| *it == 0) {
            return high.resize(high.len() + self.high_bytes(), 0);
        }
        high.extend(scale.to_le_bytes());
        high.extend(levels.iter().flat_map(|it| it.to_le_bytes()));
    }

    /// The vector that was written.
    ///
    /// # Errors
    /// Bytes that are none of a vector.
    pub fn read(&self, high: &[u8], low: &[u8]) -> Result<Vector> {
        let numbers = match self.storage {
            Storage::F32 => plane::join(high, low),
            _ => self.roughly(high),
        };
        self.metric.vector(numbers)
    }

    /// The numbers of many rows, laid end to end.
    ///
    /// # Errors
    /// Bytes that are none of a vector, and which row's they are.
    pub fn numbers(
        &self,
        high: &[u8],
        low: &[u8],
    ) -> std::result::Result<Vec<f32>, (usize, Error)> {
        let mut numbers = match self.storage {
            Storage::F32 => plane::join(high, low),
            _ => {
                let mut numbers =
                    Vec::with_capacity(high.len() / self.high_bytes() * self.dimension);
                let rows = high.chunks_exact(self.high_bytes());
                rows.for_each(|high| self.each(high, |_, chunk| numbers.extend_from_slice(chunk)));
                numbers
            }
        };
        for (at, row) in numbers.chunks_exact_mut(self.dimension).enumerate() {
            self.metric.make_vector(row).map_err(|err| (at, err))?;
        }
        Ok(numbers)
    }

    /// The numbers of a row's high plane: those that were written, or near them in float32.
    pub fn roughly(&self, high: &[u8]) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(self.dimension);
        self.each(high, |_, chunk| numbers.extend(chunk));
        numbers
    }

    /// Shows [`Form::roughly`] in chunks, with where each begins.
    pub fn each(&self, high: &[u8], mut show: impl FnMut(usize, &[f32])) {
        let mut numbers = [0.0; CHUNK];
        if self.storage == Storage::F32 {
            for (at, high) in high.chunks(plane::BYTES * CHUNK).enumerate() {
                let count = high.len() / plane::BYTES;
                numbers.iter_mut().zip(plane::widened(high)).for_each(|(it, number)| *it = number);
                show(CHUNK * at, &numbers[..count]);
            }
            return;
        }
        let Some((scale, high)) = high.split_first_chunk::<SCALE>() else {
            return;
        };
        let scale = f32::from_le_bytes(*scale);
        if self.storage == Storage::F16 {
            for (at, high) in high.chunks(2 * CHUNK).enumerate() {
                let mut halves = [f16::ZERO; CHUNK];
                let count = high.len() / 2;
                for (half, bytes) in halves.iter_mut().zip(high.as_chunks::<2>().0) {
                    *half = f16::from_le_bytes(*bytes);
                }
                halves[..count].convert_to_f32_slice(&mut numbers[..count]);
                numbers[..count].iter_mut().for_each(|it| *it *= scale);
                show(CHUNK * at, &numbers[..count]);
            }
            return;
        }
        for (at, high) in high.chunks(CHUNK).enumerate() {
            for (number, byte) in numbers.iter_mut().zip(high) {
                *number = scale * f32::from(byte.cast_signed());
            }
            show(CHUNK * at, &numbers[..high.len()]);
        }
    }
}

fn one_over_length(numbers: impl Iterator<Item = f64>) -> f32 {
    let square: f64 = numbers.map(|it| it * it).sum();
    if 0.0 < square { (1.0 / square.sqrt()) as f32 } else { 0.0 }
}

/// The power of two that a number begins with once it has eleven bits: division by it is exact.
fn power_below(number: f32) -> f32 {
    if number == 0.0 {
        return 0.0;
    }
    let power = f32::from_bits(number.to_bits() & 0x7F80_0000).max(LEAST_SCALE);
    // The half of the largest may be rounded up to 2, the next power's.
    if f16::from_f32(number / power).to_f32() < 2.0 { power } else { 2.0 * power }
}

/// The next number that has sixteen significant bits: its product with a byte is exact.
fn short_above(number: f32) -> f32 {
    match number == 0.0 {
        true => 0.0,
        false => f32::from_bits((number.max(LEAST_SCALE).to_bits() + 0xFF) & !0xFF),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms() -> impl Iterator<Item = Form> {
        let metrics = [Metric::Cosine, Metric::Dot, Metric::L2];
        metrics
            .into_iter()
            .flat_map(|metric| Storage::ALL.map(|storage| Form { metric, storage, dimension: 0 }))
    }

    #[test]
    fn what_is_read_is_near_and_written_again_as_the_same_bytes() {
        arbtest::arbtest(|u| {
            let dimension = u.int_in_range(1..=150)?;
            let power = 10f32.powi(u.int_in_range(-44i32..=12)?);
            let raw = (0..dimension).map(|_| Ok(power * f32::from(u.arbitrary::<i16>()?) / 3e4));
            let raw: Vec<f32> = raw.collect::<arbtest::arbitrary::Result<_>>()?;
            for form in forms() {
                let form = Form { dimension, ..form };
                let Ok(vector) = form.metric.vector(raw.clone()) else {
                    continue;
                };
                let (mut high, mut low) = (Vec::new(), Vec::new());
                form.write(&vector, &mut high, &mut low);
                assert_eq!((high.len(), low.len()), (form.high_bytes(), form.low_bytes()));
                let read = form.read(&high, &low).unwrap();
                let (mut again, mut low_again) = (Vec::new(), Vec::new());
                form.write(&read, &mut again, &mut low_again);
                assert_eq!((again, low_again), (high.clone(), low), "{form:?}");
                let most = vector.as_slice().iter().fold(0.0f32, |most, it| most.max(it.abs()));
                let off = match form.storage {
                    Storage::F32 => 0.0,
                    Storage::F16 => most / 1024.0,
                    // Of a cosine all numbers are stretched to length one again.
                    Storage::Int8 => most / 64.0,
                };
                for (a, b) in vector.as_slice().iter().zip(read.as_slice()) {
                    assert!((a - b).abs() <= off + LEAST_SCALE, "{form:?}: {a} {b}");
                }
                let rough = form.roughly(&high);
                assert!(form.storage == Storage::F32 || rough == read.as_slice());
            }
            Ok(())
        });
    }

    #[test]
    fn whole_numbers_stay_whole_in_halves() {
        let form = Form { metric: Metric::L2, storage: Storage::F16, dimension: 5 };
        let vector = Vector::new(vec![1.0, -2047.0, 0.5, 0.0, 300.0]).unwrap();
        let (mut high, mut low) = (Vec::new(), Vec::new());
        form.write(&vector, &mut high, &mut low);
        assert_eq!(form.read(&high, &low).unwrap(), vector);
    }

    #[test]
    fn names() {
        let message = Storage::named("f8").unwrap_err().to_string();
        assert_eq!(message, "storage is 'f8' (one of 'f32', 'f16' or 'int8')");
        assert_eq!(Storage::named("INT8").unwrap(), Storage::Int8);
    }
}
