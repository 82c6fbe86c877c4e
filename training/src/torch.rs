//! Runs a path with libtorch: the only file, beside the optimiser and the losses, that knows tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor};

use crate::device::sent;
use crate::net::{self, Conv, Layer, Pooling, Querybank, Role};

const BEHIND_A_LOOKUP: &str = "words are pooled behind a Lookup";
/// The least value that a generalised mean takes in.
pub const GEM_LEAST: f64 = 1e-6;
/// How far a norm's running moments move at each step (section 2.5).
const NORM_MOMENTUM: f64 = 0.05;

/// Tensors by name.
#[derive(Default)]
pub struct Parameters {
    tensors: BTreeMap<String, Tensor>,
    /// Norms that came with pretrained weights: they keep the moments they came with, also while
    /// training (paper sheet, section 4: batch moments in a pretrained backbone cost recall).
    fixed: BTreeSet<String>,
}

/// Whether norms use the batch's moments and dropout drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch moments, dropout; convolutions and matrices in this kind, all else in float32.
    Train(Kind),
    /// Running moments, no dropout.
    Eval,
}

impl Parameters {
    /// Fresh tensors for a path: uniform with the paper's bound sqrt(3 / fan_in) (section 2.5).
    /// Call [`tch::manual_seed`] first.
    pub fn fresh(path: &[Layer], device: Device) -> Parameters {
        let tensors = net::parameters(path).into_iter().map(|it| {
            let options = (Kind::Float, device);
            let tensor = match it.role {
                Role::Weight => {
                    let fan_in: i64 = it.shape[1..].iter().product();
                    let bound = (3.0 / fan_in as f64).sqrt();
                    channels_last(&Tensor::empty(&it.shape, options).uniform_(-bound, bound))
                }
                Role::Lookup => {
                    let table = Tensor::empty(&it.shape, options).normal_(0.0, 0.3);
                    let _ = table.get(0).zero_();
                    table
                }
                Role::Gain | Role::Variance => Tensor::ones(&it.shape, options),
                Role::Bias | Role::LookupBias | Role::Mean | Role::Querybank => {
                    Tensor::zeros(&it.shape, options)
                }
                Role::Power => Tensor::full(&it.shape, 3.0, options),
            };
            (it.name, tensor)
        });
        Parameters { tensors: tensors.collect(), fixed: BTreeSet::new() }
    }

    /// Adds a tensor of its own, such as W_share.
    pub fn insert(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Takes all of `other` in.
    pub fn extend(&mut self, other: Parameters) {
        self.tensors.extend(other.tensors);
        self.fixed.extend(other.fixed);
    }

    /// The named tensor.
    ///
    /// # Panics
    /// When the path has no such tensor: names come from [`net::parameters`].
    pub fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the net has no tensor '{name}'"))
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.tensors.iter()
    }

    /// Copies that share nothing.
    pub fn duplicate(&self) -> Parameters {
        let copy = |it: &Tensor| tch::no_grad(|| it.detach().copy());
        let tensors = self.tensors.iter().map(|(k, v)| (k.clone(), copy(v))).collect();
        Parameters { tensors, fixed: self.fixed.clone() }
    }

    /// Writes `from` over the named tensor.
    ///
    /// # Errors
    /// A name that the net lacks, or another shape: libtorch would stretch it silently.
    pub fn assign(&mut self, name: &str, from: &Tensor) -> Result<()> {
        let Some(target) = self.tensors.get_mut(name) else {
            bail!("the file has a tensor '{name}' that this net lacks (is it of another run?)");
        };
        if target.size() != from.size() {
            bail!("{name} is {:?} in the file, {:?} in this net", from.size(), target.size());
        }
        tch::no_grad(|| target.copy_(&from.to_kind(Kind::Float)));
        Ok(())
    }

    /// From now on these norms keep their running moments while training.
    pub fn fix(&mut self, norms: impl IntoIterator<Item = String>) {
        self.fixed.extend(norms);
    }

