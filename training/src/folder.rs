//! A model folder as `join`, `quantize` and `half` write it: recall, where it is stated, is that of the folder as
//! it is loaded.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use dualpath::encoder;
use dualpath::image::Pixels;
use dualpath::model::{
    Graph, IMAGE_GRAPH, MANIFEST, Manifest, Recall, TEXT_GRAPH, TOKENIZER, sha256,
};

use crate::data::Picture;
use crate::eval::Report;
use crate::served;

/// The bytes of a graph that `train export` wrote into the folder.
pub fn own<'a>(graph: &'a Graph, folder: &Path) -> Result<&'a [u8]> {
    match graph {
        Graph::Bytes(bytes) => Ok(bytes),
        Graph::File(_) => bail!("{} is no folder of `train export`", folder.display()),
    }
}

/// Refuses a folder of `train half`.
pub fn whole(manifest: &Manifest, folder: &Path) -> Result<()> {
    ensure!(
        manifest.image.pixels == Pixels::Floats,
        "{} is in half precision already (name the folder that it was made from)",
        folder.display()
    );
    Ok(())
}

/// The pictures and sentences of a manifest's recall.
pub fn measured_on(name: &str, val: &[&Picture]) -> String {
    let sentences: usize = val.iter().map(|it| it.sentences.len()).sum();
    format!("{name} validation, {} pictures, {sentences} sentences", val.len())
}

/// Writes image graph, text graph, tokenizer and manifest, then measures what they became, which can be
/// done only where they can be loaded, and writes that down where the manifest states a recall.
pub fn write(
    to: &Path,
    mut manifest: Manifest,
    files: [&[u8]; 3],
    val: &[&Picture],
) -> Result<Report> {
    write_unmeasured(to, &mut manifest, files)?;
    let report = served::embedded(&*encoder::load("written", to)?, val)?.ranks().report();
    manifest.recall = manifest.recall.map(|it| Recall {
        text_to_image: report.text_to_image.rounded(),
        image_to_text: report.image_to_text.rounded(),
        ..it
    });
    stored(to, MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
    Ok(report)
}

/// Writes the files and the manifest with their digests.
pub fn write_unmeasured(to: &Path, manifest: &mut Manifest, files: [&[u8]; 3]) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for (name, bytes) in [IMAGE_GRAPH, TEXT_GRAPH, TOKENIZER].into_iter().zip(files) {
        stored(to, name, bytes)?;
        manifest.files.insert(name.to_owned(), sha256(bytes));
    }
    stored(to, MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
    let total: usize = files.iter().map(|it| it.len()).sum();
    println!("wrote {} ({:.1} MB)", to.display(), total as f64 / 1e6);
    Ok(())
}

fn stored(to: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let file = to.join(name);
    std::fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))
}
