//! JPEG decoded in full, or at 1/2, 1/4 or 1/8 of its size.
//!
//! A block of 8 x 8 pixels is stored as waves. Where a picture is made much smaller afterwards, its
//! fine waves are read over and only the coarse ones become pixels. Only the common form is read here
//! (see [`Header`]); the general decoder takes every other, and every file that is not sound.

mod header;
mod huffman;
mod inverse;
mod paint;

use image::RgbImage;

pub use self::header::Header;
use self::huffman::{Bits, Block, Coding, Table};
use self::paint::Brush;

/// Pixels a side of a block.
pub const BLOCK: usize = 8;

/// Of each pixel of a block at `1 / part` of its size, along one side, what it takes from each of the
/// block's pixels in full size.
pub fn taken_from_block(part: u32) -> Vec<[f64; BLOCK]> {
    inverse::taken(BLOCK / part as usize)
}

/// A component while it is decoded: one row of units as pixels, or all of them.
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
    /// `part` is 1, 2, 4 or 8; none where a picture in full size has a form that is not common.
    pub fn decode(&self, part: u32) -> Option<RgbImage> {
        let side = BLOCK / part as usize;
        let most = |of: fn(&header::Component) -> usize| self.components.iter().map(of).max();
        let (across, down) = (most(|it| it.across)?, most(|it| it.down)?);
        let units = (self.width as usize).div_ceil(BLOCK * across);
        let rows = (self.height as usize).div_ceil(BLOCK * down);
        // In full size coarse colours are blended, for which the rows above and below are needed.
        let held = if part == 1 { rows } else { 1 };
        let [dc, ac] = [(&self.dc, false), (&self.ac, part != 1)].map(|(codes, reads_over)| {
            codes.each_ref().map(|it| it.as_ref().map(|it| Table::of(it, reads_over)))
        });
        let mut strips = Vec::new();
        for it in &self.components {
            let (fewer_across, fewer_down) = (across / it.across, down / it.down);
            if part == 1 && 2 < fewer_across.max(fewer_down) {
                return None;
            }
            // Colours are often stored coarser: then more of their waves make as many pixels.
            let finer = fewer_across.min(fewer_down).min(BLOCK / side);
            let own = side * finer;
            let stride = units * it.across * own;
            strips.push(Strip {
                coding: Coding {
                    dc: dc.get(it.dc)?.as_ref()?,
                    ac: ac.get(it.ac)?.as_ref()?,
                    steps: self.steps.get(it.steps)?.as_ref()?.map(f32::from),
                    wanted: inverse::wanted(own),
                },
                across: it.across,
                down: it.down,
                side: own,
                pixels: vec![0; stride * it.down * own * held],
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
        let mut brush = Brush::new(part == 1);
        let mut lines = picture.chunks_exact_mut(3 * width as usize);
        for row in 0..rows {
            for at in 0..units {
                if self.restart != 0 && unit != 0 && unit % self.restart == 0 {
                    bits.restart(unit / self.restart - 1)?;
                    strips.iter_mut().for_each(|it| it.before = 0);
                }
                unit += 1;
                let mut each = strips.iter_mut();
                each.try_for_each(|it| it.read(&mut bits, (at, row % held), &mut block))?;
            }
            if !bits.is_sound() {
                return None;
            }
            if held == 1 {
                let lines = lines.by_ref().take(down * side);
                lines.enumerate().for_each(|(y, line)| brush.paint(&strips, y, line));
            }
        }
        lines.enumerate().for_each(|(y, line)| brush.paint(&strips, y, line));
        Some(picture)
    }
}

impl Strip<'_> {
    #[inline(always)]
    fn read(
        &mut self,
        bits: &mut Bits,
        (unit, row): (usize, usize),
        block: &mut Block,
    ) -> Option<()> {
        for down in 0..self.down {
            for across in 0..self.across {
                let varies = self.coding.read(bits, &mut self.before, block)?;
                let left = (unit * self.across + across) * self.side;
                let start = (row * self.down + down) * self.side * self.stride + left;
                let pixels = &mut self.pixels[start..];
                inverse::write(block, varies, self.side, pixels, self.stride);
                if varies {
                    *block = [0.0; 64];
                }
            }
        }
        Some(())
    }

    /// Whether it has fewer pixels than the picture.
    fn is_coarse(&self) -> bool {
        (self.wider, self.higher) != (1, 1)
    }

    fn row(&self, at: usize) -> &[u8] {
        &self.pixels[at * self.stride..][..self.stride]
    }
}
