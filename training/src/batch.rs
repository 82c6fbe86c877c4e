//! What a training step takes in.
//!
//! Every step draws its random numbers from its own number, so that a resumed run and any number
//! of threads make the same batches.

use anyhow::Result;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use crate::augment;
use crate::cache::Cache;
use crate::config::Run;
use crate::data::Picture;
use crate::device::{pinned, sent};

/// Pictures that a thread makes at a time: many threads together hold little more than the next batch.
pub const PART: usize = 16;

/// Where the image path's input comes from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// What the frozen layers made of a fixed number of views.
    Cached(&'a Cache),
    /// The pictures themselves, cropped afresh every time, to squares of so many pixels a side.
    Pictures(&'a [&'a Picture], u32),
}

/// Training pictures as the loader draws from them.
pub struct Pool<'a> {
    /// The run.
    pub run: &'a Run,
    /// Picture by picture.
    pub source: Source<'a>,
    /// Class of each picture.
    pub classes: &'a [i64],
    /// Token ids of each class's sentences, without padding.
    pub sentences: &'a [Vec<Vec<i64>>],
    /// Number of each class's first sentence, all counted on.
    pub first: &'a [usize],
    /// Slots at a sentence's end that stay empty.
    pub unseen: usize,
    /// Sentences that each picture brings.
    pub sets: usize,
    /// Sentences of other classes to look for negatives in.
    pub mined: usize,
}

/// What one step takes in.
pub struct Batch {
    images: Images,
    /// One sentence of every picture, then a second of every picture, and so on.
    pub tokens: Tensor,
    /// Class of each picture, (B).
    pub classes: Tensor,
    /// Which pictures, (B).
    pub pictures: Tensor,
    /// Which sentences stand in `tokens`, counted over all classes.
    pub sentences: Tensor,
    /// Sentences to look for negatives in, and their classes.
    pub mined: Option<(Tensor, Tensor)>,
}

enum Images {
    Features(Tensor),
    Bytes(Tensor),
}

impl Batch {
    /// The input of the image path's moving part, on the device.
    pub fn images(&self, run: &Run, device: Device) -> Tensor {
        match &self.images {
            Images::Features(halves) => augment::features(halves, device),
            Images::Bytes(bytes) => augment::pixels(run, bytes, device),
        }
    }
}

impl Pool<'_> {
    /// The image path's input of some pictures of a step, the first of them at this place in its batch.
    pub fn part(&self, pictures: &[usize], at: usize, step: i64) -> Result<Tensor> {
        let numbered = pictures.iter().enumerate();
        let drawn = numbered.map(|(it, picture)| (*picture, self.random(step, 1 + at + it)));
        match self.source {
            Source::Cached(cache) => {
                let view = |(it, mut random): (usize, ChaCha8Rng)| {
                    (it, random.random_range(0..cache.views))
                };
                cache.rows(&drawn.map(view).collect::<Vec<_>>())
            }
            Source::Pictures(all, size) => {
                let crop = |(it, mut random): (usize, ChaCha8Rng)| {
                    augment::cropped(&self.run.augment, all[it], size, &mut random)
                };
                augment::bytes(size, drawn.map(crop))
            }
        }
    }

    /// The batch of one step: these pictures, whose parts begin to be sent as they come, and what the step's random
    /// numbers make of their sentences.
    pub fn batch(
        &self,
        pictures: &[usize],
        step: i64,
        device: Device,
        mut part: impl FnMut() -> Result<Tensor>,
    ) -> Result<Batch> {
        let parts =
            (0..pictures.len().div_ceil(PART)).map(|_| Ok(sent(&pinned(&part()?, device), device)));
        let whole = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0);
        let images = match self.source {
            Source::Cached(_) => Images::Features(whole),
            Source::Pictures(..) => Images::Bytes(whole),
        };
        let mut random = self.random(step, 0);
        let chosen: Vec<Vec<usize>> = pictures
            .iter()
            .map(|it| {
                let mut all: Vec<usize> = (0..self.of(*it).len()).collect();
                all.shuffle(&mut random);
                all.into_iter().cycle().take(self.sets).collect()
            })
            .collect();
        let order =
            (0..self.sets).flat_map(|set| pictures.iter().zip(&chosen).map(move |it| (set, it)));
        let (mut sentences, mut numbers) = (Vec::new(), Vec::new());
        for (set, (picture, chosen)) in order {
            sentences.push(self.of(*picture)[chosen[set]].as_slice());
            numbers.push((self.first[self.classes[*picture] as usize] + chosen[set]) as i64);
        }
        let tokens = self.tokens(&sentences, &mut random);
        let classes: Vec<i64> = pictures.iter().map(|it| self.classes[*it]).collect();
        let mined = (0 < self.mined).then(|| {
            let (mut sentences, mut owners) = (Vec::new(), Vec::new());
            // A set of data smaller than the batch has no other classes to draw from.
            for _ in 0..64 * self.mined {
                let picture = random.random_range(0..self.classes.len());
                let class = self.classes[picture];
                let all = self.of(picture);
                if sentences.len() < self.mined && !classes.contains(&class) {
                    sentences.push(all[random.random_range(0..all.len())].as_slice());
                    owners.push(class);
                }
            }
            (self.tokens(&sentences, &mut random), Tensor::from_slice(&owners))
        });
        let mined = mined.filter(|it| 0 < it.1.size()[0]);
        let pictures: Vec<i64> = pictures.iter().map(|it| *it as i64).collect();
        Ok(Batch {
            images,
            tokens,
            classes: Tensor::from_slice(&classes),
            pictures: Tensor::from_slice(&pictures),
            sentences: Tensor::from_slice(&numbers),
            mined,
        })
    }

    /// The random numbers of a step's sentences, or from 1 on of its pictures.
    fn random(&self, step: i64, stream: usize) -> ChaCha8Rng {
        let mut random =
            ChaCha8Rng::seed_from_u64(self.run.seed as u64 ^ ((step as u64 + 1) << 16));
        random.set_stream(stream as u64);
        random
    }

    fn of(&self, picture: usize) -> &[Vec<i64>] {
        &self.sentences[self.classes[picture] as usize]
    }

    fn tokens(&self, sentences: &[&[i64]], random: &mut ChaCha8Rng) -> Tensor {
        let length = self.run.data.length;
        let mut slots = vec![0i64; sentences.len() * length];
        for (sentence, slots) in sentences.iter().zip(slots.chunks_exact_mut(length)) {
            augment::place(sentence, slots, self.unseen, &self.run.augment, random);
        }
        Tensor::from_slice(&slots).view((sentences.len() as i64, length as i64))
    }
}
