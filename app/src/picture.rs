//! Pictures made small, as JPEG.

use anyhow::Result;
use dualpath::image::{Filter, decode, resized};
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

const QUALITY: u8 = 84;

/// A picture file's pixels, upright, at most `most` a side, as JPEG.
pub fn jpeg(bytes: &[u8], most: u32) -> Result<Vec<u8>> {
    let picture = decode(bytes)?;
    let (width, height) = picture.dimensions();
    let scale = (f64::from(most) / f64::from(width.max(height))).min(1.0);
    let to = |it: u32| ((f64::from(it) * scale).round() as u32).max(1);
    let (wide, high) = (to(width), to(height));
    let pixels = resized(&picture, (0, 0, width, height), (wide, high), Filter::Bilinear)?;
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode(
        &pixels,
        wide,
        high,
        ExtendedColorType::Rgb8,
    )?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_stays_and_large_shrinks() {
        let png = include_bytes!("../../tests/pictures/two-colours.png");
        let (width, height) = decode(png).unwrap().dimensions();
        assert_eq!(decode(&jpeg(png, 10_000).unwrap()).unwrap().dimensions(), (width, height));
        let small = decode(&jpeg(png, 2).unwrap()).unwrap().dimensions();
        assert_eq!(small.0.max(small.1), 2);
        assert!(jpeg(b"no picture", 100).is_err());
    }
}
