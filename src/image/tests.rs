use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{
    DynamicImage, Frame, ImageEncoder, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage, imageops,
};
use ndarray::Array3;

use super::*;

/// JPEGs decoded at a part of their size.
mod parts;

const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::WebP,
    ImageFormat::Gif,
    ImageFormat::Bmp,
    ImageFormat::Tiff,
];

/// What only other programs write; made with Pillow 13, pillow-heif 1.8 and avifenc 0.11 from [`quadrants`].
const FOREIGN: [(&str, &[u8]); 12] = [
    ("CMYK JPEG", include_bytes!("../../tests/pictures/cmyk.jpg")),
    ("progressive JPEG", include_bytes!("../../tests/pictures/progressive.jpg")),
    ("lossy WebP", include_bytes!("../../tests/pictures/lossy.webp")),
    ("animated WebP", include_bytes!("../../tests/pictures/animated.webp")),
    ("HEIC", include_bytes!("../../tests/pictures/quadrants.heic")),
    ("turned HEIC", include_bytes!("../../tests/pictures/turned.heic")),
    ("AVIF", include_bytes!("../../tests/pictures/quadrants.avif")),
    ("AVIF, 10 bits, 4:4:4", include_bytes!("../../tests/pictures/ten-bits.avif")),
    (
        "AVIF, 12 bits, 4:2:2, limited range",
        include_bytes!("../../tests/pictures/twelve-bits.avif"),
    ),
    ("turned and mirrored AVIF", include_bytes!("../../tests/pictures/turned.avif")),
    ("AVIF with a border that is cut off", include_bytes!("../../tests/pictures/cut.avif")),
    ("palette PNG", include_bytes!("../../tests/pictures/palette.png")),
];

const RED: [u8; 3] = [200, 30, 30];
const GREEN: [u8; 3] = [30, 180, 40];
const BLUE: [u8; 3] = [30, 40, 200];
const YELLOW: [u8; 3] = [230, 220, 40];

/// Red, green over blue, yellow; wider than high, so that every turn shows.
fn quadrants() -> RgbImage {
    RgbImage::from_fn(48, 32, |x, y| {
        Rgb(match (x < 24, y < 16) {
            (true, true) => RED,
            (false, true) => GREEN,
            (true, false) => BLUE,
            (false, false) => YELLOW,
        })
    })
}

fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Size and the four corners' colours, as far as lossy formats keep them.
#[track_caller]
fn assert_same(got: &RgbImage, expected: &RgbImage, what: &str) {
    assert_eq!(got.dimensions(), expected.dimensions(), "{what}");
    let (width, height) = expected.dimensions();
    for (x, y) in [(1, 1), (3, 1), (1, 3), (3, 3)].map(|(x, y)| (x * width / 4, y * height / 4)) {
        let (a, b) = (got.get_pixel(x, y).0, expected.get_pixel(x, y).0);
        let apart = a.iter().zip(b).map(|(a, b)| a.abs_diff(b)).max();
        assert!(apart < Some(16), "{what}: {a:?} at {x}, {y}, expected {b:?}");
    }
}

fn message(bytes: &[u8]) -> String {
    let err = decode(bytes).unwrap_err().to_string();
    assert_eq!(check(bytes).err().map_or(err.clone(), |it| it.to_string()), err);
    err
}

#[test]
fn every_format_is_read() {
    for format in FORMATS {
        let bytes = encoded(quadrants(), format);
        assert_same(&decode(&bytes).unwrap(), &quadrants(), &format!("{format:?}"));
    }
    for (what, bytes) in FOREIGN {
        assert_same(&decode(bytes).unwrap(), &quadrants(), what);
    }
}

#[test]
fn animations_show_their_first_frame() {
    let first = DynamicImage::from(quadrants()).into_rgba8();
    let second = RgbaImage::new(48, 32);
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    encoder.encode_frames([first, second].map(Frame::new)).unwrap();
    drop(encoder);
    assert_same(&decode(&bytes).unwrap(), &quadrants(), "animated GIF");
}

