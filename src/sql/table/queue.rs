//! Rows that were inserted and wait to be encoded together.

use std::collections::HashSet;

use crate::embedding::Embedding;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::store::Seen;

/// What a row was given.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The bytes of a picture file.
    Picture(Vec<u8>),
    /// A sentence.
    Sentence(String),
    /// A ready vector.
    Vector(Embedding),
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

/// Pictures and sentences that wait at most; two batches keep the decoders busy.
const MOST_TO_ENCODE: usize = 64;
/// Bytes that wait at most.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// The waiting rows, in the order they came.
#[derive(Default)]
pub struct Queue {
    rows: Vec<Row>,
    rowids: HashSet<i64>,
    to_encode: usize,
    bytes: usize,
}

impl Queue {
    /// Adds a row whose rowid is free.
    pub fn push(&mut self, row: Row) {
        self.to_encode += usize::from(!matches!(row.content, Content::Vector(_)));
        self.bytes += match &row.content {
            Content::Picture(it) => it.len(),
            Content::Sentence(it) => it.len(),
            Content::Vector(it) => 4 * it.dimension(),
        };
        self.rowids.insert(row.rowid);
        self.rows.push(row);
    }

    /// Whether it is time to flush.
    pub fn is_full(&self) -> bool {
        MOST_TO_ENCODE <= self.to_encode || MOST_BYTES <= self.bytes
    }

    /// Pictures and sentences.
    pub fn to_encode(&self) -> usize {
        self.to_encode
    }

    /// Whether the row waits.
    pub fn holds(&self, rowid: i64) -> bool {
        self.rowids.contains(&rowid)
    }

    /// The largest waiting rowid.
    pub fn largest(&self) -> Option<i64> {
        self.rowids.iter().max().copied()
    }

    /// All rows; the queue is empty then.
    pub fn take(&mut self) -> Vec<Row> {
        std::mem::take(self).rows
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.take();
    }
}

/// Encodes rows, an answer for each; `encoder` may be missing where all are ready vectors.
pub fn encoded(rows: &[Row], encoder: Option<&Encoder>) -> Result<Vec<Result<Embedding>>> {
    let mut pictures: Vec<&[u8]> = Vec::new();
    let mut sentences: Vec<&str> = Vec::new();
    for row in rows {
        match &row.content {
            Content::Picture(bytes) => pictures.push(bytes),
            Content::Sentence(sentence) => sentences.push(sentence),
            Content::Vector(_) => {}
        }
    }
    let (mut pictures, mut sentences) = match encoder {
        None => (Vec::new().into_iter(), Vec::new().into_iter()),
        Some(encoder) => {
            (encoder.pictures(&pictures).into_iter(), encoder.sentences(&sentences)?.into_iter())
        }
    };
    let lost = || Error::Usage("internal error, please report".to_owned());
    rows.iter()
        .map(|row| match &row.content {
            Content::Vector(vector) => Ok(Ok(vector.clone())),
            Content::Sentence(_) => sentences.next().map(Ok).ok_or_else(lost),
            Content::Picture(_) => pictures.next().ok_or_else(lost),
        })
        .collect()
}