    /// Reads what the file has of these names; returns the names that it lacks.
    pub fn load(&mut self, file: &Path, wanted: &[String]) -> Result<Vec<String>> {
        let found: BTreeMap<String, Tensor> = Tensor::read_safetensors(file)
            .with_context(|| format!("reading {}", file.display()))?
            .into_iter()
            .collect();
        let mut missing = Vec::new();
        for name in wanted {
            match found.get(name) {
                Some(tensor) => {
                    let is_whole = tensor.isfinite().all().int64_value(&[]) == 1;
                    ensure!(is_whole, "{name} in {} holds infinities or NaN", file.display());
                    self.assign(name, tensor)
                        .with_context(|| format!("loading {}", file.display()))?;
                }
                None => missing.push(name.clone()),
            }
        }
        Ok(missing)
    }
}

/// Runs the layers over `input`: pixels, cached features, or token ids, which may lie on the CPU.
pub fn forward(path: &[Layer], parameters: &Parameters, input: &Tensor, mode: Mode) -> Tensor {
    let packs = mode != Mode::Eval && net::ignores_padding(path);
    let mut pass = Pass { parameters, mode, packs, words: None, packed: None };
    pass.layers(path, input.shallow_clone())
}

struct Pass<'a> {
    parameters: &'a Parameters,
    mode: Mode,
    /// Whether a lookup packs the batch's words.
    packs: bool,
    /// Where the sentence has words: (batch, 1, 1, length), 1 or 0.
    words: Option<Tensor>,
    /// Set once words are packed.
    packed: Option<Packed>,
}

/// A batch as its words alone, (words, channels, 1, 1), sentence after sentence.
struct Packed {
    /// Words of each sentence, (sentences), at least one.
    counts: Tensor,
    /// Whose each word is, (words).
    owner: Tensor,
    /// 0 where a sentence begins, else 1: (words, 1).
    follows: Tensor,
}

impl Packed {
    /// The words of (batch, length) token ids, and how they hang together, on the device. How many words there
    /// are is best found on the CPU: a device stands still to tell.
    fn of(tokens: &Tensor, device: Device) -> (Tensor, Packed) {
        let is_word = tokens.gt(0);
        let owner = is_word.nonzero().select(1, 0);
        let follows = owner.diff::<Tensor>(1, 0, None, None).eq(0).to_kind(Kind::Float);
        let follows = follows.constant_pad_nd([1i64, 0].as_slice()).unsqueeze(1);
        let counts = is_word.sum_dim_intlist([1i64].as_slice(), false, Kind::Int64).clamp_min(1);
        let [words, counts, owner, follows] =
            [tokens.masked_select(&is_word), counts, owner, follows].map(|it| sent(&it, device));
        (words, Packed { counts, owner, follows })
    }

    /// A convolution that sees the word and, two wide, the one before it: one matrix product.
    fn convolved(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        let rows = x.flatten(1, -1);
        let rows = if weight.size()[3] == 2 {
            let count = rows.size()[0];
            let before = rows.narrow(0, 0, count - 1).constant_pad_nd([0i64, 0, 1, 0].as_slice());
            Tensor::cat(&[before * self.follows.to_kind(rows.kind()), rows], 1)
        } else {
            rows
        };
        let matrix = weight.permute([0, 3, 2, 1]).flatten(1, -1);
        rows.linear(&matrix, None::<&Tensor>).unsqueeze(2).unsqueeze(3)
    }

    /// The largest of each sentence's words, (sentences, channels).
    fn largest(&self, x: &Tensor) -> Tensor {
        let rows = x.flatten(1, -1);
        let owner = self.owner.unsqueeze(1).expand_as(&rows);
        let start = rows.new_full(
            [self.counts.size()[0], rows.size()[1]].as_slice(),
            -1e4,
            (rows.kind(), rows.device()),
        );
        start.internal_scatter_reduce(0, &owner, &rows, "amax", true)
    }