#[test]
fn one_pixel_is_a_picture() {
    for format in FORMATS {
        let bytes = encoded(RgbImage::from_pixel(1, 1, Rgb(BLUE)), format);
        let picture = decode(&bytes).unwrap();
        assert_eq!(picture.dimensions(), (1, 1));
        let preprocess = preprocess(8, Resize::Crop);
        assert_eq!(preprocess.square(&picture).unwrap(), picture.as_raw().repeat(64));
    }
}

#[test]
fn kinds_of_pixels() {
    let deep = DynamicImage::from(quadrants()).into_rgb16();
    assert_same(&decode(&encoded(deep, ImageFormat::Png)).unwrap(), &quadrants(), "16-bit PNG");

    let grey = RgbImage::from_pixel(5, 3, Rgb([90; 3]));
    let plain = image::GrayImage::from_pixel(5, 3, Luma([90]));
    let deep = image::ImageBuffer::from_pixel(5, 3, Luma([90u16 * 257]));
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        assert_eq!(decode(&encoded(plain.clone(), format)).unwrap(), grey);
        assert_eq!(decode(&encoded(deep.clone(), format)).unwrap(), grey);
    }
    assert_eq!(decode(&encoded(plain, ImageFormat::Jpeg)).unwrap(), grey);

    let bits = decode(include_bytes!("../../tests/pictures/two-colours.png")).unwrap();
    assert_eq!(bits.dimensions(), (48, 32));
    assert_eq!((bits.get_pixel(0, 0).0, bits.get_pixel(40, 30).0), ([0; 3], [255; 3]));
}

#[test]
fn transparent_parts_are_white() {
    // Black hides under what cannot be seen, as drawing programs leave it.
    for (alpha, grey) in [(0, 255), (51, 204), (255, 0)] {
        let picture = RgbaImage::from_pixel(4, 4, Rgba([0, 0, 0, alpha]));
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Tiff] {
            let shown = decode(&encoded(picture.clone(), format)).unwrap();
            assert_eq!(shown, RgbImage::from_pixel(4, 4, Rgb([grey; 3])), "{format:?}");
        }
        let picture = image::ImageBuffer::from_pixel(4, 4, LumaA([0u8, alpha]));
        let shown = decode(&encoded(picture, ImageFormat::Png)).unwrap();
        assert_eq!(shown, RgbImage::from_pixel(4, 4, Rgb([grey; 3])));
    }
}

/// The smallest EXIF block that says how the camera was held.
fn exif(orientation: u8) -> Vec<u8> {
    let mut block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    block
}

#[test]
fn all_eight_orientations_are_upright() {
    let upright = quadrants();
    // As the camera stores it: the inverse of what the number asks the viewer to do.
    let stored = |orientation: u8| match orientation {
        2 => imageops::flip_horizontal(&upright),
        3 => imageops::rotate180(&upright),
        4 => imageops::flip_vertical(&upright),
        5 => imageops::flip_horizontal(&imageops::rotate90(&upright)),
        6 => imageops::rotate270(&upright),
        7 => imageops::flip_horizontal(&imageops::rotate270(&upright)),
        8 => imageops::rotate90(&upright),
        _ => upright.clone(),
    };
    for orientation in 0..=9 {
        let picture = stored(orientation);
        let mut files = [("JPEG", Vec::new()), ("PNG", Vec::new()), ("WebP", Vec::new())];
        let [(_, jpeg), (_, png), (_, webp)] = &mut files;
        write_exif(JpegEncoder::new(jpeg), &picture, orientation);
        write_exif(PngEncoder::new(png), &picture, orientation);
        write_exif(WebPEncoder::new_lossless(webp), &picture, orientation);
        for (format, bytes) in files {
            let what = format!("{format} with orientation {orientation}");
            assert_same(&decode(&bytes).unwrap(), &upright, &what);
        }
    }
}

