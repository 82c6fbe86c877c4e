//! Lines of pixels from the lines of their components.

use super::Strip;
use crate::kernel::{Loops, widest};

/// Pixels that get their colours at once.
const LANES: usize = 32;

/// Paints lines of pixels, in memory that the next line gets again.
pub struct Brush {
    /// Whether coarse colours are blended, not repeated.
    blends: bool,
    /// A component's line at the width of the picture.
    wide: [Vec<u8>; 3],
    /// One that is not yet as wide.
    down: Vec<u8>,
}

impl Brush {
    pub fn new(blends: bool) -> Brush {
        Brush { blends, wide: Default::default(), down: Vec::new() }
    }

    pub fn paint(&mut self, strips: &[Strip], y: usize, line: &mut [u8]) {
        for (strip, wide) in strips.iter().zip(&mut self.wide) {
            if !strip.is_coarse() {
                continue;
            }
            let near = y / strip.higher;
            if self.blends {
                let last = strip.pixels.len() / strip.stride - 1;
                let far = match strip.higher {
                    1 => near,
                    _ if y.is_multiple_of(2) => near.saturating_sub(1),
                    _ => last.min(near + 1),
                };
                let [near, far] = [near, far].map(|it| strip.row(it));
                let (doubles, down) = (strip.wider == 2, &mut self.down);
                widest(Blended { near, far, doubles, down, wide });
            } else {
                wide.clear();
                let row = strip.row(near).iter();
                wide.extend(row.flat_map(|it| std::iter::repeat_n(*it, strip.wider)));
            }
        }
        let mut rows: [&[u8]; 3] = [&[]; 3];
        for ((strip, wide), row) in strips.iter().zip(&self.wide).zip(&mut rows) {
            *row = if strip.is_coarse() { wide } else { strip.row(y) };
        }
        match rows {
            [grey, [], []] => {
                let pixels = line.as_chunks_mut::<3>().0.iter_mut();
                pixels.zip(grey).for_each(|(rgb, it)| *rgb = [*it; 3]);
            }
            [bright, blue, red] => widest(Colours { bright, blue, red, line }),
        }
    }
}

/// A line of a coarse component: three parts of what is near, one of what is next, down and then across.
struct Blended<'a> {
    /// The row that the line lies in, and the next one.
    near: &'a [u8],
    far: &'a [u8],
    /// Whether there are two pixels for each one across.
    doubles: bool,
    /// Memory for what there is down, with the first and the last one twice.
    down: &'a mut Vec<u8>,
    wide: &'a mut Vec<u8>,
}

impl Loops for Blended<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Blended { near, far, doubles, down, wide } = self;
        let length = near.len();
        let mix = |to: &mut [u8]| {
            let each = to.iter_mut().zip(near.iter().zip(far));
            each.for_each(|(it, (near, far))| *it = mixed(*near, *far));
        };
        if !doubles {
            wide.resize(length, 0);
            return mix(wide);
        }
        down.resize(length + 2, 0);
        mix(&mut down[1..=length]);
        (down[0], down[length + 1]) = (down[1], down[length]);
        wide.resize(2 * length, 0);
        let each = down.iter().zip(&down[1..]).zip(&down[2..]);
        for (two, ((left, own), right)) in wide.as_chunks_mut::<2>().0.iter_mut().zip(each) {
            *two = [mixed(*own, *left), mixed(*own, *right)];
        }
    }
}

/// Three parts and one.
#[inline(always)]
fn mixed(near: u8, next: u8) -> u8 {
    ((3 * u16::from(near) + u16::from(next) + 2) >> 2) as u8
}

/// A line of pixels from its components.
struct Colours<'a> {
    bright: &'a [u8],
    blue: &'a [u8],
    red: &'a [u8],
    line: &'a mut [u8],
}

impl Loops for Colours<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (pixels, rest) = self.line.as_chunks_mut::<{ 3 * LANES }>();
        let done = pixels.len() * LANES;
        let of = |bytes: &'_ [u8], at: usize| -> [u8; LANES] {
            *bytes[at * LANES..].first_chunk().expect("as long as the line")
        };
        for (at, pixels) in pixels.iter_mut().enumerate() {
            let (y, b, r) = (of(self.bright, at), of(self.blue, at), of(self.red, at));
            let (mut reds, mut greens, mut blues) = ([0; LANES], [0; LANES], [0; LANES]);
            for at in 0..LANES {
                [reds[at], greens[at], blues[at]] = colour(y[at], b[at], r[at]);
            }
            for at in 0..LANES {
                pixels[3 * at] = reds[at];
                pixels[3 * at + 1] = greens[at];
                pixels[3 * at + 2] = blues[at];
            }
        }
        let parts = self.bright[done..].iter().zip(&self.blue[done..]).zip(&self.red[done..]);
        rest.as_chunks_mut::<3>()
            .0
            .iter_mut()
            .zip(parts)
            .for_each(|(rgb, ((y, b), r))| *rgb = colour(*y, *b, *r));
    }
}

/// JFIF's colours, with 14 bits behind the point.
#[inline(always)]
fn colour(bright: u8, blue: u8, red: u8) -> [u8; 3] {
    let (y, b, r) = (i32::from(bright) << 14 | 0x1FFF, i32::from(blue) - 128, i32::from(red) - 128);
    let sums = [y + 22_970 * r, y - 5_638 * b - 11_700 * r, y + 29_032 * b];
    sums.map(|it| (it >> 14).clamp(0, 255) as u8)
}
