//! A run's state on disk: weights, averaged weights, optimiser, and how far it got.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::Tensor;

use crate::config::Stage;
use crate::flat::Flat;
use crate::optim::Optimiser;
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
    /// Lines of the log.
    pub logged: usize,
    /// The best score so far.
    pub best: f64,
}

const PROGRESS: &str = "progress";

/// What a run changes as it goes.
pub struct State {
    /// What gradients move.
    pub weights: Parameters,
    /// Their running average.
    pub averaged: Parameters,
    /// Moments.
    pub optimiser: Optimiser,
    /// The averages of what the optimiser moves, as it lies there, under the names of that.
    laid: Option<(Vec<String>, Flat)>,
}

impl State {
    /// Of weights that have not moved yet.
    pub fn new(weights: Parameters, optimiser: Optimiser) -> State {
        State { averaged: weights.duplicate(), weights, optimiser, laid: None }
    }

    /// Moves the averaged weights, and the norms' moments with them: moments of other weights
    /// than those they stand beside cost recall.
    pub fn average(&mut self, keep: f64, steps: i64) {
        let keep = keep.min((1.0 + steps as f64) / (10.0 + steps as f64));
        let _guard = tch::no_grad_guard();
        if let Some((names, weights)) = self.optimiser.moving() {
            let names: Vec<&str> = names.collect();
            let lies = self.laid.take().filter(|it| it.0 == names);
            let (_, averages) = self.laid.insert(lies.unwrap_or_else(|| {
                let all = names.iter().map(|it| self.averaged.get(it).shallow_clone()).collect();
                (names.into_iter().map(str::to_owned).collect(), Flat::of(all))
            }));
            let _ = averages.whole().shallow_clone().lerp_(weights.whole(), 1.0 - keep);
        }
        for (name, tensor) in self.weights.iter().filter(|it| it.0.contains(".running_")) {
            let _ = self.averaged.get(name).shallow_clone().lerp_(tensor, 1.0 - keep);
        }
    }
}

/// Writes everything that `resume` needs; the old file stays until the new one is whole.
pub fn save(file: &Path, state: &State, progress: Progress) -> Result<()> {
    let numbers = [
        progress.stage as f64,
        progress.epoch as f64,
        progress.steps as f64,
        progress.logged as f64,
        progress.best,
    ];
    let mut tensors = vec![(PROGRESS.to_owned(), Tensor::from_slice(&numbers))];
    tensors.extend(named("weights", &state.weights));
    tensors.extend(named("averaged", &state.averaged));
    tensors.extend(state.optimiser.state());
    write(file, &tensors)
}

/// Writes weights alone, under their own names.
pub fn save_weights(file: &Path, weights: &Parameters) -> Result<()> {
    let tensors: Vec<_> =
        weights.iter().map(|(k, v)| (k.clone(), v.detach().contiguous())).collect();
    write(file, &tensors)
}

/// Writes the named ones alone.
pub fn save_some(file: &Path, weights: &Parameters, names: &[String]) -> Result<()> {
    let tensors: Vec<_> =
        names.iter().map(|it| (it.clone(), weights.get(it).detach().contiguous())).collect();
    write(file, &tensors)
}

/// Reads what [`save`] wrote into nets of the same shape.
///
/// # Errors
/// A file that cannot be read, or is of another net: names the tensor and both shapes.
pub fn resume(file: &Path, stages: &[Stage], state: &mut State) -> Result<Progress> {
    let mut tensors = Tensor::read_safetensors(file)
        .with_context(|| format!("reading the checkpoint {}", file.display()))?;
    // They come in any order; what is said of a wrong one is not to change from run to run.
    tensors.sort_by(|one, other| one.0.cmp(&other.0));
    let fits = || format!("{} is no checkpoint of this run", file.display());
    let mut progress = None;
    let mut read = BTreeSet::new();
    for (name, tensor) in &tensors {
        read.insert(name.as_str());
        if name == PROGRESS {
            let numbers = Vec::<f64>::try_from(tensor)?;
            let [stage, epoch, steps, logged, best] = numbers[..] else {
                bail!("{}: 'progress' has {} numbers, expected 5", file.display(), numbers.len());
            };
            progress = Some(Progress {
                stage: stage as usize,
                epoch: epoch as usize,
                steps: steps as i64,
                logged: logged as usize,
                best,
            });
        } else if let Some(name) = name.strip_prefix("weights.") {
            state.weights.assign(name, tensor).with_context(fits)?;
        } else if let Some(name) = name.strip_prefix("averaged.") {
            state.averaged.assign(name, tensor).with_context(fits)?;
        }
    }
    for (name, tensor) in state.weights.iter() {
        for kind in ["weights", "averaged"] {
            ensure!(
                read.contains(format!("{kind}.{name}").as_str()),
                "{}: it lacks {kind}.{name}, which is {:?} in this net",
                fits(),
                tensor.size()
            );
        }
    }
    let progress = progress.with_context(fits)?;
    let Some(stage) = stages.get(progress.stage) else {
        bail!("{}: it is in stage {} of {}", fits(), progress.stage + 1, stages.len());
    };
    state.optimiser = Optimiser::from_state(stage.optimiser, &tensors, &state.weights);
    Ok(progress)
}

fn named(prefix: &str, parameters: &Parameters) -> Vec<(String, Tensor)> {
    parameters.iter().map(|(k, v)| (format!("{prefix}.{k}"), v.detach().contiguous())).collect()
}

/// Writes tensors by name; the old file stays until the new one is whole.
pub fn write(file: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let partial = file.with_extension("partial");
    let writing = || format!("writing {} (is the disk full?)", partial.display());
    let result = Tensor::write_safetensors(tensors, &partial).with_context(writing);
    if result.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    result?;
    std::fs::rename(&partial, file).with_context(|| format!("replacing {}", file.display()))
}
