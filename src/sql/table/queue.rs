//! Rows that were inserted and wait to be encoded together.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::encoder::{BATCH, Encoder};
use crate::error::{Error, Result};
use crate::store::Seen;
use crate::vector::Vector;

/// What a row was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The bytes of a picture file.
    Picture(Vec<u8>),
    /// A sentence.
    Sentence(String),
    /// A ready vector.
    Vector(Vector),
}

/// A row that waits.
pub struct Row {
    /// Where it goes.
    pub rowid: i64,
    /// What is encoded.
    pub content: Content,
    /// How it is known again, in a table over another.
    pub seen: Option<Seen>,
}

impl Row {
    /// Whether it needs no encoder.
    pub fn is_ready(&self) -> bool {
        matches!(self.content, Content::Vector(_))
    }

    /// Its vector, where it has one.
    pub fn into_ready(self) -> Option<(i64, Vector)> {
        match self.content {
            Content::Vector(vector) => Some((self.rowid, vector)),
            _ => None,
        }
    }
}

/// Bytes that wait at most; as many may be in each batch under way.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// An answer for each of some rows.
pub type Outcomes = Result<Vec<Result<Vector>>>;

/// The waiting rows, in the order they came.
#[derive(Default)]
pub struct Queue {
    rows: Vec<Row>,
    rowids: HashSet<i64>,
    to_encode: usize,
    bytes: usize,
    /// Rows of a batch, as the encoder that had the last one wants them.
    batch: usize,
    /// The oldest first.
    under_way: VecDeque<UnderWay>,
}

/// A batch that is being encoded while its caller reads the next one.
struct UnderWay {
    rows: Arc<Vec<Row>>,
    given_up: Arc<AtomicBool>,
    worker: Option<JoinHandle<Outcomes>>,
}

impl Drop for UnderWay {
    /// Waits: a process must not end inside ONNX Runtime.
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Queue {
    /// Adds a row whose rowid is free.
    pub fn push(&mut self, row: Row) {
        self.to_encode += usize::from(!row.is_ready());
        self.bytes += match &row.content {
            Content::Picture(it) => it.len(),
            Content::Sentence(it) => it.len(),
            Content::Vector(it) => 4 * it.dimension(),
        };
        self.rowids.insert(row.rowid);
        self.rows.push(row);
    }

    /// Whether it is time to encode what waits: an interrupt waits for no more than one batch. Ready vectors alone
    /// wait until they fill a block, which has room for so many.
    pub fn is_full(&self, room: usize) -> bool {
        self.batch.max(BATCH) <= self.to_encode
            || MOST_BYTES <= self.bytes
            || self.is_ready() && self.under_way.is_empty() && room <= self.rows.len()
    }

    /// Whether no row waits or is under way.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.under_way.is_empty()
    }

    /// Whether nothing that waits needs an encoder.
    pub fn is_ready(&self) -> bool {
        self.to_encode == 0
    }

    /// Begins to encode what waits, beside what is under way.
    ///
    /// # Errors
    /// No thread; the rows wait on.
    pub fn send(&mut self, encoder: Arc<Encoder>) -> Result<()> {
        let rows = Arc::new(std::mem::take(&mut self.rows));
        let given_up = Arc::new(AtomicBool::new(false));
        let (theirs, stop) = (rows.clone(), given_up.clone());
        self.batch = encoder.batch();
        let spawned = std::thread::Builder::new()
            .name("dualpath".to_owned())
            .spawn(move || encoded(&theirs, &encoder, &stop));
        match spawned {
            Ok(worker) => {
                self.under_way.push_back(UnderWay { rows, given_up, worker: Some(worker) });
                (self.to_encode, self.bytes) = (0, 0);
                Ok(())
            }
            Err(err) => {
                self.rows = Arc::into_inner(rows).unwrap_or_default();
                Err(Error::Usage(format!("there is no thread to encode in: {err}")))
            }
        }
    }

    /// Waits for the oldest batch that is under way, if there are more than `left`.
    pub fn landed(&mut self, left: usize) -> Option<(Vec<Row>, Outcomes)> {
        if self.under_way.len() <= left {
            return None;
        }
        let mut under_way = self.under_way.pop_front()?;
        let worker = under_way.worker.take()?;
        let lost = || Error::Usage("internal error, please report".to_owned());
        let outcomes = worker.join().unwrap_or_else(|_| Err(lost()));
        let rows = Arc::into_inner(std::mem::take(&mut under_way.rows)).unwrap_or_default();
        rows.iter().for_each(|it| {
            self.rowids.remove(&it.rowid);
        });
        Some((rows, outcomes))
    }

    /// Whether the row waits or is under way.
    pub fn holds(&self, rowid: i64) -> bool {
        self.rowids.contains(&rowid)
    }

    /// All such rowids.
    pub fn rowids(&self) -> impl Iterator<Item = i64> {
        self.rowids.iter().copied()
    }

    /// The largest of such rowids.
    pub fn largest(&self) -> Option<i64> {
        self.rowids.iter().max().copied()
    }

    /// All rows that wait, where none are under way; the queue is empty then.
    pub fn take(&mut self) -> Vec<Row> {
        let batch = self.batch;
        std::mem::replace(self, Queue { batch, ..Queue::default() }).rows
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.under_way.iter().for_each(|it| it.given_up.store(true, Ordering::Relaxed));
        self.take();
    }
}

/// Encodes rows, an answer for each. Once nobody wants it any more, it ends early.
pub fn encoded(rows: &[Row], encoder: &Encoder, given_up: &AtomicBool) -> Outcomes {
    let mut pictures: Vec<&[u8]> = Vec::new();
    let mut sentences: Vec<&str> = Vec::new();
    for row in rows {
        match &row.content {
            Content::Picture(bytes) => pictures.push(bytes),
            Content::Sentence(sentence) => sentences.push(sentence),
            Content::Vector(_) => {}
        }
    }
    let mut pictures = encoder.pictures_unless(given_up, &pictures).into_iter();
    let mut sentences = encoder.sentences(&sentences)?.into_iter();
    let lost = || Error::Usage("internal error, please report".to_owned());
    rows.iter()
        .map(|row| match &row.content {
            Content::Vector(vector) => Ok(Ok(vector.clone())),
            Content::Sentence(_) => sentences.next().map(|it| Ok(it.into())).ok_or_else(lost),
            Content::Picture(_) => pictures.next().map(|it| it.map(Vector::from)).ok_or_else(lost),
        })
        .collect()
}
