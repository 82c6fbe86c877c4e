//! A model as the extension runs it: a folder, the built-in one, or the one a table was made with.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use dualpath::encoder::{self, BATCH, DEFAULT, Encoder};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use tch::Tensor;

use crate::ahead::Ahead;
use crate::data::{self, Picture};
use crate::eval::Embedded;
use crate::progress;

/// The model of a folder, or the built-in one.
pub fn model(folder: Option<&Path>) -> Result<Arc<Encoder>> {
    match folder {
        None => Ok(encoder::find(Some(DEFAULT))?),
        // Under its own name, as a run may have several teachers.
        Some(folder) => encoder::load(&folder.display().to_string(), folder)
            .with_context(|| format!("loading the model folder {}", folder.display())),
    }
}

/// Frees a model of a folder that nobody else asks for any more.
pub fn close(model: &Encoder) {
    // The built-in one stays.
    let _ = encoder::drop_model(model.name());
}

/// The same, once it is known to be the one that made a table's vectors.
pub fn model_of(database: &Path, table: &str, folder: Option<&Path>) -> Result<Arc<Encoder>> {
    let opening = || format!("opening {}", database.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags).with_context(opening)?;
    let config = format!("\"{}_config\"", table.replace('"', "\"\""));
    let known: i64 = connection
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name = ?1 || '_config'",
            [table],
            |it| it.get(0),
        )
        .with_context(opening)?;
    ensure!(known == 1, "{} has no dualpath table '{table}'", database.display());
    let value = |key: &str| -> Result<Option<String>> {
        let sql = format!("SELECT value FROM {config} WHERE key = ?1");
        Ok(connection.query_row(&sql, [key], |it| it.get(0)).optional()?)
    };
    let (Some(name), Some(digest)) = (value("model")?, value("digest")?) else {
        bail!("the table '{table}' has vectors of people's own and no model");
    };
    let model = model(folder)?;
    ensure!(
        model.digest() == digest,
        "the table '{table}' was made with the model '{name}', digest {digest}; this one has {} (name its folder with --model)",
        model.digest()
    );
    Ok(model)
}

/// What the model makes of the pictures and their sentences, encoded as rows of a table are.
pub fn embedded(model: &Encoder, pictures: &[&Picture]) -> Result<Embedded> {
    ensure!(!pictures.is_empty(), "the data has no such pictures");
    let (mut owner, mut known) = (Vec::new(), Vec::new());
    for (at, picture) in pictures.iter().enumerate() {
        // Nobody can search with a sentence that has no word the model knows.
        for sentence in picture.sentences.iter().filter(|it| model.check_sentence(it).is_ok()) {
            known.push(sentence.as_str());
            owner.push(at);
        }
    }
    Ok(Embedded {
        pictures: self::pictures(model, pictures)?,
        sentences: sentences(model, &known)?,
        owner,
        classes: data::classes(pictures),
    })
}

/// Embeddings of pictures, (N, dimension).
pub fn pictures(model: &Encoder, pictures: &[&Picture]) -> Result<Tensor> {
    let batches: Vec<&[&Picture]> = pictures.chunks(BATCH).collect();
    let read = |at: usize| batches[at].iter().map(|it| it.read()).collect::<Result<Vec<_>>>();
    let bar = progress::bar(pictures.len(), "encoding pictures");
    let mut images = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let mut files = Ahead::start(scope, batches.len(), &read);
        for batch in &batches {
            let files = files.next()?;
            let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
            for (embedding, picture) in model.pictures(&files).into_iter().zip(*batch) {
                let embedding = embedding.with_context(|| format!("encoding {}", picture.name))?;
                images.extend_from_slice(embedding.as_slice());
            }
            bar.inc(batch.len() as u64);
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(Tensor::from_slice(&images).view((-1, model.dimension() as i64)))
}

/// Embeddings of sentences, (M, dimension).
pub fn sentences(model: &Encoder, sentences: &[&str]) -> Result<Tensor> {
    let embeddings = model.sentences(sentences)?;
    let numbers: Vec<f32> = embeddings.iter().flat_map(|it| it.as_slice().to_vec()).collect();
    Ok(Tensor::from_slice(&numbers).view((-1, model.dimension() as i64)))
}
