//! Both paths, once, as data: `torch.rs` trains from it and `onnx.rs` writes it.
//!
//! Shapes at the end of a line are (batch, channels, height, width).

use serde::Deserialize;

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
    /// Mean over all positions beside the largest over all positions: twice the channels, flat.
    MeanMax,
    /// The largest over the positions that hold words; flat.
    WordMax {
        /// How often the path halved the length before.
        halvings: usize,
    },
    /// Fully connected, without bias: a norm follows.
    Linear {
        /// Names `weight`, (output, input).
        name: String,
        /// Numbers in.
        input: i64,
        /// Numbers out.
        output: i64,
    },
    /// Token ids (batch, length) to (batch, width, 1, length); row 0 is the empty position.
    Lookup {
        /// Names `weight`, (words, width).
        name: String,
        /// Rows.
        words: i64,
        /// Numbers a word.
        width: i64,
    },
    /// Zeroes a share of the numbers while training, scales the rest up; absent from the ONNX graph.
    Dropout {
        /// The share that is dropped.
        rate: f64,
    },
    /// To length one.
    Unit,
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

/// MobileNetV2 1.0 (Sandler et al. 2018), batch norm folded in its weights, TensorFlow's padding;
/// then the paper's head (section 1.1: FC, BN, ReLU, FC, BN), to unit length.
pub fn image_path(hidden: i64, dimension: i64, dropout: f64) -> Vec<Layer> {
    vec![
        block(
            "stem",
            vec![
                conv("conv00", 3, 32, 3).stride_two().layer(), // (B, 32, 112, 112)
                Layer::Relu6,
                conv("conv01", 32, 32, 3).depthwise().layer(),
                Layer::Relu6,
                conv("conv02", 32, 16, 1).layer(), // (B, 16, 112, 112)
            ],
        ),
        inverted_residual(1, 16, 24, 2), // (B, 24, 56, 56)
        inverted_residual(2, 24, 24, 1),
        inverted_residual(3, 24, 32, 2), // (B, 32, 28, 28)
        inverted_residual(4, 32, 32, 1),
        inverted_residual(5, 32, 32, 1),
        inverted_residual(6, 32, 64, 2), // (B, 64, 14, 14)
        inverted_residual(7, 64, 64, 1),
        inverted_residual(8, 64, 64, 1),
        inverted_residual(9, 64, 64, 1),
        inverted_residual(10, 64, 96, 1), // (B, 96, 14, 14)
        inverted_residual(11, 96, 96, 1),
        inverted_residual(12, 96, 96, 1),
        inverted_residual(13, 96, 160, 2), // (B, 160, 7, 7)
        inverted_residual(14, 160, 160, 1),
        inverted_residual(15, 160, 160, 1),
        inverted_residual(16, 160, 320, 1), // (B, 320, 7, 7)
        block("top", vec![conv("conv51", 320, 1280, 1).layer(), Layer::Relu6]), // (B, 1280, 7, 7)
        block("pool", vec![Layer::MeanMax]), // (B, 2560)
        block(
            "head",
            vec![
                // Largest values are an order above means: one scale for both.
                norm("pool_bn", 2560),
                linear("fc1", 2560, hidden),
                norm("bn1", hidden),
                Layer::Relu,
                Layer::Dropout { rate: dropout },
                linear("fc2", hidden, dimension),
                norm("bn2", dimension), // (B, dimension)
                Layer::Unit,
            ],
        ),
    ]
}

/// How a text path treats the length of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextForm {
    /// The paper's: halved between stages, 32 -> 16 -> 8.
    Strided,
    /// Every word keeps its position to the end: three blocks, no stride.
    Flat,
}

/// The paper's text path (section 2.3) at compact width: residual blocks of 1x1, 1x2, 1x1
/// convolutions that see the word before, then the largest value over the words.
pub fn text_path(form: TextForm, words: i64, dimension: i64, dropout: f64) -> Vec<Layer> {
    let mut path = vec![
        Layer::Lookup { name: "lookup".into(), words, width: 300 }, // (B, 300, 1, 32)
        norm("lookup_bn", 300),
    ];
    path.extend(match form {
        TextForm::Strided => vec![
            residual("text1", 300, 128, 256, 1), // (B, 256, 1, 32)
            residual("text2", 256, 128, 256, 1),
            residual("text3", 256, 256, 512, 2), // (B, 512, 1, 16)
            residual("text4", 512, 128, 512, 1),
            residual("text5", 512, 128, 512, 1),
            residual("text6", 512, 384, 1024, 2), // (B, 1024, 1, 8)
            residual("text7", 1024, 256, 1024, 1),
            Layer::WordMax { halvings: 2 }, // (B, 1024)
        ],
        TextForm::Flat => vec![
            residual("text1", 300, 256, 512, 1), // (B, 512, 1, 32)
            residual("text2", 512, 256, 512, 1),
            residual("text3", 512, 256, 1024, 1), // (B, 1024, 1, 32)
            Layer::WordMax { halvings: 0 },       // (B, 1024)
        ],
    });
    path.extend([
        Layer::Dropout { rate: dropout },
        linear("text_fc", 1024, dimension),
        norm("text_bn", dimension), // (B, dimension)
        Layer::Unit,
    ]);
    path
}

/// Slots at a sentence's end that a path's strides step over, its length being even.
pub fn unseen_slots(path: &[Layer]) -> usize {
    let halvings = path.iter().find_map(|it| match it {
        Layer::WordMax { halvings } => Some(*halvings),
        _ => None,
    });
    (1 << halvings.unwrap_or(0)) - 1
}

