//! AVIF: AV1 pictures, alone or as tiles of a grid. The container says how they are turned.

use image::{GrayImage, Luma, Rgb, RgbImage, imageops};
use re_rav1d::dav1d::pixel::{MatrixCoefficients, YUVRange};
use re_rav1d::dav1d::{self, Decoder, Picture, PixelLayout, PlanarImageComponent, Plane, Settings};

use super::items::{Bytes, Items, Kind};
use crate::error::{Error, Result};

/// Properties that are followed; of the others those may be passed by that are not marked as needed.
const KNOWN: [&Kind; 8] = [b"av1C", b"ispe", b"pixi", b"colr", b"irot", b"imir", b"clap", b"auxC"];
/// How the container calls opacity.
const OPACITY: [&[u8]; 2] =
    [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"];

/// Pixels a side of a tile, by ISO 23000-22, section 7.3.11.4.2.
const LEAST_TILE: u32 = 64;

/// Whether the bytes begin like such a file.
pub(super) fn is(bytes: &[u8]) -> bool {
    super::has_brand(bytes, &[b"avif", b"avis"])
}

/// Width, height and about the bytes that decoding takes, without decoding.
pub(super) fn size(bytes: &[u8]) -> Result<(u32, u32, u64)> {
    let items = Items::read(bytes)?;
    let (width, height) = extent(&items, items.primary)?;
    let tile = items.references(b"dimg", items.primary).first().copied();
    let config = items.property(tile.unwrap_or(items.primary), b"av1C").unwrap_or_default();
    let flags = config.get(2).copied().unwrap_or_default();
    let sample: u64 = if flags & 0x40 == 0 { 1 } else { 2 };
    let half_samples = match (flags & 0x10 != 0, flags & 0x08 != 0, flags & 0x04 != 0) {
        (true, ..) => 2,
        (_, true, true) => 3,
        (_, true, false) => 4,
        _ => 6,
    };
    let opacity = if opacity(&items).is_some() { 1 + sample } else { 0 };
    // The planes, what the decoder notes beside them, RGB.
    let each = (half_samples * sample).div_ceil(2) + 1 + 3 + opacity;
    Ok((width, height, (u64::from(width) * u64::from(height)).saturating_mul(each)))
}

/// The picture, upright, transparent parts on white.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage> {
    let items = Items::read(bytes)?;
    let primary = items.primary;
    let needed = |it: &(Kind, &[u8], bool)| it.2 && !KNOWN.contains(&&it.0);
    if let Some((kind, ..)) = items.properties(primary).find(needed) {
        return Err(unread(&format!("it needs '{}'", kind.escape_ascii())));
    }
    let (width, height) = extent(&items, primary)?;
    let stated = items.property(primary, b"colr").and_then(Colours::stated);
    let mut picture = RgbImage::new(width, height);
    each_tile(&items, primary, |tile, left, top| {
        let colours = stated.unwrap_or_else(|| Colours::of(tile));
        let planes = Planes::of(tile);
        let matrix = Matrix::of(colours.matrix)?;
        over(&mut picture, tile, left, top, |x, y| {
            Rgb(matrix.rgb(planes.at(x, y, colours.is_full)).map(byte))
        });
        Ok(())
    })?;
    if let Some(alpha) = opacity(&items) {
        if extent(&items, alpha)? != (width, height) {
            return Err(unread("its opacity has another size than its colours"));
        }
        let mut shown = GrayImage::new(width, height);
        each_tile(&items, alpha, |tile, left, top| {
            let planes = Planes::of(tile);
            let is_full = Colours::of(tile).is_full;
            over(&mut shown, tile, left, top, |x, y| Luma([byte(planes.at(x, y, is_full)[0])]));
            Ok(())
        })?;
        let premultiplied = items.references(b"prem", primary).contains(&alpha);
        for (pixel, Luma([alpha])) in picture.pixels_mut().zip(shown.pixels()) {
            pixel.0 = super::shown_on_white(pixel.0, *alpha, premultiplied);
        }
    }
    upright(&items, picture)
}

/// Width and height of an item, as the container has it; the decoder keeps to them.
fn extent(items: &Items, item: u32) -> Result<(u32, u32)> {
    let mut body = Bytes(items.property(item, b"ispe").ok_or_else(|| unread("it has no size"))?);
    body.number(4)?;
    match (body.number(4)? as u32, body.number(4)? as u32) {
        (0, _) | (_, 0) => Err(unread("it has no pixels")),
        size => Ok(size),
    }
}

/// The item that says how opaque the picture is.
fn opacity(items: &Items) -> Option<u32> {
    items.referrers(b"auxl", items.primary).find(|it| {
        let kind = items.property(*it, b"auxC").and_then(|it| it.get(4..)).unwrap_or_default();
        OPACITY.iter().any(|name| kind.strip_suffix(b"\0") == Some(name))
    })
}

