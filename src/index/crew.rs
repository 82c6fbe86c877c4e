//! Threads that compute while the calling one reads: a connection is for one thread, numbers are not.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope, available_parallelism};

use crate::error::{Error, Result};

/// Most threads that are computed with.
pub const MOST_THREADS: usize = 64;

/// Threads that lists are made with where nobody has said how many: reading and writing, which is for the calling thread
/// alone, is a quarter to a third of all, so that more of them would mostly wait for it.
const MOST_UNASKED: usize = 8;

/// Items a thread, so that none waits long for the last of another.
const ITEMS: usize = 4;

/// Looks before a thread sleeps.
const LOOKS: usize = 2_000;

/// 0 as long as nobody has said how many.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// How many threads a search computes with.
pub fn threads() -> usize {
    THREADS.load(Ordering::Relaxed).max(1)
}

/// How many threads lists are made with, where many rows are to be put into them.
pub fn bulk_threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => available_parallelism().map_or(1, |it| it.get().min(MOST_UNASKED)),
        said => said,
    }
}

/// Sets both for the process.
pub fn use_threads(count: usize) {
    THREADS.store(count.clamp(1, MOST_THREADS), Ordering::Relaxed);
}

/// Runs `body` with a crew of so many threads, of which the calling one is one.
pub fn crewed<'env, T>(
    threads: usize,
    body: impl for<'scope> FnOnce(&Crew<'scope, 'env>) -> Result<T>,
) -> Result<T> {
    std::thread::scope(|scope| {
        // Where the system gives fewer threads, these do it.
        let others = (1..threads).map_while(|_| hired(scope)).collect();
        body(&Crew { others, borrowed: PhantomData })
    })
}

/// A thread that works on batches until there will be none.
fn hired<'scope>(scope: &'scope Scope<'scope, '_>) -> Option<Sender<Arc<dyn Work + 'scope>>> {
    let (batches, next) = channel::<Arc<dyn Work + 'scope>>();
    let run = move || {
        while let Some(batch) = awaited(&next) {
            while batch.work() {}
        }
    };
    Builder::new().name("dualpath-numbers".to_owned()).spawn_scoped(scope, run).ok()?;
    Some(batches)
}

/// What comes next, looked out for before the thread sleeps: to be woken takes as long as a small batch.
fn awaited<T>(next: &Receiver<T>) -> Option<T> {
    for _ in 0..LOOKS {
        match next.try_recv() {
            Ok(it) => return Some(it),
            Err(TryRecvError::Empty) => std::hint::spin_loop(),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
    next.recv().ok()
}

/// What threads take items from.
trait Work: Send + Sync {
    /// Works on the next item; whether there was one that anybody waits for.
    fn work(&self) -> bool;
}

type Report<O> = (usize, std::thread::Result<O>);

struct Batch<I, O, F> {
    items: Mutex<std::iter::Enumerate<std::vec::IntoIter<I>>>,
    work: F,
    reports: Sender<Report<O>>,
}

impl<I: Send, O: Send, F: Fn(I) -> O + Send + Sync> Work for Batch<I, O, F> {
    fn work(&self) -> bool {
        // Not held while anything may panic.
        let next = self.items.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((at, item)) = next else {
            return false;
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.work)(item)));
        self.reports.send((at, outcome)).is_ok()
    }
}

/// Threads that work for the calling one.
pub struct Crew<'scope, 'env: 'scope> {
    others: Vec<Sender<Arc<dyn Work + 'scope>>>,
    /// What work may borrow.
    borrowed: PhantomData<&'env mut &'env ()>,
}

/// A batch that other threads work on.
#[must_use]
pub struct Started<'scope, O> {
    batch: Arc<dyn Work + 'scope>,
    results: Receiver<Report<O>>,
    count: usize,
}

