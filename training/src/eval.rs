//! Recall@k, median rank and mean average precision, both ways, as the paper counts them (section 5).

use std::cmp::Ordering::{Equal, Greater};

use anyhow::{Result, ensure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::torch::numbers;

/// Queries whose scores are held at a time.
const CHUNK: i64 = 512;
/// Samples of the bootstrap.
const SAMPLES: usize = 1000;

/// Recall at 1, 5 and 10 in percent, the median rank and the mean average precision, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// A sentence finds a picture of its class.
    pub text_to_image: Recall,
    /// A picture finds any sentence of its class.
    pub image_to_text: Recall,
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Recall {
    /// Percent of queries whose first right answer is the first.
    pub at_1: f64,
    /// ... is among the first five.
    pub at_5: f64,
    /// ... is among the first ten.
    pub at_10: f64,
    /// The rank of the first right answer, the median over queries; the first rank is 1.
    pub median_rank: f64,
    /// Mean over queries of the average precision, in percent, its area cut into trapezia.
    pub mean_average_precision: f64,
}

impl Report {
    /// The mean of both recalls at 1, by which the best checkpoint is chosen.
    pub fn score(&self) -> f64 {
        (self.text_to_image.at_1 + self.image_to_text.at_1) / 2.0
    }
}

impl Recall {
    /// R@1, 5 and 10 in hundredths of a percent, as a manifest states them.
    pub fn rounded(&self) -> [f64; 3] {
        [self.at_1, self.at_5, self.at_10].map(|it| (it * 100.0).round() / 100.0)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (t, i) = (&self.text_to_image, &self.image_to_text);
        write!(
            f,
            "text to image {:.1} / {:.1} / {:.1} (median {}), image to text {:.1} / {:.1} / {:.1} (median {})",
            t.at_1, t.at_5, t.at_10, t.median_rank, i.at_1, i.at_5, i.at_10, i.median_rank
        )
    }
}

/// What came of one query.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Outcome {
    /// Queries of one class are drawn together by the bootstrap.
    class: i64,
    /// Of the first right answer, from 1.
    rank: usize,
    /// 0 to 1.
    precision: f64,
}

/// What came of every query.
pub struct Ranks {
    text_to_image: Vec<Outcome>,
    image_to_text: Vec<Outcome>,
}

/// Pictures and their sentences in one space, at unit length.
pub struct Embedded {
    /// (N, D)
    pub pictures: Tensor,
    /// (M, D), in the order of the pictures.
    pub sentences: Tensor,
    /// Whose each sentence is, counted from 0.
    pub owner: Vec<usize>,
    /// Of each picture.
    pub classes: Vec<i64>,
}

impl Embedded {
    /// What comes of every sentence and every picture.
    pub fn ranks(&self) -> Ranks {
        let own: Vec<i64> = self.owner.iter().map(|it| self.classes[*it]).collect();
        ranks(&self.pictures, &self.sentences, &self.classes, &own)
    }

    /// As many parts of equally many pictures, each with its sentences; the rest is left out.
    ///
    /// # Errors
    /// Fewer pictures than parts.
    pub fn folds(&self, folds: usize) -> Result<Vec<Ranks>> {
        let size = self.classes.len() / folds;
        ensure!(0 < size, "{} pictures make no {folds} folds", self.classes.len());
        let fold = |at: usize| {
            let range = at * size..(at + 1) * size;
            let rows = self.owner.iter().enumerate().filter(|it| range.contains(it.1));
            let (rows, owner): (Vec<i64>, Vec<usize>) =
                rows.map(|(row, owner)| (row as i64, owner - range.start)).unzip();
            Embedded {
                pictures: self.pictures.narrow(0, range.start as i64, size as i64),
                sentences: self.sentences.index_select(0, &Tensor::from_slice(&rows)),
                owner,
                classes: self.classes[range].to_vec(),
            }
            .ranks()
        };
        Ok((0..folds).map(fold).collect())
    }
}

