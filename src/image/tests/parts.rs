use std::f64::consts::{PI, TAU};

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use ndarray::Array3;

use super::*;
use crate::image::estimate::{Span, Weights, estimated};

/// Of many kinds, most of which can be decoded at a part of their size; made with Pillow 13.
const LARGE: [(&str, bool, &[u8]); 6] = [
    ("4:2:0 with restarts", true, include_bytes!("../../../tests/pictures/large-420.jpg")),
    ("4:2:2", true, include_bytes!("../../../tests/pictures/large-422.jpg")),
    ("4:1:1", true, include_bytes!("../../../tests/pictures/large-411.jpg")),
    ("grey", true, include_bytes!("../../../tests/pictures/large-grey.jpg")),
    ("progressive", false, include_bytes!("../../../tests/pictures/large-progressive.jpg")),
    ("CMYK", false, include_bytes!("../../../tests/pictures/large-cmyk.jpg")),
];

/// Waves and edges, so that a shift of half a pixel shows.
fn scene(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
        let waves = [9.0 * u + 4.0 * v, 6.0 * v - 30.0 * u, 25.0 * u * v];
        let inside = (0.6..0.9).contains(&u) && (0.1..0.35).contains(&v);
        Rgb(waves.map(|it| if inside { 240 } else { (110.0 + 80.0 * it.sin()) as u8 }))
    })
}

fn pixels(preprocess: &Preprocess, bytes: &[u8]) -> (Array3<f32>, Array3<f32>) {
    let side = preprocess.size as usize;
    let (mut reduced, mut whole) = (Array3::zeros((3, side, side)), Array3::zeros((3, side, side)));
    preprocess.read(bytes, reduced.view_mut()).unwrap();
    preprocess.write(&decode(bytes).unwrap(), whole.view_mut()).unwrap();
    (reduced, whole)
}

/// The mean and the largest difference, in steps of a byte.
fn apart((reduced, whole): &(Array3<f32>, Array3<f32>)) -> (f32, f32) {
    let each = || reduced.iter().zip(whole).map(|(a, b)| (a - b).abs() * 127.5);
    (each().sum::<f32>() / reduced.len() as f32, each().fold(0.0, f32::max))
}

#[test]
fn a_part_of_the_size_shows_the_same() {
    for (what, is_read, bytes) in LARGE {
        for (size, part) in [(150, 2), (90, 4), (40, 8)] {
            let reduced = reduced_jpeg(bytes, 2 * size).map(|it| it.picture.dimensions());
            let expected = (1003u32.div_ceil(part), 757u32.div_ceil(part));
            assert_eq!(reduced, is_read.then_some(expected), "{what}");
            for (resize, filter, shortest_edge) in [
                (Resize::Squash, Filter::Bilinear, None),
                (Resize::Crop, Filter::Bilinear, None),
                (Resize::Crop, Filter::Bicubic, Some(size)),
            ] {
                let means =
                    Preprocess { mean: [0.5; 3], std: [0.5; 3], ..preprocess(size, resize) };
                let (mean, most) =
                    apart(&pixels(&Preprocess { filter, shortest_edge, ..means }, bytes));
                assert!(mean < 1.5 && most < 40.0, "{what}, {size}, {resize:?}: {mean} {most}");
            }
        }
    }
}

/// 60 x 44, so that colours of two pixels as one end within a block; made with cjpeg of libjpeg-turbo 2.1.
const SMALL: [(&str, &[u8]); 3] = [
    ("4:2:0", include_bytes!("../../../tests/pictures/small-420.jpg")),
    ("4:2:2", include_bytes!("../../../tests/pictures/small-422.jpg")),
    ("4:4:0", include_bytes!("../../../tests/pictures/small-440.jpg")),
];

#[test]
fn in_full_size_it_is_what_the_general_decoder_shows() {
    let small = SMALL.map(|(what, bytes)| (what, true, bytes));
    let mut tight = Vec::new();
    JpegEncoder::new_with_quality(&mut tight, 95).encode_image(&scene(33, 7)).unwrap();
    for (what, is_read, bytes) in
        LARGE.into_iter().chain(small).chain([("4:4:4", true, &tight[..])])
    {
        let ours = common_jpeg(bytes);
        assert_eq!(ours.is_some(), is_read, "{what}");
        let general = DynamicImage::from_decoder(open(bytes).unwrap()).unwrap().into_rgb8();
        let Some(ours) = ours else { continue };
        assert!(ours == general, "{what}");
    }
}

#[test]
fn large_jpegs_in_full_size_are_left_to_the_general_decoder() {
    let mut large = Vec::new();
    let side = 1 + MOST_WHOLE.isqrt() as u32;
    JpegEncoder::new(&mut large).encode_image(&RgbImage::new(side, side)).unwrap();
    assert!(common_jpeg(&large).is_none());
    assert_eq!(decode(&large).unwrap().dimensions(), (side, side));
}

