//! Graphs of one thread each, for many pictures at once.
//!
//! A graph's own threads meet behind every operation; graphs side by side never wait for each other.

use std::sync::Mutex;

use super::device::{self, Device};
use super::graphs::ImageGraph;
use super::held;
use super::session::Place;
use crate::error::Result;
use crate::model::{Graph, Model};

/// Each keeps weights of its own, and larger graphs share their work better.
const MOST_BYTES: usize = 32 * 1024 * 1024;
/// Pictures of one call at most: more gain nothing and leave the cache.
const MOST_ROWS: usize = 8;
/// For fewer pictures a thread, opening them does not pay.
const LEAST_ROWS: usize = 4;
/// Calls a thread and batch, so that no thread waits long for another's last one.
const CALLS: usize = 4;

/// Those that are open and not in use.
#[derive(Default)]
pub struct Lanes(Mutex<Vec<ImageGraph>>);

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
        held(&self.0).first().map(|it| it.place().clone())
    }

    /// Calls `body` with one of them, which is opened if none is free.
    pub fn with<T>(
        &self,
        name: &str,
        model: &Model,
        body: impl FnOnce(&mut ImageGraph) -> T,
    ) -> Result<T> {
        let free = held(&self.0).pop();
        let mut graph = match free {
            Some(graph) => graph,
            None => ImageGraph::open(name, model, 1)?,
        };
        let outcome = body(&mut graph);
        let mut free = held(&self.0);
        if free.len() < super::cores() {
            free.push(graph);
        }
        Ok(outcome)
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
