//! Rowids of a block in a list, in as many bytes as they differ by.
//!
//! ```text
//! │ the least of them, int64 │ how much more each is, all in 0 to 8 bytes │
//! ```

/// Bytes of the least one.
const LEAST_BYTES: usize = 8;

/// The bytes of these.
pub(super) fn packed(rowids: impl Iterator<Item = i64> + Clone) -> Vec<u8> {
    let least = rowids.clone().min().unwrap_or_default();
    let more = rowids.map(|it| it.wrapping_sub(least) as u64);
    let most = more.clone().max().unwrap_or_default();
    let width = bytes_of(most);
    let mut bytes = least.to_le_bytes().to_vec();
    put_numbers(&mut bytes, more, width);
    bytes
}

/// The rowids in these bytes; none where they are not of so many.
pub(super) fn unpacked(bytes: &[u8], count: usize) -> Option<Vec<i64>> {
    let width = width(bytes.len(), count)?;
    let (least, more) = bytes.split_first_chunk::<LEAST_BYTES>()?;
    let least = i64::from_le_bytes(*least);
    let more = (0..count).map(|nth| number_at(more, nth * width, width));
    Some(more.map(|it| least.wrapping_add(it as i64)).collect())
}

/// How many bytes each has beside the least, where so many bytes are of so many rowids.
pub(super) fn width(bytes: usize, count: usize) -> Option<usize> {
    let more = bytes.checked_sub(LEAST_BYTES)?;
    let width = more.checked_div(count)?;
    (width * count == more && width <= 8).then_some(width)
}

/// How many bytes a number needs.
pub(super) fn bytes_of(number: u64) -> usize {
    (u64::BITS - number.leading_zeros()).div_ceil(u8::BITS) as usize
}

/// The number in up to eight bytes from one on.
pub(super) fn number_at(bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut eight = [0; 8];
    match bytes[at..].first_chunk() {
        // Eight at once, less what lies behind the number: a length that is not known takes longer.
        Some(more) => eight = *more,
        None => eight[..width].copy_from_slice(&bytes[at..at + width]),
    }
    let most = u64::MAX.checked_shr(u64::BITS - u8::BITS * width as u32).unwrap_or(0);
    u64::from_le_bytes(eight) & most
}

/// Adds numbers of so many bytes each.
pub(super) fn put_numbers(
    bytes: &mut Vec<u8>,
    numbers: impl Iterator<Item = u64> + Clone,
    width: usize,
) {
    let mut at = bytes.len();
    bytes.resize(at + numbers.clone().count() * width + 8, 0);
    for it in numbers {
        // Eight at once: the next one is written over those that are too many.
        bytes[at..at + 8].copy_from_slice(&it.to_le_bytes());
        at += width;
    }
    bytes.truncate(at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        arbtest::arbtest(|u| {
            let (first, within) = (u.arbitrary::<i64>()?, u.int_in_range(0..=u64::MAX)?);
            let count = u.int_in_range(1..=40)?;
            let mut rowids = Vec::new();
            for _ in 0..count {
                rowids.push(first.wrapping_add(u.int_in_range(0..=within)? as i64));
            }
            let bytes = packed(rowids.iter().copied());
            assert_eq!(unpacked(&bytes, count), Some(rowids));
            // Of another number of rowids they are only where that divides what lies behind the least.
            let other = u.int_in_range(0..=80)?;
            let fits = 0 < other && (bytes.len() - LEAST_BYTES).is_multiple_of(other);
            let read = unpacked(&bytes, other);
            assert!(read.is_none() || fits, "{count} rowids read as {other}");
            assert!(read.is_none_or(|it| it.len() == other));
            assert_eq!(unpacked(&bytes[..bytes.len().min(7)], count), None);
            Ok(())
        });
    }

    #[test]
    fn rowids_that_are_near_take_few_bytes() {
        for (rowids, bytes) in [
            (&[7][..], 8),
            (&[7, 7 + 255], 8 + 2),
            (&[7, 7 + 256], 8 + 4),
            (&[-1, 1, 0], 8 + 3),
            (&[i64::MIN, i64::MAX], 8 + 16),
        ] {
            assert_eq!(packed(rowids.iter().copied()).len(), bytes, "{rowids:?}");
        }
    }
}
