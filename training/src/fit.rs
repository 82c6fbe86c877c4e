//! `train fit`: the stages of a run, one after the other.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::cache::{self, Cache};
use crate::checkpoint::{self, Progress};
use crate::config::{Run, Stage};
use crate::data::{self, Split};
use crate::eval::{self, Report};
use crate::loss::{self, Ranking};
use crate::net::{self, Layer, Role};
use crate::optim::{AdamW, Group};
use crate::prepare::Prepared;
use crate::progress;
use crate::torch::{Mode, Parameters, forward};

/// Checkpoint of the last whole epoch.
pub const LAST: &str = "last.safetensors";
/// Averaged weights of the best epoch so far.
pub const BEST: &str = "best.safetensors";
/// One JSON object an epoch.
pub const LOG: &str = "log.jsonl";

/// Longest gradient.
const CLIP: f64 = 2.0;
const SHARE: &str = "share";
const TEMPERATURE: &str = "temperature";

/// Trains a prepared run; with `resume`, goes on behind the last whole epoch.
pub fn fit(run: &Run, data: &Path, out: &Path, resume: bool, device: Device) -> Result<()> {
    let last = out.join(LAST);
    if last.exists() && !resume {
        bail!("{} holds a run already (go on with --resume, or remove the folder)", out.display());
    }
    let prepared = Prepared::read(run, out)?;
    let mut trainer = Trainer::new(run, &prepared, data, out, device)?;
    let mut done = Progress::default();
    let mut optimiser = AdamW::default();
    if resume && last.exists() {
        (optimiser, done) = checkpoint::resume(&last, &mut trainer.weights, &mut trainer.averaged)?;
        println!("going on with stage {}, epoch {}", done.stage + 1, done.epoch + 1);
    }
    let mut log = std::fs::File::options().create(true).append(true).open(out.join(LOG))?;
    for (index, stage) in run.stages.iter().enumerate().skip(done.stage) {
        if done.stage < index {
            done = Progress { stage: index, epoch: 0, ..done };
            optimiser = AdamW::default();
        }
        let groups = trainer.groups(stage)?;
        for epoch in done.epoch..stage.epochs {
            let started = Instant::now();
            let losses = trainer.epoch(stage, epoch, &groups, &mut optimiser, &mut done.steps)?;
            let report = trainer.validate(stage)?;
            let seconds = started.elapsed().as_secs_f64();
            println!(
                "stage {} epoch {:>2}/{}  instance {:.3}  ranking {:.3}  {report}  {seconds:.0} s",
                index + 1,
                epoch + 1,
                stage.epochs,
                losses.instance,
                losses.ranking,
            );
            let line = serde_json::json!({
                "stage": index + 1, "epoch": epoch + 1, "steps": done.steps, "seconds": seconds,
                "instance": losses.instance, "ranking": losses.ranking, "recall": report,
            });
            log.write_all(format!("{line}\n").as_bytes()).context("writing the log")?;
            if done.best < report.score() {
                done.best = report.score();
                checkpoint::save_weights(&out.join(BEST), &trainer.averaged)?;
            }
            done.epoch = epoch + 1;
            checkpoint::save(&last, &trainer.weights, &trainer.averaged, &optimiser, done)?;
        }
    }
    println!("best mean recall@1 {:.2}; weights in {}", done.best, out.join(BEST).display());
    Ok(())
}

