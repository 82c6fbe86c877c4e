//! JPEG decoded at 1/2, 1/4 or 1/8 of its size.
//!
//! A block of 8 x 8 pixels is stored as waves. Where a picture is made much smaller afterwards, its
//! fine waves are read over and only the coarse ones become pixels. Only the common form is read here
//! (see [`Header`]); the general decoder takes every other, and every file that is not sound.

mod header;
mod huffman;
mod inverse;

use image::RgbImage;

pub use self::header::Header;
use self::huffman::{Bits, Block, Code, Coding, Table};

/// Pixels a side of a block.
pub const BLOCK: usize = 8;

/// Of each pixel of a block at `1 / part` of its size, along one side, what it takes from each of the
/// block's pixels in full size.
pub fn taken_from_block(part: u32) -> Vec<[f64; BLOCK]> {
    inverse::taken(BLOCK / part as usize)
}

/// A component while it is decoded: a row of units, as pixels.
struct Strip<'a> {
    coding: Coding<'a>,
    /// Blocks a unit, across and down.
    across: usize,
    down: usize,
    /// Pixels a side of a block.
    side: usize,
    pixels: Vec<u8>,
    /// Pixels a row.
    stride: usize,
    /// Pixels of the picture for each one here, across and down.
    wider: usize,
    higher: usize,
    before: i32,
}

impl Header<'_> {
    /// As it lies in the file, not yet turned; a side has `1 / part` of the pixels, rounded up.
    /// `part` is 2, 4 or 8.
    pub fn decode(&self, part: u32) -> Option<RgbImage> {
        let side = BLOCK / part as usize;
        let most = |of: fn(&header::Component) -> usize| self.components.iter().map(of).max();
        let (across, down) = (most(|it| it.across)?, most(|it| it.down)?);
        let units = (self.width as usize).div_ceil(BLOCK * across);
        let [dc, ac] = [&self.dc, &self.ac].map(tables);
        let mut strips = Vec::new();
        for it in &self.components {
            let (fewer_across, fewer_down) = (across / it.across, down / it.down);
            // Colours are often stored coarser: then more of their waves make as many pixels.
            let finer = fewer_across.min(fewer_down).min(BLOCK / side);
            let own = side * finer;
            let stride = units * it.across * own;
            strips.push(Strip {
                coding: Coding {
                    dc: dc.get(it.dc)?.as_ref()?,
                    ac: ac.get(it.ac)?.as_ref()?,
                    steps: self.steps.get(it.steps)?.as_ref()?,
                    wanted: inverse::wanted(own),
                },
                across: it.across,
                down: it.down,
                side: own,
                pixels: vec![0; stride * it.down * own],
                stride,
                wider: fewer_across / finer,
                higher: fewer_down / finer,
                before: 0,
            });
        }
        let (width, height) = (self.width.div_ceil(part), self.height.div_ceil(part));
        let mut picture = RgbImage::new(width, height);
        let mut bits = Bits::new(self.data);
        let (mut unit, mut block) = (0, [0.0; 64]);
        let mut lines = Vec::new();
        for rows in picture.chunks_mut(3 * width as usize * down * side) {
            for at in 0..units {
                if self.restart != 0 && unit != 0 && unit % self.restart == 0 {
                    bits.restart(unit / self.restart - 1)?;
                    strips.iter_mut().for_each(|it| it.before = 0);
                }
                unit += 1;
                strips.iter_mut().try_for_each(|it| it.read(&mut bits, at, &mut block))?;
            }
            if !bits.is_sound() {
                return None;
            }
            for (y, line) in rows.chunks_exact_mut(3 * width as usize).enumerate() {
                paint(&strips, y, line, &mut lines);
            }
        }
        Some(picture)
    }
}

fn tables(codes: &[Option<Code>; 4]) -> [Option<Table<'_>>; 4] {
    codes.each_ref().map(|it| it.as_ref().map(Table::of))
}

impl Strip<'_> {
    #[inline(always)]
    fn read(&mut self, bits: &mut Bits, unit: usize, block: &mut Block) -> Option<()> {
        for down in 0..self.down {
            for across in 0..self.across {
                let varies = self.coding.read(bits, &mut self.before, block)?;
                let left = (unit * self.across + across) * self.side;
                let start = down * self.side * self.stride + left;
                let pixels = &mut self.pixels[start..];
                inverse::write(block, varies, self.side, pixels, self.stride);
                if varies {
                    *block = [0.0; 64];
                }
            }
        }
        Some(())
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.pixels[y / self.higher * self.stride..][..self.stride]
    }
}

/// Writes a line of pixels.
fn paint(strips: &[Strip], y: usize, line: &mut [u8], lines: &mut Vec<Vec<u8>>) {
    lines.resize(strips.len(), Vec::new());
    let mut rows: [&[u8]; 3] = [&[]; 3];
    for ((strip, wide), row) in strips.iter().zip(lines.iter_mut()).zip(&mut rows) {
        *row = strip.row(y);
        if strip.wider != 1 {
            wide.clear();
            wide.extend(row.iter().flat_map(|it| std::iter::repeat_n(*it, strip.wider)));
            *row = wide;
        }
    }
    let pixels = line.as_chunks_mut::<3>().0.iter_mut();
    match rows {
        [grey, [], []] => pixels.zip(grey).for_each(|(rgb, it)| *rgb = [*it; 3]),
        [bright, blue, red] => {
            let parts = bright.iter().zip(blue).zip(red);
            pixels.zip(parts).for_each(|(rgb, ((y, b), r))| *rgb = colour(*y, *b, *r));
        }
    }
}

/// JFIF's colours, with 16 bits behind the point.
#[inline(always)]
fn colour(bright: u8, blue: u8, red: u8) -> [u8; 3] {
    let (y, b, r) = (i32::from(bright) << 16 | 0x8000, i32::from(blue) - 128, i32::from(red) - 128);
    let sums = [y + 91_881 * r, y - 22_554 * b - 46_802 * r, y + 116_130 * b];
    sums.map(|it| (it >> 16).clamp(0, 255) as u8)
}