    /// The mean of each sentence's words, (sentences, channels).
    fn mean(&self, x: &Tensor) -> Tensor {
        let rows = x.flatten(1, -1);
        let size = [self.counts.size()[0], rows.size()[1]];
        let sums = rows.new_zeros(size.as_slice(), (rows.kind(), rows.device()));
        sums.index_add(0, &self.owner, &rows) / self.counts.to_kind(rows.kind()).unsqueeze(1)
    }
}

impl Pass<'_> {
    fn layers(&mut self, path: &[Layer], input: Tensor) -> Tensor {
        path.iter().fold(input, |x, layer| self.layer(layer, x))
    }

    fn layer(&mut self, layer: &Layer, x: Tensor) -> Tensor {
        match layer {
            Layer::Conv(conv) => self.conv(conv, &x),
            Layer::Norm { name, epsilon, .. } => x.batch_norm(
                Some(self.tensor(name, "weight")),
                Some(self.tensor(name, "bias")),
                Some(self.tensor(name, "running_mean")),
                Some(self.tensor(name, "running_var")),
                self.mode != Mode::Eval && !self.parameters.fixed.contains(name),
                NORM_MOMENTUM,
                *epsilon,
                false,
            ),
            // In place: what stands before it keeps its input, not its output, for the gradient.
            Layer::Relu => {
                let mut x = x;
                x.relu_()
            }
            // Not clamp_, which keeps a copy of what it is given for the gradient.
            Layer::Relu6 => {
                let mut x = x;
                x.relu6_()
            }
            Layer::Sum { branch, shortcut } => {
                let around = self.layers(shortcut, x.shallow_clone());
                self.layers(branch, x) + around
            }
            Layer::Block { layers, .. } => self.layers(layers, x),
            Layer::MaxPool { kernel, stride, pad, ceil } => {
                x.max_pool2d([*kernel; 2], [*stride; 2], [*pad; 2], [1, 1], *ceil)
            }
            Layer::Pool(pooling) => self.pool(pooling, &x),
            Layer::Flatten => x.flatten(1, -1),
            Layer::WordMax { .. } if let Some(packed) = &self.packed => packed.largest(&x),
            Layer::WordMeanMax if let Some(packed) = &self.packed => {
                Tensor::cat(&[packed.mean(&x), packed.largest(&x)], 1)
            }
            Layer::WordMeanMax => {
                let words = self.words.as_ref().unwrap_or_else(|| panic!("{BEHIND_A_LOOKUP}"));
                let over = [2i64, 3].as_slice();
                let count = words.sum_dim_intlist(over, false, None::<Kind>).clamp_min(1.0);
                let mean = (&x * words).sum_dim_intlist(over, false, None::<Kind>) / count;
                Tensor::cat(&[mean, (&x + (words - 1.0) * 1e4).amax(over, false)], 1)
            }
            Layer::WordMax { halvings } => {
                let words = self.words.as_ref().map(Tensor::shallow_clone);
                let mut words = words.unwrap_or_else(|| panic!("{BEHIND_A_LOOKUP}"));
                for _ in 0..*halvings {
                    // The strided convolution's own geometry: two wide, one pad on the left.
                    words = words.constant_pad_nd([1i64, 0]).max_pool2d(
                        [1, 2],
                        [1, 2],
                        [0, 0],
                        [1, 1],
                        false,
                    );
                }
                (x + (words - 1.0) * 1e4).amax([2i64, 3].as_slice(), false)
            }
            Layer::Linear { name, bias, .. } => {
                let bias = bias.then(|| self.tensor(name, "bias"));
                self.cast(&x).linear(
                    &self.cast(self.tensor(name, "weight")),
                    bias.map(|it| self.cast(it)).as_ref(),
                )
            }
            Layer::Lookup { name, .. } if self.packs => {
                let table = self.tensor(name, "weight");
                let (words, packed) = Packed::of(&x, table.device());
                let rows = Tensor::embedding(table, &words, 0, false, false);
                self.packed = Some(packed);
                rows.unsqueeze(2).unsqueeze(3)
            }
            Layer::Lookup { name, bias, .. } => {
                let table = self.tensor(name, "weight");
                let x = sent(&x, table.device());
                let rows = Tensor::embedding(table, &x, 0, false, false);
                self.words = Some(x.gt(0).to_kind(Kind::Float).unsqueeze(1).unsqueeze(1));
                let rows = if *bias { rows + self.tensor(name, "bias") } else { rows };
                rows.permute([0, 2, 1]).unsqueeze(2)
            }
            Layer::Shifted { shifts, layers } => self.shifted(*shifts, layers, &x),
            Layer::Dropout { rate } => x.dropout(*rate, self.mode != Mode::Eval),
            Layer::Unit => unit(&x.to_kind(Kind::Float)),
            Layer::Querybank(it) => self.querybank(it, &x),
        }
    }

    fn conv(&self, conv: &Conv, x: &Tensor) -> Tensor {
        let [top, left, bottom, right] = conv.pads;
        let bias = conv.bias.then(|| self.cast(self.tensor(&conv.name, "bias")));
        let weight = &self.cast(self.tensor(&conv.name, "weight"));
        let x = &self.cast(x);
        if let Some(packed) = &self.packed {
            return packed.convolved(x, weight);
        }
        if along_sentence(conv, x) {
            return convolved_along(conv, x, weight);
        }
        if (top, left) == (bottom, right) {
            return x.conv2d(weight, bias, conv.stride, [top, left], [1, 1], conv.groups);
        }
        let padded = x.constant_pad_nd([left, right, top, bottom]);
        padded.conv2d(weight, bias, conv.stride, [0, 0], [1, 1], conv.groups)
    }

    fn pool(&self, pooling: &Pooling, x: &Tensor) -> Tensor {
        let over = [2i64, 3].as_slice();
        match pooling {
            Pooling::Mean => x.mean_dim(over, false, None::<Kind>),
            Pooling::Max => x.amax(over, false),
            Pooling::MeanMax => {
                Tensor::cat(&[x.mean_dim(over, false, None::<Kind>), x.amax(over, false)], 1)
            }
            Pooling::Gem => {
                let power = self.tensor("gem", "power");
                let mean = x.clamp_min(GEM_LEAST).pow(power).mean_dim(over, false, None::<Kind>);
                mean.pow(&power.reciprocal())
            }
        }
    }

    /// Sums the rows of every placement that leaves all words in their slots.
    fn shifted(&mut self, shifts: i64, layers: &[Layer], tokens: &Tensor) -> Tensor {
        let length = tokens.size()[1];
        let mut sum = None;
        for shift in 0..shifts.min(length) {
            let moved = tokens.narrow(1, 0, length - shift).constant_pad_nd([shift, 0].as_slice());
            let lost = tokens.narrow(1, length - shift, shift).gt(0).any_dim(1, true);
            let rows = self.layers(layers, moved);
            let whole = lost.logical_not().to_device(rows.device()).to_kind(Kind::Float);
            let rows = rows * whole;
            sum = Some(match sum {
                None => rows,
                Some(sum) => sum + rows,
            });
        }
        sum.unwrap_or_else(|| panic!("a Shifted places a sentence at least once"))
    }

    fn querybank(&self, of: &Querybank, x: &Tensor) -> Tensor {
        let near = self.tensor(&of.name, "weight").mm(&x.transpose(0, 1)).transpose(0, 1);
        let near = (near * of.sharpness + self.tensor(&of.name, "bias"))
            .logsumexp([1i64].as_slice(), true);
        let most = Querybank::MOST;
        let near = (near / of.sharpness).clamp(-most, most);
        let missing = (most - near.square() / most).clamp_min(0.0).sqrt();
        let [slope, base, length] =
            of.rows().map(|it| Tensor::from_slice(&it).to_device(x.device()));
        Tensor::cat(&[x, &(near * slope + base + missing * length)], 1) / Querybank::length()
    }

    /// Into the kind of the pass; gradients come back as float32.
    fn cast(&self, x: &Tensor) -> Tensor {
        match self.mode {
            Mode::Train(kind) if kind != x.kind() => x.to_kind(kind),
            _ => x.shallow_clone(),
        }
    }

    fn tensor(&self, name: &str, part: &str) -> &Tensor {
        self.parameters.get(&format!("{name}.{part}"))
    }
}

