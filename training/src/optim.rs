//! AdamW and SGD whose state can be written down: libtorch's own optimisers hide theirs.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::config;
use crate::flat::Flat;
use crate::torch::Parameters;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.98;
const EPSILON: f64 = 1e-8;
const MOMENTUM: f64 = 0.9;

/// Numbers that are computed at once: what stands between is to stay in a processor's cache.
const PART: i64 = 1 << 20;
/// The same on a GPU, which has to be told of each part.
const PART_OF_GPU: i64 = 1 << 24;

/// Moves named tensors along their gradients.
pub struct Optimiser {
    rule: config::Optimiser,
    /// Steps taken.
    steps: i64,
    /// AdamW's first and second moments; SGD's momentum in the first.
    moments: BTreeMap<String, Vec<Tensor>>,
    laid: Option<Laid>,
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

/// All that moves, in one order.
struct Laid {
    groups: Vec<Group>,
    weights: Flat,
    gradients: Flat,
    moments: Vec<Flat>,
}

impl Optimiser {
    /// Before the first step.
    pub fn new(rule: config::Optimiser) -> Optimiser {
        Optimiser { rule, steps: 0, moments: BTreeMap::new(), laid: None }
    }

    /// One step along the gradients, which it clears; returns the gradients' norm before clipping
    /// to `clip`, and does not move when that is no number.
    pub fn step(&mut self, parameters: &Parameters, groups: &[Group], rate: f64, clip: f64) -> f64 {
        let _guard = tch::no_grad_guard();
        let laid = self.laid(parameters, groups);
        let norm = self.moved(&laid, rate, clip);
        let _ = laid.gradients.whole().shallow_clone().zero_();
        self.laid = Some(laid);
        norm
    }

