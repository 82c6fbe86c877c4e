//! Image paths: an ImageNet backbone and the paper's head.
//!
//! Tensors carry torchvision's names, so that its weights load as they are; MobileNetV2's are
//! numbered in the network's order, with the norms folded in.

use serde::Deserialize;

use super::{Conv, Layer, PRETRAINED_EPSILON, Pooling, block, conv, linear, norm};

/// What stands before the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Backbone {
    /// MobileNetV2 1.0 (Sandler et al. 2018), norms folded, TensorFlow's padding: 1,280 channels.
    #[serde(rename = "mobilenet-v2")]
    MobileNetV2,
    /// ResNet-18 (He et al. 2016): 512 channels.
    #[serde(rename = "resnet-18")]
    ResNet18,
    /// ResNet-50: 2,048 channels; the paper's.
    #[serde(rename = "resnet-50")]
    ResNet50,
    /// ResNet-152: 2,048 channels; the paper's for Flickr30k.
    #[serde(rename = "resnet-152")]
    ResNet152,
    /// VGG-19 (Simonyan and Zisserman 2015) up to fc7: 4,096 numbers; the paper's. 224 pixels a side.
    #[serde(rename = "vgg-19")]
    Vgg19,
}

/// Where a ResNet's stage halves its maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stride {
    /// On the first 1x1, and no padding before the first pooling: the original's weights.
    First,
    /// On the 3x3: torchvision's weights.
    #[default]
    Middle,
}

/// What the head does with the backbone's map.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// From positions to one row.
    pub pooling: Pooling,
    /// Width of the first layer.
    pub hidden: i64,
    /// Numbers in an embedding.
    pub dimension: i64,
    /// Share dropped before the second layer while training.
    pub dropout: f64,
}

impl Backbone {
    /// Subtracted from each channel of red, green, blue in [0, 1], and what divides it then.
    pub fn scaling(self) -> ([f32; 3], [f32; 3]) {
        match self {
            Backbone::MobileNetV2 => ([0.5; 3], [0.5; 3]),
            _ => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        }
    }

    fn channels(self) -> i64 {
        match self {
            Backbone::MobileNetV2 => 1280,
            Backbone::ResNet18 => 512,
            Backbone::ResNet50 | Backbone::ResNet152 => 2048,
            Backbone::Vgg19 => 4096,
        }
    }
}

/// The whole image path, pixels (batch, 3, size, size) to unit embeddings (batch, dimension).
pub fn path(backbone: Backbone, stride: Stride, head: &Head) -> Vec<Layer> {
    let mut path = match backbone {
        Backbone::MobileNetV2 => mobilenet_v2(),
        Backbone::ResNet18 => resnet([2, 2, 2, 2], false, stride),
        Backbone::ResNet50 => resnet([3, 4, 6, 3], true, stride),
        Backbone::ResNet152 => resnet([3, 8, 36, 3], true, stride),
        Backbone::Vgg19 => vgg_19(),
    };
    let mut wide = backbone.channels();
    let mut layers = Vec::new();
    if backbone != Backbone::Vgg19 {
        path.push(block("pool", vec![Layer::Pool(head.pooling.clone())]));
        if head.pooling == Pooling::MeanMax {
            // Largest values are an order above means: one scale for both.
            wide *= 2;
            layers.push(norm("pool_bn", wide));
        }
    }
    // The paper's head (section 1.1): FC, BN, ReLU, FC, BN.
    layers.extend([linear("fc1", wide, head.hidden), norm("fc1_bn", head.hidden), Layer::Relu]);
    layers.extend([
        Layer::Dropout { rate: head.dropout },
        linear("fc2", head.hidden, head.dimension),
        norm("fc2_bn", head.dimension), // (B, dimension)
        Layer::Unit,
    ]);
    path.push(block("head", layers));
    path
}

