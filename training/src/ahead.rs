//! Work that threads do ahead of the one that needs it, in order.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Most threads.
const MOST: usize = 16;
/// From so many threads on the piece that each has made is enough to go on with; of fewer, each makes two more.
const MANY: usize = 4;

/// Pieces 0, 1, 2, ... in order.
pub struct Ahead<T> {
    threads: Vec<Receiver<Result<T>>>,
    next: usize,
    /// Time for which [`Ahead::next`] stood still.
    pub waited: Duration,
}

impl<T: Send + 'static> Ahead<T> {
    /// Starts threads that make `count` pieces; each holds at most a few that nobody took yet.
    pub fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        count: usize,
        make: &'scope (impl Fn(usize) -> Result<T> + Sync),
    ) -> Ahead<T> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // One core belongs to the thread that takes.
        let threads = (cores - 1).clamp(1, MOST);
        let waiting = if threads < MANY { 2 } else { 0 };
        let start = |thread: usize| {
            let (send, receive) = sync_channel(waiting);
            scope.spawn(move || {
                // Nobody takes any more once a piece failed elsewhere.
                for piece in (thread..count).step_by(threads) {
                    if send.send(make(piece)).is_err() {
                        return;
                    }
                }
            });
            receive
        };
        Ahead { threads: (0..threads).map(start).collect(), next: 0, waited: Duration::ZERO }
    }

    /// The next piece.
    pub fn next(&mut self) -> Result<T> {
        let began = Instant::now();
        let piece = self.threads[self.next % self.threads.len()].recv();
        self.next += 1;
        self.waited += began.elapsed();
        piece.context("a thread that works ahead stopped")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_faults_come_through() {
        let make = |it: usize| {
            anyhow::ensure!(it != 50, "piece 50");
            Ok(it)
        };
        std::thread::scope(|scope| {
            let mut ahead = Ahead::start(scope, 100, &make);
            for expected in 0..50 {
                assert_eq!(ahead.next().unwrap(), expected);
            }
            assert_eq!(ahead.next().unwrap_err().to_string(), "piece 50");
        });
    }
}
