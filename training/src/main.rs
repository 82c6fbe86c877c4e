//! `train`: captioned pictures in, the encoder pair of dualpath out.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use dualpath::encoder::DEFAULT;
use training::config::Run;
use training::data::Split;
use training::export::{self, Trained};
use training::prepare::{self, Prepared};
use training::{device, fit, halve, join, onnx, quantize, report, served};

/// Trains the encoder pair that dualpath runs: prepare, fit, eval, export, in that order.
///
/// A run is a file (see training/runs); what it makes goes to a folder of its name below --out.
#[derive(Parser)]
#[command(version, about, after_long_help = WHOLE)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const WHOLE: &str = "\
Example, from nothing to a model that SQL can load:
  train prepare training/runs/own-pictures.toml --data FOLDER --set data.captions=captions.csv
  train fit     training/runs/own-pictures.toml --data FOLDER --set data.captions=captions.csv
  train eval    training/runs/own-pictures.toml --data FOLDER --set data.captions=captions.csv
  train export  training/runs/own-pictures.toml --data FOLDER --set data.captions=captions.csv --to models/mine
  sqlite> INSERT INTO dualpath_models(name, path) VALUES ('mine', '/full/path/models/mine');

Exit status: 0 when it is done, 1 for an error, 2 for a wrong command line.";
const PREPARE: &str = "\
Example:
  train prepare training/runs/own-pictures.toml --data FOLDER --set data.captions=captions.csv

captions.csv has a header `file,caption` and a row a caption; a picture may have many rows. Columns
`split` (train, val, test) and `class` are read where they are there. Other forms of captions: data.form
= json-lines, coco, karpathy, flickr30k, cuhk-pedes.";
const FIT: &str = "\
Examples:
  train fit training/runs/dualpath-quick.toml --data DATA
  train fit training/runs/flickr8k-mobile.toml --data DATA --resume     goes on after an interruption
  train fit training/runs/paper-flickr30k.toml --data DATA --device cuda
  train fit training/runs/own-pictures.toml --data DATA --set stage.0.epochs=40 --set seed=2

`waited` in an epoch's line is the share of its time in which steps stood still for want of pictures.";
const EVAL: &str = "\
Examples:
  train eval training/runs/paper-coco.toml --data DATA --split test --folds 5    COCO's 1K
  train eval training/runs/dualpath-quick.toml --data DATA --json
  train eval training/runs/dualpath-quick.toml --data DATA --model models/mine
  train eval training/runs/dualpath-quick.toml --data DATA --database album.db --table album";
const EXPORT: &str = "\
Examples:
  train export training/runs/dualpath-quick.toml --data DATA --to models/mine
  train export training/runs/paper-flickr30k.toml --data DATA --to models/paper --placements 32 --precision full";

const JOIN: &str = "\
Example, two runs that differ in their seed, and what they say together:
  train fit    training/runs/flickr8k-mobile.toml --data DATA --set name=one
  train fit    training/runs/flickr8k-mobile.toml --data DATA --set name=two --set seed=2
  train export training/runs/flickr8k-mobile.toml --data DATA --set name=one --to models/one
  train export training/runs/flickr8k-mobile.toml --data DATA --set name=two --to models/two
  train join   training/runs/flickr8k-mobile.toml --data DATA --model models/one --model models/two --to models/both";
const QUANTIZE: &str = "\
Examples:
  train quantize training/runs/dualpath-quick.toml --data DATA --model models/mine --to models/mine-int8
  train quantize training/runs/dualpath-quick.toml --data DATA --model models/mine --to models/mine-int8 --graphs image

Text paths are small: look whether theirs gains anything (benches/encode/run).";

const HALF: &str = "\
Example:
  train half --model models/mine --to models/mine-half

The half folder is for a GPU: on a processor it is slower than the folder that it was made from.";