fn write_exif(mut encoder: impl ImageEncoder, picture: &RgbImage, orientation: u8) {
    encoder.set_exif_metadata(exif(orientation)).unwrap();
    let (width, height) = picture.dimensions();
    encoder.write_image(picture, width, height, image::ExtendedColorType::Rgb8).unwrap();
}

/// 48 megapixels, which telephones take, fit into what a decoder may take.
#[test]
#[cfg(feature = "heic")]
fn heic_takes_nine_bytes_a_pixel() {
    let bytes = include_bytes!("../../tests/pictures/quadrants.heic");
    // It is coded as 64 x 64, of which the container shows a part.
    assert_eq!(heic::size(bytes).unwrap(), (48, 32, 64 * 64 * 9));
    const { assert!(8064 * 6048 * 9 <= MOST_DECODER_BYTES) };
}

#[test]
fn what_is_no_picture() {
    assert!(message(b"").starts_with("the picture cannot be read: it is empty (JPEG, PNG"));
    assert!(message(b"two dogs in the snow").contains("the bytes have no known signature"));
    let avif = message(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif");
    assert!(avif.starts_with("the picture cannot be read: ") && avif.contains("AVIF"), "{avif}");
    let heic = message(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    assert!(heic.starts_with("the picture cannot be read: ") && heic.contains("HEIC"), "{heic}");
    assert!(message(b"\x89PNG\r\n\x1a\n").starts_with("the picture cannot be read: "));
    assert!(message(b"\xff\xd8\xff").starts_with("the picture cannot be read: "));
}

#[test]
fn half_a_file_is_refused() {
    let noise = RgbImage::from_fn(60, 40, |x, y| {
        Rgb([x * 7 + y * 13, x * 31 + y * 3, x * y].map(|it| (it % 251) as u8))
    });
    let mut files: Vec<_> =
        FORMATS.iter().map(|it| (format!("{it:?}"), encoded(noise.clone(), *it))).collect();
    files.extend(FOREIGN.map(|(what, bytes)| (what.to_owned(), bytes.to_vec())));
    for (what, bytes) in files {
        for tenth in 0..10 {
            let cut = bytes.len() * tenth / 10;
            assert!(decode(&bytes[..cut]).is_err(), "{what}, {cut} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn a_thumbnail_does_not_end_the_jpeg() {
    let thumbnail = encoded(RgbImage::new(8, 8), ImageFormat::Jpeg);
    let picture = encoded(quadrants(), ImageFormat::Jpeg);
    let mut bytes = picture[..2].to_vec();
    bytes.extend([0xFF, 0xE1]);
    let length = thumbnail.len() + 2;
    bytes.extend([(length >> 8) as u8, length as u8]);
    bytes.extend(&thumbnail);
    bytes.extend(&picture[2..]);
    assert_same(&decode(&bytes).unwrap(), &quadrants(), "JPEG with a thumbnail");
    bytes.truncate(bytes.len() - 40);
    assert!(message(&bytes).contains("the JPEG is cut off before its end"));
}

/// Headers that promise more than their few bytes can hold.
#[test]
fn sizes_have_limits() {
    let of = |width, height, colour: u8, depth: u8| {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend([width, height].map(u32_bytes).concat());
        png.extend([depth, colour, 0, 0, 0]);
        let check = crc(&png[12..]);
        png.extend(u32_bytes(check));
        // An empty data chunk, as the size is known only when the data begin.
        png.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
        png
    };
    let mut jpeg = encoded(quadrants(), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|it| it == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x75, 0x30, 0x75, 0x30]);
    let mut gif = encoded(quadrants(), ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0x30, 0x75, 0x30, 0x75]);
    let mut bmp = encoded(quadrants(), ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0x30, 0x75, 0, 0, 0x30, 0x75, 0, 0]);
    for bytes in [of(30_000, 30_000, 2, 8), jpeg, gif, bmp] {
        let expected = "the picture has 30000 x 30000 pixels (the limit is 16384 a side; make it smaller first)";
        assert_eq!(message(&bytes), expected);
    }
    let megapixels = message(&of(12_000, 12_000, 2, 8));
    assert!(
        megapixels.contains("12000 x 12000 pixels (the limit is 100 megapixels"),
        "{megapixels}"
    );
    let memory = message(&of(9_000, 9_000, 6, 16));
    assert!(memory.contains("9000 x 9000 pixels (the limit is 512 MiB decoded"), "{memory}");
    let mut avif = include_bytes!("../../tests/pictures/quadrants.avif").to_vec();
    let at = avif.windows(4).position(|it| it == b"ispe").unwrap() + 8;
    avif[at..at + 8].fill(0xFF);
    assert!(message(&avif).contains("4294967295 x 4294967295 pixels (the limit is"));
}

fn u32_bytes(it: u32) -> [u8; 4] {
    [24, 16, 8, 0].map(|shift| (it >> shift) as u8)
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

#[test]
fn damaged_bytes_are_refused_or_decoded() {
    let mut files: Vec<_> = FORMATS.iter().map(|it| encoded(quadrants(), *it)).collect();
    files.extend(FOREIGN.map(|(_, bytes)| bytes.to_vec()));
    arbtest::arbtest(|u| {
        let mut bytes = u.choose(&files)?.clone();
        for _ in 0..u.int_in_range(1..=8)? {
            let at = u.choose_index(bytes.len())?;
            bytes[at] = u.arbitrary()?;
        }
        bytes.truncate(u.int_in_range(0..=2 * bytes.len())?);
        match decode(&bytes) {
            Ok(picture) => {
                let (width, height) = picture.dimensions();
                assert!(u64::from(width) * u64::from(height) <= MOST_PIXELS);
            }
            Err(Error::Picture { reason }) => assert!(!reason.contains("gave up"), "{bytes:?}"),
            Err(err) => assert!(matches!(err, Error::PictureSize { .. })),
        }
        Ok(())
    })
    .budget_ms(1_000);
}

fn preprocess(size: u32, resize: Resize) -> Preprocess {
    Preprocess {
        size,
        resize,
        mean: [0.5, 0.25, 0.0],
        std: [0.5, 0.25, 1.0],
        filter: Filter::Bilinear,
        shortest_edge: None,
        pixels: Pixels::Floats,
    }
}

#[test]
fn squash_takes_all_and_crop_the_middle() {
    // Three stripes of 8 x 8: the middle is what a crop sees.
    let stripes = RgbImage::from_fn(24, 8, |x, _| Rgb([RED, GREEN, BLUE][x as usize / 8]));
    let crop = preprocess(8, Resize::Crop).square(&stripes).unwrap();
    assert_eq!(crop, GREEN.repeat(64));
    let squash = preprocess(24, Resize::Squash).square(&stripes).unwrap();
    assert_eq!((&squash[..3], &squash[36..39], &squash[69..72]), (&RED[..], &GREEN[..], &BLUE[..]));
}

#[test]
fn the_shortest_edge_goes_first_and_the_square_is_cut_out_of_it() {
    // 48 x 16 to 24 x 8, of which columns 8 to 15 are the middle stripe.
    let stripes = RgbImage::from_fn(48, 16, |x, _| Rgb([RED, GREEN, BLUE][x as usize / 16]));
    let preprocess = Preprocess { shortest_edge: Some(8), ..preprocess(6, Resize::Crop) };
    assert_eq!(preprocess.square(&stripes).unwrap(), GREEN.repeat(36));
    let upright = image::imageops::rotate90(&stripes);
    assert_eq!(preprocess.square(&upright).unwrap(), GREEN.repeat(36));
}

#[test]
fn pixels_are_planes_of_normalised_colour() {
    let picture = RgbImage::from_pixel(4, 4, Rgb([255, 0, 51]));
    let mut pixels = Array3::zeros((3, 4, 4));
    preprocess(4, Resize::Squash).write(&picture, pixels.view_mut()).unwrap();
    for (plane, expected) in pixels.outer_iter().zip([1.0f32, -1.0, 0.2]) {
        assert!(plane.iter().all(|it| (it - expected).abs() < 1e-6), "{plane}");
    }
}

/// The slow twin: a triangle as wide as the step, over every pixel it covers.
fn resized_slowly(picture: &RgbImage, size: u32) -> Vec<f64> {
    let weights = |length: u32, to: u32| {
        let step = f64::from(length) / f64::from(size);
        let (middle, reach) = ((f64::from(to) + 0.5) * step, step.max(1.0));
        let all: Vec<f64> = (0..length)
            .map(|it| (1.0 - ((f64::from(it) + 0.5 - middle) / reach).abs()).max(0.0))
            .collect();
        let sum: f64 = all.iter().sum();
        all.into_iter().map(move |it| it / sum).collect::<Vec<f64>>()
    };
    let mut square = Vec::new();
    for (y, x) in (0..size * size).map(|it| (it / size, it % size)) {
        let (down, across) = (weights(picture.height(), y), weights(picture.width(), x));
        for channel in 0..3 {
            let pixels = picture.enumerate_pixels();
            let weighted = |(x, y, rgb): (u32, u32, &Rgb<u8>)| {
                down[y as usize] * across[x as usize] * f64::from(rgb.0[channel])
            };
            square.push(pixels.map(weighted).sum());
        }
    }
    square
}

#[test]
fn resizing_agrees_with_its_slow_twin() {
    arbtest::arbtest(|u| {
        let (width, height) = (u.int_in_range(1..=40)?, u.int_in_range(1..=40)?);
        let size = u.int_in_range(1..=12)?;
        let seed: u32 = u.arbitrary()?;
        let picture = RgbImage::from_fn(width, height, |x, y| {
            let noise = (seed ^ (x * 7919 + y * 104_729)).wrapping_mul(2_654_435_761);
            Rgb([noise >> 24, noise >> 16 & 255, noise >> 8 & 255].map(|it| it as u8))
        });
        let fast = preprocess(size, Resize::Squash).square(&picture).unwrap();
        for (fast, slow) in fast.into_iter().zip(resized_slowly(&picture, size)) {
            assert!((f64::from(fast) - slow).abs() < 2.5, "{fast}, slowly {slow}");
        }
        Ok(())
    });
}

#[test]
fn bytes_are_what_is_normalised() {
    let drawn =
        RgbImage::from_fn(33, 70, |x, y| Rgb([(3 * x) as u8, (5 * y) as u8, (x * y) as u8]));
    let mut file = Cursor::new(Vec::new());
    drawn.write_to(&mut file, ImageFormat::Png).unwrap();
    let crop = Preprocess { shortest_edge: Some(24), ..preprocess(20, Resize::Crop) };
    for preprocess in [preprocess(20, Resize::Squash), crop] {
        let (mut floats, mut bytes) = (Array3::zeros((3, 20, 20)), Array3::zeros((20, 20, 3)));
        preprocess.read(file.get_ref(), floats.view_mut()).unwrap();
        preprocess.read_bytes(file.get_ref(), bytes.view_mut()).unwrap();
        assert_eq!(bytes.as_slice().unwrap(), preprocess.square(&drawn).unwrap());
        let mut again = Array3::zeros((3, 20, 20));
        let square = RgbImage::from_raw(20, 20, bytes.into_raw_vec_and_offset().0).unwrap();
        Preprocess { resize: Resize::Squash, ..preprocess }
            .write(&square, again.view_mut())
            .unwrap();
        assert_eq!(floats, again);
    }
    assert!(
        preprocess(20, Resize::Squash)
            .read_bytes(b"no picture", Array3::zeros((20, 20, 3)).view_mut())
            .is_err()
    );
}
