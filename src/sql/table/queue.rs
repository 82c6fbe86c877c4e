//! Rows that were inserted and wait to be encoded together.

use std::collections::HashSet;

use crate::embedding::Embedding;
use crate::encoder::Encoder;
use crate::error::{Error, Result};

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

/// Pictures and sentences that wait at most; two batches keep the decoders busy.
const MOST_TO_ENCODE: usize = 64;
/// Bytes that wait at most.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// The waiting rows, in the order they came.
#[derive(Default)]
pub struct Queue {
    rows: Vec<(i64, Content)>,
    rowids: HashSet<i64>,
    to_encode: usize,
    bytes: usize,
}

impl Queue {
    /// Adds a row whose rowid is free.
    pub fn push(&mut self, rowid: i64, content: Content) {
        self.to_encode += usize::from(!matches!(content, Content::Vector(_)));
        self.bytes += match &content {
            Content::Picture(it) => it.len(),
            Content::Sentence(it) => it.len(),
            Content::Vector(it) => 4 * it.dimension(),
        };
        self.rowids.insert(rowid);
        self.rows.push((rowid, content));
    }

    /// Whether it is time to flush.
    pub fn is_full(&self) -> bool {
        MOST_TO_ENCODE <= self.to_encode || MOST_BYTES <= self.bytes
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
    pub fn take(&mut self) -> Vec<(i64, Content)> {
        std::mem::take(self).rows
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.take();
    }
}

/// Encodes rows in their order; `encoder` may be missing where all are ready vectors.
///
/// # Errors
/// The first picture that cannot be decoded, by its rowid.
pub fn encoded(
    rows: Vec<(i64, Content)>,
    encoder: Option<&Encoder>,
) -> Result<Vec<(i64, Embedding)>> {
    let mut pictures: Vec<&[u8]> = Vec::new();
    let mut sentences: Vec<&str> = Vec::new();
    for (_, content) in &rows {
        match content {
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
        .map(|(rowid, content)| {
            let embedding = match content {
                Content::Vector(vector) => vector.clone(),
                Content::Sentence(_) => sentences.next().ok_or_else(lost)?,
                Content::Picture(_) => pictures
                    .next()
                    .ok_or_else(lost)?
                    .map_err(|err| Error::Usage(format!("row {rowid}: {err}")))?,
            };
            Ok((*rowid, embedding))
        })
        .collect()
}