/// Rows to length one.
pub fn unit(x: &Tensor) -> Tensor {
    x / x.norm_scalaropt_dim(2.0, [1i64].as_slice(), true).clamp_min(1e-12)
}

/// Whether a convolution runs along words, (batch, channels, 1, length).
fn along_sentence(conv: &Conv, x: &Tensor) -> bool {
    let [top, _, bottom, right] = conv.pads;
    let flat = conv.kernel[0] == 1 && conv.stride[0] == 1 && (top, bottom, right) == (0, 0, 0);
    flat && x.size()[2] == 1 && conv.groups == 1 && !conv.bias
}

/// The same as one matrix product: libtorch's own gradient of so few positions takes three times as long.
fn convolved_along(conv: &Conv, x: &Tensor, weight: &Tensor) -> Tensor {
    let (width, stride, left) = (conv.kernel[1], conv.stride[1], conv.pads[1]);
    let words = x.squeeze_dim(2).transpose(1, 2); // (batch, length, channels)
    let words =
        if left == 0 { words } else { words.constant_pad_nd([0i64, 0, left, 0].as_slice()) };
    let count = (words.size()[1] - width) / stride + 1;
    let seen = |at| words.slice(1, at, at + (count - 1) * stride + 1, stride);
    let windows = if width == 1 {
        seen(0)
    } else {
        Tensor::cat(&(0..width).map(seen).collect::<Vec<_>>(), 2)
    };
    let matrix = weight.permute([0, 3, 2, 1]).flatten(1, -1);
    windows.linear(&matrix, None::<&Tensor>).transpose(1, 2).unsqueeze(2)
}

