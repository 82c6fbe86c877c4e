//! A run's state on disk: weights, averaged weights, optimiser, and how far it got.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tch::Tensor;

use crate::optim::AdamW;
use crate::torch::Parameters;

/// How far a run got.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// The stage to go on with.
    pub stage: usize,
    /// The epoch of it to go on with.
    pub epoch: usize,
    /// Steps since the run began.
    pub steps: i64,
    /// The best score so far.
    pub best: f64,
}

const PROGRESS: &str = "progress";

/// Writes everything that `resume` needs; the old file stays until the new one is whole.
pub fn save(
    file: &Path,
    weights: &Parameters,
    averaged: &Parameters,
    optimiser: &AdamW,
    progress: Progress,
) -> Result<()> {
    let numbers =
        [progress.stage as f64, progress.epoch as f64, progress.steps as f64, progress.best];
    let mut tensors = vec![(PROGRESS.to_owned(), Tensor::from_slice(&numbers))];
    tensors.extend(named("weights", weights));
    tensors.extend(named("averaged", averaged));
    tensors.extend(optimiser.state());
    write(file, &tensors)
}

/// Writes weights alone, under their own names.
pub fn save_weights(file: &Path, weights: &Parameters) -> Result<()> {
    let tensors: Vec<_> =
        weights.iter().map(|(k, v)| (k.clone(), v.detach().contiguous())).collect();
    write(file, &tensors)
}

/// Reads what [`save`] wrote into nets of the same shape.
pub fn resume(
    file: &Path,
    weights: &mut Parameters,
    averaged: &mut Parameters,
) -> Result<(AdamW, Progress)> {
    let tensors = Tensor::read_safetensors(file)
        .with_context(|| format!("reading the checkpoint {}", file.display()))?;
    let fits = || format!("{} is no checkpoint of this run", file.display());
    let mut progress = None;
    for (name, tensor) in &tensors {
        if name == PROGRESS {
            let numbers = Vec::<f64>::try_from(tensor)?;
            let [stage, epoch, steps, best] = numbers[..] else {
                bail!("{}: 'progress' has {} numbers, expected 4", file.display(), numbers.len());
            };
            progress = Some(Progress {
                stage: stage as usize,
                epoch: epoch as usize,
                steps: steps as i64,
                best,
            });
        } else if let Some(name) = name.strip_prefix("weights.") {
            weights.assign(name, tensor).with_context(fits)?;
        } else if let Some(name) = name.strip_prefix("averaged.") {
            averaged.assign(name, tensor).with_context(fits)?;
        }
    }
    let optimiser = AdamW::from_state(&tensors, weights);
    Ok((optimiser, progress.with_context(fits)?))
}

fn named(prefix: &str, parameters: &Parameters) -> Vec<(String, Tensor)> {
    parameters.iter().map(|(k, v)| (format!("{prefix}.{k}"), v.detach().contiguous())).collect()
}

fn write(file: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let partial = file.with_extension("partial");
    let writing = || format!("writing {} (is the disk full?)", partial.display());
    let result = Tensor::write_safetensors(tensors, &partial).with_context(writing);
    if result.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    result?;
    std::fs::rename(&partial, file).with_context(|| format!("replacing {}", file.display()))
}
