//! A picture in another size, line by line, so that no copy of it is made.
//!
//! What most pictures become is made by kernels of our own, byte for byte as `fast_image_resize` makes all the others: down first, then
//! across, with weights of sixteen bits.

use std::cell::RefCell;
use std::rc::Rc;

use fast_image_resize as fir;
use image::RgbImage;

use super::estimate::Span;
use super::preprocess::Filter;
use crate::error::{Error, Result};
use crate::kernel::{self, Across};

/// Of a picture: left, top, width, height.
type Part = (u32, u32, u32, u32);
/// Takes lines of RGB bytes, by their number.
pub type Show<'a> = &'a mut dyn FnMut(usize, &[u8]);

/// Bytes a pixel.
const BYTES: usize = 3;
/// Bits of a weight, but for its sign.
const MOST_PLACES: u32 = 15;
/// Bits that a sum leaves free, as `fast_image_resize` has it.
const MOST_BITS: u32 = 22;

/// Of a side: how many pixels it has, where those to come lie, and how many they are.
type Given = (u32, Span, u32);

/// Of each pixel to come, which it takes from, and with what weights.
struct Side {
    firsts: Vec<usize>,
    /// (pixels, taps)
    weights: Vec<i16>,
    taps: usize,
    /// Bits of a weight behind the point.
    places: u32,
}

impl Side {
    fn new((length, span, size): Given) -> Side {
        let step = span.step.max(1.0);
        let most_taps = (Filter::Bilinear.reach() * step).ceil() as usize * 2 + 1;
        let mut side = Side { firsts: Vec::new(), weights: Vec::new(), taps: 0, places: 0 };
        let (mut weights, mut taken) = (Vec::new(), Vec::new());
        for pixel in 0..size {
            taken.clear();
            let middle = span.from + (f64::from(pixel) + 0.5) * span.step;
            let first = Filter::Bilinear.taken(length, middle, step, &mut taken);
            let skipped = taken.iter().position(|it| *it != 0.0).unwrap_or(0);
            let taps = taken.iter().rposition(|it| *it != 0.0).map_or(0, |it| it + 1 - skipped);
            side.taps = side.taps.max(taps);
            side.firsts.push(first + skipped);
            weights.extend_from_slice(&taken[skipped..]);
            weights.resize(most_taps * side.firsts.len(), 0.0);
        }
        let most = weights.iter().copied().fold(0.0, f64::max);
        let fits =
            |places: &u32| (most * f64::from(1 << places)).round() < f64::from(1 << MOST_PLACES);
        side.places = (1..MOST_BITS).take_while(fits).last().unwrap_or(0);
        let scale = f64::from(1 << side.places);
        for weights in weights.chunks_exact(most_taps) {
            side.weights.extend(weights[..side.taps].iter().map(|it| (it * scale + 0.5) as i16));
        }
        side
    }

    fn of(&self, pixel: usize) -> (usize, &[i16]) {
        (self.firsts[pixel], &self.weights[pixel * self.taps..][..self.taps])
    }
}

/// How pictures of one size become another.
struct Plan {
    given: [Given; 2],
    down: Side,
    /// None where a line's neighbours lie too far apart.
    across: Option<Across>,
}

thread_local! {
    /// The last one: pictures of a folder mostly have one size.
    static LAST: RefCell<Option<Rc<Plan>>> = const { RefCell::new(None) };
}

impl Plan {
    fn of(given: [Given; 2]) -> Rc<Plan> {
        LAST.with_borrow_mut(|last| match last {
            Some(plan) if plan.given == given => plan.clone(),
            _ => last.insert(Rc::new(Plan::new(given))).clone(),
        })
    }

    fn new(given: [Given; 2]) -> Plan {
        let [across, down] = given.map(Side::new);
        let of = |byte: usize| {
            let (first, weights) = across.of(byte / BYTES);
            (BYTES * first + byte % BYTES, weights)
        };
        let bytes = BYTES * given[0].2 as usize;
        Plan { given, down, across: Across::new(bytes, BYTES, of, across.places) }
    }
}

