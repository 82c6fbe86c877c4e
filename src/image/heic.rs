//! HEIC: what telephones write. The container says how a picture is turned, so EXIF does not.

use heic_decoder::HeifError;
use image::{RgbImage, RgbaImage};

use crate::error::{Error, Result};

/// Whether the bytes begin like such a file (ISO 23008-12, section 10.2): its brands name HEVC.
pub(super) fn is(bytes: &[u8]) -> bool {
    super::has_brand(bytes, &[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"])
}

/// Width, height and about the bytes that decoding takes, without decoding.
pub(super) fn size(bytes: &[u8]) -> Result<(u32, u32, u64)> {
    let info = heic_decoder::probe(bytes).map_err(refused)?;
    let side = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
    let coded = u64::from(side(info.coded_width)) * u64::from(side(info.coded_height));
    // A sample takes four bytes, and colours have fewer samples than pixels by these formats.
    let planes = match info.chroma_format_idc {
        0 => 4,
        1 => 6,
        2 => 8,
        _ => 12,
    };
    // Opacity has a plane of its own, and RGBA comes before RGB.
    let opacity = if info.alpha_bit_depth.is_some() { 4 + 4 } else { 0 };
    Ok((side(info.width), side(info.height), coded.saturating_mul(planes + opacity + 3)))
}

/// The picture, upright, transparent parts on white.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage> {
    let picture = heic_decoder::decode(bytes).map_err(refused)?;
    let pixels =
        |data: Option<RgbImage>| data.ok_or_else(|| super::unread("its planes do not fit"));
    let (width, height) = (picture.width as u32, picture.height as u32);
    let Some(alpha) = &picture.alpha else {
        return pixels(RgbImage::from_raw(width, height, picture.to_rgb8().map_err(refused)?.data));
    };
    let premultiplied = alpha.premultiplied;
    let colours = picture.to_rgba8().map_err(refused)?.data;
    let colours = RgbaImage::from_raw(width, height, colours);
    pixels(colours.map(|it| super::on_white(&it, premultiplied)))
}

fn refused(err: HeifError) -> Error {
    super::unread(&format!("the HEIC file: {err}"))
}
