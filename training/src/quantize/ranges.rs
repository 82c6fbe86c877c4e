//! Which numbers flow through a graph: the least, the largest and the mean of each watched value.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use dualpath::encoder;
use dualpath::image::{self, Preprocess};
use dualpath::text::Words;
use ndarray::{Array2, Array4};
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;

use super::graph::Watched;
use crate::data::Picture;

/// Pictures or sentences a call.
const BATCH: usize = 16;

/// What was seen of a value, (batch, channels, ...).
#[derive(Default)]
pub struct Seen {
    /// Zero or less.
    pub least: f32,
    /// Zero or more.
    pub most: f32,
    /// Of each channel.
    pub means: Vec<f64>,
    batches: f64,
}

/// By the value's name.
pub type Ranges = BTreeMap<String, Seen>;

impl Seen {
    fn add(&mut self, shape: &[i64], numbers: &[f32]) {
        let [rows, channels] = [0, 1].map(|at| shape.get(at).map_or(1, |it| *it as usize));
        self.means.resize(channels, 0.0);
        let each = numbers.len() / (rows * channels);
        let mut sums = vec![0.0; channels];
        for (at, plane) in numbers.chunks_exact(each).enumerate() {
            for number in plane {
                self.least = self.least.min(*number);
                self.most = self.most.max(*number);
            }
            sums[at % channels] += f64::from(plane.iter().sum::<f32>());
        }
        self.batches += 1.0;
        for (mean, sum) in self.means.iter_mut().zip(sums) {
            *mean += (sum / (rows * each) as f64 - *mean) / self.batches;
        }
    }
}

/// Over pictures, as the extension preprocesses them.
pub fn of_pictures(
    watched: &Watched,
    preprocess: &Preprocess,
    pictures: &[&Picture],
) -> Result<Ranges> {
    let side = preprocess.size as usize;
    over(watched, pictures, |batch| {
        let mut pixels = Array4::zeros((batch.len(), 3, side, side));
        for (picture, plane) in batch.iter().zip(pixels.outer_iter_mut()) {
            let decoded = image::decode(&picture.read()?)
                .with_context(|| format!("decoding {}", picture.name))?;
            preprocess.write(&decoded, plane)?;
        }
        Ok(Tensor::from_array(pixels)?.into())
    })
}

/// Over the sentences of pictures.
pub fn of_sentences(watched: &Watched, words: &Words, pictures: &[&Picture]) -> Result<Ranges> {
    let sentences: Vec<&String> = pictures.iter().flat_map(|it| &it.sentences).collect();
    over(watched, &sentences, |batch| {
        let rows: Vec<Vec<i64>> = batch.iter().filter_map(|it| words.tokens(it).ok()).collect();
        let slots = rows.iter().map(Vec::len).max().unwrap_or(1).max(1);
        let mut tokens = Array2::from_elem((rows.len().max(1), slots), words.padding());
        for (row, mut slots) in rows.iter().zip(tokens.outer_iter_mut()) {
            slots.iter_mut().zip(row).for_each(|(slot, token)| *slot = *token);
        }
        Ok(Tensor::from_array(tokens)?.into())
    })
}

/// Over one batch.
#[cfg(test)]
pub fn of_input(watched: &Watched, input: SessionInputValue<'static>) -> Result<Ranges> {
    let input = std::cell::Cell::new(Some(input));
    over(watched, &[()], |_| input.take().context("there is one batch"))
}

fn over<T>(
    watched: &Watched,
    items: &[T],
    read: impl Fn(&[T]) -> Result<SessionInputValue<'static>>,
) -> Result<Ranges> {
    let refused = |err: ort::Error| anyhow!("ONNX Runtime: {err}");
    let environment = encoder::environment()?;
    let mut builder = Session::builder(environment).map_err(refused)?;
    let mut session = builder.commit_from_memory(&watched.graph).map_err(refused)?;
    let mut ranges = Ranges::new();
    for batch in items.chunks(BATCH) {
        let outputs = session.run(ort::inputs![read(batch)?]).map_err(refused)?;
        for (value, output) in &watched.values {
            let output = outputs[output.as_str()].try_extract_tensor::<f32>();
            let (shape, numbers) = output.map_err(refused)?;
            ranges.entry(value.clone()).or_default().add(shape, numbers);
        }
    }
    Ok(ranges)
}
