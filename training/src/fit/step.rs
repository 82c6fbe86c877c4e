//! One step after the other: batches in, weights moved, recall out.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::rate;
use super::start::{self, SHARE, SHARE_BIAS, TEMPERATURE};
use crate::ahead::Ahead;
use crate::batch::{Batch, PART, Pool, Source};
use crate::cache::{self, Cache};
use crate::checkpoint::State;
use crate::config::{self, Features, Run, Stage};
use crate::data::{self, Picture, Split};
use crate::device::sent;
use crate::eval::{Embedded, Report};
use crate::loss::{self, Classes, Ranking};
use crate::net::{self, Layer, Role, text};
use crate::optim::{Group, Optimiser};
use crate::prepare::Prepared;
use crate::progress;
use crate::teacher::Taught;
use crate::torch::{Mode, Parameters, forward, unit};
use crate::{augment, encode};

/// Means over an epoch.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Losses {
    /// Instance loss of pictures.
    pub image: f64,
    /// Instance loss of sentences.
    pub text: f64,
    /// Ranking loss.
    pub ranking: f64,
    /// Divergence from the teacher.
    pub teacher: f64,
    /// What InfoNCE multiplies cosines by, at the end.
    pub scale: f64,
    /// Share of the time in which steps stood still for want of a batch.
    pub waited: f64,
}

impl std::fmt::Display for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "instance {:.3} + {:.3}  ranking {:.3}  ", self.image, self.text, self.ranking)?;
        if 0.0 < self.teacher {
            write!(f, "teacher {:.3}  ", self.teacher)?;
        }
        write!(f, "waited {:.1} %", 100.0 * self.waited)
    }
}

/// All that a run's steps need.
pub struct Trainer<'a> {
    run: &'a Run,
    /// Without the last layer, which brings embeddings to unit length.
    image_path: Vec<Layer>,
    text_path: Vec<Layer>,
    state: State,
    groups: Vec<Group>,
    train: Part<'a>,
    val: Part<'a>,
    /// By class: token ids of its sentences, without padding.
    sentences: Vec<Vec<Vec<i64>>>,
    teacher: Option<Taught>,
    prepared: &'a Prepared,
    device: Device,
}

/// Pictures of one split, and what the frozen layers made of them, by cut.
struct Part<'a> {
    pictures: Vec<&'a Picture>,
    classes: Vec<i64>,
    caches: HashMap<usize, Cache>,
}