/// The part of a picture as RGB bytes, (height, width, 3) of `target`, which is a width and a height.
pub fn resized(
    picture: &RgbImage,
    part: Part,
    target: (u32, u32),
    filter: Filter,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(BYTES * target.0 as usize * target.1 as usize);
    each_line(picture, part, target, filter, &mut |_, line| bytes.extend_from_slice(line))?;
    Ok(bytes)
}

/// The same, line after line.
pub fn each_line(
    picture: &RgbImage,
    part: Part,
    target: (u32, u32),
    filter: Filter,
    show: Show<'_>,
) -> Result<()> {
    if part == (0, 0, target.0, target.1) && picture.dimensions() == target {
        show_all(picture.as_raw(), target.0, show);
    } else if filter == Filter::Bicubic || !by_kernels(picture, part, target, show) {
        show_all(&by_library(picture, part, target, filter)?, target.0, show);
    }
    Ok(())
}

/// Shows the lines of RGB bytes of a picture of this width.
pub fn show_all(bytes: &[u8], width: u32, show: Show<'_>) {
    let lines = bytes.chunks_exact(BYTES * width as usize);
    lines.enumerate().for_each(|(y, line)| show(y, line));
}

/// By [`Filter::Bilinear`]; shows no line and says so where this machine has no kernels, or the part is much larger than the target.
fn by_kernels(
    picture: &RgbImage,
    (left, top, width, height): Part,
    target: (u32, u32),
    show: Show<'_>,
) -> bool {
    let Some(kernels) = kernel::lines() else { return false };
    let given = |length, from: u32, count: u32, size| {
        (length, Span { from: from.into(), step: f64::from(count) / f64::from(size) }, size)
    };
    let across = given(picture.width(), left, width, target.0);
    let down = given(picture.height(), top, height, target.1);
    let plan = Plan::of([across, down]);
    let Some(across) = &plan.across else { return false };
    let stride = BYTES * picture.width() as usize;
    let mut line = vec![0; across.read().max(stride)];
    let mut shown = vec![0; across.written()];
    let mut taken = Vec::new();
    for y in 0..target.1 as usize {
        let (first, weights) = plan.down.of(y);
        taken.clear();
        taken.extend(picture.as_raw()[first * stride..].chunks_exact(stride).take(weights.len()));
        (kernels.down)(&taken, &weights[..taken.len()], plan.down.places, &mut line[..stride]);
        (kernels.across)(across, &line, &mut shown);
        show(y, &shown[..BYTES * target.0 as usize]);
    }
    true
}

fn by_library(
    picture: &RgbImage,
    (left, top, width, height): Part,
    target: (u32, u32),
    filter: Filter,
) -> Result<Vec<u8>> {
    let source = fir::images::ImageRef::new(
        picture.width(),
        picture.height(),
        picture.as_raw(),
        fir::PixelType::U8x3,
    )
    .map_err(|err| Error::Picture { reason: err.to_string() })?;
    let resized = match filter {
        Filter::Bilinear => {
            step(&source, (left, top, width, height), target, fir::FilterType::Bilinear)?
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_give_what_the_library_gives() {
        let mut shown = 0;
        arbtest::arbtest(|u| {
            let (width, height) = (u.int_in_range(6..=90)?, u.int_in_range(1..=90)?);
            let (left, top) = (u.int_in_range(0..=width - 1)?, u.int_in_range(0..=height - 1)?);
            let part =
                (left, top, u.int_in_range(1..=width - left)?, u.int_in_range(1..=height - top)?);
            let target = (u.int_in_range(1..=90)?, u.int_in_range(1..=90)?);
            let seed: u32 = u.arbitrary()?;
            let picture = RgbImage::from_fn(width, height, |x, y| {
                let noise = (seed ^ (x * 7919 + y * 104_729)).wrapping_mul(2_654_435_761);
                image::Rgb([noise >> 24, noise >> 16 & 255, noise >> 8 & 255].map(|it| it as u8))
            });
            let mut bytes = Vec::new();
            if by_kernels(&picture, part, target, &mut |_, line| bytes.extend_from_slice(line)) {
                shown += 1;
                let expected = by_library(&picture, part, target, Filter::Bilinear).unwrap();
                assert!(bytes == expected, "{part:?} of {width} x {height} to {target:?}");
            }
            Ok(())
        });
        assert!(kernel::lines().is_none() || 10 < shown, "{shown}");
    }
}