/// Decodes an item, and gives each of its tiles with its left upper corner.
fn each_tile(
    items: &Items,
    item: u32,
    mut paint: impl FnMut(&Picture, u32, u32) -> Result<()>,
) -> Result<()> {
    match items.kind(item).as_ref() {
        Some(b"av01") => paint(&decoded(items, item)?, 0, 0),
        Some(b"grid") => {
            let bytes = items.bytes(item)?;
            let mut grid = Bytes(&bytes);
            let is_wide = grid.number(2)? & 1 == 1;
            let (rows, columns) = (grid.number(1)? as u32 + 1, grid.number(1)? as u32 + 1);
            let number = if is_wide { 4 } else { 2 };
            let size = (grid.number(number)? as u32, grid.number(number)? as u32);
            let tiles = items.references(b"dimg", item);
            let whole = extent(items, item)?;
            if size != whole || tiles.len() as u32 != rows * columns {
                return Err(unread("its grid disagrees with its size or its tiles"));
            }
            let first = extent(items, tiles[0])?;
            // So that the tiles have about the pixels of the whole, which is within the limits, and are
            // not too many.
            let fits = |tile: u32, count: u32, whole: u32| {
                let all = u64::from(tile) * u64::from(count);
                let is_covered =
                    u64::from(whole) <= all && all < u64::from(whole) + u64::from(tile);
                is_covered && LEAST_TILE <= tile
            };
            if !fits(first.0, columns, whole.0) || !fits(first.1, rows, whole.1) {
                return Err(unread("its tiles do not cover it"));
            }
            for (at, tile) in (0..).zip(tiles) {
                if items.kind(*tile).as_ref() != Some(b"av01") || extent(items, *tile)? != first {
                    return Err(unread("its tiles are of several kinds"));
                }
                paint(&decoded(items, *tile)?, at % columns * first.0, at / columns * first.1)?;
            }
            Ok(())
        }
        _ => Err(unread("its picture is not coded in AV1")),
    }
}

fn decoded(items: &Items, item: u32) -> Result<Picture> {
    let (width, height) = extent(items, item)?;
    super::within_limits(width, height, 0)?;
    let mut settings = Settings::new();
    // Pictures are decoded side by side, and a panic in another thread would not be caught.
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_all_layers(false);
    // Grain is noise that the encoder took away.
    settings.set_apply_grain(false);
    settings.set_frame_size_limit(width * height);
    let mut decoder = Decoder::with_settings(&settings).map_err(refused)?;
    let bytes = items.bytes(item)?;
    if bytes.is_empty() {
        return Err(unread("it holds no picture"));
    }
    let mut sent = decoder.send_data(bytes, None, None, None);
    let mut is_last = false;
    let picture = loop {
        match decoder.get_picture() {
            Ok(picture) => break picture,
            Err(dav1d::Error::Again) => {}
            Err(err) => return Err(refused(err)),
        }
        match sent {
            Ok(()) if is_last => return Err(unread("it holds no picture")),
            // Asked again without more bytes, the decoder gives what it still has.
            Ok(()) => is_last = true,
            Err(dav1d::Error::Again) => sent = decoder.send_pending_data(),
            Err(err) => return Err(refused(err)),
        }
    };
    match (picture.width(), picture.height()) {
        size if size == (width, height) => Ok(picture),
        (w, h) => Err(unread(&format!("it holds {w} x {h} pixels and says {width} x {height}"))),
    }
}

/// Sets the pixels of a tile in the whole, where it reaches.
fn over<P: image::Pixel<Subpixel = u8>>(
    whole: &mut image::ImageBuffer<P, Vec<u8>>,
    tile: &Picture,
    left: u32,
    top: u32,
    pixel: impl Fn(u32, u32) -> P,
) {
    let (width, height) = whole.dimensions();
    for y in 0..tile.height().min(height.saturating_sub(top)) {
        for x in 0..tile.width().min(width.saturating_sub(left)) {
            whole.put_pixel(left + x, top + y, pixel(x, y));
        }
    }
}

/// A frame's samples.
struct Planes {
    luma: Plane,
    chroma: Option<[Plane; 2]>,
    /// Bytes a row of luma and of chroma.
    strides: [usize; 2],
    /// Whether chroma has half the columns, and half the rows.
    halved: [bool; 2],
    depth: u32,
}

impl Planes {
    fn of(picture: &Picture) -> Planes {
        let layout = picture.pixel_layout();
        let plane = |it| picture.plane(it);
        let (u, v) = (PlanarImageComponent::U, PlanarImageComponent::V);
        Planes {
            luma: plane(PlanarImageComponent::Y),
            chroma: (layout != PixelLayout::I400).then(|| [plane(u), plane(v)]),
            strides: [PlanarImageComponent::Y, u].map(|it| picture.stride(it) as usize),
            halved: [layout != PixelLayout::I444, layout == PixelLayout::I420],
            depth: picture.bit_depth() as u32,
        }
    }