fn mobilenet_v2() -> Vec<Layer> {
    vec![
        block(
            "stem",
            vec![
                halving(conv("conv00", 3, 32, 3)), // (B, 32, 112, 112)
                Layer::Relu6,
                depthwise(conv("conv01", 32, 32, 3)).layer(),
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
    ]
}

fn inverted_residual(index: usize, input: i64, output: i64, stride: i64) -> Layer {
    let wide = 6 * input;
    let name = |at: usize| format!("conv{:02}", 3 * index + at);
    let middle = depthwise(conv(&name(1), wide, wide, 3));
    let branch = vec![
        conv(&name(0), input, wide, 1).layer(),
        Layer::Relu6,
        if stride == 2 { halving(middle) } else { middle.layer() },
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

fn depthwise(mut conv: Conv) -> Conv {
    conv.groups = conv.input;
    conv
}

/// TensorFlow's SAME for an even size: the extra row and column at the bottom and the right.
fn halving(mut conv: Conv) -> Layer {
    conv.stride = [2; 2];
    conv.pads = [0, 0, 1, 1];
    conv.layer()
}

fn resnet(depths: [usize; 4], bottleneck: bool, stride: Stride) -> Vec<Layer> {
    let pad = match stride {
        Stride::First => 0,
        Stride::Middle => 1,
    };
    let mut stem = convolved("conv1", "bn1", 3, 64, 7, 2); // (B, 64, 112, 112)
    stem.push(Layer::Relu);
    stem.push(Layer::MaxPool { kernel: 3, stride: 2, pad, ceil: stride == Stride::First });
    let mut path = vec![block("conv1", stem)]; // (B, 64, 56, 56)
    let mut input = 64;
    for (stage, depth) in depths.into_iter().enumerate() {
        let middle = 64 << stage;
        let output = if bottleneck { 4 * middle } else { middle };
        let mut layers = Vec::new();
        for unit in 0..depth {
            let name = format!("layer{}.{unit}", stage + 1);
            let step = if unit == 0 && 0 < stage { 2 } else { 1 };
            let (first, second) = match stride {
                Stride::First => (step, 1),
                Stride::Middle => (1, step),
            };
            let part = |at: usize, input, output, kernel, stride| {
                let (conv, norm) = (format!("{name}.conv{at}"), format!("{name}.bn{at}"));
                convolved(&conv, &norm, input, output, kernel, stride)
            };
            let mut branch = if bottleneck {
                let mut branch = part(1, input, middle, 1, first);
                branch.push(Layer::Relu);
                branch.extend(part(2, middle, middle, 3, second));
                branch
            } else {
                part(1, input, middle, 3, step)
            };
            branch.push(Layer::Relu);
            branch.extend(match bottleneck {
                true => part(3, middle, output, 1, 1),
                false => part(2, middle, output, 3, 1),
            });
            let shortcut = if input == output && step == 1 {
                vec![]
            } else {
                let (conv, norm) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
                convolved(&conv, &norm, input, output, 1, step)
            };
            layers.extend([Layer::Sum { branch, shortcut }, Layer::Relu]);
            input = output;
        }
        path.push(block(&format!("layer{}", stage + 1), layers));
    }
    path // (B, 2048, 7, 7), 512 channels for two 3x3 a unit
}

fn convolved(
    name: &str,
    norm: &str,
    input: i64,
    output: i64,
    kernel: i64,
    stride: i64,
) -> Vec<Layer> {
    let mut conv = conv(name, input, output, kernel);
    conv.stride = [stride; 2];
    conv.bias = false;
    let norm = Layer::Norm { name: norm.to_owned(), channels: output, epsilon: PRETRAINED_EPSILON };
    vec![conv.layer(), norm]
}

fn vgg_19() -> Vec<Layer> {
    let mut path = Vec::new();
    let (mut input, mut index) = (3, 0);
    for (stage, (depth, output)) in
        [(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)].into_iter().enumerate()
    {
        let mut layers = Vec::new();
        for _ in 0..depth {
            layers.push(conv(&format!("features.{index}"), input, output, 3).layer());
            layers.push(Layer::Relu);
            index += 2;
            input = output;
        }
        layers.push(Layer::MaxPool { kernel: 2, stride: 2, pad: 0, ceil: false });
        index += 1;
        path.push(block(&format!("stage{}", stage + 1), layers));
    }
    let full = |name: &str, input, output| Layer::Linear {
        name: name.to_owned(),
        input,
        output,
        bias: true,
    };
    // (B, 512, 7, 7) to fc7, whose ReLU the paper drops (section 1.1).
    let layers = vec![
        Layer::Flatten,
        full("classifier.0", 512 * 7 * 7, 4096),
        Layer::Relu,
        Layer::Dropout { rate: 0.5 },
        full("classifier.3", 4096, 4096),
    ];
    path.push(block("fc7", layers));
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{blocks, parameters, position, size};

    fn backbone(backbone: Backbone) -> Vec<Layer> {
        let head = Head { pooling: Pooling::Mean, hidden: 2048, dimension: 2048, dropout: 0.0 };
        let mut path = path(backbone, Stride::Middle, &head);
        path.truncate(position(&path, "head").unwrap());
        path
    }

    /// Published sizes less ImageNet's classifier: torchvision's model table, and Sandler et al., table 4.
    #[test]
    fn backbones_have_their_published_sizes() {
        let mobilenet = backbone(Backbone::MobileNetV2);
        // 3,487,816 with the classifier; torchvision's 3,504,872 keeps its norms apart.
        assert_eq!(size(&mobilenet) + 1_281_000, 3_487_816);
        assert_eq!(blocks(&mobilenet)[0], "stem");
        assert_eq!(size(&backbone(Backbone::ResNet18)) + 513_000, 11_689_512);
        assert_eq!(size(&backbone(Backbone::ResNet50)) + 2_049_000, 25_557_032);
        assert_eq!(size(&backbone(Backbone::ResNet152)) + 2_049_000, 60_192_808);
        assert_eq!(size(&backbone(Backbone::Vgg19)) + 4_097_000, 143_667_240);
    }

    #[test]
    fn names_are_torchvisions() {
        let names: Vec<String> =
            parameters(&backbone(Backbone::ResNet50)).into_iter().map(|it| it.name).collect();
        // 320 less the 53 counters of batches, less the classifier's two.
        assert_eq!(names.len(), 265);
        for name in [
            "conv1.weight",
            "bn1.running_var",
            "layer3.5.conv2.weight",
            "layer4.0.downsample.1.bias",
        ] {
            assert!(names.iter().any(|it| it == name), "{name}");
        }
    }

    #[test]
    fn names_are_unique() {
        for backbone in
            [Backbone::MobileNetV2, Backbone::ResNet18, Backbone::ResNet50, Backbone::Vgg19]
        {
            let head = Head { pooling: Pooling::MeanMax, hidden: 8, dimension: 4, dropout: 0.0 };
            let all = parameters(&path(backbone, Stride::Middle, &head));
            let names: std::collections::BTreeSet<&String> =
                all.iter().map(|it| &it.name).collect();
            assert_eq!(names.len(), all.len(), "{backbone:?}");
        }
    }

    /// Section 1.1: 8.40 million.
    #[test]
    fn the_papers_head_has_its_size() {
        let head = Head { pooling: Pooling::Mean, hidden: 2048, dimension: 2048, dropout: 0.0 };
        let whole = path(Backbone::ResNet50, Stride::First, &head);
        assert_eq!(size(&whole) - size(&backbone(Backbone::ResNet50)), 8_396_800);
    }
}
