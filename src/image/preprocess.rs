//! From a decoded picture to the pixels that an image path expects.

use std::array;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use ndarray::{ArrayView2, ArrayViewMut3, Axis};
use serde::{Deserialize, Serialize};

use super::Reduced;
use super::estimate::{self, Span, Weights};
use super::resize::{self, Show};
use crate::error::Result;
use crate::kernel::{self, Loops};

/// A side that is decoded has at least so many pixels for each one that is kept.
const OVERSAMPLED: u32 = 2;

/// How a picture of any shape becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Both sides to the size; the aspect ratio is lost.
    Squash,
    /// The shorter side to the size, then the middle square.
    Crop,
}

/// How pixels in between are made up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// From two by two, or more where a picture gets smaller.
    #[default]
    Bilinear,
    /// From four by four, a = -0.5, as Pillow's.
    Bicubic,
}

impl Filter {
    /// How far from the middle it takes from, in pixels to come.
    pub(super) fn reach(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    /// Adds what a pixel to come, about `middle` of a side of `length` pixels and `step` of them wide, takes from each of them,
    /// one together; says which is the first.
    pub(super) fn taken(
        self,
        length: u32,
        middle: f64,
        step: f64,
        weights: &mut Vec<f64>,
    ) -> usize {
        let (reach, start) = (self.reach() * step, weights.len());
        let first = (middle - reach).floor().max(0.0) as usize;
        let end = ((middle + reach).ceil() as usize).min(length as usize);
        // Reckoned as `fast_image_resize` does, so that it rounds alike.
        let (middle, narrower) = (middle - 0.5, 1.0 / step);
        weights.extend((first..end).map(|it| self.weight((it as f64 - middle) * narrower)));
        let sum: f64 = weights[start..].iter().sum();
        weights[start..].iter_mut().for_each(|it| *it /= sum);
        first
    }

    /// What it takes from there, for pictures that get smaller.
    pub(super) fn weight(self, away: f64) -> f64 {
        let x = away.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => ((2.5 - 0.5 * x) * x - 4.0) * x + 2.0,
            Filter::Bicubic => 0.0,
        }
    }
}

/// What an image path takes of the square.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pixels {
    /// float32 (batch, 3, size, size), normalised.
    #[default]
    Floats,
    /// uint8 (batch, size, size, 3), which it normalises itself: a quarter of what a device has to be sent.
    Bytes,
}