/// Fresh nets for a run: pretrained backbone and word vectors where given, W_share, temperature.
pub fn nets(run: &Run, prepared: &Prepared, data: &Path, device: Device) -> Result<Parameters> {
    tch::manual_seed(run.seed);
    let image_path = run.image_path();
    let mut weights = Parameters::fresh(&image_path, device);
    let head = net::position(&image_path, "head").context("the image path has no head")?;
    let backbone: Vec<String> =
        net::parameters(&image_path[..head]).into_iter().map(|it| it.name).collect();
    if let Some(file) = &run.net.weights {
        let missing = weights.load(&data.join(file), &backbone)?;
        if !missing.is_empty() {
            eprintln!("not in {}, initialised afresh: {}", file.display(), missing.join(", "));
        }
    }
    weights.extend(Parameters::fresh(&run.text_path(prepared.words.vocabulary()), device));
    if let Some(file) = &run.net.words {
        let vocabulary: serde_json::Value = serde_json::from_slice(&prepared.tokenizer)?;
        let vocabulary: HashMap<String, u32> =
            serde_json::from_value(vocabulary["model"]["vocab"].clone())?;
        let vectors = data::word_vectors(&data.join(file), &vocabulary)?;
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
    }
    let classes = prepared.split(Split::Train).len() as i64;
    let bound = (3.0 / run.net.dimension as f64).sqrt();
    let share =
        Tensor::empty([classes, run.net.dimension], (Kind::Float, device)).uniform_(-bound, bound);
    weights.insert(SHARE, share);
    weights.insert(TEMPERATURE, Tensor::from((1.0f32 / 0.07).ln()).to_device(device));
    Ok(weights)
}

struct Losses {
    instance: f64,
    ranking: f64,
}

struct Trainer<'a> {
    run: &'a Run,
    image_path: Vec<Layer>,
    text_path: Vec<Layer>,
    weights: Parameters,
    averaged: Parameters,
    /// By cut.
    train: HashMap<usize, Cache>,
    val: HashMap<usize, Cache>,
    /// Token ids of each training picture's sentences, without padding.
    sentences: Vec<Vec<Vec<i64>>>,
    val_tokens: Tensor,
    val_owner: Vec<i64>,
    device: Device,
}

