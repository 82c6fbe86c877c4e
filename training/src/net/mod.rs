//! Both paths, once, as data: `torch.rs` trains from it and `onnx.rs` writes it.
//!
//! Shapes at the end of a line are (batch, channels, height, width).

pub mod image;
pub mod text;

use serde::Deserialize;

/// Of the norms that training adds (paper sheet, section 2.5).
pub const NEW_EPSILON: f64 = 1e-3;
/// Of the norms that come with ImageNet weights.
pub const PRETRAINED_EPSILON: f64 = 1e-5;

/// One step of a path. Names are unique in a path and name the parameters (`conv21.weight`).
#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// Convolution over (height, width); no bias where a [`Layer::Norm`] follows.
    Conv(Conv),
    /// Batch norm over channels.
    Norm {
        /// Names `weight`, `bias`, `running_mean`, `running_var`.
        name: String,
        /// How many channels.
        channels: i64,
        /// Added to the variance.
        epsilon: f64,
    },
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
    /// The sum of two branches; an empty shortcut is the identity.
    Sum {
        /// The layers that compute.
        branch: Vec<Layer>,
        /// A projection where the widths differ.
        shortcut: Vec<Layer>,
    },
    /// A run of layers under one name, so that training can start to move weights at it.
    Block {
        /// Such as `block07`.
        name: String,
        /// What it runs.
        layers: Vec<Layer>,
    },
    /// The largest of each window.
    MaxPool {
        /// Pixels a side.
        kernel: i64,
        /// Pixels from window to window.
        stride: i64,
        /// Padding on all sides; never the largest.
        pad: i64,
        /// Whether a last window may stand over the edge.
        ceil: bool,
    },
    /// All positions to one; flat.
    Pool(Pooling),
    /// Channels, rows and columns in one row.
    Flatten,
    /// The largest over the positions that hold words; flat.
    WordMax {
        /// How often the path halved the length before.
        halvings: usize,
    },
    /// The mean over the positions that hold words beside the largest; no stride before it; flat.
    WordMeanMax,
    /// Fully connected; no bias where a [`Layer::Norm`] follows.
    Linear {
        /// Names `weight`, (output, input), and `bias`.
        name: String,
        /// Numbers in.
        input: i64,
        /// Numbers out.
        output: i64,
        /// Whether a bias is added.
        bias: bool,
    },
    /// Token ids (batch, length) to (batch, width, 1, length); row 0 is the empty position.
    Lookup {
        /// Names `weight`, (words, width), and `bias`.
        name: String,
        /// Rows.
        words: i64,
        /// Numbers a word.
        width: i64,
        /// Whether one bias is added at every position, empty ones among them (section 2.3).
        bias: bool,
    },
    /// Runs `layers` on the sentence moved right by 0, 1, ... slots, as far as its words have room,
    /// and sums what comes out (paper, section 2.4); not for training.
    Shifted {
        /// How many placements at the most.
        shifts: i64,
        /// From token ids to rows.
        layers: Vec<Layer>,
    },
    /// Zeroes a share of the numbers while training, scales the rest up; absent from the ONNX graph.
    Dropout {
        /// The share that is dropped.
        rate: f64,
    },
    /// To length one.
    Unit,
    /// Takes from an embedding how near it lies to everything; behind [`Layer::Unit`].
    Querybank(Querybank),
}

/// How the positions of a feature map become one row.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Their mean: the paper's for pictures.
    Mean,
    /// Their largest: the paper's for sentences.
    Max,
    /// The mean beside the largest: twice the channels.
    MeanMax,
    /// The generalised mean with a learned power (Radenovic et al. 2018); its name is `gem`.
    Gem,
}

/// A convolution; pads as ONNX orders them: top, left, bottom, right.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    /// Names `weight` and `bias`.
    pub name: String,
    /// Channels in.
    pub input: i64,
    /// Channels out.
    pub output: i64,
    /// Height, width.
    pub kernel: [i64; 2],
    /// Height, width.
    pub stride: [i64; 2],
    /// Zeros around the input.
    pub pads: [i64; 4],
    /// `input` for a depthwise convolution.
    pub groups: i64,
    /// Whether a bias is added.
    pub bias: bool,
}

