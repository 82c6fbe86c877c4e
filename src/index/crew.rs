//! Threads that compute while the calling one reads: a connection is for one thread, numbers are not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{Builder, Scope};

use crate::error::{Error, Result};

/// Most threads that a search computes with.
pub const MOST_THREADS: usize = 64;

/// Looks before a thread sleeps.
const LOOKS: usize = 2_000;

static THREADS: AtomicUsize = AtomicUsize::new(1);

/// How many threads a search computes with.
pub fn threads() -> usize {
    THREADS.load(Ordering::Relaxed)
}

/// Sets that for the process.
pub fn use_threads(count: usize) {
    THREADS.store(count.clamp(1, MOST_THREADS), Ordering::Relaxed);
}

/// Runs `body` with threads that do `work` on the items of its batches; the calling one is one of them.
pub fn crewed<I, O, T>(
    threads: usize,
    work: impl Fn(&I) -> O + Sync,
    body: impl FnOnce(&mut Crew<'_, I, O>) -> Result<T>,
) -> Result<T>
where
    I: Send + Sync,
    O: Send,
{
    std::thread::scope(|scope| {
        let (reports, results) = channel();
        let work = &work;
        // Where the system gives fewer threads, these do it.
        let others = (1..threads).map_while(|_| hired(scope, work, reports.clone())).collect();
        drop(reports);
        body(&mut Crew { work, others, results, batch: Arc::default() })
    })
}

type Report<O> = (usize, std::thread::Result<O>);

/// A thread that works on batches until there will be none.
fn hired<'scope, I, O>(
    scope: &'scope Scope<'scope, '_>,
    work: &'scope (impl Fn(&I) -> O + Sync),
    reports: Sender<Report<O>>,
) -> Option<Sender<Arc<Batch<I>>>>
where
    I: Send + Sync + 'scope,
    O: Send + 'scope,
{
    let (batches, next) = channel::<Arc<Batch<I>>>();
    let run = move || {
        while let Some(batch) = awaited(&next) {
            while let Some(at) = batch.take() {
                let outcome = catch_unwind(AssertUnwindSafe(|| work(&batch.items[at])));
                if reports.send((at, outcome)).is_err() {
                    return;
                }
            }
        }
    };
    Builder::new().name("dualpath-search".to_owned()).spawn_scoped(scope, run).ok()?;
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

struct Batch<I> {
    items: Vec<I>,
    taken: AtomicUsize,
}

impl<I> Default for Batch<I> {
    fn default() -> Batch<I> {
        Batch { items: Vec::new(), taken: AtomicUsize::new(0) }
    }
}

impl<I> Batch<I> {
    fn take(&self) -> Option<usize> {
        let at = self.taken.fetch_add(1, Ordering::Relaxed);
        (at < self.items.len()).then_some(at)
    }
}

/// The threads of one search.
pub struct Crew<'a, I, O> {
    work: &'a dyn Fn(&I) -> O,
    others: Vec<Sender<Arc<Batch<I>>>>,
    results: Receiver<Report<O>>,
    batch: Arc<Batch<I>>,
}

impl<I, O> Crew<'_, I, O> {
    /// Whether there are more threads than the calling one.
    pub fn is_several(&self) -> bool {
        !self.others.is_empty()
    }

    /// Lets the other threads begin, after the batch before was finished.
    pub fn start(&mut self, items: Vec<I>) {
        self.batch = Arc::new(Batch { items, taken: AtomicUsize::new(0) });
        for other in &self.others {
            // One that is gone leaves its items to the rest.
            let _ = other.send(self.batch.clone());
        }
    }

    /// Works along, and gives what came of each item, in their order.
    pub fn finish(&mut self) -> Result<Vec<O>> {
        let count = self.batch.items.len();
        let mut outcomes: Vec<Option<O>> = (0..count).map(|_| None).collect();
        let mut missing = count;
        while let Some(at) = self.batch.take() {
            outcomes[at] = Some((self.work)(&self.batch.items[at]));
            missing -= 1;
        }
        for _ in 0..missing {
            let (at, outcome) = awaited(&self.results).ok_or_else(panicked)?;
            outcomes[at] = Some(outcome.map_err(|_| panicked())?);
        }
        self.batch = Arc::default();
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
            let square = |it: &u64| it * it;
            let squares = crewed(threads, square, |crew| {
                assert_eq!(crew.is_several(), 1 < threads);
                let mut squares = Vec::new();
                for first in (0..1_000).step_by(10) {
                    crew.start((first..first + 10).collect());
                    squares.append(&mut crew.finish()?);
                }
                // Nothing was started since.
                squares.append(&mut crew.finish()?);
                Ok(squares)
            });
            assert_eq!(squares.unwrap(), (0..1_000).map(|it| it * it).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_of_another_thread_is_an_error() {
        let here = std::thread::current().id();
        let outcome = crewed(
            2,
            |_: &usize| {
                if std::thread::current().id() != here {
                    panic!("on purpose");
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            },
            |crew| {
                crew.start((0..1_000).collect());
                crew.finish()
            },
        );
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains("internal error"), "{message}");
    }

    #[test]
    fn an_error_of_the_body_leaves_nobody_waiting() {
        let outcome: Result<()> = crewed(
            3,
            |it: &usize| *it,
            |crew| {
                crew.start((0..100).collect());
                Err(Error::Usage("no".to_owned()))
            },
        );
        assert!(outcome.is_err());
    }
}
