//! Graphs of one thread each, for many pictures at once.
//!
//! A graph's own threads meet behind every operation; graphs side by side never wait for each other.

use std::sync::{Condvar, Mutex, PoisonError};

use ndarray::ArrayView4;

use super::device::{self, Device};
use super::graphs::ImageGraph;
use super::pixels::Pixel;
use super::session::{Answer, Place};
use super::{cores, held};
use crate::error::Result;
use crate::model::{Graph, Model};

/// Each keeps weights of its own, and larger graphs share their work better.
const MOST_BYTES: usize = 32 * 1024 * 1024;
/// Pictures of one call at most: more gain nothing and leave the cache.
const MOST_ROWS: usize = 8;
/// For fewer pictures a thread, opening them does not pay.
const LEAST_ROWS: usize = 4;
/// Batches under way at once: threads that have no more to do in one begin with the next.
pub const UNDER_WAY: usize = 2;
/// Calls a thread and batch, so that no thread waits long for another's last one.
const CALLS: usize = 4;

/// All of a model, one a core.
#[derive(Default)]
pub struct Lanes {
    free: Mutex<Free>,
    left: Condvar,
}

#[derive(Default)]
struct Free {
    /// Open, and in nobody's hands.
    graphs: Vec<ImageGraph>,
    /// Lanes in somebody's hands.
    taken: usize,
}

/// A lane in somebody's hands, whose graph is opened once there is something to run.
pub struct Lane<'a> {
    of: &'a Lanes,
    graph: Option<ImageGraph>,
}

impl Lanes {
    /// Whether so many pictures go through them.
    pub fn take(&self, model: &Model, pictures: usize, threads: usize) -> bool {
        let is_small = match &model.image_graph {
            Graph::Bytes(it) => it.len() <= MOST_BYTES,
            // Its weights may lie elsewhere.
            Graph::File(_) => false,
        };
        let is_worth = 1 < threads && LEAST_ROWS * threads <= pictures;
        is_small && is_worth && device::candidates() == [Device::Cpu]
    }

    /// Where they run, once one is open.
    pub fn place(&self) -> Option<Place> {
        held(&self.free).graphs.first().map(|it| it.place().clone())
    }

    /// One of them, once it is free: threads of two batches together are more than there are cores.
    pub fn lane(&self) -> Lane<'_> {
        let is_busy = |it: &mut Free| cores() <= it.taken;
        let free = self.left.wait_while(held(&self.free), is_busy);
        let mut free = free.unwrap_or_else(PoisonError::into_inner);
        free.taken += 1;
        Lane { of: self, graph: free.graphs.pop() }
    }
}

impl Lane<'_> {
    /// The answers to pictures.
    pub fn run<P: Pixel>(
        &mut self,
        name: &str,
        model: &Model,
        pixels: ArrayView4<'_, P>,
    ) -> Result<Vec<Answer>> {
        let graph = match &mut self.graph {
            Some(graph) => graph,
            none => none.insert(ImageGraph::open(name, model, 1)?),
        };
        graph.run(pixels)
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        let mut free = held(&self.of.free);
        free.graphs.extend(self.graph.take());
        free.taken -= 1;
        drop(free);
        self.of.left.notify_one();
    }
}

/// Pictures of one call, where a batch is shared by so many threads.
pub fn rows(batch: usize, threads: usize) -> usize {
    (batch / (CALLS * threads)).clamp(1, MOST_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_gets_several_calls() {
        assert_eq!([1, 2, 4, 16, 64].map(|threads| rows(32, threads)), [8, 4, 2, 1, 1]);
    }
}