impl<'a> Trainer<'a> {
    fn new(
        run: &'a Run,
        prepared: &Prepared,
        data: &Path,
        out: &Path,
        device: Device,
    ) -> Result<Trainer<'a>> {
        let weights = nets(run, prepared, data, device)?;
        let cuts = cache::cuts(run)?;
        let (train_pictures, val_pictures) =
            (prepared.split(Split::Train), prepared.split(Split::Val));
        if train_pictures.len() < 2 || val_pictures.is_empty() {
            bail!(
                "{} training and {} validation pictures (at least 2 and 1)",
                train_pictures.len(),
                val_pictures.len()
            );
        }
        let folder = out.join("cache");
        let open = |pictures: &[&data::Picture], views, part| -> Result<HashMap<usize, Cache>> {
            let caches = Cache::open_all(run, pictures, views, &cuts, &weights, &folder, part)?;
            Ok(cuts.iter().copied().zip(caches).collect())
        };
        let train = open(&train_pictures, run.augment.views, "train")?;
        let val = open(&val_pictures, 1, "val")?;
        let ids = |sentence: &String| -> Result<Vec<i64>> {
            let mut ids = prepared.words.ids(sentence)?;
            ids.truncate(ids.iter().position(|it| *it == 0).unwrap_or(ids.len()));
            Ok(ids)
        };
        let sentences = train_pictures
            .iter()
            .map(|it| it.sentences.iter().map(ids).collect::<Result<Vec<_>>>())
            .collect::<Result<Vec<_>>>()?;
        let (mut val_ids, mut val_owner) = (Vec::new(), Vec::new());
        for (owner, picture) in val_pictures.iter().enumerate() {
            for sentence in &picture.sentences {
                val_ids.extend(prepared.words.ids(sentence)?);
                val_owner.push(owner as i64);
            }
        }
        let val_tokens =
            Tensor::from_slice(&val_ids).view((val_owner.len() as i64, run.data.length as i64));
        let averaged = weights.duplicate();
        Ok(Trainer {
            run,
            image_path: run.image_path(),
            text_path: run.text_path(prepared.words.vocabulary()),
            weights,
            averaged,
            train,
            val,
            sentences,
            val_tokens: val_tokens.to_device(device),
            val_owner,
            device,
        })
    }

    /// What moves in a stage, and how fast; everything else is told to need no gradient.
    fn groups(&self, stage: &Stage) -> Result<Vec<Group>> {
        let head = net::position(&self.image_path, "head").context("the image path has no head")?;
        let from = self.cut(stage)?;
        let mut groups = vec![
            Group { name: SHARE.into(), factor: 1.0, decay: 0.0 },
            Group { name: TEMPERATURE.into(), factor: 1.0, decay: 0.0 },
        ];
        let mut add = |path: &[Layer], factor: f64| {
            for it in net::parameters(path).into_iter().filter(|it| it.role.is_trained()) {
                let decay = if it.role == Role::Weight { stage.decay } else { 0.0 };
                groups.push(Group { name: it.name, factor, decay });
            }
        };
        add(&self.text_path, 1.0);
        add(&self.image_path[head..], 1.0);
        if from < head {
            add(&self.image_path[from..head], stage.backbone);
        }
        for (_, tensor) in self.weights.iter() {
            let _ = tensor.set_requires_grad(false);
        }
        for group in &groups {
            let _ = self.weights.get(&group.name).set_requires_grad(true);
        }
        Ok(groups)
    }

    fn cut(&self, stage: &Stage) -> Result<usize> {
        net::position(&self.image_path, &stage.train_from).context("train_from is no block")
    }

    fn epoch(
        &mut self,
        stage: &Stage,
        epoch: usize,
        groups: &[Group],
        optimiser: &mut AdamW,
        steps: &mut i64,
    ) -> Result<Losses> {
        let cut = self.cut(stage)?;
        let mut random =
            ChaCha8Rng::seed_from_u64(self.run.seed as u64 ^ ((*steps as u64 + 1) << 16));
        let mut order: Vec<usize> = (0..self.sentences.len()).collect();
        order.shuffle(&mut random);
        let batch = stage.batch.min(order.len());
        // A last, smaller batch would have other norms and fewer negatives.
        let batches: Vec<&[usize]> = order.chunks_exact(batch).collect();
        let bar = progress::bar(batches.len() * batch, "training");
        let mut sums = [0.0; 2];
        for (index, pictures) in batches.iter().enumerate() {
            let views: Vec<(usize, usize)> = pictures
                .iter()
                .map(|it| (*it, random.random_range(0..self.run.augment.views)))
                .collect();
            let tokens = self.tokens(pictures, &mut random);
            let features = self.train[&cut].rows(&views, self.device)?;
            tch::manual_seed(self.run.seed.wrapping_mul(1_000_003).wrapping_add(*steps));
            let images = forward(&self.image_path[cut..], &self.weights, &features, Mode::Train);
            let texts = forward(&self.text_path, &self.weights, &tokens, Mode::Train);
            let classes: Vec<i64> = pictures.iter().map(|it| *it as i64).collect();
            let classes = Tensor::from_slice(&classes).to_device(self.device);
            let (instance, ranking) = self.losses(&images, &texts, &classes);
            let total =
                &instance * self.run.loss.instance + &ranking * self.run.loss.ranking_weight;
            let values = [instance.double_value(&[]), ranking.double_value(&[])];
            if values.iter().any(|it| !it.is_finite()) {
                bail!(
                    "step {steps}: the instance loss is {}, the ranking loss {} (lower the rate; the last good epoch is kept, go on with --resume)",
                    values[0],
                    values[1]
                );
            }
            total.backward();
            let at = epoch as f64 + (index as f64 + 1.0) / batches.len() as f64;
            let norm = optimiser.step(&self.weights, groups, rate(stage, at), CLIP);
            if !norm.is_finite() {
                bail!("step {steps}: the gradient is {norm} (lower the rate; go on with --resume)");
            }
            self.average(stage, *steps);
            *steps += 1;
            sums[0] += values[0];
            sums[1] += values[1];
            bar.set_prefix(format!("instance {:.3} ranking {:.3}", values[0], values[1]));
            bar.inc(batch as u64);
        }
        bar.finish_and_clear();
        let [instance, ranking] = sums.map(|it| it / batches.len() as f64);
        Ok(Losses { instance, ranking })
    }

    /// Means over the sentences that a picture brings to a step: `texts` holds the batch's first
    /// sentences, then its second ones, and so on.
    fn losses(&self, images: &Tensor, texts: &Tensor, classes: &Tensor) -> (Tensor, Tensor) {
        let knobs = &self.run.loss;
        let share = self.weights.get(SHARE);
        let one = |features: &Tensor| {
            loss::instance(features, share, classes, knobs.scale, knobs.smoothing)
        };
        let ranking = |texts: &Tensor| match knobs.ranking {
            Ranking::Infonce => loss::infonce(images, texts, self.weights.get(TEMPERATURE)),
            Ranking::Hinge => loss::hinge(images, texts, knobs.margin),
        };
        let sets = texts.split(images.size()[0], 0);
        let mean = |of: &dyn Fn(&Tensor) -> Tensor| {
            sets.iter().map(of).sum::<Tensor>() / sets.len() as f64
        };
        (one(images) + mean(&one), mean(&ranking))
    }

    /// The sentences of a step, each somewhere in its slots, some words unknown: one of every
    /// picture, then a second of every picture, and so on (B x `augment.sentences`, length).
    fn tokens(&self, pictures: &[usize], random: &mut ChaCha8Rng) -> Tensor {
        let (length, sets) = (self.run.data.length, self.run.augment.sentences);
        let chosen: Vec<Vec<usize>> = pictures
            .iter()
            .map(|it| {
                let of = self.sentences[*it].len();
                let mut all: Vec<usize> = (0..of).collect();
                all.shuffle(random);
                all.into_iter().cycle().take(sets).collect()
            })
            .collect();
        let mut slots = vec![0i64; sets * pictures.len() * length];
        let of_step =
            (0..sets).flat_map(|set| pictures.iter().zip(&chosen).map(move |it| (set, it)));
        for ((set, (picture, chosen)), slots) in of_step.zip(slots.chunks_exact_mut(length)) {
            let sentence = &self.sentences[*picture][chosen[set]];
            // A sentence of words that no position sees has no largest value: it would wreck
            // the batch's moments.
            let room = (length - net::unseen_slots(&self.text_path)).saturating_sub(sentence.len());
            let start = if self.run.augment.shift { random.random_range(0..=room) } else { 0 };
            for (slot, word) in slots[start..].iter_mut().zip(sentence) {
                let drop = random.random_bool(self.run.augment.word_dropout);
                *slot = if drop { data::UNKNOWN } else { *word };
            }
        }
        Tensor::from_slice(&slots)
            .view(((sets * pictures.len()) as i64, length as i64))
            .to_device(self.device)
    }

    /// Moves the averaged weights, and the norms' moments with them: moments of other weights
    /// than those they stand beside cost recall.
    fn average(&mut self, stage: &Stage, steps: i64) {
        let keep = stage.average.min((1.0 + steps as f64) / (10.0 + steps as f64));
        tch::no_grad(|| {
            for (name, tensor) in self.weights.iter() {
                let mut target = self.averaged.get(name).shallow_clone();
                if tensor.requires_grad() || name.contains(".running_") {
                    let _ = target.lerp_(tensor, 1.0 - keep);
                }
            }
        });
    }

    fn validate(&self, stage: &Stage) -> Result<Report> {
        let cut = self.cut(stage)?;
        let cache = &self.val[&cut];
        let rows = (0..*self.val_owner.last().unwrap_or(&0) as usize + 1)
            .map(|it| (it, 0))
            .collect::<Vec<_>>();
        let mut pictures = Vec::new();
        for chunk in rows.chunks(100) {
            let features = cache.rows(chunk, self.device)?;
            pictures.push(tch::no_grad(|| {
                forward(&self.image_path[cut..], &self.averaged, &features, Mode::Eval)
            }));
        }
        let sentences: Vec<Tensor> = self
            .val_tokens
            .split(500, 0)
            .iter()
            .map(|it| tch::no_grad(|| forward(&self.text_path, &self.averaged, it, Mode::Eval)))
            .collect();
        Ok(eval::report(&Tensor::cat(&pictures, 0), &Tensor::cat(&sentences, 0), &self.val_owner))
    }
}

/// Linear rise over the warm-up, then half a cosine to zero; `at` in epochs.
fn rate(stage: &Stage, at: f64) -> f64 {
    if at < stage.warmup {
        return stage.rate * at / stage.warmup;
    }
    let way = (at - stage.warmup) / (stage.epochs as f64 - stage.warmup).max(1e-9);
    stage.rate * 0.5 * (1.0 + (std::f64::consts::PI * way.min(1.0)).cos())
}
