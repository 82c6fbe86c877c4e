//! `train`: captioned pictures in, the encoder pair of dualpath out.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use training::config::Run;
use training::data::Split;
use training::export::{self, Trained};
use training::{fit, onnx, prepare, report};

/// Trains the encoder pair that dualpath runs: prepare, fit, eval, export, in that order.
///
/// A run is a file (see training/runs); what it makes goes to a folder of its name below --out.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Checks every picture and sentence and builds the vocabulary.
    ///
    /// Reads the captions and pictures that the run file names, decodes every picture once, leaves
    /// out what is broken or has no sentence and says so by name, and writes pictures.json and
    /// tokenizer.json.
    Prepare(Place),
    /// Trains; prints losses and validation recall every epoch, keeps the best.
    ///
    /// Writes best.safetensors (the averaged weights of the best epoch), last.safetensors (all
    /// that --resume needs), log.jsonl, curves.svg, and at the end retrieval.html. What frozen
    /// layers compute is kept in cache/ beside the runs, which may be removed. A GPU is used where libtorch finds one.
    Fit {
        #[command(flatten)]
        place: Place,
        /// Goes on behind the last whole epoch, to the same weights as a run that was never stopped.
        #[arg(long)]
        resume: bool,
    },
    /// Prints recall@1, 5, 10, median rank and mean average precision of the best weights, both ways.
    ///
    /// With 95 % intervals over 1,000 bootstrap samples of the pictures.
    Eval {
        #[command(flatten)]
        place: Place,
        /// Which part of the data.
        #[arg(long, value_enum, default_value = "val")]
        split: Split,
        /// Equal folds whose mean is printed, such as 5 for COCO's 1K.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        folds: u16,
        /// Placements of a sentence that are summed (paper, section 2.4), up to the slots there are.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        placements: u16,
        /// One JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Writes the best weights as a model folder for dualpath_models.
    ///
    /// image.onnx, text.onnx, tokenizer.json and dualpath.json with digests, notice and recall.
    Export {
        #[command(flatten)]
        place: Place,
        /// The folder to write, such as models/default.
        #[arg(long)]
        to: PathBuf,
        /// How weights are stored.
        #[arg(long, value_enum, default_value = "half")]
        precision: onnx::Precision,
        /// Placements of a sentence that the text graph sums (paper, section 2.4): 1, 4, or up to
        /// the slots there are, each at the cost of one.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        placements: u16,
    },
}

#[derive(Args)]
struct Place {
    /// The run file, such as training/runs/flickr8k-mobile.toml.
    run: PathBuf,
    /// The folder that the run file's data paths start from.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// Where checkpoints and logs go; a folder of the run's name is made in it.
    #[arg(long, default_value = "training/out")]
    out: PathBuf,
    /// Changes a value of the run file, such as stage.0.epochs=3, or takes it out, such as
    /// net.words=; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    changes: Vec<String>,
}

impl Place {
    fn run(&self) -> Result<Run> {
        Run::read(&self.run, &self.changes)
    }
}

/// Read by libgomp and malloc before `main` begins, hence the second start: threads that wait for
/// work must not spin (other programs need the cores), and a tensor's pages are worth keeping.
const SURROUNDINGS: [(&str, &str); 3] = [
    ("OMP_WAIT_POLICY", "passive"),
    ("MALLOC_MMAP_THRESHOLD_", "4294967296"),
    ("MALLOC_TRIM_THRESHOLD_", "4294967296"),
];

fn main() -> Result<()> {
    if SURROUNDINGS.iter().any(|it| std::env::var_os(it.0).is_none()) {
        let mut again = std::process::Command::new(std::env::current_exe()?);
        again.args(std::env::args_os().skip(1));
        for (name, value) in SURROUNDINGS {
            if std::env::var_os(name).is_none() {
                again.env(name, value);
            }
        }
        return Err(again.exec().into());
    }
    match Cli::parse().verb {
        Verb::Prepare(place) => {
            let run = place.run()?;
            prepare::prepare(&run, &place.data, &place.out.join(&run.name))
        }
        Verb::Fit { place, resume } => {
            let run = place.run()?;
            let out = place.out.join(&run.name);
            fit::fit(&run, &place.data, &out, resume, tch::Device::cuda_if_available())?;
            let sheet = out.join("retrieval.html");
            Trained::read(&run, &out, 1)?.sheet(&sheet)?;
            println!("thirty sentences and what they find in {}", sheet.display());
            Ok(())
        }
        Verb::Eval { place, split, folds, placements, json } => {
            let run = place.run()?;
            let trained = Trained::read(&run, &place.out.join(&run.name), placements.into())?;
            report::print(&trained.folds(split, folds.into())?, json)
        }
        Verb::Export { place, to, precision, placements } => {
            let run = place.run()?;
            let out = place.out.join(&run.name);
            export::export(&run, &out, &to, precision, placements.into())
        }
    }
}
