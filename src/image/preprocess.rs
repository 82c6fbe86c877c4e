//! From a decoded picture to the pixels that an image path expects.

use fast_image_resize as fir;
use image::RgbImage;
use image::metadata::Orientation;
use ndarray::ArrayViewMut3;
use serde::{Deserialize, Serialize};

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
        let least = OVERSAMPLED * self.shortest_edge.unwrap_or(self.size);
        let (picture, frame) = super::decode_reduced(bytes, least)?;
        self.normalise(&self.square_of(&picture, &frame)?, pixels);
        Ok(())
    }

    /// Writes the picture as (3, size, size), normalised, into `pixels`.
    pub fn write(&self, picture: &RgbImage, pixels: ArrayViewMut3<f32>) -> Result<()> {
        self.normalise(&self.square(picture)?, pixels);
        Ok(())
    }

    fn normalise(&self, square: &[u8], mut pixels: ArrayViewMut3<f32>) {
        for (channel, mut plane) in pixels.outer_iter_mut().enumerate() {
            let scale = 1.0 / (255.0 * self.std[channel]);
            let shift = self.mean[channel] / self.std[channel];
            for (out, rgb) in plane.iter_mut().zip(square.chunks_exact(3)) {
                *out = rgb[channel] as f32 * scale - shift;
            }
        }
    }

    /// RGB bytes, (size, size, 3).
    pub fn square(&self, picture: &RgbImage) -> Result<Vec<u8>> {
        self.square_of(picture, &Frame::whole(picture))
    }

    fn square_of(&self, picture: &RgbImage, frame: &Frame) -> Result<Vec<u8>> {
        let (width, height) = (frame.width, frame.height);
        let (size, side) = (self.size, width.min(height));
        let whole = frame.area((0, 0, width, height));
        let square = (size, size);
        match (self.resize, self.shortest_edge) {
            (Resize::Squash, _) => resized_area(picture, whole, square, self.filter),
            (Resize::Crop, None) => {
                let middle = ((width - side) / 2, (height - side) / 2, side, side);
                resized_area(picture, frame.area(middle), square, self.filter)
            }
            (Resize::Crop, Some(edge)) => {
                let to = |it: u32| (u64::from(it) * u64::from(edge) / u64::from(side)) as u32;
                let target = (to(width), to(height));
                let bytes = resized_area(picture, whole, target, self.filter)?;
                let (left, top) = ((target.0 - size) / 2, (target.1 - size) / 2);
                let row = |it: u32| {
                    let start = 3 * ((top + it) as usize * target.0 as usize + left as usize);
                    &bytes[start..start + 3 * size as usize]
                };
                Ok((0..size).flat_map(row).copied().collect())
            }
        }
    }
}

/// Where in decoded pixels a picture lies.
pub(super) struct Frame {
    /// Its full size.
    width: u32,
    height: u32,
    /// Of each side, the decoded pixels are `1 / part`.
    part: f64,
    /// Where it begins in them: the last pixel of a side may show less of it than the others.
    left: f64,
    top: f64,
}

impl Frame {
    pub fn whole(picture: &RgbImage) -> Frame {
        let (width, height) = picture.dimensions();
        Frame { width, height, part: 1.0, left: 0.0, top: 0.0 }
    }

    /// Of a picture that was `width` x `height` before it was turned.
    pub fn turned(width: u32, height: u32, part: u32, by: Orientation) -> Frame {
        use Orientation::*;
        let part_of = |it: u32| f64::from(it) / f64::from(part);
        let (right, bottom) =
            (part_of(width).ceil() - part_of(width), part_of(height).ceil() - part_of(height));
        let (left, top) = match by {
            NoTransforms | Rotate90FlipH => (0.0, 0.0),
            FlipHorizontal => (right, 0.0),
            FlipVertical => (0.0, bottom),
            Rotate180 => (right, bottom),
            Rotate90 => (bottom, 0.0),
            Rotate270 => (0.0, right),
            Rotate270FlipH => (bottom, right),
        };
        let lies = matches!(by, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
        let (width, height) = if lies { (height, width) } else { (width, height) };
        Frame { width, height, part: f64::from(part), left, top }
    }

    /// A part (left, top, width, height) of the full size, in decoded pixels.
    fn area(&self, (left, top, width, height): (u32, u32, u32, u32)) -> Area {
        let here = |it: u32| f64::from(it) / self.part;
        (self.left + here(left), self.top + here(top), here(width), here(height))
    }
}

/// Left, top, width, height.
type Area = (f64, f64, f64, f64);

/// The part (left, top, width, height) of a picture as RGB bytes, (height, width, 3) of `target`, which
/// is a width and a height.
pub fn resized(
    picture: &RgbImage,
    crop: (u32, u32, u32, u32),
    target: (u32, u32),
    filter: Filter,
) -> Result<Vec<u8>> {
    let (left, top, width, height) = crop;
    resized_area(picture, (left.into(), top.into(), width.into(), height.into()), target, filter)
}

fn resized_area(
    picture: &RgbImage,
    crop: Area,
    target: (u32, u32),
    filter: Filter,
) -> Result<Vec<u8>> {
    if crop == (0.0, 0.0, target.0.into(), target.1.into()) && picture.dimensions() == target {
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
            let (left, top, width, height) = crop;
            let (first, end) = (top.floor(), (top + height).ceil());
            let (across, cubic) = ((target.0, (end - first) as u32), fir::FilterType::CatmullRom);
            let wide = step(&source, (left, first, width, end - first), across, cubic)?;
            step(&wide, (0.0, top - first, target.0.into(), height), target, cubic)?
        }
    };
    Ok(resized.into_vec())
}

fn step(
    from: &impl fir::IntoImageView,
    (left, top, width, height): Area,
    target: (u32, u32),
    filter: fir::FilterType,
) -> Result<fir::images::Image<'static>> {
    let mut to = fir::images::Image::new(target.0, target.1, fir::PixelType::U8x3);
    let options = fir::ResizeOptions::new()
        .resize_alg(fir::ResizeAlg::Convolution(filter))
        .crop(left, top, width, height);
    let outcome = fir::Resizer::new().resize(from, &mut to, &options);
    outcome.map(|()| to).map_err(|err| Error::Picture { reason: err.to_string() })
}
