//! `train export`: a checkpoint becomes a model folder.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use dualpath::image::{Preprocess, Resize};
use dualpath::model::{
    FORMAT, IMAGE_GRAPH, MANIFEST, Manifest, Recall, Sentences, TEXT_GRAPH, TOKENIZER, sha256,
};
use tch::Device;

use crate::config::Run;
use crate::data::Split;
use crate::eval::{self, Report};
use crate::fit::BEST;
use crate::onnx::{self, Input, Precision};
use crate::prepare::Prepared;
use crate::progress;
use crate::torch::{Mode, Parameters, forward, numbers};

/// Writes `image.onnx`, `text.onnx`, `tokenizer.json` and `dualpath.json` into `folder`.
pub fn export(run: &Run, out: &Path, folder: &Path, precision: Precision) -> Result<()> {
    let (prepared, weights) = trained(run, out)?;
    let report = evaluate(run, &prepared, &weights, Split::Val)?;
    let values = |name: &str| numbers(weights.get(name));
    let size = i64::from(run.net.size);
    let text_path = run.text_path(prepared.words.vocabulary());
    let image = onnx::write(
        &run.image_path(),
        Input::Pixels(&[3, size, size]),
        run.net.dimension,
        precision,
        values,
    );
    let text = onnx::write(
        &text_path,
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
        text: Sentences { length: run.data.length },
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

/// Recall of the best weights, from the pictures themselves.
pub fn print_recall(run: &Run, out: &Path, split: Split) -> Result<()> {
    let (prepared, weights) = trained(run, out)?;
    println!("{}", evaluate(run, &prepared, &weights, split)?);
    Ok(())
}

/// Pixels as MobileNetV2's weights expect them: red, green, blue in [-1, 1].
pub fn preprocess(run: &Run) -> Preprocess {
    Preprocess { size: run.net.size, resize: Resize::Squash, mean: [0.5; 3], std: [0.5; 3] }
}

fn trained(run: &Run, out: &Path) -> Result<(Prepared, Parameters)> {
    let prepared = Prepared::read(run, out)?;
    let mut weights = Parameters::fresh(&run.image_path(), Device::Cpu);
    let text_path = run.text_path(prepared.words.vocabulary());
    weights.extend(Parameters::fresh(&text_path, Device::Cpu));
    let names: Vec<String> = weights.iter().map(|it| it.0.clone()).collect();
    let missing = weights.load(&out.join(BEST), &names).context("run `train fit` first")?;
    anyhow::ensure!(
        missing.is_empty(),
        "{} lacks {}",
        out.join(BEST).display(),
        missing.join(", ")
    );
    Ok((prepared, weights))
}

fn evaluate(run: &Run, prepared: &Prepared, weights: &Parameters, split: Split) -> Result<Report> {
    let pictures = prepared.split(split);
    anyhow::ensure!(!pictures.is_empty(), "the data has no {split:?} pictures");
    let preprocess = preprocess(run);
    let (image_path, text_path) = (run.image_path(), run.text_path(prepared.words.vocabulary()));
    let size = i64::from(run.net.size);
    let bar = progress::bar(pictures.len(), "encoding pictures");
    let mut embeddings = Vec::new();
    for batch in pictures.chunks(32) {
        let mut pixels =
            ndarray::Array4::<f32>::zeros((batch.len(), 3, size as usize, size as usize));
        for (picture, plane) in batch.iter().zip(pixels.outer_iter_mut()) {
            preprocess.write(&dualpath::image::decode(&picture.read()?)?, plane)?;
        }
        let flat = pixels.as_slice().context("the pixels are in one piece")?;
        let input = tch::Tensor::from_slice(flat).view((batch.len() as i64, 3, size, size));
        embeddings.push(tch::no_grad(|| forward(&image_path, weights, &input, Mode::Eval)));
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    let (mut ids, mut owner) = (Vec::new(), Vec::new());
    for (at, picture) in pictures.iter().enumerate() {
        for sentence in &picture.sentences {
            ids.extend(prepared.words.ids(sentence)?);
            owner.push(at as i64);
        }
    }
    let tokens = tch::Tensor::from_slice(&ids).view((owner.len() as i64, run.data.length as i64));
    let sentences: Vec<tch::Tensor> = tokens
        .split(500, 0)
        .iter()
        .map(|it| tch::no_grad(|| forward(&text_path, weights, it, Mode::Eval)))
        .collect();
    Ok(eval::report(&tch::Tensor::cat(&embeddings, 0), &tch::Tensor::cat(&sentences, 0), &owner))
}