    /// Luma from 0 to 1, both chroma from -0.5 to 0.5.
    fn at(&self, x: u32, y: u32, is_full: bool) -> [f32; 3] {
        let up = self.depth - 8;
        let (black, white, reach) = match is_full {
            true => (0, (256 << up) - 1, (256 << up) - 1),
            false => (16 << up, 219 << up, 224 << up),
        };
        let sample = |bytes: &[u8], stride: usize, x: u32, y: u32| {
            let (x, row) = (x as usize, y as usize * stride);
            match self.depth {
                8 => i32::from(bytes[row + x]),
                _ => i32::from(sample16(bytes, row + 2 * x)),
            }
        };
        let luma = sample(&self.luma, self.strides[0], x, y) - black;
        let luma = luma as f32 / white as f32;
        let Some(chroma) = &self.chroma else {
            return [luma, 0.0, 0.0];
        };
        let (x, y) = (x >> u32::from(self.halved[0]), y >> u32::from(self.halved[1]));
        let [u, v] = chroma
            .each_ref()
            .map(|it| (sample(it, self.strides[1], x, y) - (128 << up)) as f32 / reach as f32);
        [luma, u, v]
    }
}

#[allow(clippy::host_endian_bytes)] // as the decoder keeps them
fn sample16(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// How samples are to be read (ISO 23091-2, the numbers of table 4).
#[derive(Clone, Copy)]
struct Colours {
    matrix: u64,
    is_full: bool,
}

impl Colours {
    /// What the container says goes before what the frame says.
    fn stated(colr: &[u8]) -> Option<Colours> {
        let mut body = Bytes(colr.strip_prefix(b"nclx")?);
        body.number(4).ok()?;
        let matrix = body.number(2).ok()?;
        Some(Colours { matrix, is_full: body.number(1).ok()? & 0x80 != 0 })
    }

    fn of(picture: &Picture) -> Colours {
        let matrix = picture.matrix_coefficients() as u64;
        let matrix = if matrix == MatrixCoefficients::Reserved as u64 { 2 } else { matrix };
        Colours { matrix, is_full: picture.color_range() == YUVRange::Full }
    }
}

/// What a sample of no colour stands at.
const MIDDLE: f32 = 128.0 / 255.0;

/// From luma and chroma to red, green, blue.
enum Matrix {
    Identity,
    GreenOrange,
    /// The shares of red and blue in luma.
    Shares(f32, f32),
}

impl Matrix {
    fn of(number: u64) -> Result<Matrix> {
        Ok(match number {
            0 => Matrix::Identity,
            1 => Matrix::Shares(0.2126, 0.0722),
            4 => Matrix::Shares(0.30, 0.11),
            // Two is not said, which everybody takes for this one.
            2 | 5 | 6 => Matrix::Shares(0.299, 0.114),
            7 => Matrix::Shares(0.212, 0.087),
            8 => Matrix::GreenOrange,
            9 => Matrix::Shares(0.2627, 0.0593),
            _ => return Err(unread(&format!("its colours follow matrix {number}"))),
        })
    }

    fn rgb(&self, [y, u, v]: [f32; 3]) -> [f32; 3] {
        match *self {
            Matrix::Identity => [v + MIDDLE, y, u + MIDDLE],
            Matrix::GreenOrange => [y - u + v, y + u, y - u - v],
            Matrix::Shares(of_red, of_blue) => {
                let red = y + 2.0 * (1.0 - of_red) * v;
                let blue = y + 2.0 * (1.0 - of_blue) * u;
                [red, (y - of_red * red - of_blue * blue) / (1.0 - of_red - of_blue), blue]
            }
        }
    }
}

/// Rounds, and keeps what overshoots.
fn byte(it: f32) -> u8 {
    (it * 255.0 + 0.5) as u8
}

/// Cuts, turns and mirrors in the order in which the container says it.
fn upright(items: &Items, mut picture: RgbImage) -> Result<RgbImage> {
    for (kind, body, _) in items.properties(items.primary) {
        let flag = body.first().copied().unwrap_or_default();
        picture = match (&kind, flag & 3) {
            // Quarters of a turn against the clock.
            (b"irot", 1) => imageops::rotate270(&picture),
            (b"irot", 2) => imageops::rotate180(&picture),
            (b"irot", 3) => imageops::rotate90(&picture),
            (b"imir", 0 | 2) => imageops::flip_vertical(&picture),
            (b"imir", _) => imageops::flip_horizontal(&picture),
            (b"clap", _) => cut(picture, body)?,
            _ => picture,
        };
    }
    Ok(picture)
}

/// The part that is to be seen: eight numbers, fractions of its size and of how far its middle is off.
fn cut(picture: RgbImage, body: &[u8]) -> Result<RgbImage> {
    let mut body = Bytes(body);
    let mut fraction = || -> Result<f64> {
        let (above, below) = (body.number(4)? as u32, body.number(4)? as u32);
        Ok(f64::from(above as i32) / f64::from(below))
    };
    let (width, height) = (fraction()?, fraction()?);
    let (right, down) = (fraction()?, fraction()?);
    let (whole_width, whole_height) = (f64::from(picture.width()), f64::from(picture.height()));
    let left = right + (whole_width - width) / 2.0;
    let top = down + (whole_height - height) / 2.0;
    let is_inside = 1.0 <= width
        && 1.0 <= height
        && 0.0 <= left
        && 0.0 <= top
        && left + width <= whole_width
        && top + height <= whole_height;
    if !is_inside {
        return Err(unread("what is to be seen of it lies outside"));
    }
    let [left, top, width, height] = [left, top, width, height].map(|it| it as u32);
    Ok(imageops::crop_imm(&picture, left, top, width, height).to_image())
}

fn refused(err: dav1d::Error) -> Error {
    unread(match err {
        dav1d::Error::NotEnoughMemory => "there is not enough memory for it",
        dav1d::Error::UnsupportedBitstream => "its AV1 data are of a kind that is not decoded",
        // ERANGE, which the decoder gives no name.
        dav1d::Error::UnknownError(_) => "its frame is larger than it says",
        _ => "its AV1 data are damaged",
    })
}

fn unread(reason: &str) -> Error {
    super::unread(&format!("the AVIF file: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUADRANTS: &[u8] = include_bytes!("../../tests/pictures/quadrants.avif");

    /// The file with another width and height in its container.
    fn says(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = QUADRANTS.to_vec();
        let at = bytes.windows(4).position(|it| it == b"ispe").unwrap() + 8;
        let number = |it: u32| [24, 16, 8, 0].map(|shift| (it >> shift) as u8);
        bytes[at..at + 8].copy_from_slice(&[number(width), number(height)].concat());
        bytes
    }

    #[test]
    fn tiles_are_put_together() {
        let grid = decode(include_bytes!("../../tests/pictures/grid.avif")).unwrap();
        let small = decode(QUADRANTS).unwrap();
        assert_eq!(grid.dimensions(), (480, 320));
        for (x, y, pixel) in small.enumerate_pixels() {
            let shown = grid.get_pixel(10 * x + 5, 10 * y + 5);
            let apart = pixel.0.iter().zip(shown.0).map(|(a, b)| a.abs_diff(b)).max();
            assert!(apart <= Some(24), "{pixel:?} and {shown:?} at {x}, {y}");
        }
    }

    #[test]
    fn transparent_parts_lie_on_white() {
        // A fifth of (200, 30, 30), and white behind it; `prem` says that the fifth is taken already.
        for file in [
            &include_bytes!("../../tests/pictures/veil.avif")[..],
            include_bytes!("../../tests/pictures/veil-premultiplied.avif"),
        ] {
            let shown = decode(file).unwrap();
            assert_eq!(shown.dimensions(), (16, 12));
            for pixel in shown.pixels() {
                let apart = pixel.0.iter().zip([244u8, 210, 210]).map(|(a, b)| a.abs_diff(b)).max();
                assert!(apart <= Some(3), "{pixel:?}");
            }
        }
    }

    #[test]
    fn memory_is_foreseen() {
        // Samples, one byte of notes, RGB.
        assert_eq!(size(QUADRANTS).unwrap(), (48, 32, 48 * 32 * (2 + 1 + 3)));
        let deep = include_bytes!("../../tests/pictures/ten-bits.avif");
        assert_eq!(size(deep).unwrap(), (48, 32, 48 * 32 * (6 + 1 + 3)));
        let veil = include_bytes!("../../tests/pictures/veil.avif");
        assert_eq!(size(veil).unwrap(), (16, 12, 16 * 12 * (3 + 1 + 3 + 2)));
    }

    #[test]
    fn a_container_that_lies_is_refused() {
        for (width, height, words) in [
            (30_000, 30_000, "30000 x 30000 pixels (the limit is 16384 a side"),
            (12_000, 12_000, "12000 x 12000 pixels (the limit is 100 megapixels"),
            (64, 48, "it holds 48 x 32 pixels and says 64 x 48"),
            // More than was said is not even decoded.
            (32, 32, "its frame is larger than it says"),
            (0, 32, "it has no pixels"),
        ] {
            let err = crate::image::decode(&says(width, height)).unwrap_err().to_string();
            assert!(err.contains(words), "{err}");
        }
    }
}
