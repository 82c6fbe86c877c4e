//! Entropy-coded data: bits without stuffing, and the codes in them.

/// Bits of a code that are looked up at once; longer codes are rare.
const LOOKED_UP: u32 = 10;
/// Bits that one symbol and its number take at most.
const MOST_BITS: u32 = 32;

/// The data of a scan, bit by bit.
pub struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// From the highest bit down.
    held: u64,
    count: u32,
    /// Of the held bits, zeros that stand for data behind the next marker.
    made_up: u32,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, at: 0, held: 0, count: 0, made_up: 0 }
    }

    /// Makes sure that a symbol and its number are held.
    #[inline(always)]
    pub fn fill(&mut self) {
        if self.count < MOST_BITS {
            self.fill_up();
        }
    }

    #[allow(clippy::big_endian_bytes)] // as the standard has it
    fn fill_up(&mut self) {
        let next = self.bytes.get(self.at..).and_then(|it| it.first_chunk::<8>());
        if let Some(word) = next.map(|it| u64::from_be_bytes(*it)).filter(|it| !holds_ff(*it)) {
            self.held |= word >> self.count;
            self.at += (63 - self.count) as usize / 8;
            self.count |= 56;
            return;
        }
        while self.count <= 56 {
            let byte = match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (Some(0xFF), Some(0)) => {
                    self.at += 2;
                    0xFF
                }
                (Some(0xFF), _) | (None, _) => {
                    self.made_up += 8;
                    0
                }
                (Some(byte), _) => {
                    self.at += 1;
                    *byte
                }
            };
            self.held |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Whether all that was read was there.
    pub fn is_sound(&self) -> bool {
        self.made_up <= self.count
    }

    #[inline(always)]
    fn peek(&self, bits: u32) -> u32 {
        (self.held >> (64 - bits)) as u32
    }

    #[inline(always)]
    fn skip(&mut self, bits: u32) {
        self.held <<= bits;
        self.count -= bits;
    }

    /// A number of so many bits, as section F.2.2.1 of ITU-T T.81 writes the negative ones.
    #[inline(always)]
    fn number(&mut self, bits: u32) -> i32 {
        if bits == 0 {
            return 0;
        }
        let raw = self.peek(bits) as i32;
        self.skip(bits);
        if raw < 1 << (bits - 1) { raw - (1 << bits) + 1 } else { raw }
    }

    /// Goes behind a restart marker, which must come next.
    pub fn restart(&mut self, number: usize) -> Option<()> {
        if !self.is_sound() || self.count - self.made_up >= 8 {
            return None;
        }
        let marker = self.bytes.get(self.at..self.at + 2)?;
        if marker != [0xFF, 0xD0 + (number % 8) as u8] {
            return None;
        }
        *self = Bits { bytes: self.bytes, at: self.at + 2, held: 0, count: 0, made_up: 0 };
        Some(())
    }
}

fn holds_ff(word: u64) -> bool {
    let low = u64::from_le_bytes([1; 8]);
    let inverse = !word;
    inverse.wrapping_sub(low) & word & (low << 7) != 0
}

/// A code of a DHT segment.
pub struct Table {
    /// By the next bits: the code's length above, its symbol below; 0 where it is longer.
    short: Vec<u16>,
    /// By length: the first code of the next length, shifted to 16 bits.
    ends: [u32; 17],
    /// By length: what added to a code is its symbol's place.
    shifts: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    /// From the counts of codes by length, and their symbols.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Table> {
        let mut table = Table {
            short: vec![0; 1 << LOOKED_UP],
            ends: [0; 17],
            shifts: [0; 17],
            symbols: symbols.to_owned(),
        };
        let (mut code, mut place) = (0u32, 0usize);
        for (length, count) in (1u32..).zip(counts) {
            table.shifts[length as usize] = place as i32 - code as i32;
            for symbol in symbols.get(place..place + usize::from(*count))? {
                if code >> length != 0 {
                    return None;
                }
                if length <= LOOKED_UP {
                    let rest = LOOKED_UP - length;
                    let first = (code << rest) as usize;
                    let entry = (length as u16) << 8 | u16::from(*symbol);
                    table.short[first..first + (1 << rest)].fill(entry);
                }
                code += 1;
            }
            place += usize::from(*count);
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    #[inline(always)]
    fn symbol(&self, bits: &mut Bits) -> Option<u32> {
        bits.fill();
        let entry = u32::from(self.short[bits.peek(LOOKED_UP) as usize]);
        if entry == 0 {
            return self.long_symbol(bits);
        }
        bits.skip(entry >> 8);
        Some(entry & 0xFF)
    }

    fn long_symbol(&self, bits: &mut Bits) -> Option<u32> {
        let next = bits.peek(16);
        let length = (LOOKED_UP + 1..=16).find(|it| next < self.ends[*it as usize])?;
        let place = (next >> (16 - length)) as i32 + self.shifts[length as usize];
        bits.skip(length);
        self.symbols.get(usize::try_from(place).ok()?).map(|it| u32::from(*it))
    }
}

/// Of each place in zigzag order, the place by rows.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Coefficients by rows, multiplied out.
pub type Block = [f32; 64];

/// What a component's blocks are read by.
pub struct Coding<'a> {
    pub dc: &'a Table,
    pub ac: &'a Table,
    /// In zigzag order.
    pub steps: &'a [u16; 64],
    /// Places in zigzag order that are wanted; those behind them are read over.
    pub wanted: usize,
}

impl Coding<'_> {
    /// Reads a block; `false` where all but its mean is zero. `block` is zero but for its mean before.
    #[inline(always)]
    pub fn read(&self, bits: &mut Bits, before: &mut i32, block: &mut Block) -> Option<bool> {
        let size = self.dc.symbol(bits)?;
        if 11 < size {
            return None;
        }
        *before = before.wrapping_add(bits.number(size));
        block[0] = *before as f32 * f32::from(self.steps[0]);
        let (mut at, mut varies) = (1, false);
        while at < 64 {
            let symbol = self.ac.symbol(bits)?;
            let (run, size) = ((symbol >> 4) as usize, symbol & 15);
            at += run;
            if size == 0 {
                match run {
                    15 => at += 1,
                    0 => break,
                    _ => return None,
                }
            } else if 63 < at || 10 < size {
                return None;
            } else if at < self.wanted {
                let number = bits.number(size);
                block[usize::from(ZIGZAG[at])] = number as f32 * f32::from(self.steps[at]);
                varies = true;
                at += 1;
            } else {
                bits.skip(size);
                at += 1;
            }
        }
        Some(varies)
    }
}
