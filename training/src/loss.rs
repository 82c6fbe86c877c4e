//! The two losses: instance (every picture and its sentences are a class) and ranking.

use serde::Deserialize;
use tch::{Kind, Reduction, Tensor};

use crate::torch::unit;

/// W_share and how the instance loss reads it.
pub struct Classes<'a> {
    /// (classes, dimension)
    pub share: &'a Tensor,
    /// (classes)
    pub bias: Option<&'a Tensor>,
    /// Cosines times this; 0 for plain products.
    pub scale: f64,
    /// Share of the target that is spread over all classes.
    pub smoothing: f64,
}

impl Classes<'_> {
    /// Instance loss of one path: cross entropy over one class per picture (paper, section 3.1).
    /// Calling it with both paths' features and the same `share` is what ties them together.
    pub fn loss(&self, features: &Tensor, classes: &Tensor) -> Tensor {
        let logits = if 0.0 < self.scale {
            unit(features).linear(&unit(self.share), None::<&Tensor>) * self.scale
        } else {
            features.linear(self.share, None::<&Tensor>)
        };
        let logits = match self.bias {
            Some(bias) => logits + bias,
            None => logits,
        };
        logits.cross_entropy_loss::<Tensor>(classes, None, Reduction::Mean, -100, self.smoothing)
    }
}

/// How a sentence is pulled to its picture and away from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ranking {
    /// Softmax over the batch, both directions, with a learned temperature.
    Infonce,
    /// The paper's hinge (section 3.2): the batch's first half are anchors, its second half their negatives.
    Hinge,
    /// The hinge against the batch's hardest negative (Faghri et al. 2018).
    Hardest,
}

/// Far below every cosine times temperature.
const NEVER: f64 = -1e4;

/// Cosines (B, B) of unit features, pictures by sentences, times the learned scale.
pub fn logits(images: &Tensor, texts: &Tensor, temperature: &Tensor) -> Tensor {
    images.mm(&texts.transpose(0, 1)) * temperature.clamp_max(100f64.ln()).exp()
}

/// Symmetric InfoNCE over unit features (B, D); `temperature` is the learned log of the scale.
/// Pairs of the same class that are not the same row count neither as right nor as wrong.
pub fn infonce(images: &Tensor, texts: &Tensor, temperature: &Tensor, classes: &Tensor) -> Tensor {
    let logits = logits(images, texts, temperature);
    let logits = logits.masked_fill(&same_class(classes), NEVER);
    let own = Tensor::arange(images.size()[0], (Kind::Int64, images.device()));
    (logits.cross_entropy_for_logits(&own) + logits.transpose(0, 1).cross_entropy_for_logits(&own))
        * 0.5
}

/// Symmetric Kullback-Leibler divergence of the softmax over the batch's cosines from a teacher's, given
/// the `logits` (B, B) of both, pictures by sentences: what else in the batch fits, and how well.
pub fn divergence(logits: &Tensor, teacher: &Tensor) -> Tensor {
    let along = |dim: i64| {
        let [own, right] = [logits, teacher].map(|it| it.log_softmax(dim, Kind::Float));
        own.kl_div(&right, Reduction::Sum, true) / logits.size()[0] as f64
    };
    (along(1) + along(0)) * 0.5
}

/// Where row and column are two of one class, the diagonal apart.
fn same_class(classes: &Tensor) -> Tensor {
    let same = classes.unsqueeze(0).eq_tensor(&classes.unsqueeze(1));
    same.logical_xor(&Tensor::eye(classes.size()[0], (Kind::Bool, classes.device())))
}

/// max(0, margin - (own - negative)) for pictures and for sentences, summed, mean over anchors
/// (section 3.2). Row i of the first half has row i of the second half as its negative, where that
/// is of another class.
pub fn hinge(images: &Tensor, texts: &Tensor, margin: f64, classes: [&Tensor; 2]) -> Tensor {
    let half = images.size()[0] / 2;
    let halves = |it: &Tensor| (it.narrow(0, 0, half), it.narrow(0, half, half));
    let ((image, other_image), (text, other_text)) = (halves(images), halves(texts));
    let cosine = |a: &Tensor, b: &Tensor| (a * b).sum_dim_intlist([1i64].as_slice(), false, None);
    let own = cosine(&image, &text);
    let against = |negative: Tensor, classes: &Tensor| {
        let (anchor, other) = halves(classes);
        let counts = anchor.ne_tensor(&other).to_kind(Kind::Float);
        ((margin - (&own - negative)).relu() * counts).mean(Kind::Float)
    };
    let [image_classes, text_classes] = classes;
    against(cosine(&image, &other_text), text_classes)
        + against(cosine(&text, &other_image), image_classes)
}

