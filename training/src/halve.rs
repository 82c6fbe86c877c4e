//! `train half`: a model folder whose graphs are computed in half precision, for GPUs.

#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context, Error, Result, ensure};
use dualpath::image::Pixels;
use dualpath::model::half::{halved, taking_bytes};
use dualpath::model::{IMAGE_GRAPH, Model, TEXT_GRAPH, TOKENIZER};

use crate::folder::{self, own};

/// Reads the model folder `from` and writes the folder `to`, whose image path takes bytes. Recall is not stated in it, as nothing measures it.
///
/// # Errors
/// A folder that `train export`, `join` or `quantize` did not write, or one that is halved already.
pub fn halve(from: &Path, to: &Path) -> Result<()> {
    ensure!(from != to, "{} would be written over (name another folder)", from.display());
    let model = Model::from_folder(from)?;
    folder::whole(&model.manifest, from)?;
    let half = |graph, name| {
        let half = halved(own(graph, from)?).map_err(Error::msg);
        half.with_context(|| from.join(name).display().to_string())
    };
    let image = half(&model.image_graph, IMAGE_GRAPH)?;
    let image = taking_bytes(&image, &model.manifest.image).map_err(Error::msg)?;
    let text = half(&model.text_graph, TEXT_GRAPH)?;
    let tokenizer = std::fs::read(from.join(TOKENIZER))?;
    let mut manifest = model.manifest;
    manifest.recall = None;
    manifest.image.pixels = Pixels::Bytes;
    folder::write_unmeasured(to, &mut manifest, [&image, &text, &tokenizer])
}
