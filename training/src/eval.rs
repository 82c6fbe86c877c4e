//! Recall@k both ways, as the paper counts it (section 5).

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Recall at 1, 5 and 10 in percent, and the median rank, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// A sentence finds its picture.
    pub text_to_image: Recall,
    /// A picture finds any of its sentences.
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
}

impl Report {
    /// The mean of both recalls at 1, by which the best checkpoint is chosen.
    pub fn score(&self) -> f64 {
        (self.text_to_image.at_1 + self.image_to_text.at_1) / 2.0
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

/// Unit embeddings of pictures (N, D) and sentences (M, D); `owner` says whose each sentence is.
pub fn report(pictures: &Tensor, sentences: &Tensor, owner: &[i64]) -> Report {
    tch::no_grad(|| {
        let cosine = sentences.mm(&pictures.transpose(0, 1));
        let owner = Tensor::from_slice(owner).to_device(cosine.device());
        let own = cosine.gather(1, &owner.unsqueeze(1), false);
        // The picture ranks behind all that are closer.
        let text_ranks =
            cosine.gt_tensor(&own).sum_dim_intlist([1i64].as_slice(), false, Kind::Int64) + 1;
        let mine = Tensor::arange(pictures.size()[0], (Kind::Int64, cosine.device()))
            .unsqueeze(0)
            .eq_tensor(&owner.unsqueeze(1));
        let best = cosine.masked_fill(&mine.logical_not(), -2.0).amax([0i64].as_slice(), true);
        let others = cosine.masked_fill(&mine, -2.0);
        let image_ranks =
            others.gt_tensor(&best).sum_dim_intlist([0i64].as_slice(), false, Kind::Int64) + 1;
        Report { text_to_image: recall(&text_ranks), image_to_text: recall(&image_ranks) }
    })
}

fn recall(ranks: &Tensor) -> Recall {
    let mut ranks: Vec<i64> =
        Vec::<i64>::try_from(ranks.to_device(tch::Device::Cpu)).unwrap_or_default();
    ranks.sort();
    let within =
        |k: i64| 100.0 * ranks.partition_point(|it| *it <= k) as f64 / ranks.len().max(1) as f64;
    let median_rank = ranks.get(ranks.len().saturating_sub(1) / 2).copied().unwrap_or(0) as f64;
    Recall { at_1: within(1), at_5: within(5), at_10: within(10), median_rank }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted_from_one() {
        let pictures = Tensor::eye(3, (Kind::Float, tch::Device::Cpu));
        let sentences =
            Tensor::from_slice(&[1.0f32, 0.0, 0.0, 0.1, 0.9, 0.0, 0.9, 0.1, 0.2]).view((3, 3));
        let report = report(&pictures, &sentences, &[0, 1, 2]);
        assert!((report.text_to_image.at_1 - 66.666).abs() < 0.01, "{report}");
        assert_eq!(report.text_to_image.at_5, 100.0);
        // The third picture's own sentence scores 0.2, no other scores higher.
        assert_eq!(report.image_to_text.at_1, 100.0);
        assert_eq!(report.image_to_text.median_rank, 1.0);
    }
}