impl<'a> Trainer<'a> {
    /// Loads what the run starts from and computes what its frozen layers give.
    pub fn new(
        run: &'a Run,
        prepared: &'a Prepared,
        data: &Path,
        out: &Path,
        device: Device,
    ) -> Result<Trainer<'a>> {
        let weights = start::nets(run, prepared, data, device)?;
        let cuts = cache::cuts(run)?;
        // Beside the runs: whatever has the same frozen layers and crops, or teachers, shares them.
        let folder = out.parent().unwrap_or(out).join("cache");
        let part = |split, views, name| -> Result<Part<'a>> {
            let pictures = prepared.split(split);
            let caches = Cache::open_all(run, &pictures, views, &cuts, &weights, &folder, name)?;
            let classes = data::classes(&pictures);
            Ok(Part { pictures, classes, caches: cuts.iter().copied().zip(caches).collect() })
        };
        let train = part(Split::Train, run.augment.views, "train")?;
        let val = part(Split::Val, 1, "val")?;
        if train.pictures.len() < 2 || val.pictures.is_empty() {
            bail!(
                "{} training and {} validation pictures (at least 2 and 1; data.held_out takes some of the training part)",
                train.pictures.len(),
                val.pictures.len()
            );
        }
        let classes = train.classes.iter().max().map_or(0, |it| *it as usize + 1);
        let mut sentences = vec![Vec::new(); classes];
        let mut texts = vec![Vec::new(); classes];
        for (picture, class) in train.pictures.iter().zip(&train.classes) {
            for sentence in &picture.sentences {
                // A sentence of unknown words alone says nothing to learn from.
                if let Ok(mut ids) = prepared.words.ids(sentence) {
                    ids.truncate(ids.iter().position(|it| *it == 0).unwrap_or(ids.len()));
                    sentences[*class as usize].push(ids);
                    texts[*class as usize].push(sentence.as_str());
                }
            }
        }
        if let Some(empty) = sentences.iter().position(Vec::is_empty) {
            let owner = train.classes.iter().position(|it| *it == empty as i64).unwrap_or(0);
            bail!(
                "no sentence of {} has a word of the vocabulary (lower data.least_count)",
                train.pictures[owner].name
            );
        }
        let without_unit = |mut path: Vec<Layer>| {
            match path.last_mut() {
                Some(Layer::Block { layers, .. }) => drop(layers.pop()),
                _ => drop(path.pop()),
            }
            path
        };
        let taught = run.stages.iter().any(|it| 0.0 < it.weights.teacher);
        let teacher = match &run.teacher {
            Some(teacher) if taught => {
                let texts = texts.concat();
                let taught = Taught::by(teacher, data, &folder, &train.pictures, &texts)?;
                Some(taught.to_device(device))
            }
            _ => None,
        };
        let state = State::new(weights, Optimiser::new(config::Optimiser::Adamw));
        Ok(Trainer {
            run,
            image_path: without_unit(run.image_path()),
            text_path: without_unit(run.text_path(prepared.words.vocabulary())),
            state,
            groups: Vec::new(),
            train,
            val,
            sentences,
            teacher,
            prepared,
            device,
        })
    }

    /// What a checkpoint holds.
    pub fn state(&mut self) -> &mut State {
        &mut self.state
    }

    /// The weights that are measured and kept.
    pub fn averaged(&self) -> &Parameters {
        &self.state.averaged
    }

    /// Frees what moves in a stage and holds all else; `afresh` forgets the optimiser's moments.
    pub fn begin(&mut self, stage: &Stage, afresh: bool) -> Result<()> {
        if afresh {
            self.state.optimiser = Optimiser::new(stage.optimiser);
        }
        let head = net::position(&self.image_path, "head").context("the image path has no head")?;
        let from = self.cut(stage)?;
        let factors = &stage.factors;
        let fixed = |name: &str, factor| {
            let decay = if stage.decay_all { stage.decay } else { 0.0 };
            Group { name: name.to_owned(), factor, decay }
        };
        let mut groups = vec![fixed(SHARE, factors.share)];
        if self.run.loss.bias {
            groups.push(fixed(SHARE_BIAS, factors.share_bias));
        }
        if self.run.loss.ranking == Ranking::Infonce {
            groups.push(Group { name: TEMPERATURE.into(), factor: 1.0, decay: 0.0 });
        }
        let mut add = |path: &[Layer], weight: f64, gain: f64, bias: f64| {
            for it in net::parameters(path).into_iter().filter(|it| it.role.is_trained()) {
                let factor = match it.role {
                    Role::Weight => weight,
                    Role::Lookup | Role::LookupBias => factors.lookup,
                    Role::Gain | Role::Power => gain,
                    _ => bias,
                };
                let decays = stage.decay_all || it.role == Role::Weight;
                let decay = if decays { stage.decay } else { 0.0 };
                groups.push(Group { name: it.name, factor, decay });
            }
        };
        add(&self.text_path, factors.weight, factors.gain, factors.bias);
        add(&self.image_path[head..], factors.weight, factors.gain, factors.bias);
        if from < head {
            let backbone = &self.image_path[from..head];
            add(backbone, factors.backbone, factors.backbone_gain, factors.backbone_bias);
        }
        groups.retain(|it| 0.0 < it.factor);
        for (_, tensor) in self.state.weights.iter() {
            let _ = tensor.set_requires_grad(false);
        }
        for group in &groups {
            let _ = self.state.weights.get(&group.name).set_requires_grad(true);
        }
        self.groups = groups;
        Ok(())
    }

    fn cut(&self, stage: &Stage) -> Result<usize> {
        net::position(&self.image_path, &stage.train_from).context("train_from is no block")
    }

    /// One pass over the training pictures.
    pub fn epoch(&mut self, stage: &Stage, epoch: usize, steps: &mut i64) -> Result<Losses> {
        let started = Instant::now();
        let cut = self.cut(stage)?;
        let mut order: Vec<usize> = (0..self.train.pictures.len()).collect();
        let seed = self.run.seed as u64 ^ ((*steps as u64 + 1) << 16) ^ 1;
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let batch = even(stage.batch.min(order.len()), self.run.loss.ranking);
        // A last, smaller batch would have other norms and fewer negatives.
        let batches: Vec<&[usize]> = order.chunks_exact(batch).collect();
        let sets = self.run.augment.sentences;
        let mines = self.run.loss.ranking == Ranking::Hinge && 0.0 < stage.weights.ranking;
        let first: Vec<usize> = (self.sentences.iter())
            .scan(0, |next, it| Some(std::mem::replace(next, *next + it.len())))
            .collect();
        let pool = Pool {
            run: self.run,
            source: match self.train.caches.get(&cut) {
                Some(cache) if stage.cache => Source::Cached(cache),
                _ => {
                    Source::Pictures(&self.train.pictures, stage.size.unwrap_or(self.run.net.size))
                }
            },
            classes: &self.train.classes,
            sentences: &self.sentences,
            first: &first,
            unseen: text::unseen_slots(&self.text_path),
            sets,
            mined: if mines { self.run.loss.mined } else { 0 },
        };
        let begun = *steps;
        let parts = batch.div_ceil(PART);
        let make = |number: usize| {
            let (index, at) = (number / parts, number % parts * PART);
            let pictures = &batches[index][at..batch.min(at + PART)];
            pool.part(pictures, at, begun + index as i64)
        };
        let bar = progress::bar(batches.len() * batch, "training");
        let mut sums = Losses::default();
        let mut stood = std::time::Duration::ZERO;
        std::thread::scope(|scope| -> Result<()> {
            let mut made = Ahead::start(scope, batches.len() * parts, &make);
            let mut gathered = |index: usize| {
                pool.batch(batches[index], begun + index as i64, self.device, || made.next())
            };
            let mut next = None;
            for index in 0..batches.len() {
                let batch = match next.take() {
                    Some(batch) => batch,
                    None => gathered(index)?,
                };
                tch::manual_seed(self.run.seed.wrapping_mul(1_000_003).wrapping_add(*steps));
                let pass = Pass {
                    run: self.run,
                    stage,
                    image_path: &self.image_path,
                    text_path: &self.text_path,
                    cut: if matches!(pool.source, Source::Cached(_)) { cut } else { 0 },
                    frozen: cut,
                    weights: &self.state.weights,
                    teacher: self.teacher.as_ref(),
                    device: self.device,
                };
                let said = pass.backward(&batch)?;
                // While the device is busy with that.
                if index + 1 < batches.len() {
                    next = Some(gathered(index + 1)?);
                }
                let whole = (index + 1) % stage.accumulate == 0 || index + 1 == batches.len();
                if whole {
                    let at = epoch as f64 + (index as f64 + 1.0) / batches.len() as f64;
                    let norm = self.state.optimiser.step(
                        &self.state.weights,
                        &self.groups,
                        rate(stage, at),
                        stage.clip,
                    );
                    if !norm.is_finite() {
                        said.losses(*steps)?;
                        bail!("step {steps}: the gradient is {norm} {REMEDY}");
                    }
                    self.state.average(stage.average, *steps);
                }
                // Only now, so that a device is told of all its work before it is waited for.
                let losses = said.losses(*steps)?;
                *steps += 1;
                sums.image += losses.image;
                sums.text += losses.text;
                sums.ranking += losses.ranking;
                sums.teacher += losses.teacher;
                bar.set_prefix(format!("{losses}"));
                bar.inc(batch.classes.size()[0] as u64);
            }
            stood = made.waited;
            Ok(())
        })?;
        bar.finish_and_clear();
        let count = batches.len() as f64;
        let scale = self.state.weights.get(TEMPERATURE).exp().double_value(&[]);
        Ok(Losses {
            image: sums.image / count,
            text: sums.text / count,
            ranking: sums.ranking / count,
            teacher: sums.teacher / count,
            scale,
            waited: stood.as_secs_f64() / started.elapsed().as_secs_f64(),
        })
    }

    /// Recall of the averaged weights on the validation pictures.
    pub fn validate(&self, stage: &Stage) -> Result<Report> {
        let cut = self.cut(stage)?;
        let averaged = &self.state.averaged;
        let pictures = match self.val.caches.get(&cut) {
            Some(cache) if stage.cache => {
                let rows: Vec<(usize, usize)> =
                    (0..self.val.pictures.len()).map(|it| (it, 0)).collect();
                let mut all = Vec::new();
                for chunk in rows.chunks(100) {
                    let features = augment::features(&cache.rows(chunk)?, self.device);
                    let path = &self.image_path[cut..];
                    all.push(tch::no_grad(|| {
                        unit(&forward(path, averaged, &features, Mode::Eval))
                    }));
                }
                Tensor::cat(&all, 0)
            }
            _ => encode::pictures(self.run, &self.run.image_path(), averaged, &self.val.pictures)?,
        };
        let text_path = self.run.text_path(self.prepared.words.vocabulary());
        let (sentences, owner) =
            encode::sentences(&text_path, averaged, self.prepared, &self.val.pictures)?;
        let classes = self.val.classes.clone();
        Ok(Embedded { pictures, sentences, owner, classes }.ranks().report())
    }
}

