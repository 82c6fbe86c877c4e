//! Pictures: bytes in, upright RGB out, and the pixels that an image path expects.
//!
//! Training and the extension both come through here: what trains is what serves.

use std::io::Cursor;

use fast_image_resize as fir;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use ndarray::ArrayViewMut3;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Most pixels on one side.
pub const MOST_PIXELS_A_SIDE: u32 = 16_384;
/// Most pixels in all: 100 megapixels, 300 MB decoded.
pub const MOST_PIXELS: u64 = 100_000_000;
/// Most bytes that a decoder may allocate.
pub const MOST_DECODER_BYTES: u64 = 512 * 1024 * 1024;

/// Most bytes of a file that `embed_file` reads.
pub const MOST_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// How a picture of any shape becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Both sides to the size; the aspect ratio is lost.
    Squash,
    /// The shorter side to the size, then the middle square.
    Crop,
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
}

impl Preprocess {
    /// Writes the picture as (3, size, size), normalised, into `pixels`.
    pub fn write(&self, picture: &RgbImage, mut pixels: ArrayViewMut3<f32>) -> Result<()> {
        let square = self.square(picture)?;
        for (channel, mut plane) in pixels.outer_iter_mut().enumerate() {
            let scale = 1.0 / (255.0 * self.std[channel]);
            let shift = self.mean[channel] / self.std[channel];
            for (out, rgb) in plane.iter_mut().zip(square.chunks_exact(3)) {
                *out = rgb[channel] as f32 * scale - shift;
            }
        }
        Ok(())
    }

    /// RGB bytes, (size, size, 3).
    pub fn square(&self, picture: &RgbImage) -> Result<Vec<u8>> {
        let (width, height) = picture.dimensions();
        let (size, side) = (self.size, width.min(height));
        let crop = match self.resize {
            Resize::Squash => (0, 0, width, height),
            Resize::Crop => ((width - side) / 2, (height - side) / 2, side, side),
        };
        resized(picture, crop, size)
    }
}

/// The part (left, top, width, height) of a picture as RGB bytes, (size, size, 3).
pub fn resized(picture: &RgbImage, crop: (u32, u32, u32, u32), size: u32) -> Result<Vec<u8>> {
    let (left, top, width, height) = crop;
    if crop == (0, 0, size, size) && picture.dimensions() == (size, size) {
        return Ok(picture.as_raw().clone());
    }
    let refused = |reason: String| Error::Picture { reason };
    let source = fir::images::ImageRef::new(
        picture.width(),
        picture.height(),
        picture.as_raw(),
        fir::PixelType::U8x3,
    )
    .map_err(|err| refused(err.to_string()))?;
    let mut target = fir::images::Image::new(size, size, fir::PixelType::U8x3);
    let options = fir::ResizeOptions::new()
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear))
        .crop(left as f64, top as f64, width as f64, height as f64);
    fir::Resizer::new()
        .resize(&source, &mut target, &options)
        .map_err(|err| refused(err.to_string()))?;
    Ok(target.into_vec())
}

/// Decodes a picture, turns it upright by its EXIF orientation, first frame, eight bits a channel.
///
/// # Errors
/// Bytes that are no picture, a truncated JPEG, a picture over the limits above.
pub fn decode(bytes: &[u8]) -> Result<RgbImage> {
    check(bytes)?;
    let refused = |err: image::ImageError| Error::Picture { reason: err.to_string() };
    let mut decoder = reader(bytes)?.into_decoder().map_err(refused)?;
    let orientation = decoder.orientation().map_err(refused)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(refused)?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

/// The checks of [`decode`] that need no pixels: format, size, and that a JPEG has its end.
pub fn check(bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Err(Error::Picture { reason: "the blob is empty".to_owned() });
    }
    let reader = reader(bytes)?;
    let format = reader.format();
    let decoder =
        reader.into_decoder().map_err(|err| Error::Picture { reason: err.to_string() })?;
    let (width, height) = decoder.dimensions();
    let sides = MOST_PIXELS_A_SIDE;
    if sides < width || sides < height {
        return Err(Error::PictureSize { width, height, limit: format!("{sides} a side") });
    }
    if MOST_PIXELS < width as u64 * height as u64 {
        let limit = format!("{} megapixels", MOST_PIXELS / 1_000_000);
        return Err(Error::PictureSize { width, height, limit });
    }
    // The decoder fills what is missing with grey and says nothing.
    if format == Some(ImageFormat::Jpeg) && !jpeg_is_whole(bytes) {
        return Err(Error::Picture { reason: "the JPEG ends before its last row".to_owned() });
    }
    Ok(())
}

fn reader(bytes: &[u8]) -> Result<ImageReader<Cursor<&[u8]>>> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|err| Error::Picture { reason: err.to_string() })?;
    if reader.format().is_none() {
        return Err(Error::Picture { reason: "the bytes have no known signature".to_owned() });
    }
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MOST_DECODER_BYTES);
    reader.limits(limits);
    Ok(reader)
}

/// Walks the segments to the first scan, then looks for the end marker behind it.
/// A thumbnail inside an EXIF segment has an end marker of its own, which must not count.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: u8 = 0xD9;
    let mut at = 2;
    while at + 4 <= bytes.len() {
        if bytes[at] != 0xFF {
            return false;
        }
        match bytes[at + 1] {
            0xFF => at += 1,
            START_OF_SCAN => {
                return bytes[at..].windows(2).any(|pair| pair == [0xFF, END_OF_IMAGE]);
            }
            // Markers that stand alone.
            0x01 | 0xD0..=0xD8 => at += 2,
            _ => at += 2 + u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]) as usize,
        }
    }
    false
}