/// Querybank normalisation (Bogolin et al. 2022) inside the embedding. Some pictures are near to every
/// sentence and crowd out the right answer. How near, h = log mean exp(sharpness * cosine) / sharpness
/// over training sentences, is taken from a picture's scores; from a sentence's likewise, over training
/// pictures. Four numbers more let the product of two embeddings of length one do it:
///
/// | | picture | sentence |
/// | --- | --- | --- |
/// | | x | y |
/// | 1 | -h / a | a |
/// | 2 | a | -h' / a |
/// | 3 | what is missing in length | 0 |
/// | 4 | 0 | what is missing in length |
///
/// So score = (cosine - h - h') / (1 + 2 a^2), a^2 being [`Querybank::MOST`], beyond which h is cut.
#[derive(Debug, Clone, PartialEq)]
pub struct Querybank {
    /// Names `weight`, (prototypes, width), and `bias`, (prototypes): the log of each one's share.
    pub name: String,
    /// Means of the other path's training embeddings, which stand for all of them.
    pub prototypes: i64,
    /// Numbers in; out come four more.
    pub width: i64,
    /// Of the softened largest.
    pub sharpness: f64,
    /// Whether pictures pass it, or sentences.
    pub side: Side,
}

/// Which of two paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The image path.
    Picture,
    /// The text path.
    Sentence,
}

impl Querybank {
    /// Numbers that it adds.
    pub const NUMBERS: i64 = 4;
    /// The largest h, in cosine: beyond five standard deviations of what was measured.
    pub const MOST: f64 = 0.16;

