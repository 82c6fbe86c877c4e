//! A run is a file; every knob exists once, here.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tch::Kind;

use crate::data::{Form, UNKNOWN};
use crate::loss::Ranking;
use crate::net::image::{self, Backbone, Head, Stride};
use crate::net::{self, Layer, Pooling, Querybank, Side, text};

/// Of a querybank: of 5 to 20 on Flickr8k what served both directions best, with one model and with
/// two joined. It is also about where the learned scale of InfoNCE ends.
const SHARPNESS: f64 = 15.0;

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
    /// The form of what is minimised; its weights stand in the stages.
    pub loss: Loss,
    /// How a picture and a sentence differ from pass to pass.
    pub augment: Augment,
    /// A better model that this one learns from, too.
    pub teacher: Option<Teacher>,
    /// One after the other.
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

/// Pictures and sentences; paths are relative to `--data`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// How the captions are written.
    #[serde(default)]
    pub form: Form,
    /// The captions file, or several that are read one after the other.
    pub captions: Files,
    /// Tar files and folders that hold the pictures by file name.
    pub images: Vec<PathBuf>,
    /// Pictures taken from the training part for validation, and for testing, where the captions
    /// name no parts; chosen by `seed`.
    #[serde(default)]
    pub held_out: [usize; 2],
    /// Sentences kept of each picture, the first ones; 0 keeps all.
    #[serde(default)]
    pub sentences: usize,
    /// A word joins the vocabulary when the training sentences have it this often.
    pub least_count: usize,
    /// Whether only words that `net.words` has join the vocabulary (paper, section 2.1).
    #[serde(default)]
    pub known_words: bool,
    /// Token ids per sentence.
    pub length: usize,
    /// Whose pictures, sentences and weights these are; goes into the exported manifest.
    pub notice: String,
}

impl Data {
    /// The id of words that a sentence closes up over: the paper's dictionary has no unknown word.
    pub fn dropped(&self) -> Option<i64> {
        self.known_words.then_some(UNKNOWN)
    }
}

/// One file or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Files {
    /// One.
    One(PathBuf),
    /// Several.
    Several(Vec<PathBuf>),
}

impl Files {
    /// All of them.
    pub fn all(&self) -> &[PathBuf] {
        match self {
            Files::One(file) => std::slice::from_ref(file),
            Files::Several(files) => files,
        }
    }
}

/// The two paths.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// The image path's backbone.
    pub image: Backbone,
    /// Where a ResNet's stage halves its maps.
    #[serde(default)]
    pub stride: Stride,
    /// How the backbone's map becomes one row.
    pub pooling: Pooling,
    /// Pixels a side.
    pub size: u32,
    /// Width of the image head's first layer.
    pub hidden: i64,
    /// Numbers in an embedding.
    pub dimension: i64,
    /// The text path.
    pub text: text::Form,
    /// Share dropped inside both heads while training.
    #[serde(default)]
    pub dropout: f64,
    /// The backbone's weights, `.safetensors`; without them it starts at random.
    pub weights: Option<PathBuf>,
    /// `best.safetensors` of another run of this net, vocabulary and classes, from which all starts.
    pub start: Option<PathBuf>,
    /// Whether the head's first layer starts at ImageNet's classifier, `fc.weight` of `weights`.
    #[serde(default)]
    pub classifier: bool,
    /// Word vectors in word2vec's or GloVe's form, text or binary.
    pub words: Option<PathBuf>,
    /// Prototypes by which hubs are evened out, see [`Querybank`]; 0 for none. Four of the
    /// embedding's numbers go to it.
    #[serde(default)]
    pub querybank: i64,
}

