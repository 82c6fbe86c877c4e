//! `train fit`: the stages of a run, one after the other.

mod start;
mod step;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tch::Device;

use crate::checkpoint::{self, Progress};
use crate::config::{Run, Schedule, Stage};
use crate::curves;
use crate::prepare::Prepared;
pub use start::{SHARE, nets};
use step::Trainer;

/// Checkpoint of the last whole epoch.
pub const LAST: &str = "last.safetensors";
/// Averaged weights of the best epoch so far.
pub const BEST: &str = "best.safetensors";
/// What evens out the hubs of [`BEST`], computed from it when it is first used.
pub const HUBS: &str = "hubs.safetensors";
/// One JSON object an epoch.
pub const LOG: &str = "log.jsonl";
/// The log, drawn.
pub const CURVES: &str = "curves.svg";

/// Trains a prepared run; with `resume`, goes on behind the last whole epoch.
pub fn fit(run: &Run, data: &Path, out: &Path, resume: bool, device: Device) -> Result<()> {
    let last = out.join(LAST);
    if last.exists() && !resume {
        bail!("{} holds a run already (go on with --resume, or remove the folder)", out.display());
    }
    let prepared = Prepared::read(run, out)?;
    let mut trainer = Trainer::new(run, &prepared, data, out, device)?;
    let mut done = Progress::default();
    if resume && last.exists() {
        done = checkpoint::resume(&last, &run.stages, trainer.state())?;
        println!("going on with stage {}, epoch {}", done.stage + 1, done.epoch + 1);
    }
    // Epochs that a killed run logged but did not keep are done again.
    let mut log = Log::open(&out.join(LOG), done.logged)?;
    for (index, stage) in run.stages.iter().enumerate().skip(done.stage) {
        if done.stage < index {
            done = Progress { stage: index, epoch: 0, ..done };
        }
        trainer.begin(stage, done.epoch == 0)?;
        for epoch in done.epoch..stage.epochs {
            let started = Instant::now();
            let losses = trainer.epoch(stage, epoch, &mut done.steps)?;
            let training = started.elapsed().as_secs_f64();
            let report = trainer.validate(stage)?;
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "stage {} epoch {:>2}/{}  {losses}  {report}  {seconds:.0} s",
                index + 1,
                epoch + 1,
                stage.epochs,
            );
            log.write(&serde_json::json!({
                "stage": index + 1, "epoch": epoch + 1, "steps": done.steps, "seconds": seconds, "training": training,
                "rate": rate(stage, epoch as f64 + 1.0), "waited": losses.waited,
                "image": losses.image, "text": losses.text, "ranking": losses.ranking, "teacher": losses.teacher,
                "scale": losses.scale, "recall": report,
            }))?;
            done.logged += 1;
            if done.best < report.score() {
                done.best = report.score();
                checkpoint::save_weights(&out.join(BEST), trainer.averaged())?;
                forget(&out.join(HUBS))?;
            }
            done.epoch = epoch + 1;
            checkpoint::save(&last, trainer.state(), done)?;
            curves::draw(&out.join(LOG), &run.name, &out.join(CURVES))?;
        }
    }
    println!(
        "best mean recall@1 {:.2}; weights in {}, curves in {}",
        done.best,
        out.join(BEST).display(),
        out.join(CURVES).display()
    );
    Ok(())
}

fn forget(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("removing {}", file.display())),
    }
}

/// The log file, cut back to the epochs that a checkpoint holds.
struct Log {
    file: std::fs::File,
}

impl Log {
    fn open(path: &Path, keep: usize) -> Result<Log> {
        let text = match std::fs::read_to_string(path) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        let kept: usize = text.split_inclusive('\n').take(keep).map(str::len).sum();
        let file = std::fs::File::options().create(true).append(true).open(path)?;
        file.set_len(kept as u64).with_context(|| format!("cutting {}", path.display()))?;
        Ok(Log { file })
    }

    fn write(&mut self, line: &serde_json::Value) -> Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes()).context("writing the log")
    }
}

/// Linear rise over the warm-up, then the schedule; `at` in epochs.
fn rate(stage: &Stage, at: f64) -> f64 {
    if at < stage.warmup {
        return stage.rate * at / stage.warmup;
    }
    match &stage.schedule {
        Schedule::Cosine => {
            let way = (at - stage.warmup) / (stage.epochs as f64 - stage.warmup).max(1e-9);
            stage.rate * 0.5 * (1.0 + (std::f64::consts::PI * way.min(1.0)).cos())
        }
        Schedule::Drops(epochs) => {
            // The step that ends an epoch still belongs to it.
            let passed = epochs.iter().filter(|it| (**it as f64) < at).count();
            stage.rate * 0.1f64.powi(passed as i32)
        }
    }
}
