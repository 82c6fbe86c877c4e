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

    /// A number of so many bits.
    #[inline(always)]
    fn number(&mut self, bits: u32) -> i32 {
        if bits == 0 {
            return 0;
        }
        let raw = self.peek(bits) as i32;
        self.skip(bits);
        extended(raw, bits)
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

/// A number of so many bits, as section F.2.2.1 of ITU-T T.81 writes the negative ones.
#[inline(always)]
fn extended(raw: i32, bits: u32) -> i32 {
    if raw < 1 << (bits - 1) { raw - (1 << bits) + 1 } else { raw }
}

fn holds_ff(word: u64) -> bool {
    let low = u64::from_le_bytes([1; 8]);
    let inverse = !word;
    inverse.wrapping_sub(low) & word & (low << 7) != 0
}

/// What some bits say: how many they are, none where more must be known; how many places they go on, and the number at the
/// last of them.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    bits: u8,
    places: u8,
    number: i16,
}

/// By the next bits that are looked up.
type ByBits<T> = Box<[T; 1 << LOOKED_UP]>;

/// Places of a symbol that ends a block.
const END: u8 = 128;

/// A code of a DHT segment.
pub struct Code {
    /// By the next bits: the code's length above, its symbol below; 0 where it is longer.
    short: ByBits<u16>,
    /// By length: the first code of the next length, shifted to 16 bits.
    ends: [u32; 17],
    /// By length: what added to a code is its symbol's place.
    shifts: [i32; 17],
    symbols: Vec<u8>,
}

/// A code, and what several of its symbols say at once.
pub struct Table<'a> {
    code: &'a Code,
    /// By the next bits: a symbol with its number.
    whole: ByBits<Said>,
    /// By the next bits: all symbols whose codes are among them, for who reads over their numbers; at the last of them a block may end.
    /// Empty for who reads all.
    over: Box<[Said]>,
}

