//! What a run starts from.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::config::Run;
use crate::data::{self, Split};
use crate::encode;
use crate::net::{self, Layer, Pooling};
use crate::prepare::Prepared;
use crate::torch::Parameters;

/// W_share, (classes, dimension).
pub const SHARE: &str = "share";
/// Its bias, (classes).
pub const SHARE_BIAS: &str = "share.bias";
/// The learned log of InfoNCE's scale.
pub const TEMPERATURE: &str = "temperature";
/// What torchvision's and Keras' weights call ImageNet's classes, (classes, channels).
const CLASSIFIER: &str = "fc.weight";
/// Pictures on which channels' spread is measured.
const SAMPLE: usize = 256;

/// Fresh nets for a run: pretrained backbone and word vectors where given, W_share, temperature.
pub fn nets(run: &Run, prepared: &Prepared, data: &Path, device: Device) -> Result<Parameters> {
    tch::manual_seed(run.seed);
    let image_path = run.image_path();
    let mut weights = Parameters::fresh(&image_path, device);
    if let Some(file) = &run.net.weights {
        let head = net::position(&image_path, "head").context("the image path has no head")?;
        pretrain(&mut weights, &image_path[..head], &data.join(file))?;
        if run.net.classifier {
            classify(run, prepared, &weights, &image_path[..head], &data.join(file))?;
        }
    }
    let words = prepared.words.vocabulary();
    weights.extend(Parameters::fresh(&run.text_path(words), device));
    if let Some(file) = &run.net.words {
        look_up(&weights, prepared, &data.join(file))?;
    }
    let pictures = prepared.split(Split::Train);
    let classes = data::classes(&pictures).into_iter().max().map_or(0, |it| it + 1);
    // A tenth of a layer's bound where its length counts (paper sheet, section 2.5).
    let length = if run.loss.scale == 0.0 { 0.1 } else { 1.0 };
    let bound = length * (3.0 / run.width() as f64).sqrt();
    let options = (Kind::Float, device);
    let share = Tensor::empty([classes, run.width()], options).uniform_(-bound, bound);
    weights.insert(SHARE, share);
    if run.loss.bias {
        weights.insert(SHARE_BIAS, Tensor::zeros([classes], options));
    }
    weights.insert(TEMPERATURE, Tensor::from((1.0f32 / 0.07).ln()).to_device(device));
    if let Some(file) = &run.net.start {
        let file = data.join(file);
        let wanted: Vec<String> = weights.iter().map(|it| it.0.clone()).collect();
        let missing = weights.load(&file, &wanted)?;
        ensure!(
            missing.is_empty(),
            "{} lacks {} (is it best.safetensors of a run of this net?)",
            file.display(),
            missing.join(", ")
        );
    }
    Ok(weights)
}

/// Loads what the file has of the backbone, lists what it lacks, and fixes the moments of the
/// norms that it has.
fn pretrain(weights: &mut Parameters, backbone: &[Layer], file: &Path) -> Result<()> {
    let wanted: Vec<String> = net::parameters(backbone).into_iter().map(|it| it.name).collect();
    let missing: BTreeSet<String> = weights.load(file, &wanted)?.into_iter().collect();
    ensure!(
        missing.len() < wanted.len(),
        "{} has none of the backbone's tensors, such as {} (are they torchvision's names?)",
        file.display(),
        wanted[0]
    );
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(String::as_str).collect();
        println!(
            "{} lacks {} of {} tensors, which start afresh: {}",
            file.display(),
            missing.len(),
            wanted.len(),
            names.join(", ")
        );
    }
    let norms = wanted.iter().filter(|it| !missing.contains(*it));
    weights.fix(norms.filter_map(|it| it.strip_suffix(".running_mean")).map(str::to_owned));
    Ok(())
}

/// Writes ImageNet's classes over the first rows of the head's first layer: six thousand pictures
/// teach less about what to tell apart than a million did.
fn classify(
    run: &Run,
    prepared: &Prepared,
    weights: &Parameters,
    backbone: &[Layer],
    file: &Path,
) -> Result<()> {
    let found = Tensor::read_safetensors(file)
        .with_context(|| format!("reading {}", file.display()))?
        .into_iter()
        .find(|it| it.0 == CLASSIFIER);
    let (_, rows) = found.with_context(|| {
        format!("{} has no {CLASSIFIER} (set net.classifier=false)", file.display())
    })?;
    let first = weights.get("fc1.weight");
    let device = first.device();
    let rows = rows.to_device(device).to_kind(Kind::Float).flatten(1, -1);
    let (classes, wide) = (rows.size()[0].min(first.size()[0]), rows.size()[1]);
    ensure!(
        wide <= first.size()[1],
        "{CLASSIFIER} of {} reads {wide} channels, the backbone has {}",
        file.display(),
        first.size()[1]
    );
    let _guard = tch::no_grad_guard();
    let mut rows = rows.narrow(0, 0, classes);
    if run.net.pooling == Pooling::MeanMax {
        // The norm between divides by what the rows have to multiply with.
        let train = prepared.split(Split::Train);
        let sample = encode::pictures(run, backbone, weights, &train[..train.len().min(SAMPLE)])?;
        rows *= sample.narrow(1, 0, wide).std_dim([0i64].as_slice(), false, true);
    }
    let length = |it: &Tensor| it.norm_scalaropt_dim(2.0, [1i64].as_slice(), true);
    let rows = &rows / length(&rows).clamp_min(1e-12) * length(first).mean(Kind::Float);
    let mut target = first.narrow(0, 0, classes);
    let _ = target.zero_();
    target.narrow(1, 0, wide).copy_(&rows);
    println!("{classes} of the head's {} rows start at ImageNet's classes", first.size()[0]);
    Ok(())
}

fn look_up(weights: &Parameters, prepared: &Prepared, file: &Path) -> Result<()> {
    let tokenizer: serde_json::Value = serde_json::from_slice(&prepared.tokenizer)?;
    let vocabulary: HashMap<String, u32> =
        serde_json::from_value(tokenizer["model"]["vocab"].clone())?;
    let vectors = data::word_vectors(file, &vocabulary)?;
    let table = weights.get("lookup.weight").shallow_clone();
    for (id, vector) in &vectors {
        let wide = (vector.len() as i64).min(table.size()[1]);
        tch::no_grad(|| {
            table
                .get(i64::from(*id))
                .narrow(0, 0, wide)
                .copy_(&Tensor::from_slice(&vector[..wide as usize]))
        });
    }
    println!("{} of {} words start at their given vectors", vectors.len(), vocabulary.len());
    Ok(())
}
