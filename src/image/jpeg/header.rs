//! What stands before the pixels of a JPEG.

use image::metadata::Orientation;

use super::huffman::Code;

/// The segments up to the first scan of a sequential JPEG of eight bits a sample that holds all
/// its components in that scan.
pub struct Header<'a> {
    pub width: u32,
    pub height: u32,
    pub components: Vec<Component>,
    /// In zigzag order.
    pub steps: [Option<[u16; 64]>; 4],
    pub dc: [Option<Code>; 4],
    pub ac: [Option<Code>; 4],
    /// Units between two restart markers; 0 for none.
    pub restart: usize,
    pub orientation: Orientation,
    /// What follows the scan's header.
    pub data: &'a [u8],
}

/// One of brightness, blue and red.
pub struct Component {
    id: u8,
    /// Blocks a unit, across and down.
    pub across: usize,
    pub down: usize,
    /// Which tables it uses.
    pub steps: usize,
    pub dc: usize,
    pub ac: usize,
}

impl<'a> Header<'a> {
    /// None for every other JPEG, and for a damaged one: the general decoder knows what to say.
    pub fn read(bytes: &'a [u8]) -> Option<Header<'a>> {
        let mut header = Header {
            width: 0,
            height: 0,
            components: Vec::new(),
            steps: [None; 4],
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            restart: 0,
            orientation: Orientation::NoTransforms,
            data: &[],
        };
        let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
        loop {
            let [0xFF, marker, high, low, after @ ..] = rest else { return None };
            let length = usize::from(*high) << 8 | usize::from(*low);
            let (body, after) = after.split_at_checked(length.checked_sub(2)?)?;
            rest = after;
            match marker {
                0xC0 | 0xC1 => header.frame(body)?,
                0xC4 => header.codes(body)?,
                0xDA => {
                    header.scan(body)?;
                    return Some(Header { data: rest, ..header });
                }
                0xDB => header.quantization(body)?,
                0xDD => {
                    header.restart = usize::from(*body.first()?) << 8 | usize::from(*body.get(1)?)
                }
                0xE1 => header.exif(body),
                0xEE => header.adobe(body)?,
                0xE0..=0xEF | 0xFE => {}
                // Progressive, arithmetic, lossless, and what must not stand here.
                _ => return None,
            }
        }
    }

    fn frame(&mut self, body: &[u8]) -> Option<()> {
        let [8, high, low, wide, narrow, count, parts @ ..] = body else { return None };
        self.height = u32::from(*high) << 8 | u32::from(*low);
        self.width = u32::from(*wide) << 8 | u32::from(*narrow);
        let (parts, rest) = parts.as_chunks::<3>();
        let is_sound = rest.is_empty() && parts.len() == usize::from(*count);
        if !is_sound || ![1, 3].contains(count) || !self.components.is_empty() {
            return None;
        }
        for [id, blocks, steps] in parts {
            let (across, down) = (usize::from(blocks >> 4), usize::from(blocks & 15));
            if ![1, 2, 4].contains(&across) || ![1, 2, 4].contains(&down) || 3 < *steps {
                return None;
            }
            let steps = usize::from(*steps);
            self.components.push(Component { id: *id, across, down, steps, dc: 0, ac: 0 });
        }
        if let [only] = &mut self.components[..] {
            // A scan of one component has its blocks in rows, whatever the frame says.
            (only.across, only.down) = (1, 1);
        }
        // Some programs say by such names that the components are colours.
        let ids: Vec<u8> = self.components.iter().map(|it| it.id).collect();
        (ids != b"RGB" && 0 < self.width && 0 < self.height).then_some(())
    }

    fn codes(&mut self, mut body: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = body {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let symbols = counts.iter().map(|it| usize::from(*it)).sum();
            let (symbols, rest) = rest.split_at_checked(symbols)?;
            let codes = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *codes.get_mut(usize::from(kind & 15))? = Some(Code::new(counts, symbols)?);
            body = rest;
        }
        Some(())
    }

    fn quantization(&mut self, mut body: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = body {
            let bytes = 1 + usize::from(kind >> 4);
            let (values, rest) = rest.split_at_checked(64 * bytes)?;
            let mut steps = [0; 64];
            for (step, value) in steps.iter_mut().zip(values.chunks_exact(bytes)) {
                *step = value.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte));
            }
            *self.steps.get_mut(usize::from(kind & 15)).filter(|_| bytes <= 2)? = Some(steps);
            body = rest;
        }
        Some(())
    }

    fn scan(&mut self, body: &[u8]) -> Option<()> {
        let [count, rest @ ..] = body else { return None };
        let (parts, rest) = rest.split_at_checked(2 * usize::from(*count))?;
        if rest != [0, 63, 0] || usize::from(*count) != self.components.len() {
            return None;
        }
        for (component, part) in self.components.iter_mut().zip(parts.as_chunks::<2>().0) {
            let [id, tables] = part;
            if *id != component.id {
                return None;
            }
            (component.dc, component.ac) = (usize::from(tables >> 4), usize::from(tables & 15));
        }
        Some(())
    }

    fn exif(&mut self, body: &[u8]) {
        let said = body.strip_prefix(b"Exif\0\0").and_then(Orientation::from_exif_chunk);
        self.orientation = said.unwrap_or(self.orientation);
    }

    /// It says whether three components are colours already.
    fn adobe(&mut self, body: &[u8]) -> Option<()> {
        let transform = body.strip_prefix(b"Adobe").map(|it| it.get(6));
        (transform.is_none() || transform == Some(Some(&1))).then_some(())
    }
}
