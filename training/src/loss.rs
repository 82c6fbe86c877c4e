//! The two losses: instance (every picture and its sentences are a class) and ranking.

use serde::Deserialize;
use tch::{Kind, Reduction, Tensor};

use crate::torch::unit;

/// Instance loss for one path: cross entropy over one class per picture (paper, section 3.1),
/// here on unit features and unit class weights, times `scale`, with label smoothing.
/// Calling it with both paths' features and the same `share` is what ties them together.
pub fn instance(
    features: &Tensor,
    share: &Tensor,
    classes: &Tensor,
    scale: f64,
    smoothing: f64,
) -> Tensor {
    let logits = features.linear(&unit(share), None::<&Tensor>) * scale;
    logits.cross_entropy_loss::<Tensor>(classes, None, Reduction::Mean, -100, smoothing)
}

/// How a sentence is pulled to its picture and away from the batch's others.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ranking {
    /// Softmax over the batch, both directions, with a learned temperature.
    Infonce,
    /// The paper's hinge (section 3.2) against the batch's hardest negative.
    Hinge,
}

/// Symmetric InfoNCE over unit features (B, D); `temperature` is the learned log of the scale.
pub fn infonce(images: &Tensor, texts: &Tensor, temperature: &Tensor) -> Tensor {
    let logits = images.mm(&texts.transpose(0, 1)) * temperature.clamp_max(100f64.ln()).exp();
    let own = Tensor::arange(images.size()[0], (Kind::Int64, images.device()));
    (logits.cross_entropy_for_logits(&own) + logits.transpose(0, 1).cross_entropy_for_logits(&own))
        * 0.5
}

/// max(0, margin - (own - negative)) for each picture and each sentence, mean over the batch,
/// both directions summed (section 3.2).
pub fn hinge(images: &Tensor, texts: &Tensor, margin: f64) -> Tensor {
    let cosine = images.mm(&texts.transpose(0, 1));
    let own = cosine.diagonal(0, 0, 1);
    let others = &cosine - Tensor::eye(own.size()[0], (Kind::Float, cosine.device())) * 4.0;
    let against = |dim: i64| {
        (margin - (&own - others.amax([dim].as_slice(), false))).relu().mean(Kind::Float)
    };
    against(1) + against(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paper sheet, section 9.3: margin 1, own .9, negative .4 gives .5 a direction.
    #[test]
    fn hinge_on_vectors_made_by_hand() {
        let images = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 1.0]).view((2, 2));
        let texts = Tensor::from_slice(&[0.9f32, 0.4, 0.4, 0.9]).view((2, 2));
        let loss = hinge(&images, &texts, 1.0).double_value(&[]);
        assert!((loss - 1.0).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn infonce_of_indistinct_pairs_is_the_log_of_the_batch() {
        let same = Tensor::from_slice(&[1.0f32, 0.0]).repeat([8, 1]);
        let loss = infonce(&same, &same, &Tensor::from(2.0f32)).double_value(&[]);
        assert!((loss - 8f64.ln()).abs() < 1e-5, "{loss}");
    }

    #[test]
    fn both_paths_move_w_share() {
        tch::manual_seed(1);
        let share = Tensor::randn([10, 4], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
        let classes = Tensor::from_slice(&[3i64, 7]);
        let (images, texts) = (
            unit(&Tensor::randn([2, 4], (Kind::Float, tch::Device::Cpu))),
            unit(&Tensor::randn([2, 4], (Kind::Float, tch::Device::Cpu))),
        );
        let gradient = |loss: Tensor| {
            loss.backward();
            let copy = share.grad().copy();
            let _ = share.grad().zero_();
            copy
        };
        let from_images = gradient(instance(&images, &share, &classes, 16.0, 0.1));
        let from_texts = gradient(instance(&texts, &share, &classes, 16.0, 0.1));
        let both = gradient(
            instance(&images, &share, &classes, 16.0, 0.1)
                + instance(&texts, &share, &classes, 16.0, 0.1),
        );
        assert!(0.0 < from_images.abs().sum(Kind::Float).double_value(&[]));
        assert!(0.0 < from_texts.abs().sum(Kind::Float).double_value(&[]));
        assert!((both - from_images - from_texts).abs().max().double_value(&[]) < 1e-6);
    }
}