impl Code {
    /// From the counts of codes by length, and their symbols.
    pub fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Code> {
        let mut built = Code {
            short: Box::new([0; 1 << LOOKED_UP]),
            ends: [0; 17],
            shifts: [0; 17],
            symbols: symbols.to_owned(),
        };
        let (mut code, mut place) = (0u32, 0usize);
        for (length, count) in (1u32..).zip(counts) {
            built.shifts[length as usize] = place as i32 - code as i32;
            for symbol in symbols.get(place..place + usize::from(*count))? {
                if code >> length != 0 {
                    return None;
                }
                if length <= LOOKED_UP {
                    let rest = LOOKED_UP - length;
                    let first = (code << rest) as usize;
                    let entry = (length as u16) << 8 | u16::from(*symbol);
                    built.short[first..first + (1 << rest)].fill(entry);
                }
                code += 1;
            }
            place += usize::from(*count);
            built.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(built)
    }

    fn said_whole(&self, next: u32) -> Said {
        let (length, run, size) = self.known(next);
        let bits = length + size;
        match (run, size) {
            _ if length == 0 || LOOKED_UP < bits => Said::default(),
            (0, 0) => Said { bits: bits as u8, places: END, number: 0 },
            (_, 0 | 11..) => Said::default(),
            _ => {
                let raw = next >> (LOOKED_UP - bits) & ((1 << size) - 1);
                let number = extended(raw as i32, size) as i16;
                Said { bits: bits as u8, places: run as u8 + 1, number }
            }
        }
    }

    fn said_over(&self, next: u32) -> Said {
        let (mut bits, mut places) = (0, 0);
        while bits < LOOKED_UP && places < u32::from(END) / 2 {
            let (length, run, size) = self.known(next << bits & ((1 << LOOKED_UP) - 1));
            match (run, size) {
                _ if length == 0 || LOOKED_UP < bits + length => break,
                (0, 0) => {
                    return Said {
                        bits: (bits + length) as u8,
                        places: END | places as u8,
                        number: 0,
                    };
                }
                (1..15, 0) | (_, 11..) => break,
                _ => {}
            }
            bits += length + size;
            places += run + 1;
        }
        Said { bits: bits as u8, places: places as u8, number: 0 }
    }

    /// The length of the code that comes next, if it is a short one, and what its symbol says: a run of zeros, and the size of the number behind them.
    fn known(&self, next: u32) -> (u32, u32, u32) {
        let entry = u32::from(self.short[next as usize]);
        (entry >> 8, entry >> 4 & 15, entry & 15)
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

impl Table<'_> {
    /// Only where a picture is decoded here: of others no more than the header is read.
    pub fn of(code: &Code, reads_over: bool) -> Table<'_> {
        let all = |said: fn(&Code, u32) -> Said| (0..1 << LOOKED_UP).map(move |it| said(code, it));
        let mut whole = Box::new([Said::default(); 1 << LOOKED_UP]);
        whole.iter_mut().zip(all(Code::said_whole)).for_each(|(it, said)| *it = said);
        let over = if reads_over { all(Code::said_over).collect() } else { Box::default() };
        Table { code, whole, over }
    }

    /// What the mean of a block differs by from the one before.
    #[inline(always)]
    fn mean(&self, bits: &mut Bits) -> Option<i32> {
        bits.fill();
        let Said { bits: read, places, number } = self.whole[bits.peek(LOOKED_UP) as usize];
        if read != 0 && (places == 1 || places == END) {
            bits.skip(u32::from(read));
            return Some(i32::from(number));
        }
        let size = self.code.symbol(bits)?;
        (size <= 11).then(|| bits.number(size))
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
    pub dc: &'a Table<'a>,
    pub ac: &'a Table<'a>,
    /// What numbers are worth, in zigzag order.
    pub steps: [f32; 64],
    /// Places in zigzag order that are wanted; those behind them are read over.
    pub wanted: usize,
}

impl Coding<'_> {
    /// Reads a block; `false` where all but its mean is zero. `block` is zero but for its mean before.
    #[inline(always)]
    pub fn read(&self, bits: &mut Bits, before: &mut i32, block: &mut Block) -> Option<bool> {
        *before = before.wrapping_add(self.dc.mean(bits)?);
        block[0] = *before as f32 * self.steps[0];
        let (mut at, mut varies) = (1, false);
        while at < 64 {
            bits.fill();
            let next = bits.peek(LOOKED_UP) as usize;
            if self.wanted <= at {
                let Said { bits: read, places, .. } = *self.ac.over.get(next)?;
                // What goes as far as the block's end is read symbol by symbol.
                let to = at + usize::from(places & !END);
                if read != 0 && to < 64 {
                    bits.skip(u32::from(read));
                    at = to;
                    if places & END != 0 {
                        break;
                    }
                    continue;
                }
            } else {
                let Said { bits: read, places, number } = self.ac.whole[next];
                if read != 0 {
                    bits.skip(u32::from(read));
                    if places == END {
                        break;
                    }
                    at += usize::from(places);
                    if 64 < at {
                        return None;
                    }
                    if at <= self.wanted {
                        block[usize::from(ZIGZAG[at - 1])] = f32::from(number) * self.steps[at - 1];
                        varies = true;
                    }
                    continue;
                }
            }
            let symbol = self.ac.code.symbol(bits)?;
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
                block[usize::from(ZIGZAG[at])] = number as f32 * self.steps[at];
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

#[cfg(test)]
mod tests {
    use arbtest::arbitrary::{Result, Unstructured};

    use super::*;

    /// A code of random lengths, which some bits may not belong to.
    fn code(u: &mut Unstructured<'_>, symbols: &[u8]) -> Result<Code> {
        loop {
            let (mut counts, mut free, mut left) = ([0u8; 16], 1usize, symbols.len());
            for count in &mut counts {
                free = (2 * free).min(1 << 12);
                // At least one code stays free for those to come.
                *count = u.int_in_range(0..=(free - 1).min(left).min(60))? as u8;
                free -= usize::from(*count);
                left -= usize::from(*count);
            }
            let used = symbols.len() - left;
            if let Some(code) = Code::new(&counts, &symbols[..used]) {
                return Ok(code);
            }
        }
    }

    /// Symbol by symbol, as section F.2.2 of ITU-T T.81 has it.
    fn twin(it: &Coding<'_>, bits: &mut Bits, before: &mut i32, block: &mut Block) -> Option<()> {
        let size = it.dc.code.symbol(bits)?;
        if 11 < size {
            return None;
        }
        *before = before.wrapping_add(bits.number(size));
        block[0] = *before as f32 * it.steps[0];
        let mut at = 1;
        while at < 64 {
            let symbol = it.ac.code.symbol(bits)?;
            let (run, size) = ((symbol >> 4) as usize, symbol & 15);
            match (run, size) {
                (0, 0) => break,
                (15, 0) => at += 16,
                (_, 0 | 11..) => return None,
                _ => {
                    at += run;
                    let number = bits.number(size);
                    if 63 < at {
                        return None;
                    }
                    if at < it.wanted {
                        block[usize::from(ZIGZAG[at])] = number as f32 * it.steps[at];
                    }
                    at += 1;
                }
            }
        }
        Some(())
    }

    #[test]
    fn several_symbols_at_once_say_what_each_says_to_the_twin() {
        let (mut blocks, mut refused) = (0, 0);
        let mut schedule = |u: &mut Unstructured<'_>| {
            let means: Vec<u8> = (0..13).collect();
            let mut symbols: Vec<u8> = (0..=255).collect();
            // Zeros to the end and small numbers have the short codes, as in photographs.
            let usual: &[u8] = &[0, 1, 2, 0x11, 3, 0x21, 4, 0x31, 0xF0, 5];
            symbols.retain(|it| !usual.contains(it) && it & 15 <= 11);
            symbols.splice(0..0, usual.iter().copied());
            let (dc, ac) = (code(u, &means)?, code(u, &symbols)?);
            let (dc, ac) = (Table::of(&dc, false), Table::of(&ac, true));
            let steps = std::array::from_fn(|at| at as f32 + 1.0);
            let wanted = *u.choose(&[1, 5, 25, 64])?;
            let coding = Coding { dc: &dc, ac: &ac, steps, wanted };
            let count = u.arbitrary_len::<u8>()?.min(4_000);
            let bytes = u.bytes(count)?.to_vec();
            let (mut bits, mut others) = (Bits::new(&bytes), Bits::new(&bytes));
            let (mut before, mut before_others) = (0, 0);
            for _ in 0..200 {
                let (mut block, mut other) = ([0.0; 64], [0.0; 64]);
                let varies = coding.read(&mut bits, &mut before, &mut block);
                let expected = twin(&coding, &mut others, &mut before_others, &mut other);
                assert_eq!(varies.is_some(), expected.is_some());
                let Some(varies) = varies else {
                    refused += 1;
                    break;
                };
                assert_eq!((before, block), (before_others, other));
                assert!(varies || other[1..].iter().all(|it| *it == 0.0));
                blocks += 1;
                if !bits.is_sound() {
                    break;
                }
            }
            Ok((blocks, refused))
        };
        // However busy the machine is.
        let (mut read, mut broken) = (0, 0);
        for _ in 0..50 {
            arbtest::arbtest(|u| {
                (read, broken) = schedule(u)?;
                Ok(())
            });
            if 1_000 <= read && 10 <= broken {
                break;
            }
        }
        assert!(1_000 <= read && 10 <= broken, "{read} blocks, {broken} refused");
    }
}
