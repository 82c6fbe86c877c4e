//! Whole numbers in so many bits each, one behind the other, the lowest bits first.

/// Most bits that eight bytes have, whichever of a byte's bits they begin at; besides, 64 always begin at a byte.
pub(super) const MOST: usize = 57;

/// How many bits a number needs.
pub(super) fn needed(number: u64) -> usize {
    (u64::BITS - number.leading_zeros()) as usize
}

/// Adds numbers of no more than these bits: 0 to [`MOST`], or 64.
pub(super) fn put(bytes: &mut Vec<u8>, numbers: impl ExactSizeIterator<Item = u64>, bits: usize) {
    let begin = bytes.len();
    let end = begin + (bits * numbers.len()).div_ceil(8);
    bytes.resize(end + 8, 0);
    for (nth, it) in numbers.enumerate() {
        let (at, shift) = (begin + nth * bits / 8, nth * bits % 8);
        let there = eight(&bytes[at..]) | it << shift;
        bytes[at..at + 8].copy_from_slice(&there.to_le_bytes());
    }
    bytes.truncate(end);
}

/// The number that so many come before, of as many bits.
pub(super) fn get(bytes: &[u8], nth: usize, bits: usize) -> u64 {
    let most = u64::MAX.checked_shr(u64::BITS - bits as u32).unwrap_or(0);
    eight(&bytes[nth * bits / 8..]) >> (nth * bits % 8) & most
}

/// Up to eight bytes as a number.
fn eight(bytes: &[u8]) -> u64 {
    let mut eight = [0; 8];
    match bytes.first_chunk() {
        Some(all) => eight = *all,
        None => eight[..bytes.len()].copy_from_slice(bytes),
    }
    u64::from_le_bytes(eight)
}
