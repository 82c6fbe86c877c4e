//! A run is a file; every knob exists once, here.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::loss::Ranking;
use crate::net::{self, Layer, TextForm};

/// A run file, such as `training/runs/flickr8k-mobile.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Names the exported model and the folder below `training/out`.
    pub name: String,
    /// Where every random number starts.
    pub seed: i64,
    /// Pictures and sentences.
    pub data: Data,
    /// The two paths.
    pub net: Net,
    /// What is minimised.
    pub loss: Loss,
    /// How a picture and a sentence differ from pass to pass.
    pub augment: Augment,
    /// One after the other.
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

/// Pictures and sentences; paths are relative to `--data`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Karpathy's JSON.
    pub captions: PathBuf,
    /// Tar files and folders that hold the pictures by file name.
    pub images: Vec<PathBuf>,
    /// A word joins the vocabulary when the training sentences have it this often.
    pub least_count: usize,
    /// Token ids per sentence.
    pub length: usize,
    /// Whose pictures, sentences and weights these are; goes into the exported manifest.
    pub notice: String,
}

/// The two paths.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// Pixels a side.
    pub size: u32,
    /// Width of the image head's first layer.
    pub hidden: i64,
    /// Numbers in an embedding.
    pub dimension: i64,
    /// How the text path treats a sentence's length.
    pub text: TextForm,
    /// Share dropped in both heads while training.
    pub dropout: f64,
    /// The backbone's weights, `.safetensors`; without them it starts at random.
    pub weights: Option<PathBuf>,
    /// Word vectors in GloVe's text format.
    pub words: Option<PathBuf>,
}

/// What is minimised: `instance` x (both paths' instance losses) + `ranking_weight` x ranking.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// Weight of the instance loss.
    pub instance: f64,
    /// Cosines are multiplied by this before the softmax over classes.
    pub scale: f64,
    /// Label smoothing of the instance loss.
    pub smoothing: f64,
    /// Which ranking loss.
    pub ranking: Ranking,
    /// Its weight.
    pub ranking_weight: f64,
    /// Of the hinge.
    #[serde(default)]
    pub margin: f64,
}

/// How a picture and a sentence differ from pass to pass.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Random crops kept per picture, the whole picture among them.
    pub views: usize,
    /// Smallest and largest share of the area.
    pub crop: [f64; 2],
    /// Whether half the crops are mirrored.
    pub flip: bool,
    /// Whether a sentence starts anywhere in its slots (paper, section 2.2).
    pub shift: bool,
    /// Sentences that each picture brings to a step.
    pub sentences: usize,
    /// Share of words replaced by the unknown word.
    pub word_dropout: f64,
}

/// Some epochs with one schedule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The first block of the image path that moves; all before it is frozen and computed once.
    pub train_from: String,
    /// Passes over the training pictures, each with one of its sentences.
    pub epochs: usize,
    /// Pictures a step.
    pub batch: usize,
    /// AdamW's highest rate; cosine to zero after `warmup` epochs.
    pub rate: f64,
    /// Times `rate`, for the pretrained backbone.
    pub backbone: f64,
    /// Epochs of linear rise.
    pub warmup: f64,
    /// Decoupled weight decay of filters and matrices.
    pub decay: f64,
    /// Share that the averaged weights, which are the ones measured and kept, keep at each step.
    pub average: f64,
}

impl Run {
    /// Reads and checks a run file.
    pub fn read(file: &Path) -> Result<Run> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("reading the run file {}", file.display()))?;
        let run: Run =
            toml::from_str(&text).with_context(|| format!("in the run file {}", file.display()))?;
        run.check().with_context(|| format!("in the run file {}", file.display()))?;
        Ok(run)
    }

    fn check(&self) -> Result<()> {
        let path = self.image_path();
        let mut last = usize::MAX;
        for stage in &self.stages {
            let Some(at) = net::position(&path, &stage.train_from) else {
                let known = net::blocks(&path).join(", ");
                bail!(
                    "train_from = '{}' is no block of the image path (known: {known})",
                    stage.train_from
                );
            };
            // Features cached behind weights that have moved since would be stale.
            if last < at {
                bail!(
                    "train_from = '{}' lies behind an earlier stage's (stages move towards the pixels)",
                    stage.train_from
                );
            }
            last = at;
            if stage.batch < 2 || stage.epochs == 0 {
                bail!("a stage needs batch >= 2 and epochs >= 1");
            }
        }
        if self.stages.is_empty() {
            bail!("there is no [[stage]]");
        }
        if self.augment.sentences == 0 {
            bail!("augment.sentences = 0 (at least 1)");
        }
        if self.augment.views == 0 {
            bail!("augment.views = 0 (at least 1: the whole picture)");
        }
        if self.name.is_empty() || self.name.contains(['/', '\\']) {
            bail!("name = '{}' is no folder name", self.name);
        }
        Ok(())
    }

    /// The image path this run trains.
    pub fn image_path(&self) -> Vec<Layer> {
        net::image_path(self.net.hidden, self.net.dimension, self.net.dropout)
    }

    /// The text path this run trains.
    pub fn text_path(&self, words: usize) -> Vec<Layer> {
        net::text_path(self.net.text, words as i64, self.net.dimension, self.net.dropout)
    }
}