#[derive(Subcommand)]
enum Verb {
    /// Checks every picture and sentence and builds the vocabulary.
    ///
    /// Reads the captions and pictures that the run file names, decodes every picture once, leaves
    /// out what is broken or has no sentence and says so by name, and writes pictures.json and
    /// tokenizer.json.
    #[command(after_long_help = PREPARE)]
    Prepare(Place),
    /// Trains; prints losses and validation recall every epoch, keeps the best.
    ///
    /// Writes best.safetensors (the averaged weights of the best epoch), last.safetensors (all
    /// that --resume needs), log.jsonl, curves.svg, and at the end retrieval.html. What frozen
    /// layers compute is kept in cache/ beside the runs, which may be removed. A GPU is used where libtorch finds one.
    #[command(after_long_help = FIT)]
    Fit {
        #[command(flatten)]
        place: Place,
        /// Goes on behind the last whole epoch, to the same weights as a run that was never stopped.
        #[arg(long)]
        resume: bool,
        /// What computes.
        #[arg(long, value_enum, default_value = "auto")]
        device: device::Choice,
    },
    /// Prints recall@1, 5, 10, median rank and mean average precision, both ways.
    ///
    /// Of the run's best weights, or with --model of a model folder as the extension runs it, or with
    /// --database and --table of the model that a table was made with. With 95 % intervals over
    /// 1,000 bootstrap samples of the pictures.
    #[command(after_long_help = EVAL)]
    Eval {
        #[command(flatten)]
        place: Place,
        /// A model folder to measure instead of the run's weights; `default` is the built-in one.
        #[arg(long)]
        model: Option<PathBuf>,
        /// A database whose table's model is to be measured; with --model where it is not the
        /// built-in one.
        #[arg(long, requires = "table")]
        database: Option<PathBuf>,
        /// A dualpath table of that database.
        #[arg(long, requires = "database")]
        table: Option<String>,
        /// What computes the run's weights.
        #[arg(long, value_enum, default_value = "auto")]
        device: device::Choice,
        /// Which part of the data.
        #[arg(long, value_enum, default_value = "val")]
        split: Split,
        /// Equal folds whose mean is printed, such as 5 for COCO's 1K.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        folds: u16,
        /// Placements of a sentence that are summed (paper, section 2.4), up to the slots there are;
        /// a model folder has its own.
        #[arg(long, default_value_t = 1, conflicts_with = "model", value_parser = clap::value_parser!(u16).range(1..))]
        placements: u16,
        /// One JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Writes the best weights as a model folder for dualpath_models.
    ///
    /// image.onnx, text.onnx, tokenizer.json and dualpath.json with digests, notice and recall.
    #[command(after_long_help = EXPORT)]
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
    /// Writes a model folder whose embedding is what those of several models say together.
    ///
    /// They must be of the same pictures, words and preprocessing, and not quantized. Encoding takes as long
    /// as theirs does, except for layers that they have in common. Recall of each and of all is printed.
    #[command(after_long_help = JOIN)]
    Join {
        #[command(flatten)]
        place: Place,
        /// A folder to read, of `train export`; given several times.
        #[arg(long = "model", required = true)]
        models: Vec<PathBuf>,
        /// The folder to write.
        #[arg(long)]
        to: PathBuf,
    },
    /// Writes a model folder whose convolutions are computed in int8.
    ///
    /// Ranges are those seen on the run's training pictures; recall before and after is printed.
    #[command(after_long_help = QUANTIZE)]
    Quantize {
        #[command(flatten)]
        place: Place,
        /// The folder to read, of `train export`.
        #[arg(long)]
        model: PathBuf,
        /// The folder to write.
        #[arg(long)]
        to: PathBuf,
        /// Which graphs.
        #[arg(long, value_enum, default_value = "both")]
        graphs: quantize::Which,
        /// Training pictures that are looked at.
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
        pictures: u16,
    },
    /// Writes a model folder whose graphs are computed in half precision, for GPUs.
    ///
    /// Pictures go in as bytes, which the graph normalises, and embeddings come out as float32. Recall is not stated in the
    /// folder: `train eval --model` measures it.
    #[command(after_long_help = HALF)]
    Half {
        /// The folder to read, of `train export`, `join` or `quantize`.
        #[arg(long)]
        model: PathBuf,
        /// The folder to write.
        #[arg(long)]
        to: PathBuf,
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
        Verb::Fit { place, resume, device } => {
            let device = device::open(device)?;
            let run = place.run()?;
            let out = place.out.join(&run.name);
            fit::fit(&run, &place.data, &out, resume, device)?;
            let sheet = out.join("retrieval.html");
            Trained::read(&run, &out, 1, device)?.sheet(&sheet)?;
            println!("thirty sentences and what they find in {}", sheet.display());
            Ok(())
        }
        Verb::Eval { place, model, database, table, device, split, folds, placements, json } => {
            let device = device::open(device)?;
            let run = place.run()?;
            let out = place.out.join(&run.name);
            let folder = model.as_deref().filter(|it| *it != Path::new(DEFAULT));
            let served = match (&database, &table) {
                (Some(database), Some(table)) => Some(served::model_of(database, table, folder)?),
                _ if model.is_some() => Some(served::model(folder)?),
                _ => None,
            };
            let embedded = match served {
                Some(model) => {
                    let prepared = Prepared::read(&run, &out)?;
                    served::embedded(&model, &prepared.split(split))?
                }
                None => Trained::read(&run, &out, placements.into(), device)?.embedded(split)?,
            };
            report::print(&embedded.folds(folds.into())?, json)
        }
        Verb::Export { place, to, precision, placements } => {
            let device = device::open(device::Choice::Auto)?;
            let run = place.run()?;
            let out = place.out.join(&run.name);
            export::export(&run, &out, &to, precision, placements.into(), device)
        }
        Verb::Join { place, models, to } => {
            let run = place.run()?;
            let out = place.out.join(&run.name);
            join::join(&run, &out, &models, &to)
        }
        Verb::Quantize { place, model, to, graphs, pictures } => {
            let run = place.run()?;
            let out = place.out.join(&run.name);
            quantize::quantize(&run, &out, &model, &to, pictures.into(), graphs)
        }
        Verb::Half { model, to } => halve::halve(&model, &to),
    }
}
