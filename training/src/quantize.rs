//! `train quantize`: a model folder whose convolutions are computed in int8.
//!
//! Filters become int8 with a scale per output channel, what flows between them uint8 with a range seen
//! on training data (Jacob et al., "Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference", 2018). They are written as pairs of QuantizeLinear and
//! DequantizeLinear, which ONNX Runtime fuses into integer convolutions.

mod graph;
mod ranges;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use dualpath::encoder;
use dualpath::model::{
    Graph as Stored, IMAGE_GRAPH, MANIFEST, Model, Recall, TEXT_GRAPH, TOKENIZER, sha256,
};

use crate::config::Run;
use crate::data::Split;
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
    let before = served::embedded(&*encoder::load("before", from)?, &val)?.ranks().report();
    let model = Model::from_folder(from)?;
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
    let mut manifest = model.manifest;
    std::fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    let write = |name: &str, bytes: &[u8]| {
        let file = to.join(name);
        std::fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))
    };
    for (name, bytes) in [(IMAGE_GRAPH, &image), (TEXT_GRAPH, &text), (TOKENIZER, &tokenizer)] {
        write(name, bytes)?;
        manifest.files.insert(name.to_owned(), sha256(bytes));
    }
    write(MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
    // What it became can be measured only where it can be loaded.
    let after = served::embedded(&*encoder::load("after", to)?, &val)?.ranks().report();
    manifest.recall = manifest.recall.map(|it| Recall {
        text_to_image: after.text_to_image.rounded(),
        image_to_text: after.image_to_text.rounded(),
        ..it
    });
    write(MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
    println!("before: {before}\nafter:  {after}");
    let total = image.len() + text.len() + tokenizer.len();
    println!(
        "wrote {} ({:.1} MB), calibrated on {} pictures",
        to.display(),
        total as f64 / 1e6,
        training.len()
    );
    Ok(())
}

fn own<'a>(graph: &'a Stored, folder: &Path) -> Result<&'a [u8]> {
    match graph {
        Stored::Bytes(bytes) => Ok(bytes),
        Stored::File(_) => bail!("{} is no folder of `train export`", folder.display()),
    }
}