/// Unit embeddings of pictures (N, D) and sentences (M, D) and the class of each: an answer is
/// right when it is of the query's class.
pub fn ranks(
    pictures: &Tensor,
    sentences: &Tensor,
    picture_classes: &[i64],
    sentence_classes: &[i64],
) -> Ranks {
    Ranks {
        text_to_image: outcomes(sentences, pictures, sentence_classes, picture_classes),
        image_to_text: outcomes(pictures, sentences, picture_classes, sentence_classes),
    }
}

fn outcomes(queries: &Tensor, answers: &Tensor, of: &[i64], classes: &[i64]) -> Vec<Outcome> {
    let _guard = tch::no_grad_guard();
    let answers = answers.transpose(0, 1);
    let mut all = Vec::with_capacity(of.len());
    for (chunk, of) in queries.split(CHUNK, 0).iter().zip(of.chunks(CHUNK as usize)) {
        let scores = numbers(&chunk.mm(&answers));
        all.extend(
            scores.chunks(classes.len()).zip(of).map(|(row, of)| outcome(row, *of, classes)),
        );
    }
    all
}

fn outcome(scores: &[f32], of: i64, classes: &[i64]) -> Outcome {
    let (mut right, mut wrong): (Vec<f32>, Vec<f32>) = (Vec::new(), Vec::new());
    for (score, class) in scores.iter().zip(classes) {
        if *class == of { right.push(*score) } else { wrong.push(*score) }
    }
    right.sort_by(|a, b| b.total_cmp(a));
    let mut rank = classes.len() + 1;
    let (mut precision, count) = (0.0, right.len() as f64);
    for (before, score) in right.iter().enumerate() {
        // What is no number, as of weights that overflowed, finds nothing.
        let is_ahead = |it: &f32| !matches!(score.partial_cmp(it), Some(Greater | Equal));
        let at = 1 + before + wrong.iter().filter(|it| is_ahead(it)).count();
        rank = rank.min(at);
        let ahead = if at == 1 { 1.0 } else { before as f64 / (at - 1) as f64 };
        precision += (ahead + (before + 1) as f64 / at as f64) / 2.0 / count;
    }
    Outcome { class: of, rank, precision }
}

impl Ranks {
    /// The figures over all queries.
    pub fn report(&self) -> Report {
        let all = |of: &[Outcome]| recall(of.iter());
        Report { text_to_image: all(&self.text_to_image), image_to_text: all(&self.image_to_text) }
    }

    /// 95 % intervals of the figures: the 2.5th and 97.5th percentile over samples of the classes,
    /// drawn with replacement, each with all its queries.
    pub fn intervals(&self) -> [Report; 2] {
        let both = [intervals(&self.text_to_image), intervals(&self.image_to_text)];
        [0, 1].map(|it| Report { text_to_image: both[0][it], image_to_text: both[1][it] })
    }
}

fn recall<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Recall {
    let (mut ranks, mut precision) = (Vec::new(), 0.0);
    for it in outcomes {
        ranks.push(it.rank);
        precision += it.precision;
    }
    ranks.sort_unstable();
    let count = ranks.len().max(1) as f64;
    let within = |k: usize| 100.0 * ranks.partition_point(|it| *it <= k) as f64 / count;
    let median = ranks.get(ranks.len().saturating_sub(1) / 2).copied().unwrap_or(0);
    Recall {
        at_1: within(1),
        at_5: within(5),
        at_10: within(10),
        median_rank: median as f64,
        mean_average_precision: 100.0 * precision / count,
    }
}