/// Sizes that end within a block, held in all eight ways: what is padding stays outside.
#[test]
fn a_part_of_the_size_is_turned_and_cut_alike() {
    for (width, height) in [(640, 512), (641, 519), (655, 513), (647, 640), (512, 777)] {
        for orientation in 1..=8 {
            let mut bytes = Vec::new();
            let encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
            write_exif(encoder, &scene(width, height), orientation);
            for (size, resize) in [(64, Resize::Squash), (32, Resize::Crop)] {
                let square =
                    Preprocess { mean: [0.5; 3], std: [0.5; 3], ..preprocess(size, resize) };
                assert!(reduced_jpeg(&bytes, 2 * size).is_some());
                let (mean, most) = apart(&pixels(&square, &bytes));
                let what = format!("{width} x {height}, orientation {orientation}, {resize:?}");
                assert!(mean < 1.0 && most < 25.0, "{what}: {mean} {most}");
            }
        }
    }
}

/// Bytes that the reduced decoder does not understand are left to the other.
#[test]
fn damaged_jpegs_end_as_they_do_in_full_size() {
    arbtest::arbtest(|u| {
        let mut bytes = u.choose(&LARGE)?.2.to_vec();
        for _ in 0..u.int_in_range(1..=4)? {
            let at = u.choose_index(bytes.len())?;
            bytes[at] = u.arbitrary()?;
        }
        if u.ratio(1, 4)? {
            bytes.truncate(u.int_in_range(0..=bytes.len())?);
        }
        let mut square = Array3::zeros((3, 40, 40));
        let reduced = preprocess(40, Resize::Squash).read(&bytes, square.view_mut());
        match (reduced, decode(&bytes)) {
            (Err(reduced), Err(whole)) => assert_eq!(reduced.to_string(), whole.to_string()),
            (Ok(()), Ok(_)) => {}
            // Damage in fine waves, which only the other looks at.
            (Ok(()), Err(_)) => {}
            (Err(err), Ok(_)) => panic!("{err}"),
        }
        Ok(())
    })
    .budget_ms(4_000);
}

/// By how many pixels `reduced` is shifted, across and down, by least squares.
fn moved((reduced, whole): &(Array3<f32>, Array3<f32>)) -> [f64; 2] {
    let side = whole.dim().1;
    let (mut sums, mut squares) = ([0.0; 2], [0.0; 2]);
    let inner = 1..side - 1;
    let places = (0..3).flat_map(|plane| inner.clone().map(move |y| (plane, y)));
    for (plane, y, x) in places.flat_map(|(plane, y)| inner.clone().map(move |x| (plane, y, x))) {
        let at = |plane, y, x| f64::from(whole[[plane, y, x]]);
        let difference = f64::from(reduced[[plane, y, x]]) - at(plane, y, x);
        let across = (at(plane, y, x - 1) - at(plane, y, x + 1)) / 2.0;
        let down = (at(plane, y - 1, x) - at(plane, y + 1, x)) / 2.0;
        for (it, change) in [across, down].into_iter().enumerate() {
            sums[it] += difference * change;
            squares[it] += change * change;
        }
    }
    [sums[0] / squares[0], sums[1] / squares[1]]
}

/// Sizes that divide the picture's, where all wanted pixels have the same phase, and such that do not.
#[test]
fn a_part_of_the_size_is_not_moved() {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (what, _, bytes) in LARGE.iter().filter(|it| it.1) {
        files.push(((*what).to_owned(), bytes.to_vec()));
    }
    for (width, height) in [(960, 960), (960, 967), (721, 1440), (1153, 899)] {
        let mut bytes = Vec::new();
        let encoder = JpegEncoder::new_with_quality(&mut bytes, 90);
        scene(width, height).write_with_encoder(encoder).unwrap();
        files.push((format!("{width} x {height}"), bytes));
    }
    for (what, bytes) in files {
        let whole = decode(&bytes).unwrap();
        let shorter = whole.width().min(whole.height());
        for (part, tenths) in [2, 4, 8].into_iter().flat_map(|it| [(it, 20), (it, 25), (it, 30)]) {
            let size = 10 * shorter / (part * tenths);
            let reduced = reduced_jpeg(&bytes, 2 * size).unwrap();
            assert_eq!(reduced.part, part, "{what}, {size}");
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let square = preprocess(size, Resize::Squash);
                let square = Preprocess { mean: [0.5; 3], std: [0.5; 3], filter, ..square };
                let both = pixels(&square, &bytes);
                let (mean, most) = apart(&both);
                let [across, down] = moved(&both);
                let what = format!("{what} at 1/{part} to {size}, {filter:?}");
                assert!(mean < 0.6 && most < 12.0, "{what}: {mean} {most}");
                assert!(across.abs() < 0.01 && down.abs() < 0.01, "{what}: {across} {down}");
            }
        }
    }
}

