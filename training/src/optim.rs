//! AdamW and SGD whose state can be written down: libtorch's own optimisers hide theirs.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::config;
use crate::torch::Parameters;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.98;
const EPSILON: f64 = 1e-8;
const MOMENTUM: f64 = 0.9;

/// Moves named tensors along their gradients.
pub struct Optimiser {
    rule: config::Optimiser,
    /// Steps taken.
    steps: i64,
    /// AdamW's first and second moments; SGD's momentum in the first.
    moments: BTreeMap<String, Vec<Tensor>>,
}

/// How fast one tensor moves.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The tensor's name.
    pub name: String,
    /// Times the schedule's rate.
    pub factor: f64,
    /// Weight decay: AdamW takes it off the tensor, SGD adds it to the gradient.
    pub decay: f64,
}

impl Optimiser {
    /// Before the first step.
    pub fn new(rule: config::Optimiser) -> Optimiser {
        Optimiser { rule, steps: 0, moments: BTreeMap::new() }
    }

    /// One step along the gradients, which it clears; returns the gradients' norm before clipping
    /// to `clip`, and does not move when that is no number.
    pub fn step(&mut self, parameters: &Parameters, groups: &[Group], rate: f64, clip: f64) -> f64 {
        let _guard = tch::no_grad_guard();
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
        let shrink = if 0.0 < clip { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        self.steps += 1;
        for group in groups {
            let tensor = parameters.get(&group.name).shallow_clone();
            let mut gradient = tensor.grad();
            if !gradient.defined() {
                continue;
            }
            if shrink < 1.0 {
                let _ = gradient.g_mul_scalar_(shrink);
            }
            let rate = rate * group.factor;
            match self.rule {
                config::Optimiser::Adamw => self.adamw(group, tensor, &gradient, rate),
                config::Optimiser::Sgd => self.sgd(group, tensor, &gradient, rate),
            }
            let _ = gradient.zero_();
        }
        norm
    }

    /// Loshchilov and Hutter 2019.
    fn adamw(&mut self, group: &Group, mut tensor: Tensor, gradient: &Tensor, rate: f64) {
        let correction1 = 1.0 - BETA1.powi(self.steps as i32);
        let correction2 = 1.0 - BETA2.powi(self.steps as i32);
        let [first, second] = self.moments(group, &tensor);
        let (mut first, mut second) = (first, second);
        let _ = first.lerp_(gradient, 1.0 - BETA1);
        let _ = second.lerp_(&gradient.square(), 1.0 - BETA2);
        let _ = tensor.g_mul_scalar_(1.0 - rate * group.decay);
        let denominator = (second / correction2).sqrt() + EPSILON;
        let _ = tensor.addcdiv_(&(first * (-rate / correction1)), &denominator);
    }

    /// Nesterov's momentum, decay within the gradient (paper, section 4).
    fn sgd(&mut self, group: &Group, mut tensor: Tensor, gradient: &Tensor, rate: f64) {
        let [mut momentum] = self.moments(group, &tensor);
        let gradient = gradient + &tensor * group.decay;
        let _ = momentum.g_mul_scalar_(MOMENTUM);
        let _ = momentum.g_add_(&gradient);
        let step = gradient + momentum * MOMENTUM;
        let _ = tensor.g_add_(&(step * -rate));
    }

    fn moments<const N: usize>(&mut self, group: &Group, tensor: &Tensor) -> [Tensor; N] {
        let fresh = || (0..N).map(|_| tensor.zeros_like()).collect();
        let all = self.moments.entry(group.name.clone()).or_insert_with(fresh);
        std::array::from_fn(|at| all[at].shallow_clone())
    }

    /// Every tensor that a resumed run needs, by name.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = vec![("optimiser.steps".to_owned(), Tensor::from(self.steps))];
        for (name, moments) in &self.moments {
            for (at, moment) in moments.iter().enumerate() {
                all.push((format!("optimiser.{at}.{name}"), moment.contiguous()));
            }
        }
        all
    }

    /// What [`Optimiser::state`] wrote; tensors of other names are passed over.
    pub fn from_state(
        rule: config::Optimiser,
        state: &[(String, Tensor)],
        parameters: &Parameters,
    ) -> Optimiser {
        let state: BTreeMap<&str, &Tensor> =
            state.iter().map(|it| (it.0.as_str(), &it.1)).collect();
        let mut optimiser = Optimiser::new(rule);
        optimiser.steps = state.get("optimiser.steps").map_or(0, |it| it.int64_value(&[]));
        for (name, tensor) in parameters.iter() {
            // Into the parameter's own layout, in which the sums of a step are taken.
            let laid_out = |it: &&Tensor| {
                let mut target = tensor.zeros_like();
                tch::no_grad(|| target.copy_(it));
                target
            };
            let moments: Vec<Tensor> = (0..)
                .map_while(|at| state.get(format!("optimiser.{at}.{name}").as_str()))
                .map(laid_out)
                .collect();
            if !moments.is_empty() {
                optimiser.moments.insert(name.clone(), moments);
            }
        }
        optimiser
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::{self, OptimizerConfig};
    use tch::{Device, Kind};

    /// The slow twin is libtorch's own optimiser, on the same gradients for five steps.
    fn compared(rule: config::Optimiser, theirs: impl FnOnce(&nn::VarStore) -> nn::Optimizer) {
        tch::manual_seed(4);
        let start = Tensor::randn([5, 3], (Kind::Float, Device::Cpu));
        let store = nn::VarStore::new(Device::Cpu);
        let twin = store.root().var_copy("weight", &start);
        let mut their_optimiser = theirs(&store);
        let mut parameters = Parameters::default();
        parameters.insert("weight", start.copy().set_requires_grad(true));
        let mut optimiser = Optimiser::new(rule);
        let groups = [Group { name: "weight".into(), factor: 0.5, decay: 0.1 }];
        for step in 0..5 {
            let target = start.roll(step, 0) * 2.0;
            let loss = |it: &Tensor| (it - &target).square().sum(Kind::Float);
            loss(parameters.get("weight")).backward();
            optimiser.step(&parameters, &groups, 0.02, 0.0);
            their_optimiser.backward_step(&loss(&twin));
        }
        let difference = (parameters.get("weight") - twin).abs().max().double_value(&[]);
        assert!(difference < 1e-6, "{rule:?}: {difference}");
    }

    #[test]
    fn steps_are_libtorchs() {
        compared(config::Optimiser::Sgd, |store| {
            let rule = nn::Sgd { momentum: 0.9, dampening: 0.0, wd: 0.1, nesterov: true };
            rule.build(store, 0.01).unwrap()
        });
        compared(config::Optimiser::Adamw, |store| {
            let rule =
                nn::AdamW { beta1: BETA1, beta2: BETA2, wd: 0.1, eps: EPSILON, amsgrad: false };
            rule.build(store, 0.01).unwrap()
        });
    }
}