fn inverted_residual(index: usize, input: i64, output: i64, stride: i64) -> Layer {
    let wide = 6 * input;
    let name = |at: usize| format!("conv{:02}", 3 * index + at);
    let depthwise = conv(&name(1), wide, wide, 3).depthwise();
    let branch = vec![
        conv(&name(0), input, wide, 1).layer(),
        Layer::Relu6,
        if stride == 2 { depthwise.stride_two() } else { depthwise }.layer(),
        Layer::Relu6,
        conv(&name(2), wide, output, 1).layer(),
    ];
    let layers = if stride == 1 && input == output {
        vec![Layer::Sum { branch, shortcut: vec![] }]
    } else {
        branch
    };
    block(&format!("block{index:02}"), layers)
}

fn residual(name: &str, input: i64, middle: i64, output: i64, stride: i64) -> Layer {
    let part = |it: &str| format!("{name}.{it}");
    let along = |at: &str, input, output, width: i64, stride: i64| {
        let mut conv = conv(&part(at), input, output, 1);
        conv.kernel = [1, width];
        conv.stride = [1, stride];
        // Left padding only: a word sees the one before it.
        conv.pads = [0, width - 1, 0, 0];
        conv.bias = false;
        conv.layer()
    };
    let branch = vec![
        along("conv1", input, middle, 1, 1),
        norm(&part("bn1"), middle),
        Layer::Relu,
        along("conv2", middle, middle, 2, stride),
        norm(&part("bn2"), middle),
        Layer::Relu,
        along("conv3", middle, output, 1, 1),
        norm(&part("bn3"), output),
    ];
    let shortcut = if input == output && stride == 1 {
        vec![]
    } else {
        vec![along("project", input, output, 1, stride), norm(&part("project_bn"), output)]
    };
    block(name, vec![Layer::Sum { branch, shortcut }, Layer::Relu])
}

fn block(name: &str, layers: Vec<Layer>) -> Layer {
    Layer::Block { name: name.to_owned(), layers }
}

fn linear(name: &str, input: i64, output: i64) -> Layer {
    Layer::Linear { name: name.to_owned(), input, output }
}

fn norm(name: &str, channels: i64) -> Layer {
    Layer::Norm { name: name.to_owned(), channels }
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
    fn depthwise(mut self) -> Conv {
        self.groups = self.input;
        self
    }

    /// TensorFlow's SAME for an even size: the extra row and column at the bottom and the right.
    fn stride_two(mut self) -> Conv {
        self.stride = [2; 2];
        self.pads = [0, 0, 1, 1];
        self
    }

    fn layer(self) -> Layer {
        Layer::Conv(self)
    }

    /// (output, input / groups, height, width)
    pub fn shape(&self) -> [i64; 4] {
        [self.output, self.input / self.groups, self.kernel[0], self.kernel[1]]
    }
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
    /// A norm's gain: starts at 1, moved, not decayed.
    Gain,
    /// A bias: starts at 0, moved, not decayed.
    Bias,
    /// A norm's running mean: not moved by gradients.
    Mean,
    /// A norm's running variance: not moved by gradients.
    Variance,
}

impl Role {
    /// Whether gradients move it.
    pub fn is_trained(self) -> bool {
        !matches!(self, Role::Mean | Role::Variance)
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
            Layer::Norm { name, channels } => {
                all.push(parameter(name, "weight", &[*channels], Role::Gain));
                all.push(parameter(name, "bias", &[*channels], Role::Bias));
                all.push(parameter(name, "running_mean", &[*channels], Role::Mean));
                all.push(parameter(name, "running_var", &[*channels], Role::Variance));
            }
            Layer::Linear { name, input, output } => {
                all.push(parameter(name, "weight", &[*output, *input], Role::Weight));
            }
            Layer::Lookup { name, words, width } => {
                all.push(parameter(name, "weight", &[*words, *width], Role::Lookup));
            }
            Layer::Sum { branch, shortcut } => {
                collect(branch, all);
                collect(shortcut, all);
            }
            Layer::Block { layers, .. } => collect(layers, all),
            Layer::Relu
            | Layer::Relu6
            | Layer::MeanMax
            | Layer::WordMax { .. }
            | Layer::Dropout { .. }
            | Layer::Unit => {}
        }
    }
}

fn parameter(name: &str, part: &str, shape: &[i64], role: Role) -> Parameter {
    Parameter { name: format!("{name}.{part}"), shape: shape.to_vec(), role }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &[Layer]) -> i64 {
        parameters(path)
            .iter()
            .filter(|it| it.role.is_trained())
            .map(|it| it.shape.iter().product::<i64>())
            .sum()
    }

    #[test]
    fn the_backbone_is_mobilenet_v2() {
        let path = image_path(1024, 512, 0.0);
        let head = position(&path, "head").unwrap();
        // 3.49 million with ImageNet's classifier of 1,281,000 (Sandler et al., table 4: 3.4 M).
        assert_eq!(count(&path[..head]) + 1_281_000, 3_487_816);
        assert_eq!(blocks(&path)[0], "stem");
    }

    #[test]
    fn names_are_unique() {
        let paths = [image_path(8, 4, 0.0), text_path(TextForm::Strided, 10, 4, 0.0)].concat();
        let mut names: Vec<String> = parameters(&paths).into_iter().map(|it| it.name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
