//! Batches that are worked on at once, but handed out one after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::held;

/// One batch's turn to hand out its pictures. The next one's begins as soon as none of them waits for a thread any
/// more: by then some threads have nothing to do, though others still work.
#[derive(Default)]
pub struct Turns {
    taken: Mutex<bool>,
    free: Condvar,
}

/// Ends when it is said to, or dropped.
pub struct Turn<'a> {
    turns: &'a Turns,
    ended: AtomicBool,
}

impl Turns {
    /// Waits for the batches before.
    pub fn take(&self) -> Turn<'_> {
        let waited = self.free.wait_while(held(&self.taken), |it| *it);
        *waited.unwrap_or_else(PoisonError::into_inner) = true;
        Turn { turns: self, ended: AtomicBool::new(false) }
    }
}

impl Turn<'_> {
    /// Once it has ended, this changes nothing.
    pub fn end(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            *held(&self.turns.taken) = false;
            self.turns.free.notify_one();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    #[test]
    fn one_turn_comes_after_the_other_whoever_ends_it() {
        let (turns, at_once) = (Turns::default(), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let turn = turns.take();
                        assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0);
                        assert_eq!(at_once.fetch_sub(1, Ordering::SeqCst), 1);
                        thread::scope(|others| {
                            others.spawn(|| turn.end());
                            turn.end();
                        });
                    }
                });
            }
        });
        drop(turns.take());
        turns.take().end();
    }
}
