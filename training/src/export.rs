//! `train export`: a checkpoint becomes a model folder.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dualpath::image::{Filter, Pixels, Preprocess, Resize};
use dualpath::model::{
    FORMAT, IMAGE_GRAPH, MANIFEST, Manifest, Recall, Sentences, TEXT_GRAPH, TOKENIZER, sha256,
};
use tch::{Device, Tensor};

use crate::checkpoint;
use crate::config::Run;
use crate::data::{self, Split};
use crate::encode;
use crate::eval::Embedded;
use crate::fit::{BEST, HUBS};
use crate::folder;
use crate::net::{self, Layer, Side, text};
use crate::onnx::{self, Input, Precision};
use crate::prepare::Prepared;
use crate::querybank;
use crate::sheet;
use crate::torch::{Parameters, numbers};

/// Writes `image.onnx`, `text.onnx`, `tokenizer.json` and `dualpath.json` into `folder`;
/// `placements` of a sentence are summed (paper, section 2.4).
pub fn export(
    run: &Run,
    out: &Path,
    folder: &Path,
    precision: Precision,
    placements: usize,
    device: Device,
) -> Result<()> {
    let trained = Trained::read(run, out, placements, device)?;
    let report = trained.embedded(Split::Val)?.ranks().report();
    let Trained { prepared, weights, .. } = &trained;
    let values = |name: &str| numbers(weights.get(name));
    let size = i64::from(run.net.size);
    let image = onnx::write(
        &trained.image_path,
        Input::Pixels(&[3, size, size]),
        run.net.dimension,
        precision,
        values,
    );
    let text = onnx::write(
        &trained.text_path,
        Input::Tokens(run.data.length as i64),
        run.net.dimension,
        precision,
        values,
    );
    let val = prepared.split(Split::Val);
    let files = [(IMAGE_GRAPH, &image), (TEXT_GRAPH, &text), (TOKENIZER, &prepared.tokenizer)];
    let manifest = Manifest {
        format: FORMAT,
        name: run.name.clone(),
        dimension: run.net.dimension as usize,
        image: preprocess(run),
        text: Sentences { length: run.data.length, dropped: run.data.dropped() },
        files: files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), sha256(bytes)))
            .collect::<BTreeMap<_, _>>(),
        notice: run.data.notice.clone(),
        recall: Some(Recall {
            data: folder::measured_on(&run.name, &val),
            text_to_image: report.text_to_image.rounded(),
            image_to_text: report.image_to_text.rounded(),
        }),
    };
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let manifest = serde_json::to_vec_pretty(&manifest)?;
    let mut total = 0;
    for (name, bytes) in files.into_iter().chain([(MANIFEST, &manifest)]) {
        let file = folder.join(name);
        std::fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
        total += bytes.len();
    }
    println!("{report}");
    println!("wrote {} ({:.1} MB)", folder.display(), total as f64 / 1e6);
    Ok(())
}

/// What the extension does to a picture before this run's image path.
pub fn preprocess(run: &Run) -> Preprocess {
    let (mean, std) = run.net.image.scaling();
    Preprocess {
        size: run.net.size,
        resize: Resize::Squash,
        mean,
        std,
        filter: Filter::Bilinear,
        shortest_edge: None,
        pixels: Pixels::Floats,
    }
}

/// The best weights of a run, for measuring and writing.
pub struct Trained<'a> {
    run: &'a Run,
    prepared: Prepared,
    weights: Parameters,
    image_path: Vec<Layer>,
    text_path: Vec<Layer>,
}

impl<'a> Trained<'a> {
    /// Reads them from the run's folder.
    pub fn read(
        run: &'a Run,
        out: &Path,
        placements: usize,
        device: Device,
    ) -> Result<Trained<'a>> {
        let prepared = Prepared::read(run, out)?;
        let image_path = run.image_path();
        let mut weights = Parameters::fresh(&image_path, device);
        let text_path = run.text_path(prepared.words.vocabulary());
        weights.extend(Parameters::fresh(&text_path, device));
        let names: Vec<String> = weights.iter().map(|it| it.0.clone()).collect();
        let file = out.join(BEST);
        let missing = weights.load(&file, &names).context("run `train fit` first")?;
        ensure!(missing.is_empty(), "{} lacks {}", file.display(), missing.join(", "));
        let text_path = text::shifted(&text_path, placements as i64);
        let banks = [Side::Picture, Side::Sentence].map(|it| run.served(Vec::new(), it)).concat();
        weights.extend(Parameters::fresh(&banks, device));
        if !banks.is_empty() {
            let file = out.join(HUBS);
            let names: Vec<String> =
                net::parameters(&banks).into_iter().map(|it| it.name).collect();
            if !file.exists() || !weights.load(&file, &names)?.is_empty() {
                querybank::compute(run, &prepared, &text_path, &mut weights)?;
                checkpoint::save_some(&file, &weights, &names)?;
            }
        }
        let image_path = run.served(image_path, Side::Picture);
        let text_path = run.served(text_path, Side::Sentence);
        Ok(Trained { run, prepared, weights, image_path, text_path })
    }

    /// What the weights make of a split.
    pub fn embedded(&self, split: Split) -> Result<Embedded> {
        let pictures = self.prepared.split(split);
        ensure!(!pictures.is_empty(), "the data has no such pictures");
        let images = encode::pictures(self.run, &self.image_path, &self.weights, &pictures)?;
        let (sentences, owner) =
            encode::sentences(&self.text_path, &self.weights, &self.prepared, &pictures)?;
        let classes = data::classes(&pictures);
        let to_cpu = |it: Tensor| it.to_device(Device::Cpu);
        Ok(Embedded { pictures: to_cpu(images), sentences: to_cpu(sentences), owner, classes })
    }

    /// Writes the contact sheet of the validation pictures.
    pub fn sheet(&self, to: &Path) -> Result<()> {
        let pictures = self.prepared.split(Split::Val);
        let Embedded { pictures: images, sentences, owner, .. } = self.embedded(Split::Val)?;
        let known = |it: &&String| self.prepared.words.ids(it).is_ok();
        let texts: Vec<&str> = pictures
            .iter()
            .flat_map(|it| it.sentences.iter().filter(known))
            .map(String::as_str)
            .collect();
        sheet::write(to, &self.run.name, &pictures, [&images, &sentences], &owner, &texts)
    }
}
