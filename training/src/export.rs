//! `train export`: a checkpoint becomes a model folder.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dualpath::image::{Preprocess, Resize};
use dualpath::model::{
    FORMAT, IMAGE_GRAPH, MANIFEST, Manifest, Recall, Sentences, TEXT_GRAPH, TOKENIZER, sha256,
};
use tch::{Device, Tensor};

use crate::config::Run;
use crate::data::{self, Picture, Split};
use crate::encode;
use crate::eval::{self, Ranks};
use crate::fit::BEST;
use crate::net::{Layer, text};
use crate::onnx::{self, Input, Precision};
use crate::prepare::Prepared;
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
) -> Result<()> {
    let trained = Trained::read(run, out, placements)?;
    let report = trained.ranks(Split::Val)?.report();
    let Trained { prepared, weights, .. } = &trained;
    let values = |name: &str| numbers(weights.get(name));
    let size = i64::from(run.net.size);
    let image = onnx::write(
        &run.image_path(),
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
    let recall =
        |it: &eval::Recall| [it.at_1, it.at_5, it.at_10].map(|it| (it * 100.0).round() / 100.0);
    let val = prepared.split(Split::Val);
    let sentences: usize = val.iter().map(|it| it.sentences.len()).sum();
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
            data: format!("{} validation, {} pictures, {sentences} sentences", run.name, val.len()),
            text_to_image: recall(&report.text_to_image),
            image_to_text: recall(&report.image_to_text),
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
    Preprocess { size: run.net.size, resize: Resize::Squash, mean, std }
}

/// The best weights of a run, for measuring and writing.
pub struct Trained<'a> {
    run: &'a Run,
    prepared: Prepared,
    weights: Parameters,
    text_path: Vec<Layer>,
}

impl<'a> Trained<'a> {
    /// Reads them from the run's folder.
    pub fn read(run: &'a Run, out: &Path, placements: usize) -> Result<Trained<'a>> {
        let prepared = Prepared::read(run, out)?;
        let mut weights = Parameters::fresh(&run.image_path(), Device::Cpu);
        let text_path = run.text_path(prepared.words.vocabulary());
        weights.extend(Parameters::fresh(&text_path, Device::Cpu));
        let names: Vec<String> = weights.iter().map(|it| it.0.clone()).collect();
        let file = out.join(BEST);
        let missing = weights.load(&file, &names).context("run `train fit` first")?;
        ensure!(missing.is_empty(), "{} lacks {}", file.display(), missing.join(", "));
        let text_path = text::shifted(&text_path, placements as i64);
        Ok(Trained { run, prepared, weights, text_path })
    }

    fn embedded(&self, pictures: &[&Picture]) -> Result<(Tensor, Tensor, Vec<usize>)> {
        ensure!(!pictures.is_empty(), "the data has no such pictures");
        let images = encode::pictures(self.run, &self.run.image_path(), &self.weights, pictures)?;
        let (sentences, owner) =
            encode::sentences(&self.text_path, &self.weights, &self.prepared, pictures)?;
        Ok((images, sentences, owner))
    }

    fn ranks(&self, split: Split) -> Result<Ranks> {
        let pictures = self.prepared.split(split);
        let (images, sentences, owner) = self.embedded(&pictures)?;
        let classes = data::classes(&pictures);
        let own: Vec<i64> = owner.iter().map(|it| classes[*it]).collect();
        Ok(eval::ranks(&images, &sentences, &classes, &own))
    }

    /// Recall of each of as many equal folds of a split, and the rest left out.
    pub fn folds(&self, split: Split, folds: usize) -> Result<Vec<Ranks>> {
        if folds == 1 {
            return Ok(vec![self.ranks(split)?]);
        }
        let pictures = self.prepared.split(split);
        let size = pictures.len() / folds;
        ensure!(0 < size, "{} pictures make no {folds} folds", pictures.len());
        let (images, sentences, owner) = self.embedded(&pictures)?;
        let classes = data::classes(&pictures);
        (0..folds)
            .map(|fold| {
                let range = fold * size..(fold + 1) * size;
                let rows: Vec<i64> = (0..owner.len())
                    .filter(|it| range.contains(&owner[*it]))
                    .map(|it| it as i64)
                    .collect();
                let own: Vec<i64> = rows.iter().map(|it| classes[owner[*it as usize]]).collect();
                let of_fold = sentences.index_select(0, &Tensor::from_slice(&rows));
                let images = images.narrow(0, range.start as i64, size as i64);
                Ok(eval::ranks(&images, &of_fold, &classes[range], &own))
            })
            .collect()
    }

    /// Writes the contact sheet of the validation pictures.
    pub fn sheet(&self, to: &Path) -> Result<()> {
        let pictures = self.prepared.split(Split::Val);
        let (images, sentences, owner) = self.embedded(&pictures)?;
        let known = |it: &&String| self.prepared.words.ids(it).is_ok();
        let texts: Vec<&str> = pictures
            .iter()
            .flat_map(|it| it.sentences.iter().filter(known))
            .map(String::as_str)
            .collect();
        sheet::write(to, &self.run.name, &pictures, [&images, &sentences], &owner, &texts)
    }
}
