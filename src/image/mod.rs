//! Pictures: bytes in, upright RGB out, and the pixels that an image path expects.
//!
//! Training and the extension both come through here: what trains is what serves.

mod preprocess;
mod jpeg;
#[cfg(feature = "heic")]
mod heic;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage, RgbaImage};

pub use self::preprocess::{Filter, Preprocess, Resize, resized};

use self::preprocess::Frame;
use crate::error::{Error, Result};

/// Most pixels on one side.
pub const MOST_PIXELS_A_SIDE: u32 = 16_384;
/// Most pixels in all: 100 megapixels, 300 MB decoded.
pub const MOST_PIXELS: u64 = 100_000_000;
/// Most bytes that a decoded picture, and its decoder beside it, may take.
pub const MOST_DECODER_BYTES: u64 = 512 * 1024 * 1024;
/// Most bytes of a file that `embed_file` reads.
pub const MOST_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// Decodes a picture: upright by its EXIF orientation, first frame, eight bits a channel, on white.
///
/// Colour profiles are not applied.
///
/// # Errors
/// Bytes that are no picture, a file that is cut off, a picture over the limits above.
pub fn decode(bytes: &[u8]) -> Result<RgbImage> {
    fenced(|| {
        #[cfg(feature = "heic")]
        if heic::is(bytes) {
            check_heic(bytes)?;
            return heic::decode(bytes);
        }
        let mut decoder = open(bytes)?;
        // A damaged note about the camera does not make the pixels worse.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut picture = DynamicImage::from_decoder(decoder).map_err(refused)?;
        picture.apply_orientation(orientation);
        Ok(if picture.color().has_alpha() {
            on_white(&picture.into_rgba8())
        } else {
            picture.into_rgb8()
        })
    })
}

/// As [`decode`], but perhaps at a part of its size, where each side keeps `least` pixels.
fn decode_reduced(bytes: &[u8], least: u32) -> Result<(RgbImage, Frame)> {
    match fenced(|| Ok(reduced_jpeg(bytes, least)))? {
        Some(reduced) => Ok(reduced),
        None => decode(bytes).map(|it| {
            let frame = Frame::whole(&it);
            (it, frame)
        }),
    }
}

fn reduced_jpeg(bytes: &[u8], least: u32) -> Option<(RgbImage, Frame)> {
    let header = jpeg::Header::read(bytes)?;
    let side = header.width.min(header.height);
    let part = [8, 4, 2].into_iter().find(|it| least <= side / it)?;
    check_jpeg(&header, bytes).ok()?;
    let mut picture = DynamicImage::from(header.decode(part)?);
    picture.apply_orientation(header.orientation);
    let frame = Frame::turned(header.width, header.height, part, header.orientation);
    Some((picture.into_rgb8(), frame))
}

fn check_jpeg(header: &jpeg::Header, bytes: &[u8]) -> Result<()> {
    let (width, height) = (header.width, header.height);
    within_limits(width, height, 3 * u64::from(width) * u64::from(height))?;
    // The decoder fills what is missing with grey and says nothing.
    if jpeg_is_whole(bytes) { Ok(()) } else { Err(unread("the JPEG is cut off before its end")) }
}

/// The checks of [`decode`] that need no pixels: format, size, and that a JPEG has its end.
pub fn check(bytes: &[u8]) -> Result<()> {
    fenced(|| {
        #[cfg(feature = "heic")]
        if heic::is(bytes) {
            return check_heic(bytes);
        }
        if let Some(header) = jpeg::Header::read(bytes) {
            return check_jpeg(&header, bytes);
        }
        open(bytes).map(|_| ())
    })
}

#[cfg(feature = "heic")]
fn check_heic(bytes: &[u8]) -> Result<()> {
    let (width, height, taken) = heic::size(bytes)?;
    within_limits(width, height, taken)
}

fn within_limits(width: u32, height: u32, taken: u64) -> Result<()> {
    let over = |limit: String| Err(Error::PictureSize { width, height, limit });
    if MOST_PIXELS_A_SIDE < width || MOST_PIXELS_A_SIDE < height {
        return over(format!("{MOST_PIXELS_A_SIDE} a side"));
    }
    if MOST_PIXELS < u64::from(width) * u64::from(height) {
        return over(format!("{} megapixels", MOST_PIXELS / 1_000_000));
    }
    if MOST_DECODER_BYTES < taken {
        return over(format!("{} MiB decoded", MOST_DECODER_BYTES >> 20));
    }
    Ok(())
}

fn open(bytes: &[u8]) -> Result<impl ImageDecoder> {
    if bytes.is_empty() {
        return Err(unread("the blob is empty"));
    }
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|err| Error::Picture { reason: err.to_string() })?;
    let format = match (reader.format(), bytes.get(8..11)) {
        (Some(ImageFormat::Avif), _) => return Err(unread("it is AVIF; convert it to JPEG first")),
        (Some(format), _) => format,
        (None, Some(b"hei" | b"mif")) => {
            return Err(unread(
                "it is HEIC, which this build leaves out; convert it to JPEG first",
            ));
        }
        (None, _) => return Err(unread("the bytes have no known signature")),
    };
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MOST_DECODER_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(refused)?;
    let (width, height) = decoder.dimensions();
    within_limits(width, height, decoder.total_bytes())?;
    // The decoder fills what is missing with grey and says nothing.
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(unread("the JPEG is cut off before its end"));
    }
    Ok(decoder)
}

fn refused(err: image::ImageError) -> Error {
    unread(err.to_string().trim_end())
}

fn unread(reason: &str) -> Error {
    Error::Picture { reason: reason.to_owned() }
}

/// A decoder that panics over damaged bytes spoils one picture, not the batch around it.
fn fenced<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(unread("the decoder gave up on damaged bytes")))
}

/// What shows through transparent parts is the page they lie on, not the colour hidden in them.
fn on_white(picture: &RgbaImage) -> RgbImage {
    let mut opaque = RgbImage::new(picture.width(), picture.height());
    for (to, from) in opaque.pixels_mut().zip(picture.pixels()) {
        let [colour @ .., alpha] = from.0.map(u32::from);
        to.0 = colour.map(|it| ((it * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    opaque
}

/// Walks the segments to the first scan, then looks for the end marker behind it.
/// A thumbnail inside an EXIF segment has an end marker of its own, which must not count.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: u8 = 0xD9;
    let mut at = 2;
    while at + 4 <= bytes.len() {
        match bytes[at + 1] {
            // Stray bytes between segments, and markers filled up with 0xFF.
            _ if bytes[at] != 0xFF => at += 1,
            0xFF => at += 1,
            START_OF_SCAN => {
                // From the back: a whole file is told by its last two bytes.
                return bytes[at..].windows(2).rev().any(|pair| pair == [0xFF, END_OF_IMAGE]);
            }
            // Markers that stand alone.
            0x01 | 0xD0..=0xD8 => at += 2,
            _ => at += 2 + usize::from(bytes[at + 2]) * 256 + usize::from(bytes[at + 3]),
        }
    }
    false
}

#[cfg(test)]
mod tests;