/// From a decoded picture to an image path's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Pixels a side of the square.
    pub size: u32,
    /// How the square is made.
    pub resize: Resize,
    /// Subtracted from each channel of red, green, blue in [0, 1].
    pub mean: [f32; 3],
    /// Divides each channel afterwards.
    pub std: [f32; 3],
    /// How pixels in between are made up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filter: Filter,
    /// With [`Resize::Crop`]: the shorter side goes to so many whole pixels first, and the square is
    /// cut out of that, as CLIP's own preprocessing does. Without it, both are one step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shortest_edge: Option<u32>,
    /// Who normalises.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pixels: Pixels,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Preprocess {
    /// Decodes a picture file, at a part of its size where that is as good, and writes it as
    /// (3, size, size), normalised, into `pixels`, each row of which lies in one piece.
    ///
    /// # Errors
    /// Those of [`super::decode`].
    pub fn read(&self, bytes: &[u8], pixels: ArrayViewMut3<f32>) -> Result<()> {
        let mut normalised = Normalised::new(self, pixels);
        self.each_line_of_file(bytes, &mut |y, line| normalised.write(y, line))
    }

    /// The same as RGB bytes, (size, size, 3).
    ///
    /// # Errors
    /// Those of [`super::decode`].
    pub fn read_bytes(&self, bytes: &[u8], mut pixels: ArrayViewMut3<u8>) -> Result<()> {
        let shape = (self.size as usize, 3);
        self.each_line_of_file(bytes, &mut |y, line| {
            let line = ArrayView2::from_shape(shape, line).expect("three bytes a pixel");
            pixels.index_axis_mut(Axis(0), y).assign(&line);
        })
    }

    /// Writes the picture as [`Preprocess::read`] does.
    pub fn write(&self, picture: &RgbImage, pixels: ArrayViewMut3<f32>) -> Result<()> {
        let mut normalised = Normalised::new(self, pixels);
        self.each_line(picture, &mut |y, line| normalised.write(y, line))
    }

    /// RGB bytes, (size, size, 3).
    pub fn square(&self, picture: &RgbImage) -> Result<Vec<u8>> {
        let mut square = Vec::with_capacity(3 * (self.size as usize).pow(2));
        self.each_line(picture, &mut |_, line| square.extend_from_slice(line))?;
        Ok(square)
    }

    fn each_line_of_file(&self, bytes: &[u8], show: Show<'_>) -> Result<()> {
        let least = OVERSAMPLED * self.shortest_edge.unwrap_or(self.size);
        let Some(reduced) = super::decode_reduced(bytes, least)? else {
            return self.each_line(&super::decode(bytes)?, show);
        };
        resize::show_all(&self.square_of_part(reduced), self.size, show);
        Ok(())
    }

    fn each_line(&self, picture: &RgbImage, show: Show<'_>) -> Result<()> {
        let (width, height) = picture.dimensions();
        let (size, side) = (self.size, width.min(height));
        let (whole, square) = ((0, 0, width, height), (size, size));
        let (part, target) = match (self.resize, self.shortest_edge) {
            (Resize::Squash, _) => (whole, square),
            (Resize::Crop, None) => (((width - side) / 2, (height - side) / 2, side, side), square),
            (Resize::Crop, Some(edge)) => {
                (whole, (edge_of(width, side, edge), edge_of(height, side, edge)))
            }
        };
        let [left, top] = [target.0, target.1].map(|it| ((it - size) / 2) as usize);
        let size = size as usize;
        resize::each_line(picture, part, target, self.filter, &mut |y, line| {
            if (top..top + size).contains(&y) {
                show(y - top, &line[3 * left..][..3 * size]);
            }
        })
    }

    /// As [`Preprocess::square`] of the whole picture would be.
    fn square_of_part(&self, reduced: Reduced) -> Vec<u8> {
        use Orientation::*;
        let Reduced { picture, part, width, height, orientation } = reduced;
        let turn = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
        let shown = if turn { (height, width) } else { (width, height) };
        let (across, down) = (self.span(shown.0, shown.1), self.span(shown.1, shown.0));
        // The square is turned, not the picture: where it lies is seen from the file's side.
        let (across, down) = if turn { (down, across) } else { (across, down) };
        let from_right =
            matches!(orientation, FlipHorizontal | Rotate180 | Rotate270 | Rotate270FlipH);
        let from_bottom =
            matches!(orientation, FlipVertical | Rotate180 | Rotate90 | Rotate270FlipH);
        let weights = |length: u32, span: Span, from_end: bool| {
            let end = span.from + f64::from(self.size) * span.step;
            let from = if from_end { f64::from(length) - end } else { span.from };
            Weights::new(length, part, Span { from, ..span }, self.size, self.filter)
        };
        let across = weights(width, across, from_right);
        let down = weights(height, down, from_bottom);
        let square = estimate::estimated(&picture, &across, &down);
        if orientation == NoTransforms {
            return square;
        }
        let square = RgbImage::from_raw(self.size, self.size, square);
        let mut square = DynamicImage::from(square.expect("three bytes a pixel of the square"));
        square.apply_orientation(orientation);
        square.into_rgb8().into_raw()
    }

    /// Where on a side the square lies.
    fn span(&self, length: u32, other: u32) -> Span {
        let (size, side) = (self.size, length.min(other));
        let pixels = f64::from(length);
        match (self.resize, self.shortest_edge) {
            (Resize::Squash, _) => Span { from: 0.0, step: pixels / f64::from(size) },
            (Resize::Crop, None) => Span {
                from: f64::from((length - side) / 2),
                step: f64::from(side) / f64::from(size),
            },
            (Resize::Crop, Some(edge)) => {
                let target = edge_of(length, side, edge);
                let step = pixels / f64::from(target);
                Span { from: f64::from((target - size) / 2) * step, step }
            }
        }
    }
}

/// Where lines become normalised pixels.
struct Normalised<'a> {
    /// (3, size, size)
    pixels: ArrayViewMut3<'a, f32>,
    scales: [f32; 3],
    shifts: [f32; 3],
}

impl<'a> Normalised<'a> {
    fn new(preprocess: &Preprocess, pixels: ArrayViewMut3<'a, f32>) -> Normalised<'a> {
        let Preprocess { mean, std, .. } = preprocess;
        let scales = std.map(|it| 1.0 / (255.0 * it));
        Normalised { pixels, scales, shifts: array::from_fn(|it| mean[it] / std[it]) }
    }

    fn write(&mut self, y: usize, line: &[u8]) {
        for (channel, mut plane) in self.pixels.outer_iter_mut().enumerate() {
            let (scale, shift) = (self.scales[channel], self.shifts[channel]);
            let to = plane.row_mut(y).into_slice().expect("a row of pixels in one piece");
            kernel::widest(Scaled { line, channel, scale, shift, to });
        }
    }
}

/// One channel of a line of RGB bytes, as numbers.
struct Scaled<'a> {
    line: &'a [u8],
    channel: usize,
    scale: f32,
    shift: f32,
    to: &'a mut [f32],
}

impl Loops for Scaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let pixels = self.line.as_chunks::<3>().0;
        for (to, pixel) in self.to.iter_mut().zip(pixels) {
            *to = f32::from(pixel[self.channel]) * self.scale - self.shift;
        }
    }
}

/// A side once the shorter one has `edge` pixels.
fn edge_of(length: u32, shorter: u32, edge: u32) -> u32 {
    (u64::from(length) * u64::from(edge) / u64::from(shorter)) as u32
}
