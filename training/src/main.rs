//! `train`: captioned pictures in, the encoder pair of dualpath out.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use training::{config, data, export, fit, onnx, prepare};

/// Trains the encoder pair that dualpath runs.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Checks every picture and sentence, builds the vocabulary.
    Prepare(Place),
    /// Trains; prints losses and validation recall every epoch, keeps the best.
    Fit {
        #[command(flatten)]
        place: Place,
        /// Goes on behind the last whole epoch.
        #[arg(long)]
        resume: bool,
    },
    /// Prints recall@1, 5, 10 and the median rank of the best weights, both ways.
    Eval {
        #[command(flatten)]
        place: Place,
        /// Which part of the data.
        #[arg(long, value_enum, default_value = "val")]
        split: data::Split,
    },
    /// Writes the best weights as a model folder.
    Export {
        #[command(flatten)]
        place: Place,
        /// The folder to write, such as models/default.
        #[arg(long)]
        to: PathBuf,
        /// How weights are stored.
        #[arg(long, value_enum, default_value = "half")]
        precision: onnx::Precision,
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
            let run = config::Run::read(&place.run)?;
            prepare::prepare(&run, &place.data, &place.out.join(&run.name))
        }
        Verb::Fit { place, resume } => {
            let run = config::Run::read(&place.run)?;
            let out = place.out.join(&run.name);
            fit::fit(&run, &place.data, &out, resume, tch::Device::cuda_if_available())
        }
        Verb::Eval { place, split } => {
            let run = config::Run::read(&place.run)?;
            export::print_recall(&run, &place.out.join(&run.name), split)
        }
        Verb::Export { place, to, precision } => {
            let run = config::Run::read(&place.run)?;
            export::export(&run, &place.out.join(&run.name), &to, precision)
        }
    }
}
