//! From a decoded picture to the pixels that an image path expects.

use std::array;

use fast_image_resize as fir;
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use ndarray::{ArrayView3, ArrayViewMut3, Axis, Zip};
use serde::{Deserialize, Serialize};

use super::Reduced;
use super::estimate::{self, Span, Weights};
use crate::error::{Error, Result};

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
    /// (3, size, size), normalised, into `pixels`.
    ///
    /// # Errors
    /// Those of [`super::decode`].
    pub fn read(&self, bytes: &[u8], pixels: ArrayViewMut3<f32>) -> Result<()> {
        self.normalise(&self.square_of_file(bytes)?, pixels);
        Ok(())
    }

    /// The same as RGB bytes, (size, size, 3).
    ///
    /// # Errors
    /// Those of [`super::decode`].
    pub fn read_bytes(&self, bytes: &[u8], mut pixels: ArrayViewMut3<u8>) -> Result<()> {
        pixels.assign(&self.pixels_of(&self.square_of_file(bytes)?));
        Ok(())
    }

    fn square_of_file(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let least = OVERSAMPLED * self.shortest_edge.unwrap_or(self.size);
        match super::decode_reduced(bytes, least)? {
            Some(reduced) => Ok(self.square_of_part(reduced)),
            None => self.square(&super::decode(bytes)?),
        }
    }

    fn pixels_of<'a>(&self, square: &'a [u8]) -> ArrayView3<'a, u8> {
        let size = self.size as usize;
        ArrayView3::from_shape((size, size, 3), square).expect("three bytes a pixel")
    }

    /// Writes the picture as (3, size, size), normalised, into `pixels`.
    pub fn write(&self, picture: &RgbImage, pixels: ArrayViewMut3<f32>) -> Result<()> {
        self.normalise(&self.square(picture)?, pixels);
        Ok(())
    }

    fn normalise(&self, square: &[u8], mut pixels: ArrayViewMut3<f32>) {
        let square = self.pixels_of(square);
        let channels = pixels.outer_iter_mut().zip(square.axis_iter(Axis(2)));
        for (channel, (plane, bytes)) in channels.enumerate() {
            let scale = 1.0 / (255.0 * self.std[channel]);
            let shift = self.mean[channel] / self.std[channel];
            let numbers: [f32; 256] = array::from_fn(|byte| byte as f32 * scale - shift);
            Zip::from(plane).and(bytes).for_each(|out, byte| *out = numbers[usize::from(*byte)]);
        }
    }

    /// RGB bytes, (size, size, 3).
    pub fn square(&self, picture: &RgbImage) -> Result<Vec<u8>> {
        let (width, height) = picture.dimensions();
        let (size, side) = (self.size, width.min(height));
        let square = (size, size);
        match (self.resize, self.shortest_edge) {
            (Resize::Squash, _) => resized(picture, (0, 0, width, height), square, self.filter),
            (Resize::Crop, None) => {
                let middle = ((width - side) / 2, (height - side) / 2, side, side);
                resized(picture, middle, square, self.filter)
            }
            (Resize::Crop, Some(edge)) => {
                let target = (edge_of(width, side, edge), edge_of(height, side, edge));
                let bytes = resized(picture, (0, 0, width, height), target, self.filter)?;
                let (left, top) = ((target.0 - size) / 2, (target.1 - size) / 2);
                let row = |it: u32| {
                    let start = 3 * ((top + it) as usize * target.0 as usize + left as usize);
                    &bytes[start..start + 3 * size as usize]
                };
                Ok((0..size).flat_map(row).copied().collect())
            }
        }
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

/// A side once the shorter one has `edge` pixels.
fn edge_of(length: u32, shorter: u32, edge: u32) -> u32 {
    (u64::from(length) * u64::from(edge) / u64::from(shorter)) as u32
}

/// The part (left, top, width, height) of a picture as RGB bytes, (height, width, 3) of `target`, which
/// is a width and a height.
pub fn resized(
    picture: &RgbImage,
    crop: (u32, u32, u32, u32),
    target: (u32, u32),
    filter: Filter,
) -> Result<Vec<u8>> {
    let (left, top, width, height) = crop;
    if crop == (0, 0, target.0, target.1) && picture.dimensions() == target {
        return Ok(picture.as_raw().clone());
    }
    let source = fir::images::ImageRef::new(
        picture.width(),
        picture.height(),
        picture.as_raw(),
        fir::PixelType::U8x3,
    )
    .map_err(|err| Error::Picture { reason: err.to_string() })?;
    let resized = match filter {
        Filter::Bilinear => step(&source, crop, target, fir::FilterType::Bilinear)?,
        // Where this filter overshoots, bytes are clipped between the passes: their order shows, and
        // Pillow goes across first.
        Filter::Bicubic => {
            let (across, cubic) = ((target.0, height), fir::FilterType::CatmullRom);
            let wide = step(&source, (left, top, width, height), across, cubic)?;
            step(&wide, (0, 0, target.0, height), target, cubic)?
        }
    };
    Ok(resized.into_vec())
}

fn step(
    from: &impl fir::IntoImageView,
    (left, top, width, height): (u32, u32, u32, u32),
    target: (u32, u32),
    filter: fir::FilterType,
) -> Result<fir::images::Image<'static>> {
    let mut to = fir::images::Image::new(target.0, target.1, fir::PixelType::U8x3);
    let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(filter)).crop(
        left.into(),
        top.into(),
        width.into(),
        height.into(),
    );
    let outcome = fir::Resizer::new().resize(from, &mut to, &options);
    outcome.map(|()| to).map_err(|err| Error::Picture { reason: err.to_string() })
}