/// The form of what is minimised.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// What of the paths' last norm the losses see while training.
    pub features: Features,
    /// Share of the features dropped before W_share while training (paper, section 1.1).
    #[serde(default)]
    pub dropout: f64,
    /// Cosines of features and classes are multiplied by this; 0 takes plain products, as the paper does.
    pub scale: f64,
    /// Whether classes have a bias.
    #[serde(default)]
    pub bias: bool,
    /// Label smoothing of the instance loss.
    #[serde(default)]
    pub smoothing: f64,
    /// Which ranking loss.
    pub ranking: Ranking,
    /// Of the hinges.
    #[serde(default)]
    pub margin: f64,
    /// Training sentences among which `hinge` looks for each anchor's nearest (paper, section 3.4); 0 takes the batch's.
    #[serde(default)]
    pub mined: usize,
}

/// What of a path's last norm the losses see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Features {
    /// At unit length, as they are searched.
    Unit,
    /// Behind a ReLU (paper, section 1.1): plain for W_share, at unit length for the ranking loss.
    Relu,
}

/// How a picture and a sentence differ from pass to pass.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Random crops kept per picture where frozen layers are cached, the whole picture among them.
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
    #[serde(default)]
    pub word_dropout: f64,
}

/// Models whose cosines a run learns to repeat, beside what is right (Hinton et al. 2015).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// Model folders, such as `train export` and `train join` write, relative to `--data`.
    pub models: Vec<PathBuf>,
    /// The mean of their cosines is multiplied by this before the softmax.
    pub scale: f64,
}

/// Some epochs with one schedule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The first block of the image path that moves; all before it is frozen.
    pub train_from: String,
    /// Whether the frozen blocks are computed once per view and kept on disk; without it every
    /// step decodes its pictures and crops them afresh.
    #[serde(default = "yes")]
    pub cache: bool,
    /// Pixels a side of the crops that are not cached; without it `net.size`, at which is measured.
    pub size: Option<u32>,
    /// Passes over the training pictures.
    pub epochs: usize,
    /// Pictures a step.
    pub batch: usize,
    /// Batches whose gradients are added up before the weights move.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// How weights move.
    pub optimiser: Optimiser,
    /// The highest rate.
    pub rate: f64,
    /// How the rate falls.
    #[serde(default)]
    pub schedule: Schedule,
    /// Epochs of linear rise.
    #[serde(default)]
    pub warmup: f64,
    /// Weight decay.
    pub decay: f64,
    /// Whether norms, biases, lookup and W_share decay, too (paper, section 2.5).
    #[serde(default)]
    pub decay_all: bool,
    /// Longest gradient; 0 for any.
    #[serde(default)]
    pub clip: f64,
    /// Share that the averaged weights, which are the ones measured and kept, keep at each step.
    #[serde(default)]
    pub average: f64,
    /// Kind of the convolutions and matrices of a step.
    #[serde(default)]
    pub precision: Precision,
    /// What each loss weighs.
    pub weights: Weights,
    /// What each kind of tensor takes of the rate.
    #[serde(default)]
    pub factors: Factors,
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

/// How weights move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimiser {
    /// AdamW (Loshchilov and Hutter 2019), betas 0.9 and 0.98.
    Adamw,
    /// Stochastic gradient descent with Nesterov's momentum 0.9 (paper, section 4).
    Sgd,
}

/// How the rate falls.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine to zero.
    #[default]
    Cosine,
    /// To a tenth behind each of these epochs.
    Drops(Vec<usize>),
}

/// Kind of the convolutions and matrices of a step; weights stay in float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// float32
    #[default]
    Full,
    /// bfloat16 on CUDA, float32 on the CPU.
    Bf16,
}

impl Precision {
    /// The kind on a device.
    pub fn kind(self, device: tch::Device) -> Kind {
        match self {
            Precision::Bf16 if device.is_cuda() => Kind::BFloat16,
            _ => Kind::Float,
        }
    }
}

