//! Writes a path as an ONNX graph: norms folded where something stands before them, dropout gone, embeddings of unit length.

use half::f16;
use prost::Message;

use crate::net::{self, Conv, Layer, Pooling, Querybank};
use dualpath::model::protobuf::{
    ANY, Attribute, FLOAT, FLOAT16, Graph, INT64, Model, Node, OperatorSet, TensorData, ValueInfo,
};

/// The newest operator set in which `ReduceMax` still takes its axes as an attribute.
const OPERATOR_SET: i64 = 17;
const IR_VERSION: i64 = 8;

/// How weights are stored; the arithmetic is float32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// Four bytes a number.
    Full,
    /// Two bytes a number, cast when the graph is loaded.
    Half,
}

/// What a graph takes: its name and one row's shape.
pub enum Input<'a> {
    /// float32
    Pixels(&'a [i64]),
    /// int64
    Tokens(i64),
    /// float32: what other graphs gave out.
    Row(i64),
}

/// The file's bytes. `numbers` gives a parameter's values by name, row by row.
pub fn write(
    path: &[Layer],
    input: Input,
    dimension: i64,
    precision: Precision,
    numbers: impl Fn(&str) -> Vec<f32>,
) -> Vec<u8> {
    let (name, element, row, length) = match input {
        Input::Pixels(shape) => ("pixels", FLOAT, shape.to_vec(), None),
        Input::Tokens(length) => {
            // Where no stride tells positions apart, empty ones need not be computed.
            let slots = if net::ignores_padding(path) { ANY } else { length };
            ("tokens", INT64, vec![slots], Some(length))
        }
        Input::Row(wide) => ("row", FLOAT, vec![wide], None),
    };
    let graph = Graph::default();
    let mut writer = Writer { graph, precision, numbers: &numbers, words: None, length };
    let last = writer.layers(path, name.to_owned());
    // The embedding goes out under its own name.
    writer.node("Identity", &[&last], "embedding", vec![]);
    let mut graph = writer.graph;
    graph.name = "dualpath".to_owned();
    graph.input = vec![ValueInfo::rows(name, element, &row)];
    graph.output = vec![ValueInfo::rows("embedding", FLOAT, &[dimension])];
    let model = Model {
        ir_version: IR_VERSION,
        producer_name: "dualpath train".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPERATOR_SET }],
    };
    model.encode_to_vec()
}

struct Writer<'a> {
    graph: Graph,
    precision: Precision,
    numbers: &'a dyn Fn(&str) -> Vec<f32>,
    /// The value that holds the tokens, once a lookup has read them.
    words: Option<String>,
    /// Slots of a sentence.
    length: Option<i64>,
}

/// A norm as it is folded: y = x * scale + shift, per channel.
struct Fold {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Writer<'_> {
    fn layers(&mut self, path: &[Layer], input: String) -> String {
        let mut x = input;
        let mut rest = path;
        while let Some((layer, after)) = rest.split_first() {
            rest = after;
            let foldable =
                matches!(layer, Layer::Conv(_) | Layer::Linear { .. } | Layer::Lookup { .. });
            let mut fold = None;
            if let (true, Some(Layer::Norm { name, epsilon, .. })) = (foldable, after.first()) {
                fold = Some(self.fold(name, *epsilon));
                rest = &after[1..];
            }
            x = self.layer(layer, x, fold);
        }
        x
    }