impl<'scope> Crew<'scope, '_> {
    /// The calling thread.
    pub fn alone() -> Crew<'scope, 'scope> {
        Crew { others: Vec::new(), borrowed: PhantomData }
    }

    /// Whether there are more threads than the calling one.
    pub fn is_several(&self) -> bool {
        !self.others.is_empty()
    }

    /// How many of `count` things make an item, and no more than `most`.
    pub fn share(&self, count: usize, most: usize) -> usize {
        match self.is_several() {
            true => count.div_ceil(ITEMS * (self.others.len() + 1)).clamp(1, most),
            false => most,
        }
    }

    /// Lets the other threads begin with a batch.
    pub fn start<I: Send + 'scope, O: Send + 'scope>(
        &self,
        items: Vec<I>,
        work: impl Fn(I) -> O + Send + Sync + 'scope,
    ) -> Started<'scope, O> {
        let (count, (reports, results)) = (items.len(), channel());
        let items = Mutex::new(items.into_iter().enumerate());
        let batch: Arc<dyn Work + 'scope> = Arc::new(Batch { items, work, reports });
        for other in self.others.iter().take(count) {
            // One that is gone leaves its items to the rest.
            let _ = other.send(batch.clone());
        }
        Started { batch, results, count }
    }

    /// What comes of each item, in their order.
    pub fn each<I: Send + 'scope, O: Send + 'scope>(
        &self,
        items: Vec<I>,
        work: impl Fn(I) -> O + Send + Sync + 'scope,
    ) -> Result<Vec<O>> {
        self.start(items, work).finish()
    }
}

impl<O> Started<'_, O> {
    /// Works along, and gives what came of each item, in their order.
    pub fn finish(self) -> Result<Vec<O>> {
        while self.batch.work() {}
        let mut outcomes: Vec<Option<O>> = (0..self.count).map(|_| None).collect();
        for _ in 0..self.count {
            let (at, outcome) = awaited(&self.results).ok_or_else(panicked)?;
            outcomes[at] = Some(outcome.map_err(|_| panicked())?);
        }
        Ok(outcomes.into_iter().flatten().collect())
    }
}

fn panicked() -> Error {
    Error::Usage("internal error, please report".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_on_once_and_in_order() {
        for threads in [1, 2, 3, 8] {
            let squares = crewed(threads, |crew| {
                assert_eq!(crew.is_several(), 1 < threads);
                let mut squares = Vec::new();
                let mut before: Option<Started<'_, u64>> = None;
                for first in (0..1_000).step_by(10) {
                    // One batch is under way while the next begins.
                    let started = crew.start((first..first + 10).collect(), |it: u64| it * it);
                    if let Some(before) = before.replace(started) {
                        squares.append(&mut before.finish()?);
                    }
                }
                squares.append(&mut before.map_or(Ok(Vec::new()), Started::finish)?);
                Ok(squares)
            });
            assert_eq!(squares.unwrap(), (0..1_000).map(|it| it * it).collect::<Vec<_>>());
        }
        assert_eq!(Crew::alone().each(vec![1, 2], |it| it + 1).unwrap(), [2, 3]);
        assert_eq!(Crew::alone().each(Vec::new(), |it: u8| it).unwrap(), [0u8; 0]);
    }

    #[test]
    fn a_panic_of_any_thread_is_an_error() {
        for on in [true, false] {
            let here = std::thread::current().id();
            let outcome = crewed(2, |crew| {
                crew.each((0..1_000).collect(), move |_: usize| {
                    if (std::thread::current().id() == here) == on {
                        panic!("on purpose");
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                })
            });
            let message = outcome.unwrap_err().to_string();
            assert!(message.contains("internal error"), "{message}");
        }
    }

    #[test]
    fn an_error_of_the_body_leaves_nobody_waiting() {
        let numbers: Vec<usize> = (0..100).collect();
        let outcome: Result<()> = crewed(3, |crew| {
            let _started = crew.start((0..100).collect(), |it: usize| numbers[it]);
            Err(Error::Usage("no".to_owned()))
        });
        assert!(outcome.is_err());
    }
}