/// What each loss weighs (paper, section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Mean over the batch of the ranking loss, both directions.
    pub ranking: f64,
    /// Mean instance loss of pictures.
    pub image: f64,
    /// Mean instance loss of sentences.
    pub text: f64,
    /// Mean ranking loss between a picture's sentences; needs two sentences a step.
    #[serde(default)]
    pub paraphrase: f64,
    /// Mean divergence from the teacher's softmax over the batch, both directions.
    #[serde(default)]
    pub teacher: f64,
}

/// What each kind of tensor takes of the rate (paper, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Factors {
    /// Filters and matrices of heads and text path.
    pub weight: f64,
    /// Gains of their norms.
    pub gain: f64,
    /// Biases of their norms.
    pub bias: f64,
    /// The word lookup and its bias.
    pub lookup: f64,
    /// W_share.
    pub share: f64,
    /// Its bias.
    pub share_bias: f64,
    /// The backbone's filters and matrices.
    pub backbone: f64,
    /// Gains of the backbone's norms.
    pub backbone_gain: f64,
    /// Biases of the backbone.
    pub backbone_bias: f64,
}

impl Default for Factors {
    fn default() -> Factors {
        Factors {
            weight: 1.0,
            gain: 1.0,
            bias: 1.0,
            lookup: 1.0,
            share: 1.0,
            share_bias: 1.0,
            backbone: 1.0,
            backbone_gain: 1.0,
            backbone_bias: 1.0,
        }
    }
}

impl Run {
    /// Reads and checks a run file; `changes` such as `stage.0.epochs=3` are made before.
    pub fn read(file: &Path, changes: &[String]) -> Result<Run> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("reading the run file {}", file.display()))?;
        let place = || format!("in the run file {}", file.display());
        let run: Run = if changes.is_empty() {
            // Straight from the text, so that errors quote the line.
            toml::from_str(&text).with_context(place)?
        } else {
            let mut tree: toml::Table = toml::from_str(&text).with_context(place)?;
            for change in changes {
                self::change(&mut tree, change)?;
            }
            let made = || format!("{} with {}", place(), changes.join(", "));
            tree.try_into().with_context(made)?
        };
        run.check().with_context(place)?;
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
            if stage.batch < 2 || stage.epochs == 0 || stage.accumulate == 0 {
                bail!("a stage needs batch >= 2, epochs >= 1 and accumulate >= 1");
            }
            if self.loss.ranking == Ranking::Hinge && stage.batch % 2 == 1 {
                bail!("batch = {} (ranking = \"hinge\" pairs the halves of a batch)", stage.batch);
            }
            if stage.size.is_some() && stage.cache && at != 0 {
                bail!("a stage's size needs cache = false (what is cached has net.size)");
            }
            let has_teacher = self.teacher.as_ref().is_some_and(|it| !it.models.is_empty());
            if 0.0 < stage.weights.teacher && !has_teacher {
                bail!("weights.teacher needs a [teacher] with models");
            }
            if 0.0 < stage.weights.teacher && self.loss.ranking == Ranking::Hinge {
                bail!("weights.teacher and ranking = \"hinge\", which changes a batch's sentences");
            }
            if 0.0 < stage.weights.paraphrase && self.augment.sentences < 2 {
                bail!("weights.paraphrase needs augment.sentences >= 2");
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
        if self.net.classifier && self.net.weights.is_none() {
            bail!("net.classifier needs net.weights");
        }
        if self.data.known_words && self.net.words.is_none() {
            bail!("data.known_words needs net.words");
        }
        let [least, most] = self.augment.crop;
        if !(0.0 < least && least <= most && most <= 1.0) {
            bail!("augment.crop = [{least}, {most}] (shares of the area, rising, up to 1)");
        }
        if self.width() < 1 || self.net.querybank < 0 {
            bail!(
                "net.dimension = {} with net.querybank = {} (four of the embedding's numbers go to a querybank)",
                self.net.dimension,
                self.net.querybank
            );
        }
        if self.net.image == Backbone::Vgg19 && self.net.size != 224 {
            bail!("net.size = {} (vgg-19 reads 224)", self.net.size);
        }
        if self.name.is_empty() || self.name.contains(['/', '\\']) {
            bail!("name = '{}' is no folder name", self.name);
        }
        Ok(())
    }

    /// The image path this run trains.
    pub fn image_path(&self) -> Vec<Layer> {
        let net = &self.net;
        let head = Head {
            pooling: net.pooling.clone(),
            hidden: net.hidden,
            dimension: self.width(),
            dropout: net.dropout,
        };
        image::path(net.image, net.stride, &head)
    }

    /// The text path this run trains.
    pub fn text_path(&self, words: usize) -> Vec<Layer> {
        text::path(self.net.text, words as i64, self.width(), self.net.dropout)
    }

    /// Numbers that training makes of a picture or a sentence.
    pub fn width(&self) -> i64 {
        match self.net.querybank {
            0 => self.net.dimension,
            _ => self.net.dimension - Querybank::NUMBERS,
        }
    }

    /// A trained path and what follows it when it is used.
    pub fn served(&self, mut path: Vec<Layer>, side: Side) -> Vec<Layer> {
        if 0 < self.net.querybank {
            let name = match side {
                Side::Picture => "image_querybank",
                Side::Sentence => "text_querybank",
            };
            path.push(Layer::Querybank(Querybank {
                name: name.to_owned(),
                prototypes: self.net.querybank,
                width: self.width(),
                sharpness: SHARPNESS,
                side,
            }));
        }
        path
    }
}