/// The layout in which libtorch's CPU convolutions are fastest; other shapes stay as they are.
pub fn channels_last(x: &Tensor) -> Tensor {
    match x.dim() {
        4 => x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]),
        _ => x.shallow_clone(),
    }
}

/// A tensor's numbers on the CPU, row by row.
pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view(-1);
    let mut out = vec![0.0; flat.numel()];
    flat.copy_data(&mut out, flat.numel());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::text::{self, Form};

    /// The packed batch is an optimisation; the padded one is its slow twin.
    #[test]
    fn packed_words_give_what_padded_ones_give() {
        tch::manual_seed(1);
        for form in [Form::Flat, Form::FlatMeanMax] {
            packed_like_padded(form);
        }
    }

    fn packed_like_padded(form: Form) {
        let path = text::path(form, 9, 8, 0.0);
        let mut parameters = Parameters::fresh(&path, Device::Cpu);
        let norms = net::parameters(&path).into_iter().map(|it| it.name);
        parameters.fix(norms.filter_map(|it| it.strip_suffix(".running_mean").map(str::to_owned)));
        let watched = ["lookup.weight", "text1.conv2.weight", "text3.project.weight"];
        for name in watched {
            let _ = parameters.get(name).set_requires_grad(true);
        }
        let ids = [[3i64, 4, 5, 0], [8, 0, 0, 0], [1, 2, 3, 4]].concat();
        let tokens = Tensor::from_slice(&ids).view((3, 4));
        let gradients = |mode| {
            let out = forward(&path, &parameters, &tokens, mode);
            (&out * Tensor::arange(24, (Kind::Float, Device::Cpu)).view((3, 8)))
                .sum(Kind::Float)
                .backward();
            let gradients = watched.map(|it| {
                let mut gradient = parameters.get(it).grad();
                let copy = gradient.copy();
                let _ = gradient.zero_();
                copy
            });
            (out, gradients)
        };
        let (packed, fast) = gradients(Mode::Train(Kind::Float));
        let (padded, slow) = gradients(Mode::Eval);
        assert!((packed - padded).abs().max().double_value(&[]) < 1e-6);
        for (fast, slow) in fast.iter().zip(&slow) {
            assert!(0.0 < slow.abs().max().double_value(&[]));
            assert!((fast - slow).abs().max().double_value(&[]) < 1e-4);
        }
    }

    /// One matrix product stands for libtorch's own convolution, its slow twin, gradients too.
    #[test]
    fn convolutions_along_words_are_matrix_products() {
        tch::manual_seed(1);
        let mut tried = 0;
        for layer in text::path(Form::Paper, 9, 8, 0.0) {
            let Layer::Block { layers, .. } = layer else { continue };
            let Some(Layer::Sum { branch, shortcut }) = layers.first() else { continue };
            for layer in branch.iter().chain(shortcut) {
                let Layer::Conv(conv) = layer else { continue };
                tried += 1;
                let options = (Kind::Float, Device::Cpu);
                let shape = [conv.output, conv.input, conv.kernel[0], conv.kernel[1]];
                let weight = Tensor::randn(shape, options) / (shape[1] * shape[3]) as f64;
                let x = Tensor::randn([3, conv.input, 1, 8], options);
                assert!(along_sentence(conv, &x));
                let gradients = |run: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
                    let x = x.copy().set_requires_grad(true);
                    let weight = weight.copy().set_requires_grad(true);
                    let out = run(&x, &weight);
                    out.square().sum(Kind::Float).backward();
                    [out, x.grad(), weight.grad()]
                };
                let fast = gradients(&|x, weight| convolved_along(conv, x, weight));
                let slow = gradients(&|x, weight| {
                    let padded = x.constant_pad_nd([conv.pads[1], 0, 0, 0]);
                    padded.conv2d(weight, None::<Tensor>, conv.stride, [0, 0], [1, 1], 1)
                });
                for (fast, slow) in fast.iter().zip(&slow) {
                    assert_eq!(fast.size(), slow.size());
                    let most = slow.abs().max().double_value(&[]);
                    assert!((fast - slow).abs().max().double_value(&[]) < 1e-4 * most.max(1.0));
                }
            }
        }
        assert!(14 * 3 < tried, "{tried}");
    }

    /// Strides step over the last slots: a sentence that lies in them alone has no feature.
    #[test]
    fn every_word_that_training_places_is_seen() {
        for form in [Form::Strided, Form::Flat] {
            tch::manual_seed(1);
            let path = text::path(form, 4, 8, 0.0);
            let parameters = Parameters::fresh(&path, Device::Cpu);
            let pooled = path.iter().position(|it| matches!(it, Layer::WordMax { .. })).unwrap();
            let smallest = |slot: i64| {
                let tokens = Tensor::zeros([1, 32], (Kind::Int64, Device::Cpu));
                let _ = tokens.narrow(1, slot, 1).fill_(3);
                let pooled =
                    tch::no_grad(|| forward(&path[..=pooled], &parameters, &tokens, Mode::Eval));
                pooled.min().double_value(&[])
            };
            let seen = 32 - text::unseen_slots(&path) as i64;
            assert!([0, 1, seen - 2, seen - 1].into_iter().all(|slot| -1e3 < smallest(slot)));
            assert!((seen..32).all(|slot| smallest(slot) < -1e3));
        }
    }
}
