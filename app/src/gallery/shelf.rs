//! Small pictures, kept as long as there is room.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;

/// Most bytes that are kept.
const MOST_BYTES: usize = 128 << 20;

/// By what they were made from, so that a changed picture is another one.
#[derive(Default)]
pub struct Shelf(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    jpegs: HashMap<u64, Bytes>,
    /// The oldest first.
    order: VecDeque<u64>,
    bytes: usize,
}

/// Names a picture file's bytes at a size.
pub fn mark(bytes: &[u8], side: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    (bytes, side).hash(&mut hasher);
    hasher.finish()
}

impl Shelf {
    pub fn get(&self, mark: u64) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).jpegs.get(&mark).cloned()
    }

    pub fn put(&self, mark: u64, jpeg: Bytes) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { jpegs, order, bytes } = &mut *kept;
        *bytes += jpeg.len();
        match jpegs.insert(mark, jpeg) {
            Some(before) => *bytes -= before.len(),
            None => order.push_back(mark),
        }
        while MOST_BYTES < *bytes {
            let Some(oldest) = order.pop_front().and_then(|it| jpegs.remove(&it)) else {
                break;
            };
            *bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let shelf = Shelf::default();
        let large = Bytes::from(vec![0; MOST_BYTES / 2]);
        for number in 0..3 {
            shelf.put(number, large.clone());
        }
        let there: Vec<bool> = (0..3).map(|it| shelf.get(it).is_some()).collect();
        assert_eq!(there, [false, true, true]);
        shelf.put(2, large);
        assert!(shelf.get(1).is_some());
        assert_ne!(mark(b"a", 1), mark(b"a", 2));
    }
}
