//! AdamW whose state can be written down: libtorch's own optimisers hide theirs.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::torch::Parameters;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.98;
const EPSILON: f64 = 1e-8;

/// AdamW (Loshchilov and Hutter 2019) over named tensors.
#[derive(Default)]
pub struct AdamW {
    /// Steps taken.
    steps: i64,
    /// First and second moments.
    moments: BTreeMap<String, (Tensor, Tensor)>,
}

/// How fast one tensor moves.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The tensor's name.
    pub name: String,
    /// Times the schedule's rate.
    pub factor: f64,
    /// Share of itself that it loses at each step, times its rate.
    pub decay: f64,
}

impl AdamW {
    /// One step along the gradients, which it clears; returns the gradients' norm before clipping.
    pub fn step(&mut self, parameters: &Parameters, groups: &[Group], rate: f64, clip: f64) -> f64 {
        tch::no_grad(|| {
            let squares: Vec<Tensor> = groups
                .iter()
                .map(|it| parameters.get(&it.name).grad())
                .filter(Tensor::defined)
                .map(|it| it.square().sum(tch::Kind::Float))
                .collect();
            let norm = Tensor::stack(&squares, 0).sum(tch::Kind::Float).sqrt().double_value(&[]);
            if !norm.is_finite() {
                return norm;
            }
            let shrink = (clip / (norm + 1e-6)).min(1.0);
            self.steps += 1;
            let correction1 = 1.0 - BETA1.powi(self.steps as i32);
            let correction2 = 1.0 - BETA2.powi(self.steps as i32);
            for group in groups {
                let mut tensor = parameters.get(&group.name).shallow_clone();
                let mut gradient = tensor.grad();
                if !gradient.defined() {
                    continue;
                }
                let _ = gradient.g_mul_scalar_(shrink);
                let (first, second) = self
                    .moments
                    .entry(group.name.clone())
                    .or_insert_with(|| (tensor.zeros_like(), tensor.zeros_like()));
                let _ = first.lerp_(&gradient, 1.0 - BETA1);
                let _ = second.lerp_(&gradient.square(), 1.0 - BETA2);
                let rate = rate * group.factor;
                let _ = tensor.g_mul_scalar_(1.0 - rate * group.decay);
                let denominator = (&*second / correction2).sqrt() + EPSILON;
                let _ = tensor.addcdiv_(&(&*first * (-rate / correction1)), &denominator);
                let _ = gradient.zero_();
            }
            norm
        })
    }

    /// Every tensor that a resumed run needs, by name.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = vec![("adamw.steps".to_owned(), Tensor::from(self.steps))];
        for (name, (first, second)) in &self.moments {
            all.push((format!("adamw.first.{name}"), first.contiguous()));
            all.push((format!("adamw.second.{name}"), second.contiguous()));
        }
        all
    }

    /// What [`AdamW::state`] wrote; tensors of other names are passed over.
    pub fn from_state(state: &[(String, Tensor)], parameters: &Parameters) -> AdamW {
        let find = |name: &str| state.iter().find(|it| it.0 == name).map(|it| &it.1);
        let mut optimiser = AdamW {
            steps: find("adamw.steps").map_or(0, |it| it.int64_value(&[])),
            ..AdamW::default()
        };
        for (name, tensor) in parameters.iter() {
            let halves = ["first", "second"].map(|it| find(&format!("adamw.{it}.{name}")));
            if let [Some(first), Some(second)] = halves {
                // Into the parameter's own layout, in which the sums of a step are taken.
                let laid_out = |it: &Tensor| {
                    let mut target = tensor.zeros_like();
                    tch::no_grad(|| target.copy_(it));
                    target
                };
                optimiser.moments.insert(name.clone(), (laid_out(first), laid_out(second)));
            }
        }
        optimiser
    }
}
