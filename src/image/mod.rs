//! Pictures: bytes in, upright RGB out, and the pixels that an image path expects.
//!
//! Training and the extension both come through here: what trains is what serves.

mod preprocess;
mod resize;
mod estimate;
mod jpeg;
#[cfg(feature = "heic")]
mod heic;
#[cfg(feature = "avif")]
mod avif;
#[cfg(feature = "avif")]
mod items;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage, RgbaImage};

pub use self::preprocess::{Filter, Pixels, Preprocess, Resize};
pub use self::resize::resized;

use crate::error::{Error, Result};

/// Most pixels on one side.
pub const MOST_PIXELS_A_SIDE: u32 = 16_384;
/// Most pixels in all: 100 megapixels, 300 MB decoded.
pub const MOST_PIXELS: u64 = 100_000_000;
/// Most bytes that a decoded picture, and its decoder beside it, may take.
pub const MOST_DECODER_BYTES: u64 = 512 * 1024 * 1024;
/// Pixels of a JPEG up to which our own decoder is the faster one in full size: it holds all components at once.
const MOST_WHOLE: u64 = 1 << 20;
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
        if let Some(other) = Other::of(bytes) {
            other.check(bytes)?;
            return (other.decode)(bytes);
        }
        if let Some(picture) = common_jpeg(bytes) {
            return Ok(picture);
        }
        let mut decoder = open(bytes)?;
        // A damaged note about the camera does not make the pixels worse.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut picture = DynamicImage::from_decoder(decoder).map_err(refused)?;
        picture.apply_orientation(orientation);
        Ok(if picture.color().has_alpha() {
            on_white(&picture.into_rgba8(), false)
        } else {
            picture.into_rgb8()
        })
    })
}

/// A picture at a part of its size, as it lies in the file.
struct Reduced {
    picture: RgbImage,
    /// Of each side, it has `1 / part` of the pixels, rounded up.
    part: u32,
    /// In full size, as they lie in the file.
    width: u32,
    height: u32,
    orientation: Orientation,
}

/// At a part of its size, where each side keeps `least` pixels; `None` for what is decoded in full.
fn decode_reduced(bytes: &[u8], least: u32) -> Result<Option<Reduced>> {
    fenced(|| Ok(reduced_jpeg(bytes, least)))
}

fn reduced_jpeg(bytes: &[u8], least: u32) -> Option<Reduced> {
    let header = jpeg::Header::read(bytes)?;
    let side = header.width.min(header.height);
    let part = [8, 4, 2].into_iter().find(|it| least <= side / it)?;
    check_jpeg(&header, bytes).ok()?;
    let jpeg::Header { width, height, orientation, .. } = header;
    Some(Reduced { picture: header.decode(part)?, part, width, height, orientation })
}

/// A sound one of the common form; what is wrong with any other, the general decoder knows.
fn common_jpeg(bytes: &[u8]) -> Option<RgbImage> {
    let header = jpeg::Header::read(bytes)?;
    let is_small = u64::from(header.width) * u64::from(header.height) <= MOST_WHOLE;
    if !is_small || check_jpeg(&header, bytes).is_err() {
        return None;
    }
    let picture = header.decode(1)?;
    if header.orientation == Orientation::NoTransforms {
        return Some(picture);
    }
    let mut picture = DynamicImage::from(picture);
    picture.apply_orientation(header.orientation);
    Some(picture.into_rgb8())
}

fn check_jpeg(header: &jpeg::Header, bytes: &[u8]) -> Result<()> {
    let (width, height) = (header.width, header.height);
    within_limits(width, height, 3 * u64::from(width) * u64::from(height))?;
    // The decoder fills what is missing with grey and says nothing.
    if jpeg_is_whole(bytes) { Ok(()) } else { Err(unread("the JPEG is cut off before its end")) }
}

/// The checks of [`decode`] that need no pixels: format, size, and that a JPEG has its end.
pub fn check(bytes: &[u8]) -> Result<()> {
    fenced(|| match (Other::of(bytes), jpeg::Header::read(bytes)) {
        (Some(other), _) => other.check(bytes),
        (None, Some(header)) => check_jpeg(&header, bytes),
        (None, None) => open(bytes).map(|_| ()),
    })
}

/// Width, height, and about the bytes that decoding takes.
type Size = (u32, u32, u64);

/// A format that `image` does not decode.
struct Other {
    size: fn(&[u8]) -> Result<Size>,
    decode: fn(&[u8]) -> Result<RgbImage>,
}

impl Other {
    fn of(bytes: &[u8]) -> Option<Other> {
        #[cfg(feature = "heic")]
        if heic::is(bytes) {
            return Some(Other { size: heic::size, decode: heic::decode });
        }
        #[cfg(feature = "avif")]
        if avif::is(bytes) {
            return Some(Other { size: avif::size, decode: avif::decode });
        }
        let _ = bytes;
        None
    }

    fn check(&self, bytes: &[u8]) -> Result<()> {
        let (width, height, taken) = (self.size)(bytes)?;
        within_limits(width, height, taken)
    }
}

/// Whether the first box of a file names one of these brands (ISO 14496-12, section 4.3).
fn has_brand(bytes: &[u8], brands: &[&[u8; 4]]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return false };
    let length = length.iter().fold(0, |so_far, it| so_far << 8 | usize::from(*it));
    let Some(named) = rest.strip_prefix(b"ftyp") else { return false };
    let named = &named[..length.saturating_sub(8).min(named.len())];
    named.chunks_exact(4).any(|it| brands.iter().any(|brand| it == *brand))
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
        return Err(unread("it is empty"));
    }
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|err| Error::Picture { reason: err.to_string() })?;
    let left_out =
        |it| unread(&format!("it is {it}, which this build leaves out; convert it to JPEG first"));
    if has_brand(bytes, &[b"avif", b"avis"]) {
        return Err(left_out("AVIF"));
    }
    if has_brand(bytes, &[b"heic", b"heix", b"mif1"]) {
        return Err(left_out("HEIC"));
    }
    let Some(format) = reader.format() else {
        return Err(unread("the bytes have no known signature"));
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
fn on_white(picture: &RgbaImage, premultiplied: bool) -> RgbImage {
    let mut opaque = RgbImage::new(picture.width(), picture.height());
    for (to, from) in opaque.pixels_mut().zip(picture.pixels()) {
        let [colour @ .., alpha] = from.0;
        to.0 = shown_on_white(colour, alpha, premultiplied);
    }
    opaque
}

/// `premultiplied`: opacity is in the colours already.
fn shown_on_white(colour: [u8; 3], alpha: u8, premultiplied: bool) -> [u8; 3] {
    let opaque = u32::from(alpha);
    match premultiplied {
        true => colour.map(|it| it.saturating_add(255 - alpha)),
        false => {
            colour.map(|it| ((u32::from(it) * opaque + 255 * (255 - opaque) + 127) / 255) as u8)
        }
    }
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
