//! `train quantize`: a model folder whose convolutions and matrices are computed in int8.
//!
//! Filters become int8 with a scale per output channel, what flows between them uint8 with a range seen
//! on training data (Jacob et al., "Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference", 2018). They are written as pairs of QuantizeLinear and
//! DequantizeLinear, which ONNX Runtime fuses into integer convolutions and products.

mod graph;
mod ranges;
mod storage;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use dualpath::encoder;
use dualpath::model::{IMAGE_GRAPH, Model, TEXT_GRAPH, TOKENIZER};

use crate::config::Run;
use crate::data::Split;
use crate::folder::{self, own};
use crate::prepare::Prepared;
use crate::served;

/// Which graphs are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// The image path alone.
    Image,
    /// The text path alone.
    Text,
    /// Both.
    Both,
}

/// Reads the model folder `from`, calibrates on `pictures` of the run's training pictures and their
/// sentences, writes the folder `to`, and prints what recall was and is.
///
/// # Errors
/// A folder that `train export` did not write, one that is quantized already, no training pictures.
pub fn quantize(
    run: &Run,
    out: &Path,
    from: &Path,
    to: &Path,
    pictures: usize,
    which: Which,
) -> Result<()> {
    ensure!(from != to, "{} would be written over (name another folder)", from.display());
    let prepared = Prepared::read(run, out)?;
    let val = prepared.split(Split::Val);
    let training = prepared.split(Split::Train);
    ensure!(!training.is_empty(), "the run has no training pictures to calibrate on");
    // Evenly over the data, which may be sorted.
    let step = training.len().div_ceil(pictures.max(1));
    let training: Vec<_> = training.into_iter().step_by(step).collect();
    let model = Model::from_folder(from)?;
    folder::whole(&model.manifest, from)?;
    let before = served::embedded(&*encoder::load("before", from)?, &val)?.ranks().report();
    let (image, text) = (own(&model.image_graph, from)?, own(&model.text_graph, from)?);
    let image = match which {
        Which::Text => image.to_vec(),
        _ => graph::quantized(image, |watched| {
            ranges::of_pictures(watched, &model.manifest.image, &training)
        })
        .with_context(|| from.join(IMAGE_GRAPH).display().to_string())?,
    };
    let text = match which {
        Which::Image => text.to_vec(),
        _ => {
            graph::quantized(text, |watched| ranges::of_sentences(watched, &model.words, &training))
                .with_context(|| from.join(TEXT_GRAPH).display().to_string())?
        }
    };
    let tokenizer = std::fs::read(from.join(TOKENIZER))?;
    let after = folder::write(to, model.manifest, [&image, &text, &tokenizer], &val)?;
    println!("calibrated on {} pictures\nbefore: {before}\nafter:  {after}", training.len());
    Ok(())
}