fn intervals(outcomes: &[Outcome]) -> [Recall; 2] {
    let mut by_class: std::collections::BTreeMap<i64, Vec<&Outcome>> = Default::default();
    for it in outcomes {
        by_class.entry(it.class).or_default().push(it);
    }
    let classes: Vec<Vec<&Outcome>> = by_class.into_values().collect();
    if classes.is_empty() {
        return [Recall::default(); 2];
    }
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let samples: Vec<Recall> = (0..SAMPLES)
        .map(|_| {
            let drawn = (0..classes.len()).map(|_| random.random_range(0..classes.len()));
            recall(drawn.flat_map(|it| classes[it].iter().copied()))
        })
        .collect();
    let bound = |share: f64| {
        let of = |figure: fn(&Recall) -> f64| {
            let mut all: Vec<f64> = samples.iter().map(figure).collect();
            all.sort_by(f64::total_cmp);
            all[(share * (all.len() - 1) as f64).round() as usize]
        };
        Recall {
            at_1: of(|it| it.at_1),
            at_5: of(|it| it.at_5),
            at_10: of(|it| it.at_10),
            median_rank: of(|it| it.median_rank),
            mean_average_precision: of(|it| it.mean_average_precision),
        }
    };
    [bound(0.025), bound(0.975)]
}

/// Figure by figure, as COCO's 1K results are the mean of five folds.
pub fn mean(reports: &[Report]) -> Report {
    let one = |way: fn(&Report) -> &Recall| {
        let of = |figure: fn(&Recall) -> f64| {
            reports.iter().map(|it| figure(way(it))).sum::<f64>() / reports.len().max(1) as f64
        };
        Recall {
            at_1: of(|it| it.at_1),
            at_5: of(|it| it.at_5),
            at_10: of(|it| it.at_10),
            median_rank: of(|it| it.median_rank),
            mean_average_precision: of(|it| it.mean_average_precision),
        }
    };
    Report {
        text_to_image: one(|it| &it.text_to_image),
        image_to_text: one(|it| &it.image_to_text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn ranks_are_counted_from_one() {
        let pictures = Tensor::eye(3, (Kind::Float, Device::Cpu));
        let sentences =
            Tensor::from_slice(&[1.0f32, 0.0, 0.0, 0.1, 0.9, 0.0, 0.9, 0.1, 0.2]).view((3, 3));
        let ranks = ranks(&pictures, &sentences, &[0, 1, 2], &[0, 1, 2]);
        let report = ranks.report();
        assert!((report.text_to_image.at_1 - 66.666).abs() < 0.01, "{report}");
        assert_eq!(report.text_to_image.at_5, 100.0);
        // The third picture's own sentence scores 0.2, no other scores higher.
        assert_eq!(report.image_to_text.at_1, 100.0);
        assert_eq!(report.image_to_text.median_rank, 1.0);
        // Two queries rank 1 (precision 1), one ranks 2: (0 + 1/2) / 2.
        let expected = 100.0 * (2.0 + 0.25) / 3.0;
        assert!((report.text_to_image.mean_average_precision - expected).abs() < 1e-9);
        let [low, high] = ranks.intervals();
        assert!(low.text_to_image.at_1 < 66.0 && 67.0 < high.text_to_image.at_1);
        assert_eq!(low.image_to_text.at_1, 100.0);
    }

    #[test]
    fn an_answer_of_the_class_is_right() {
        // One sentence, right answers at ranks 1 and 3: (1 + 1) / 2 and (1/2 + 2/3) / 2, halved.
        let outcome = outcome(&[0.9, 0.8, 0.7, 0.1], 7, &[7, 1, 7, 2]);
        assert_eq!(outcome.rank, 1);
        assert!((outcome.precision - (1.0 + (0.5 + 2.0 / 3.0) / 2.0) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_number_finds_nothing() {
        let outcome = outcome(&[f32::NAN, 0.2, f32::NAN], 7, &[7, 1, 2]);
        assert_eq!(outcome.rank, 3);
        let of_another = super::outcome(&[0.5, f32::NAN], 7, &[7, 1]);
        assert_eq!(of_another.rank, 2);
    }

    #[test]
    fn folds_are_averaged() {
        let report = |at_1| {
            let recall = Recall { at_1, ..Recall::default() };
            Report { text_to_image: recall, image_to_text: recall }
        };
        assert_eq!(mean(&[report(40.0), report(60.0)]).text_to_image.at_1, 50.0);
    }
}