    fn layer(&mut self, layer: &Layer, x: String, fold: Option<Fold>) -> String {
        match layer {
            Layer::Conv(conv) => self.conv(conv, &x, fold),
            Layer::Norm { name, channels, epsilon } => {
                let fold = self.fold(name, *epsilon);
                let narrow = |it: &[f64]| it.iter().map(|it| *it as f32).collect::<Vec<_>>();
                let scale =
                    self.constant(&format!("{name}.scale"), &[*channels], &narrow(&fold.scale));
                let shift =
                    self.constant(&format!("{name}.shift"), &[*channels], &narrow(&fold.shift));
                let scaled = self.node("Mul", &[&x, &scale], "", vec![]);
                self.node("Add", &[&scaled, &shift], "", vec![])
            }
            Layer::Relu => self.node("Relu", &[&x], "", vec![]),
            Layer::Relu6 => {
                let (low, high) =
                    (self.constant("zero", &[], &[0.0]), self.constant("six", &[], &[6.0]));
                self.node("Clip", &[&x, &low, &high], "", vec![])
            }
            Layer::Sum { branch, shortcut } => {
                let around = self.layers(shortcut, x.clone());
                let through = self.layers(branch, x);
                self.node("Add", &[&through, &around], "", vec![])
            }
            Layer::Block { layers, .. } => self.layers(layers, x),
            Layer::MaxPool { kernel, stride, pad, ceil } => {
                let attributes = vec![
                    Attribute::ints("kernel_shape", &[*kernel; 2]),
                    Attribute::ints("strides", &[*stride; 2]),
                    Attribute::ints("pads", &[*pad; 4]),
                    Attribute::int("ceil_mode", i64::from(*ceil)),
                ];
                self.node("MaxPool", &[&x], "", attributes)
            }
            Layer::Pool(pooling) => {
                let pooled = self.pool(pooling, &x);
                self.node("Flatten", &[&pooled], "", vec![Attribute::int("axis", 1)])
            }
            Layer::Flatten => self.node("Flatten", &[&x], "", vec![Attribute::int("axis", 1)]),
            Layer::WordMax { halvings } => self.word_max(&x, *halvings),
            Layer::WordMeanMax => self.word_mean_max(&x),
            Layer::Linear { name, input, output, bias } => {
                let bias = bias.then(|| (self.numbers)(&format!("{name}.bias")));
                let (weight, bias) =
                    folded((self.numbers)(&format!("{name}.weight")), bias, *output, fold);
                let weight = self.weight(&format!("{name}.weight"), &[*output, *input], &weight);
                let bias = self.constant(&format!("{name}.bias"), &[*output], &bias);
                self.node("Gemm", &[&x, &weight, &bias], "", vec![Attribute::int("transB", 1)])
            }
            Layer::Lookup { name, words, width, bias } => {
                let mut table = (self.numbers)(&format!("{name}.weight"));
                if *bias {
                    let bias = (self.numbers)(&format!("{name}.bias"));
                    for row in table.chunks_exact_mut(*width as usize) {
                        row.iter_mut().zip(&bias).for_each(|(it, bias)| *it += bias);
                    }
                }
                if let Some(fold) = fold {
                    for row in table.chunks_exact_mut(*width as usize) {
                        for ((it, scale), shift) in row.iter_mut().zip(&fold.scale).zip(&fold.shift)
                        {
                            *it = (f64::from(*it) * scale + shift) as f32;
                        }
                    }
                }
                let table = self.weight(&format!("{name}.weight"), &[*words, *width], &table);
                let rows = self.node("Gather", &[&table, &x], "", vec![]);
                let turned =
                    self.node("Transpose", &[&rows], "", vec![Attribute::ints("perm", &[0, 2, 1])]);
                let axis = self.integers("axis_2", &[2]);
                self.words = Some(x);
                self.node("Unsqueeze", &[&turned, &axis], "", vec![])
            }
            Layer::Shifted { shifts, layers } => self.shifted(*shifts, layers, &x),
            Layer::Dropout { .. } => x,
            Layer::Unit => {
                let norm = self.node(
                    "ReduceL2",
                    &[&x],
                    "",
                    vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 1)],
                );
                let least = self.constant("least_norm", &[], &[1e-12]);
                let norm = self.node("Max", &[&norm, &least], "", vec![]);
                self.node("Div", &[&x, &norm], "", vec![])
            }
            Layer::Querybank(it) => self.querybank(it, &x),
        }
    }

    fn conv(&mut self, conv: &Conv, x: &str, fold: Option<Fold>) -> String {
        let bias = conv.bias.then(|| (self.numbers)(&format!("{}.bias", conv.name)));
        let weight = (self.numbers)(&format!("{}.weight", conv.name));
        let (weight, bias) = folded(weight, bias, conv.output, fold);
        let weight = self.weight(&format!("{}.weight", conv.name), &conv.shape(), &weight);
        let bias = self.constant(&format!("{}.bias", conv.name), &[conv.output], &bias);
        let attributes = vec![
            Attribute::ints("kernel_shape", &conv.kernel),
            Attribute::ints("strides", &conv.stride),
            Attribute::ints("pads", &conv.pads),
            Attribute::int("group", conv.groups),
        ];
        self.node("Conv", &[x, &weight, &bias], "", attributes)
    }

    fn pool(&mut self, pooling: &Pooling, x: &str) -> String {
        match pooling {
            Pooling::Mean => self.node("GlobalAveragePool", &[x], "", vec![]),
            Pooling::Max => self.node("GlobalMaxPool", &[x], "", vec![]),
            Pooling::MeanMax => {
                let mean = self.node("GlobalAveragePool", &[x], "", vec![]);
                let max = self.node("GlobalMaxPool", &[x], "", vec![]);
                self.node("Concat", &[&mean, &max], "", vec![Attribute::int("axis", 1)])
            }
            Pooling::Gem => {
                let power = (self.numbers)("gem.power");
                let least = self.constant("gem.least", &[], &[crate::torch::GEM_LEAST as f32]);
                let inverse = self.constant("gem.inverse", &[1], &[1.0 / power[0]]);
                let power = self.constant("gem.power", &[1], &power);
                let positive = self.node("Max", &[x, &least], "", vec![]);
                let raised = self.node("Pow", &[&positive, &power], "", vec![]);
                let mean = self.node("GlobalAveragePool", &[&raised], "", vec![]);
                self.node("Pow", &[&mean, &inverse], "", vec![])
            }
        }
    }

    /// All placements as one batch (batch * shifts, length), their rows summed where every word
    /// still has its slot.
    fn shifted(&mut self, shifts: i64, layers: &[Layer], tokens: &str) -> String {
        let (Some(length), Some(wide)) = (self.length, net::width(layers)) else {
            panic!("a Shifted stands at the tokens and ends in rows");
        };
        let shifts = shifts.min(length);
        let (first, axis) = (self.integers("slot_0", &[0]), self.integers("axis_1", &[1]));
        let is_word = self.node("Greater", &[tokens, &first], "", vec![]);
        let is_word =
            self.node("Cast", &[&is_word], "", vec![Attribute::int("to", i64::from(FLOAT))]);
        // One empty slot more, so that the first placement, too, has slots that fall off the end.
        let pads = self.integers("left_by_1", &[0, 0, 0, 1]);
        let is_word = self.node("Pad", &[&is_word, &pads], "", vec![]);
        let end = self.integers("slots", &[length + 1]);
        let (mut placements, mut lost) = (Vec::new(), Vec::new());
        for shift in 0..shifts {
            let kept = self.integers(&format!("slot_{}", length - shift), &[length - shift]);
            let words = self.node("Slice", &[tokens, &first, &kept, &axis], "", vec![]);
            let pads = self.integers(&format!("right_by_{shift}"), &[0, shift, 0, 0]);
            placements.push(self.node("Pad", &[&words, &pads], "", vec![]));
            let fallen = self.node("Slice", &[&is_word, &kept, &end, &axis], "", vec![]);
            let attributes = vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 1)];
            lost.push(self.node("ReduceMax", &[&fallen], "", attributes));
        }
        // (batch, shifts * length), read as (batch * shifts, length).
        let [beside, lost] = [placements, lost].map(|it| {
            let inputs: Vec<&str> = it.iter().map(String::as_str).collect();
            self.node("Concat", &inputs, "", vec![Attribute::int("axis", 1)])
        });
        let one = self.constant("one", &[], &[1.0]);
        let weights = self.node("Sub", &[&one, &lost], "", vec![]);
        let shape = self.integers("rows_of_slots", &[-1, length]);
        let rows = self.node("Reshape", &[&beside, &shape], "", vec![]);
        let embedded = self.layers(layers, rows);
        let shape = self.integers("rows_of_placements", &[-1, shifts, wide]);
        let apart = self.node("Reshape", &[&embedded, &shape], "", vec![]);
        let axis_2 = self.integers("axis_2", &[2]);
        let weights = self.node("Unsqueeze", &[&weights, &axis_2], "", vec![]);
        let weighted = self.node("Mul", &[&apart, &weights], "", vec![]);
        self.node("ReduceSum", &[&weighted, &axis], "", vec![Attribute::int("keepdims", 0)])
    }

    fn querybank(&mut self, of: &Querybank, x: &str) -> String {
        let Querybank { name, prototypes, width, sharpness, .. } = of;
        let sharp = *sharpness as f32;
        let weight: Vec<f32> = (self.numbers)(&format!("{name}.weight"));
        let weight: Vec<f32> = weight.into_iter().map(|it| it * sharp).collect();
        let weight = self.weight(&format!("{name}.weight"), &[*prototypes, *width], &weight);
        let bias = (self.numbers)(&format!("{name}.bias"));
        let bias = self.constant(&format!("{name}.bias"), &[*prototypes], &bias);
        let cosines =
            self.node("Gemm", &[x, &weight, &bias], "", vec![Attribute::int("transB", 1)]);
        let attributes = vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 1)];
        let near = self.node("ReduceLogSumExp", &[&cosines], "", attributes);
        let blunt = self.constant("querybank.blunt", &[], &[1.0 / sharp]);
        let near = self.node("Mul", &[&near, &blunt], "", vec![]);
        let most = Querybank::MOST as f32;
        let (low, high) = (
            self.constant("querybank.low", &[], &[-most]),
            self.constant("querybank.high", &[], &[most]),
        );
        let near = self.node("Clip", &[&near, &low, &high], "", vec![]);
        let square = self.node("Mul", &[&near, &near], "", vec![]);
        let share = self.node("Div", &[&square, &high], "", vec![]);
        let missing = self.node("Sub", &[&high, &share], "", vec![]);
        let missing = self.node("Sqrt", &[&missing], "", vec![]);
        let [slope, base, length] = of.rows();
        let row = |writer: &mut Self, part: &str, it: &[f32; 4]| {
            writer.constant(&format!("querybank.{part}"), &[1, 4], it)
        };
        let (slope, base, length) =
            (row(self, "slope", &slope), row(self, "base", &base), row(self, "length", &length));
        let added = self.node("Mul", &[&near, &slope], "", vec![]);
        let added = self.node("Add", &[&added, &base], "", vec![]);
        let missing = self.node("Mul", &[&missing, &length], "", vec![]);
        let added = self.node("Add", &[&added, &missing], "", vec![]);
        let wide = self.node("Concat", &[x, &added], "", vec![Attribute::int("axis", 1)]);
        let long = self.constant("querybank.whole", &[], &[Querybank::length() as f32]);
        self.node("Div", &[&wide, &long], "", vec![])
    }

    /// 1 where a slot has a word, else 0: (batch, length).
    fn is_word(&mut self) -> String {
        let Some(tokens) = self.words.clone() else {
            panic!("words are pooled behind a Lookup");
        };
        let zero = self.integers("no_word", &[0]);
        let is_word = self.node("Greater", &[&tokens, &zero], "", vec![]);
        self.node("Cast", &[&is_word], "", vec![Attribute::int("to", i64::from(FLOAT))])
    }

    fn word_mean_max(&mut self, x: &str) -> String {
        let (flat, axes) = (self.is_word(), self.integers("axes_1_2", &[1, 2]));
        let words = self.node("Unsqueeze", &[&flat, &axes], "", vec![]);
        let over = self.integers("axes_2_3", &[2, 3]);
        let sum = |writer: &mut Self, of: &str| {
            writer.node("ReduceSum", &[of, &over], "", vec![Attribute::int("keepdims", 0)])
        };
        let kept = self.node("Mul", &[x, &words], "", vec![]);
        let (total, count) = (sum(self, &kept), sum(self, &words));
        let one = self.constant("one", &[], &[1.0]);
        let count = self.node("Max", &[&count, &one], "", vec![]);
        let mean = self.node("Div", &[&total, &count], "", vec![]);
        let largest = self.largest(x, &words);
        self.node("Concat", &[&mean, &largest], "", vec![Attribute::int("axis", 1)])
    }

    fn word_max(&mut self, x: &str, halvings: usize) -> String {
        let (flat, axes) = (self.is_word(), self.integers("axes_1_2", &[1, 2]));
        let mut words = self.node("Unsqueeze", &[&flat, &axes], "", vec![]);
        for _ in 0..halvings {
            let attributes = vec![
                Attribute::ints("kernel_shape", &[1, 2]),
                Attribute::ints("strides", &[1, 2]),
                Attribute::ints("pads", &[0, 1, 0, 0]),
            ];
            words = self.node("MaxPool", &[&words], "", attributes);
        }
        self.largest(x, &words)
    }

    /// Over the positions where `words` is 1.
    fn largest(&mut self, x: &str, words: &str) -> String {
        let (one, far) = (self.constant("one", &[], &[1.0]), self.constant("far", &[], &[1e4]));
        let less = self.node("Sub", &[words, &one], "", vec![]);
        let penalty = self.node("Mul", &[&less, &far], "", vec![]);
        let masked = self.node("Add", &[x, &penalty], "", vec![]);
        self.node(
            "ReduceMax",
            &[&masked],
            "",
            vec![Attribute::ints("axes", &[2, 3]), Attribute::int("keepdims", 0)],
        )
    }

    fn fold(&self, name: &str, epsilon: f64) -> Fold {
        let get = |part: &str| (self.numbers)(&format!("{name}.{part}"));
        let (gain, bias) = (get("weight"), get("bias"));
        let (mean, variance) = (get("running_mean"), get("running_var"));
        let scale: Vec<f64> = gain
            .iter()
            .zip(&variance)
            .map(|(gain, variance)| f64::from(*gain) / (f64::from(*variance) + epsilon).sqrt())
            .collect();
        let shift = (0..bias.len())
            .map(|at| f64::from(bias[at]) - f64::from(mean[at]) * scale[at])
            .collect();
        Fold { scale, shift }
    }

    /// Adds a node and returns its output's name, made up where `output` is empty.
    fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<Attribute>,
    ) -> String {
        let name = if output.is_empty() {
            format!("{op}_{}", self.graph.node.len())
        } else {
            output.to_owned()
        };
        self.graph.node.push(Node::new(op, inputs, &name, attribute));
        name
    }

    /// A filter, matrix or table, stored as the precision says.
    fn weight(&mut self, name: &str, shape: &[i64], numbers: &[f32]) -> String {
        if self.precision == Precision::Full {
            return self.constant(name, shape, numbers);
        }
        let bytes = numbers.iter().flat_map(|it| f16::from_f32(*it).to_le_bytes()).collect();
        let stored = self.initializer(&format!("{name}.half"), FLOAT16, shape, bytes);
        self.node("Cast", &[&stored], name, vec![Attribute::int("to", i64::from(FLOAT))])
    }

    fn constant(&mut self, name: &str, shape: &[i64], numbers: &[f32]) -> String {
        let bytes = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        self.initializer(name, FLOAT, shape, bytes)
    }

    fn integers(&mut self, name: &str, numbers: &[i64]) -> String {
        let bytes = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        self.initializer(name, INT64, &[numbers.len() as i64], bytes)
    }

    fn initializer(
        &mut self,
        name: &str,
        data_type: i32,
        dims: &[i64],
        raw_data: Vec<u8>,
    ) -> String {
        if self.graph.initializer.iter().all(|it| it.name != name) {
            let dims = dims.to_vec();
            self.graph.initializer.push(TensorData {
                dims,
                data_type,
                name: name.to_owned(),
                raw_data,
            });
        }
        name.to_owned()
    }
}

/// Weights and bias with the norm behind them multiplied in; rows are output channels.
fn folded(
    mut weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    rows: i64,
    fold: Option<Fold>,
) -> (Vec<f32>, Vec<f32>) {
    let mut bias = bias.unwrap_or_else(|| vec![0.0; rows as usize]);
    if let Some(fold) = fold {
        let row = weight.len() / rows as usize;
        for (at, numbers) in weight.chunks_exact_mut(row).enumerate() {
            numbers.iter_mut().for_each(|it| *it = (f64::from(*it) * fold.scale[at]) as f32);
            bias[at] = (f64::from(bias[at]) * fold.scale[at] + fold.shift[at]) as f32;
        }
    }
    (weight, bias)
}