/// The hinge of every row against the hardest other row, both directions summed.
pub fn hardest(images: &Tensor, texts: &Tensor, margin: f64, classes: &Tensor) -> Tensor {
    let cosine = images.mm(&texts.transpose(0, 1));
    let own = cosine.diagonal(0, 0, 1);
    let same = classes.unsqueeze(0).eq_tensor(&classes.unsqueeze(1));
    let others = cosine.masked_fill(&same, NEVER);
    let against = |dim: i64| {
        (margin - (&own - others.amax([dim].as_slice(), false))).relu().mean(Kind::Float)
    };
    against(1) + against(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn rows(numbers: &[f32], width: i64) -> Tensor {
        Tensor::from_slice(numbers).view((-1, width))
    }

    fn random(rows: i64) -> Tensor {
        unit(&Tensor::randn([rows, 4], (Kind::Float, Device::Cpu)))
    }

    /// Paper sheet, section 9.3: margin 1, own .9, negative .4 gives .5 a direction.
    #[test]
    fn hinges_on_vectors_made_by_hand() {
        let classes = Tensor::from_slice(&[0i64, 1]);
        let images = rows(&[1.0, 0.0, 0.0, 1.0], 2);
        let texts = rows(&[0.9, 0.4, 0.4, 0.9], 2);
        let loss = hardest(&images, &texts, 1.0, &classes).double_value(&[]);
        assert!((loss - 1.0).abs() < 1e-6, "{loss}");
        // One anchor: its picture, its sentence, and the second row of each as negatives.
        let loss = hinge(&images, &texts, 1.0, [&classes, &classes]).double_value(&[]);
        assert!((loss - 1.0).abs() < 1e-6, "{loss}");
        let loss = hinge(&images, &texts, 0.2, [&classes, &classes]).double_value(&[]);
        assert_eq!(loss, 0.0);
        // A negative of the anchor's own class is none.
        let same = Tensor::from_slice(&[0i64, 0]);
        assert_eq!(hinge(&images, &texts, 1.0, [&same, &same]).double_value(&[]), 0.0);
    }

    #[test]
    fn infonce_of_indistinct_pairs_is_the_log_of_the_batch() {
        let same = Tensor::from_slice(&[1.0f32, 0.0]).repeat([8, 1]);
        let classes = Tensor::arange(8, (Kind::Int64, Device::Cpu));
        let loss = infonce(&same, &same, &Tensor::from(2.0f32), &classes).double_value(&[]);
        assert!((loss - 8f64.ln()).abs() < 1e-5, "{loss}");
        // Four pairs of one class: each row has seven rivals fewer its twin.
        let twins = Tensor::from_slice(&[0i64, 0, 1, 1, 2, 2, 3, 3]);
        let loss = infonce(&same, &same, &Tensor::from(2.0f32), &twins).double_value(&[]);
        assert!((loss - 7f64.ln()).abs() < 1e-5, "{loss}");
    }

    #[test]
    fn divergence_is_zero_at_the_teachers_cosines() {
        tch::manual_seed(4);
        let teacher = Tensor::randn([5, 5], (Kind::Float, Device::Cpu));
        let of = |logits: &Tensor| divergence(logits, &teacher).double_value(&[]);
        assert!(of(&(&teacher + 3.0)).abs() < 1e-6);
        let flat = Tensor::zeros([5, 5], (Kind::Float, Device::Cpu));
        let right = |dim| teacher.softmax(dim, Kind::Float);
        let entropy = |it: Tensor| (&it * it.log()).sum(Kind::Float).double_value(&[]) / -5.0;
        let by_hand = 5f64.ln() - 0.5 * (entropy(right(0)) + entropy(right(1)));
        assert!((of(&flat) - by_hand).abs() < 1e-5, "{} {by_hand}", of(&flat));
    }

    #[test]
    fn plain_products_are_a_plain_softmax() {
        tch::manual_seed(2);
        let (share, bias) = (random(6), Tensor::randn([6], (Kind::Float, Device::Cpu)));
        let (features, classes) = (random(3) * 5.0, Tensor::from_slice(&[5i64, 0, 2]));
        let knobs = Classes { share: &share, bias: Some(&bias), scale: 0.0, smoothing: 0.0 };
        let logits = (features.mm(&share.transpose(0, 1)) + &bias).log_softmax(1, Kind::Float);
        let by_hand = -logits.gather(1, &classes.unsqueeze(1), false).mean(Kind::Float);
        let difference = (knobs.loss(&features, &classes) - by_hand).abs().double_value(&[]);
        assert!(difference < 1e-6, "{difference}");
    }

    #[test]
    fn both_paths_move_w_share() {
        tch::manual_seed(1);
        let share = Tensor::randn([10, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let classes = Tensor::from_slice(&[3i64, 7]);
        let (images, texts) = (random(2), random(2));
        let gradient = |loss: Tensor| {
            loss.backward();
            let copy = share.grad().copy();
            let _ = share.grad().zero_();
            copy
        };
        for scale in [0.0, 16.0] {
            let knobs = Classes { share: &share, bias: None, scale, smoothing: 0.1 };
            let from_images = gradient(knobs.loss(&images, &classes));
            let from_texts = gradient(knobs.loss(&texts, &classes));
            let both = gradient(knobs.loss(&images, &classes) + knobs.loss(&texts, &classes));
            assert!(0.0 < from_images.abs().sum(Kind::Float).double_value(&[]));
            assert!(0.0 < from_texts.abs().sum(Kind::Float).double_value(&[]));
            assert!((both - from_images - from_texts).abs().max().double_value(&[]) < 1e-6);
        }
    }
}