/// A batch that can be halved, for the hinge.
fn even(batch: usize, ranking: Ranking) -> usize {
    if ranking == Ranking::Hinge { batch / 2 * 2 } else { batch }
}

const REMEDY: &str =
    "(lower the rate; the last whole epoch is kept, and --resume goes on behind it)";

/// A batch forth and back.
struct Pass<'a> {
    run: &'a Run,
    stage: &'a Stage,
    image_path: &'a [Layer],
    text_path: &'a [Layer],
    /// The layer that takes the batch in.
    cut: usize,
    /// The first layer that moves.
    frozen: usize,
    weights: &'a Parameters,
    teacher: Option<&'a Taught>,
    device: Device,
}

/// What the two losses see of one path's features.
struct Seen {
    /// At unit length.
    ranked: Tensor,
    /// For W_share.
    classed: Tensor,
}

/// The four losses of a batch, on the device.
struct Said(Tensor);

impl Said {
    /// Waits for them.
    fn losses(&self, step: i64) -> Result<Losses> {
        let values = self.0.to_device(Device::Cpu);
        let [image, text, ranking, teacher] = [0, 1, 2, 3].map(|it| values.double_value(&[it]));
        let named = [
            ("pictures' instance", image),
            ("sentences' instance", text),
            ("ranking", ranking),
            ("teacher's", teacher),
        ];
        if let Some((name, value)) = named.iter().find(|it| !it.1.is_finite()) {
            bail!("step {step}: the {name} loss is {value} {REMEDY}");
        }
        Ok(Losses { image, text, ranking, teacher, ..Losses::default() })
    }
}