    /// [`Optimiser::step`] of what is laid out.
    fn moved(&mut self, laid: &Laid, rate: f64, clip: f64) -> f64 {
        let mut gradients = laid.gradients.whole().shallow_clone();
        let norm = gradients.norm().double_value(&[]);
        if !norm.is_finite() {
            return norm;
        }
        let shrink = if 0.0 < clip { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        if shrink < 1.0 {
            let _ = gradients.g_mul_scalar_(shrink);
        }
        self.steps += 1;
        let most = if gradients.device().is_cuda() { PART_OF_GPU } else { PART };
        let mut from = 0;
        for alike in laid.groups.chunk_by(|one, other| one.moves_as(other)) {
            let to = from + alike.len();
            let parts = |it: &Flat| it.parts(from, to, most);
            let moments: Vec<Vec<Tensor>> = laid.moments.iter().map(parts).collect();
            let all = parts(&laid.weights).into_iter().zip(parts(&laid.gradients));
            for (at, (tensor, gradient)) in all.enumerate() {
                let moment = |which: usize| moments[which][at].shallow_clone();
                let (group, rate) = (&alike[0], rate * alike[0].factor);
                match self.rule {
                    config::Optimiser::Adamw => {
                        self.adamw(group, tensor, [moment(0), moment(1)], &gradient, rate);
                    }
                    config::Optimiser::Sgd => sgd(group, tensor, moment(0), &gradient, rate),
                }
            }
            from = to;
        }
        norm
    }

    /// What has a gradient, one after another, those that move alike together: as it lies already, or anew.
    fn laid(&mut self, parameters: &Parameters, groups: &[Group]) -> Laid {
        let has_gradient = |it: &&Group| parameters.get(&it.name).grad().defined();
        let mut moving: Vec<Group> = groups.iter().filter(has_gradient).cloned().collect();
        moving.sort_by(|one, other| {
            one.factor.total_cmp(&other.factor).then(one.decay.total_cmp(&other.decay))
        });
        match self.laid.take() {
            Some(laid) if laid.groups == moving => return laid,
            _ => {}
        }
        let weight = |it: &Group| parameters.get(&it.name).shallow_clone();
        let weights: Vec<Tensor> = moving.iter().map(weight).collect();
        let count = match self.rule {
            config::Optimiser::Adamw => 2,
            config::Optimiser::Sgd => 1,
        };
        for (group, weight) in moving.iter().zip(&weights) {
            let held = self.moments.entry(group.name.clone()).or_default();
            // A run that goes on may do so by the other rule.
            if held.len() != count {
                *held = (0..count).map(|_| weight.zeros_like()).collect();
            }
        }
        let moment = |at: usize| {
            Flat::of(moving.iter().map(|it| self.moments[&it.name][at].shallow_clone()).collect())
        };
        let moments = (0..count).map(moment).collect();
        let gradients = Flat::of(weights.iter().map(Tensor::grad).collect());
        Laid { weights: Flat::of(weights), gradients, moments, groups: moving }
    }

    /// What moves, in its order, once it has moved.
    pub fn moving(&self) -> Option<(impl Iterator<Item = &str>, &Flat)> {
        let laid = self.laid.as_ref()?;
        Some((laid.groups.iter().map(|it| it.name.as_str()), &laid.weights))
    }

    /// Loshchilov and Hutter 2019.
    fn adamw(
        &self,
        group: &Group,
        mut tensor: Tensor,
        [mut first, mut second]: [Tensor; 2],
        gradient: &Tensor,
        rate: f64,
    ) {
        let correction1 = 1.0 - BETA1.powi(self.steps as i32);
        let correction2 = 1.0 - BETA2.powi(self.steps as i32);
        let _ = first.lerp_(gradient, 1.0 - BETA1);
        let _ = second.lerp_(&gradient.square(), 1.0 - BETA2);
        let _ = tensor.g_mul_scalar_(1.0 - rate * group.decay);
        let denominator = (second / correction2).sqrt() + EPSILON;
        let _ = tensor.addcdiv_(&(first * (-rate / correction1)), &denominator);
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

impl Group {
    fn moves_as(&self, other: &Group) -> bool {
        (self.factor, self.decay) == (other.factor, other.decay)
    }
}

/// Nesterov's momentum, decay within the gradient (paper, section 4).
fn sgd(group: &Group, mut tensor: Tensor, mut momentum: Tensor, gradient: &Tensor, rate: f64) {
    let gradient = gradient + &tensor * group.decay;
    let _ = momentum.g_mul_scalar_(MOMENTUM);
    let _ = momentum.g_add_(&gradient);
    let step = gradient + momentum * MOMENTUM;
    let _ = tensor.g_add_(&(step * -rate));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::channels_last;
    use tch::nn::{self, OptimizerConfig};
    use tch::{Device, Kind};

    /// The slow twin is libtorch's own optimiser, on the same gradients for five steps: tensors of several shapes
    /// and layouts, of which two move alike. One has a gradient only from the third step on with SGD; AdamW counts
    /// all tensors' steps together.
    fn compared(
        rule: config::Optimiser,
        theirs: impl Fn(&nn::VarStore, f64, f64) -> nn::Optimizer,
    ) {
        tch::manual_seed(4);
        let tensor = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let starts = [
            ("matrix", tensor(&[5, 3]), 0.5, 0.1),
            ("kernel", channels_last(&tensor(&[4, 3, 2, 2])), 1.0, 0.1),
            ("late", tensor(&[7]), 0.5, 0.1),
            ("bias", tensor(&[3]), 1.0, 0.0),
        ];
        let mut parameters = Parameters::default();
        let (mut groups, mut twins) = (Vec::new(), Vec::new());
        for (name, start, factor, decay) in &starts {
            parameters.insert(name, start.copy().set_requires_grad(true));
            groups.push(Group { name: (*name).into(), factor: *factor, decay: *decay });
            let store = nn::VarStore::new(Device::Cpu);
            let twin = store.root().var_copy(name, start);
            twins.push((twin, theirs(&store, 0.02 * factor, *decay)));
        }
        let mut optimiser = Optimiser::new(rule);
        for step in 0..5 {
            for ((name, start, ..), (twin, theirs)) in starts.iter().zip(&mut twins) {
                if *name == "late" && rule == config::Optimiser::Sgd && step < 2 {
                    continue;
                }
                let target = start.roll(step, 0) * 2.0;
                let loss = |it: &Tensor| (it - &target).square().sum(Kind::Float);
                // In two parts, as with accumulation.
                (loss(parameters.get(name)) * 0.25).backward();
                (loss(parameters.get(name)) * 0.75).backward();
                theirs.backward_step(&loss(twin));
            }
            let norm = optimiser.step(&parameters, &groups, 0.02, 0.0);
            assert!(0.0 < norm && norm.is_finite());
        }
        for ((name, start, ..), (twin, _)) in starts.iter().zip(&twins) {
            let tensor = parameters.get(name);
            assert_eq!(tensor.stride(), start.stride());
            let difference = (tensor - twin).abs().max().double_value(&[]);
            assert!(difference < 2e-6, "{rule:?}, {name}: {difference}");
        }
    }

    #[test]
    fn a_gradient_that_is_no_number_moves_nothing() {
        let mut parameters = Parameters::default();
        parameters.insert("any", Tensor::ones([2], tch::kind::FLOAT_CPU).set_requires_grad(true));
        let groups = [Group { name: "any".into(), factor: 1.0, decay: 0.1 }];
        let mut optimiser = Optimiser::new(config::Optimiser::Adamw);
        let mut step = |scale: f64| {
            (parameters.get("any") * scale).sum(Kind::Float).backward();
            let norm = optimiser.step(&parameters, &groups, 0.1, 1.0);
            (norm, Vec::<f32>::try_from(&parameters.get("any").detach()).unwrap())
        };
        let (norm, before) = step(3.0);
        assert!((norm - 18f64.sqrt()).abs() < 1e-5 && before[0] < 1.0);
        let (norm, after) = step(f64::NAN);
        assert!(norm.is_nan() && after == before);
    }

    #[test]
    fn steps_are_libtorchs() {
        compared(config::Optimiser::Sgd, |store, rate, wd| {
            let rule = nn::Sgd { momentum: 0.9, dampening: 0.0, wd, nesterov: true };
            rule.build(store, rate).unwrap()
        });
        compared(config::Optimiser::Adamw, |store, rate, wd| {
            let rule = nn::AdamW { beta1: BETA1, beta2: BETA2, wd, eps: EPSILON, amsgrad: false };
            rule.build(store, rate).unwrap()
        });
    }
}