/// Puts a value where the keys lead, tables by name and lists by number; no value takes the key out.
fn change(tree: &mut toml::Table, change: &str) -> Result<()> {
    let Some((keys, text)) = change.split_once('=') else {
        bail!("'{change}' is no change (such as stage.0.epochs=3)");
    };
    // What is no number, list or the like is a text without its quotes.
    let value = match toml::from_str::<toml::Table>(&format!("value = {text}")) {
        Ok(mut it) => it.remove("value"),
        Err(_) => None,
    };
    let value = value.unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let mut keys = keys.trim().split('.').peekable();
    let mut at = tree;
    while let Some(key) = keys.next() {
        if keys.peek().is_none() {
            match text.is_empty() {
                true => drop(at.remove(key)),
                false => drop(at.insert(key.to_owned(), value)),
            }
            return Ok(());
        }
        let below = at.entry(key).or_insert_with(|| toml::Table::new().into());
        at = match below {
            toml::Value::Table(table) => table,
            toml::Value::Array(list) => {
                let number = keys.next().unwrap_or_default();
                let item = number.parse::<usize>().ok().and_then(|it| list.get_mut(it));
                let Some(toml::Value::Table(table)) = item else {
                    bail!("'{change}': there is no {key}.{number}");
                };
                table
            }
            _ => bail!("'{change}': {key} has no parts"),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_file_is_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            let run = Run::read(&file, &[]).unwrap();
            assert_eq!(file.file_stem().unwrap().to_str().unwrap(), run.name);
            count += 1;
        }
        assert!(0 < count);
    }

    #[test]
    fn changes_reach_tables_and_lists() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs/flickr8k-mobile.toml");
        let changed = |of: &[&str]| {
            Run::read(&file, &of.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
        };
        let run =
            changed(&["stage.1.epochs=3", "name=other", "stage.0.factors.lookup=0.5"]).unwrap();
        assert_eq!((run.name.as_str(), run.stages[1].epochs), ("other", 3));
        assert_eq!(run.stages[0].factors.lookup, 0.5);
        assert_eq!(changed(&["net.words="]).unwrap().net.words, None);
        let refused = |of: &str| format!("{:#}", changed(&[of]).unwrap_err());
        assert!(refused("seed").contains("is no change"));
        assert!(refused("stage.9.epochs=3").contains("no stage.9"));
        assert!(refused("seed.first=3").contains("no parts"));
        assert!(refused("stage.0.epoch=3").contains("unknown field `epoch`"));
    }
}
