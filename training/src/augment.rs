//! What makes a picture and a sentence differ from pass to pass.

use anyhow::{Context, Result};
use dualpath::image::Filter;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::config::{Augment, Run};
use crate::data::{Picture, UNKNOWN};
use crate::device::sent;
use crate::torch;

/// A picture as the extension will see it: bytes of size x size x 3.
pub fn whole(run: &Run, picture: &Picture) -> Result<Vec<u8>> {
    square(picture, run.net.size, |_, _| None)
}

/// A random rectangle of it, half of them mirrored where the run wants that (paper, section 1.2).
pub fn cropped(
    augment: &Augment,
    picture: &Picture,
    size: u32,
    random: &mut ChaCha8Rng,
) -> Result<Vec<u8>> {
    square(picture, size, |width, height| {
        let crop = crop(random, (width, height), augment.crop);
        Some((crop, augment.flip && random.random()))
    })
}

type Rectangle = (u32, u32, u32, u32);

fn square(
    picture: &Picture,
    size: u32,
    choose: impl FnOnce(u32, u32) -> Option<(Rectangle, bool)>,
) -> Result<Vec<u8>> {
    let decoded = dualpath::image::decode(&picture.read()?)
        .with_context(|| format!("decoding {}", picture.name))?;
    let (width, height) = decoded.dimensions();
    let (crop, mirrored) = choose(width, height).unwrap_or(((0, 0, width, height), false));
    let mut square = dualpath::image::resized(&decoded, crop, (size, size), Filter::Bilinear)?;
    if mirrored {
        for row in square.chunks_exact_mut(3 * size as usize) {
            row.as_chunks_mut::<3>().0.reverse();
        }
    }
    Ok(square)
}

/// A random rectangle: area from the range, aspect 3/4 to 4/3 (section 1.2).
fn crop(random: &mut ChaCha8Rng, (width, height): (u32, u32), area: [f64; 2]) -> Rectangle {
    let share: f64 = random.random_range(area[0]..=area[1]);
    let aspect: f64 = random.random_range((0.75f64).ln()..=(4.0f64 / 3.0).ln()).exp();
    let side = |full: u32, factor: f64| {
        ((f64::from(full) * (share * factor).sqrt()).round() as u32).clamp(1, full)
    };
    let (w, h) = (side(width, aspect), side(height, 1.0 / aspect));
    (random.random_range(0..=width - w), random.random_range(0..=height - h), w, h)
}

/// Squares as a tensor (batch, size, size, 3) of bytes, a quarter of what floats would be to carry; each goes into it
/// when it comes, so that it is held once.
pub fn bytes(size: u32, squares: impl ExactSizeIterator<Item = Result<Vec<u8>>>) -> Result<Tensor> {
    let side = i64::from(size);
    let shape = [squares.len() as i64, side, side, 3];
    let batch = Tensor::empty(shape, (Kind::Uint8, Device::Cpu));
    for (at, square) in squares.enumerate() {
        let mut row = batch.get(at as i64);
        row.copy_(&Tensor::from_slice(&square?).view_as(&row));
    }
    Ok(batch)
}

/// Bytes to the image path's input (batch, 3, size, size), on the device.
pub fn pixels(run: &Run, bytes: &Tensor, device: Device) -> Tensor {
    let (mean, std) = run.net.image.scaling();
    let row = |it: [f32; 3]| sent(&Tensor::from_slice(&it), device) * 255.0;
    let floats = sent(bytes, device).to_kind(Kind::Float);
    // Already channels-last in memory.
    ((floats - row(mean)) / row(std)).permute([0, 3, 1, 2])
}

/// Writes a sentence into its slots: somewhere where the run shifts, some words unknown. `unseen`
/// slots at the end stay empty: a sentence that no position sees would wreck the batch's moments.
pub fn place(
    sentence: &[i64],
    slots: &mut [i64],
    unseen: usize,
    augment: &Augment,
    random: &mut ChaCha8Rng,
) {
    let room = (slots.len() - unseen).saturating_sub(sentence.len());
    let start = if augment.shift { random.random_range(0..=room) } else { 0 };
    for (slot, word) in slots[start..].iter_mut().zip(sentence) {
        let drop = 0.0 < augment.word_dropout && random.random_bool(augment.word_dropout);
        *slot = if drop { UNKNOWN } else { *word };
    }
}

/// Features of float16 to what the moving layers take, on the device.
pub fn features(halves: &Tensor, device: Device) -> Tensor {
    torch::channels_last(&sent(halves, device).to_kind(Kind::Float))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn crops_lie_inside_and_have_their_area() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..1000 {
            let (x, y, w, h) = crop(&mut random, (300, 200), [0.64, 0.81]);
            assert!(x + w <= 300 && y + h <= 200);
            let (share, aspect) = (f64::from(w * h) / 60_000.0, f64::from(w) / f64::from(h) / 1.5);
            // A side that would be longer than the picture is cut, which takes area away.
            assert!((0.55..0.83).contains(&share), "{share}");
            assert!((0.74..1.35).contains(&aspect), "{aspect}");
        }
    }

    #[test]
    fn sentences_move_and_lose_words() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut augment = Augment {
            views: 1,
            crop: [1.0, 1.0],
            flip: false,
            shift: true,
            sentences: 1,
            word_dropout: 0.0,
        };
        let mut starts = [0; 8];
        for _ in 0..400 {
            let mut slots = [0i64; 8];
            place(&[5, 6, 7], &mut slots, 1, &augment, &mut random);
            let start = slots.iter().position(|it| *it == 5).unwrap();
            assert_eq!(slots[start..start + 3], [5, 6, 7]);
            starts[start] += 1;
        }
        assert!(starts[..5].iter().all(|it| 40 < *it) && starts[5..] == [0, 0, 0], "{starts:?}");
        augment.shift = false;
        augment.word_dropout = 0.5;
        let mut slots = [0i64; 1000];
        place(&[9; 1000], &mut slots, 0, &augment, &mut random);
        let unknown = slots.iter().filter(|it| **it == UNKNOWN).count();
        assert!((400..600).contains(&unknown), "{unknown}");
        let mut slots = [0i64; 2];
        augment.word_dropout = 0.0;
        place(&[5, 6, 7], &mut slots, 0, &augment, &mut random);
        assert_eq!(slots, [5, 6]);
    }
}