impl Pass<'_> {
    /// Adds the batch's gradients to those that are there.
    fn backward(&self, batch: &Batch) -> Result<Said> {
        let mode = Mode::Train(self.stage.precision.kind(self.device));
        let input = batch.images(self.run, self.device);
        let still = &self.image_path[self.cut..self.frozen];
        let input = tch::no_grad(|| forward(still, self.weights, &input, Mode::Eval));
        let moving = &self.image_path[self.frozen..];
        let classes = sent(&batch.classes, self.device);
        let teacher = self.teacher.filter(|_| 0.0 < self.stage.weights.teacher);
        let right = teacher.map(|it| it.logits(batch, self.run.augment.sentences as i64));
        let mut tokens = batch.tokens.shallow_clone();
        let mut text_classes = classes.shallow_clone();
        if let Some((candidates, owners)) = &batch.mined {
            tokens = sent(&tokens, self.device);
            let mined = self.mined(moving, &input, candidates, owners, &tokens, &classes);
            (tokens, text_classes) = mined;
        }
        let images = self.seen(&forward(moving, self.weights, &input, mode));
        let texts = self.seen(&forward(self.text_path, self.weights, &tokens, mode));
        let knobs = &self.run.loss;
        let of = Classes {
            share: self.weights.get(SHARE),
            bias: knobs.bias.then(|| self.weights.get(SHARE_BIAS)),
            scale: knobs.scale,
            smoothing: knobs.smoothing,
        };
        let temperature = self.weights.get(TEMPERATURE);
        let rows = images.ranked.size()[0];
        let (ranked, classed) = (texts.ranked.split(rows, 0), texts.classed.split(rows, 0));
        let mean = |all: Vec<Tensor>| {
            let count = all.len() as f64;
            all.into_iter().sum::<Tensor>() / count
        };
        let weights = &self.stage.weights;
        let nothing = || Tensor::zeros([], (Kind::Float, self.device));
        let image =
            if weights.image == 0.0 { nothing() } else { of.loss(&images.classed, &classes) };
        let text = if weights.text == 0.0 {
            nothing()
        } else {
            mean(classed.iter().map(|it| of.loss(it, &text_classes)).collect())
        };
        let rank = |texts: &Tensor| match knobs.ranking {
            Ranking::Infonce => loss::infonce(&images.ranked, texts, temperature, &classes),
            Ranking::Hardest => loss::hardest(&images.ranked, texts, knobs.margin, &classes),
            Ranking::Hinge => {
                loss::hinge(&images.ranked, texts, knobs.margin, [&classes, &text_classes])
            }
        };
        let ranking = if weights.ranking == 0.0 {
            nothing()
        } else {
            mean(ranked.iter().map(rank).collect())
        };
        let mut total = &image * weights.image + &text * weights.text + &ranking * weights.ranking;
        if 0.0 < weights.paraphrase {
            let pairs = ranked.windows(2);
            let pairs = pairs.map(|it| loss::infonce(&it[0], &it[1], temperature, &classes));
            total += mean(pairs.collect()) * weights.paraphrase;
        }
        let teacher = match right {
            Some(right) => {
                let own = ranked.iter().map(|it| loss::logits(&images.ranked, it, temperature));
                mean(own.zip(right).map(|(own, right)| loss::divergence(&own, &right)).collect())
            }
            None => nothing(),
        };
        total += &teacher * weights.teacher;
        (total / self.stage.accumulate as f64).backward();
        Ok(Said(tch::no_grad(|| Tensor::stack(&[&image, &text, &ranking, &teacher], 0))))
    }

    fn seen(&self, features: &Tensor) -> Seen {
        let features = features.to_kind(Kind::Float);
        let drop = |it: &Tensor| it.dropout(self.run.loss.dropout, true);
        match self.run.loss.features {
            Features::Unit => {
                let ranked = unit(&features);
                Seen { classed: drop(&ranked), ranked }
            }
            Features::Relu => {
                let positive = features.relu();
                Seen { ranked: unit(&positive), classed: drop(&positive) }
            }
        }
    }

    /// The paper's negatives (section 3.4): the second half of the sentences gives way to the
    /// candidates that the anchors, the first half of the pictures, come nearest to in eval mode.
    fn mined(
        &self,
        moving: &[Layer],
        input: &Tensor,
        candidates: &Tensor,
        owners: &Tensor,
        tokens: &Tensor,
        classes: &Tensor,
    ) -> (Tensor, Tensor) {
        let _guard = tch::no_grad_guard();
        let half = input.size()[0] / 2;
        let candidates = sent(candidates, self.device);
        let anchors = input.narrow(0, 0, half);
        let anchors = unit(&forward(moving, self.weights, &anchors, Mode::Eval));
        let others = unit(&forward(self.text_path, self.weights, &candidates, Mode::Eval));
        let nearest = anchors.mm(&others.transpose(0, 1)).argmax(1, false);
        let negatives = candidates.index_select(0, &nearest);
        let owners = sent(owners, self.device).index_select(0, &nearest);
        (
            Tensor::cat(&[tokens.narrow(0, 0, half), negatives], 0),
            Tensor::cat(&[classes.narrow(0, 0, half), owners], 0),
        )
    }
}