    /// What the four numbers take of h, what they start from, and which one holds the missing length.
    pub fn rows(&self) -> [[f32; 4]; 3] {
        let a = Querybank::MOST.sqrt() as f32;
        let rows = [[-1.0 / a, 0.0, 0.0, 0.0], [0.0, a, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        match self.side {
            Side::Picture => rows,
            Side::Sentence => {
                rows.map(|[first, second, third, fourth]| [second, first, fourth, third])
            }
        }
    }

    /// By which everything is divided to come to length one.
    pub fn length() -> f64 {
        (1.0 + 2.0 * Querybank::MOST).sqrt()
    }
}

/// Whether a sentence's row is the same however many empty slots follow: no stride tells positions
/// apart, and only words are pooled.
pub fn ignores_padding(path: &[Layer]) -> bool {
    path.iter().any(|it| matches!(it, Layer::WordMax { halvings: 0 } | Layer::WordMeanMax))
}

/// Where the named block stands, so that what lies before it can be frozen.
pub fn position(path: &[Layer], block: &str) -> Option<usize> {
    path.iter().position(|it| matches!(it, Layer::Block { name, .. } if name == block))
}

/// The names of the blocks, in order.
pub fn blocks(path: &[Layer]) -> Vec<&str> {
    path.iter()
        .filter_map(|it| match it {
            Layer::Block { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

/// One tensor that a path owns.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Such as `fc1.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// How it starts and whether gradients move it.
    pub role: Role,
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Filters and matrices: moved, decayed.
    Weight,
    /// The word lookup: moved.
    Lookup,
    /// The bias of the word lookup: starts at 0, moved.
    LookupBias,
    /// The power of a generalised mean: starts at 3, moved.
    Power,
    /// A norm's gain: starts at 1, moved, not decayed.
    Gain,
    /// A bias: starts at 0, moved, not decayed.
    Bias,
    /// A norm's running mean: not moved by gradients.
    Mean,
    /// A norm's running variance: not moved by gradients.
    Variance,
    /// A querybank: computed when training is over.
    Querybank,
}

impl Role {
    /// Whether gradients move it.
    pub fn is_trained(self) -> bool {
        !matches!(self, Role::Mean | Role::Variance | Role::Querybank)
    }
}

/// Every tensor of a path, in order.
pub fn parameters(path: &[Layer]) -> Vec<Parameter> {
    let mut all = Vec::new();
    collect(path, &mut all);
    all
}

fn collect(path: &[Layer], all: &mut Vec<Parameter>) {
    for layer in path {
        match layer {
            Layer::Conv(conv) => {
                all.push(parameter(&conv.name, "weight", &conv.shape(), Role::Weight));
                if conv.bias {
                    all.push(parameter(&conv.name, "bias", &[conv.output], Role::Bias));
                }
            }
            Layer::Norm { name, channels, .. } => {
                all.push(parameter(name, "weight", &[*channels], Role::Gain));
                all.push(parameter(name, "bias", &[*channels], Role::Bias));
                all.push(parameter(name, "running_mean", &[*channels], Role::Mean));
                all.push(parameter(name, "running_var", &[*channels], Role::Variance));
            }
            Layer::Linear { name, input, output, bias } => {
                all.push(parameter(name, "weight", &[*output, *input], Role::Weight));
                if *bias {
                    all.push(parameter(name, "bias", &[*output], Role::Bias));
                }
            }
            Layer::Lookup { name, words, width, bias } => {
                all.push(parameter(name, "weight", &[*words, *width], Role::Lookup));
                if *bias {
                    all.push(parameter(name, "bias", &[*width], Role::LookupBias));
                }
            }
            Layer::Pool(Pooling::Gem) => all.push(parameter("gem", "power", &[1], Role::Power)),
            Layer::Querybank(Querybank { name, prototypes, width, .. }) => {
                all.push(parameter(name, "weight", &[*prototypes, *width], Role::Querybank));
                all.push(parameter(name, "bias", &[*prototypes], Role::Querybank));
            }
            Layer::Sum { branch, shortcut } => {
                collect(branch, all);
                collect(shortcut, all);
            }
            Layer::Block { layers, .. } | Layer::Shifted { layers, .. } => collect(layers, all),
            Layer::Relu
            | Layer::Relu6
            | Layer::MaxPool { .. }
            | Layer::Pool(_)
            | Layer::Flatten
            | Layer::WordMax { .. }
            | Layer::WordMeanMax
            | Layer::Dropout { .. }
            | Layer::Unit => {}
        }
    }
}

fn parameter(name: &str, part: &str, shape: &[i64], role: Role) -> Parameter {
    Parameter { name: format!("{name}.{part}"), shape: shape.to_vec(), role }
}

fn block(name: &str, layers: Vec<Layer>) -> Layer {
    Layer::Block { name: name.to_owned(), layers }
}

fn linear(name: &str, input: i64, output: i64) -> Layer {
    Layer::Linear { name: name.to_owned(), input, output, bias: false }
}

fn norm(name: &str, channels: i64) -> Layer {
    Layer::Norm { name: name.to_owned(), channels, epsilon: NEW_EPSILON }
}

fn conv(name: &str, input: i64, output: i64, kernel: i64) -> Conv {
    let pad = kernel / 2;
    Conv {
        name: name.to_owned(),
        input,
        output,
        kernel: [kernel; 2],
        stride: [1; 2],
        pads: [pad; 4],
        groups: 1,
        bias: true,
    }
}

impl Conv {
    fn layer(self) -> Layer {
        Layer::Conv(self)
    }

    /// (output, input / groups, height, width)
    pub fn shape(&self) -> [i64; 4] {
        [self.output, self.input / self.groups, self.kernel[0], self.kernel[1]]
    }
}

/// Numbers in a row that comes out of a path.
pub fn width(path: &[Layer]) -> Option<i64> {
    path.iter().rev().find_map(|it| match it {
        Layer::Querybank(it) => Some(it.width + Querybank::NUMBERS),
        Layer::Linear { output, .. } => Some(*output),
        Layer::Block { layers, .. } | Layer::Shifted { layers, .. } => width(layers),
        _ => None,
    })
}

/// How many numbers of a path gradients can move.
pub fn size(path: &[Layer]) -> i64 {
    let trained = parameters(path).into_iter().filter(|it| it.role.is_trained());
    trained.map(|it| it.shape.iter().product::<i64>()).sum()
}
