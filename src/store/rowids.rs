//! Rowids of a block in a list, in as many bits as they differ by: in whole bytes one block of a million rows less fits a
//! page of the file.
//!
//! ```text
//! │ bits of each │ the least of them │ how much more each is, the lowest bits first │
//! │ u8           │ int64             │                                              │
//! ```

use super::bits;

/// Bytes of the first two.
const HEAD_BYTES: usize = 1 + 8;

/// The bytes of these.
pub(super) fn packed(rowids: &[i64]) -> Vec<u8> {
    let least = rowids.iter().copied().min().unwrap_or_default();
    let more = rowids.iter().map(|it| it.wrapping_sub(least) as u64);
    let bits = match bits::needed(more.clone().max().unwrap_or_default()) {
        few @ ..=bits::MOST => few,
        _ => 64,
    };
    let mut bytes = vec![bits as u8];
    bytes.extend(least.to_le_bytes());
    bits::put(&mut bytes, more, bits);
    bytes
}

/// The rowids in these bytes; none where they are not of so many.
pub(super) fn unpacked(bytes: &[u8], count: usize) -> Option<Vec<i64>> {
    let (bits, rest) = bytes.split_first()?;
    let (least, more) = rest.split_first_chunk()?;
    let (bits, least) = (usize::from(*bits), i64::from_le_bytes(*least));
    let sound = bits <= bits::MOST || bits == 64;
    if !sound || more.len() != (bits * count).div_ceil(8) {
        return None;
    }
    let one = |nth| least.wrapping_add(bits::get(more, nth, bits) as i64);
    Some((0..count).map(one).collect())
}

/// Whether so many bytes can be of so many rowids.
pub(super) fn fits(bytes: usize, count: usize) -> bool {
    let Some(more) = bytes.checked_sub(HEAD_BYTES) else {
        return false;
    };
    let bits = (8 * more).checked_div(count).unwrap_or(65);
    bits <= 64 && (bits * count).div_ceil(8) == more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        arbtest::arbtest(|u| {
            let bits = u.int_in_range(0..=64)?;
            let (first, within) =
                (u.arbitrary::<i64>()?, u64::MAX.checked_shr(64 - bits).unwrap_or(0));
            let count = u.int_in_range(1..=40)?;
            let mut rowids = Vec::new();
            for _ in 0..count {
                rowids.push(first.wrapping_add(u.int_in_range(0..=within)? as i64));
            }
            let bytes = packed(&rowids);
            assert!(fits(bytes.len(), count));
            assert_eq!(unpacked(&bytes, count).as_ref(), Some(&rowids));
            // What else they are taken for, it is as many as asked for, or nothing.
            let other = u.int_in_range(0..=80)?;
            let read = unpacked(&bytes, other);
            assert!(
                read.is_none_or(|it| it.len() == other && (other == 0 || fits(bytes.len(), other)))
            );
            assert_eq!(unpacked(&bytes[..bytes.len() - 1], count), None);
            let length = u.int_in_range(0..=u.len().min(64))?;
            let _ = unpacked(u.bytes(length)?, count);
            Ok(())
        });
    }

    #[test]
    fn rowids_that_are_near_take_few_bytes() {
        for (rowids, bytes) in [
            (&[7][..], 0),
            (&[7, 7 + 255], 2),
            (&[7, 8, 7], 1),
            (&[-1, 1, 0, 1, 1], 2),
            (&[i64::MIN, i64::MAX], 16),
            (&[0, 1 << 57], 16),
            (&[0, (1 << 57) - 1, 5], 22),
        ] {
            assert_eq!(packed(rowids).len(), HEAD_BYTES + bytes, "{rowids:?}");
        }
    }
}