/// A side at a part of its size: what its pixels show of a function of the place, slowly.
fn shown(part: u32, at: usize, of: impl Fn(f64) -> f64) -> f64 {
    let pixels = 8 / part as usize;
    let (block, at) = ((at / pixels * 8) as f64, (at % pixels) as f64);
    let cosine = |wave: usize, at: f64, of: usize| (PI * wave as f64 * at / of as f64).cos();
    let each = (0..pixels).flat_map(|wave| (0..8).map(move |it| (wave, f64::from(it) + 0.5)));
    let seen = each.map(|(wave, it)| {
        let scale = if wave == 0 { 0.125 } else { 0.25 };
        scale * cosine(wave, it, 8) * cosine(wave, at + 0.5, pixels) * of(block + it)
    });
    seen.sum()
}

/// What the resize makes of it in full size, slowly.
fn resized_function(
    length: u32,
    middle: f64,
    step: f64,
    filter: Filter,
    of: impl Fn(f64) -> f64,
) -> f64 {
    let places = (0..length).map(|it| f64::from(it) + 0.5);
    let near = places.filter(|it| (it - middle).abs() < filter.reach() * step);
    let (mut sum, mut weights) = (0.0, 0.0);
    for place in near {
        let weight = filter.weight((place - middle) / step);
        (sum, weights) = (sum + weight * of(place), weights + weight);
    }
    sum / weights
}

/// Constants and ramps exactly, so that nothing is moved; waves down to four wanted pixels' length
/// nearly, so that nothing gets softer or sharper, whatever the size.
#[test]
fn ramps_and_waves_come_out_as_in_full_size() {
    arbtest::arbtest(|u| {
        let part = *u.choose(&[2, 4, 8])?;
        let size = u.int_in_range(1..=30)?;
        let least = 2 * part * size;
        let length = if u.ratio(1, 3)? { least } else { u.int_in_range(least..=3 * least)? };
        let kept = u.int_in_range(least..=length)?;
        let step = f64::from(kept) / f64::from(size);
        let span = Span { from: f64::from(u.int_in_range(0..=length - kept)?), step };
        let filter = *u.choose(&[Filter::Bilinear, Filter::Bicubic])?;
        let (period, phase) =
            (f64::from(u.int_in_range(4..=20)?), f64::from(u.int_in_range(0..=9)?));
        let weights = Weights::new(length, part, span, size, filter);
        for (wanted, (first, weights)) in weights.each().enumerate() {
            let middle = span.from + (wanted as f64 + 0.5) * step;
            let apart = |of: &dyn Fn(f64) -> f64| {
                let parts = weights.iter().zip(first..);
                let estimate: f64 =
                    parts.map(|(weight, at)| f64::from(*weight) * shown(part, at, of)).sum();
                (estimate - resized_function(length, middle, step, filter, of)).abs()
            };
            let what = format!("{wanted} of {size} of {length} at 1/{part} by {filter:?}");
            assert!(apart(&|_| 1.0) < 1e-5, "{what}: {}", apart(&|_| 1.0));
            let ramp = apart(&|it| (it - middle) / step);
            assert!(ramp < 1e-4, "{what}: a ramp by {ramp}");
            let wave = apart(&|it| (TAU * it / (period * step) + phase).sin());
            let to_end = f64::min(middle, f64::from(length) - middle) / step;
            assert!(to_end < 2.0 || wave < 0.005, "{what}: waves of {period} by {wave}");
        }
        Ok(())
    });
}

/// The slow twin: every pixel's sum over rows and columns.
#[test]
fn estimates_agree_with_their_slow_twin() {
    arbtest::arbtest(|u| {
        let part = *u.choose(&[2, 4, 8])?;
        let weights = |length: u32, size: u32| {
            let span = Span { from: 0.0, step: f64::from(length) / f64::from(size) };
            Weights::new(length, part, span, size, Filter::Bilinear)
        };
        let size = 6;
        let (width, height) = (u.int_in_range(96..=300u32)?, u.int_in_range(96..=300u32)?);
        let seed: u32 = u.arbitrary()?;
        let picture = RgbImage::from_fn(width.div_ceil(part), height.div_ceil(part), |x, y| {
            let noise = (seed ^ (x * 7919 + y * 104_729)).wrapping_mul(2_654_435_761);
            Rgb([noise >> 24, noise >> 16 & 255, noise >> 8 & 255].map(|it| it as u8))
        });
        let (across, down) = (weights(width, size), weights(height, size));
        let fast = estimated(&picture, &across, &down);
        let mut slow = Vec::new();
        for (top, down) in down.each() {
            for (left, across) in across.each() {
                for channel in 0..3 {
                    let mut sum = 0.0f64;
                    for (x, across) in across.iter().enumerate() {
                        let pixel =
                            |y: usize| picture[((left + x) as u32, (top + y) as u32)].0[channel];
                        let column = down
                            .iter()
                            .enumerate()
                            .map(|(y, it)| f64::from(it * f32::from(pixel(y))));
                        sum += f64::from(*across) * column.sum::<f64>().clamp(0.0, 255.0);
                    }
                    slow.push(sum.clamp(0.0, 255.0));
                }
            }
        }
        for (fast, slow) in fast.into_iter().zip(slow) {
            assert!((f64::from(fast) - slow).abs() < 0.51, "{fast}, slowly {slow}");
        }
        Ok(())
    });
}
