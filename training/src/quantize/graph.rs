//! An ONNX graph of ours, rewritten so that its convolutions and matrices are computed in int8.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use half::f16;
use prost::Message;

use super::ranges::{Ranges, Seen};
use super::storage::narrowed;
use dualpath::model::protobuf::{
    Attribute, FLOAT, FLOAT16, Graph, INT8, INT32, INT64, Model, Node, TensorData, TensorType,
    Type, UINT8, ValueInfo,
};

/// Eight bits with a sign, and without.
pub const MOST_WEIGHT: f32 = 127.0;
const MOST_ACTIVATION: f32 = 255.0;
/// Without VNNI, x86 adds the products of two neighbours in 16 bits: their weights may add up to this.
const MOST_PAIR: f32 = 127.0;
/// Thirty bits: room for what is added to a bias.
const MOST_BIAS: f32 = 1_073_741_824.0;
/// Integer convolutions are fast where their channels are a multiple of this.
const CHANNELS: i64 = 4;
/// What is computed in int8.
const INTEGER: [&str; 2] = ["Conv", "Gemm"];

/// A graph that gives out what flows between its convolutions and matrices.
pub struct Watched {
    /// The file's bytes.
    pub graph: Vec<u8>,
    /// Each value, and the output that shows it.
    pub values: Vec<(String, String)>,
}

/// The file's bytes, once `watch` has seen what flows through it.
pub fn quantized(file: &[u8], watch: impl FnOnce(&Watched) -> Result<Ranges>) -> Result<Vec<u8>> {
    let mut model = Model::decode(file)?;
    let Some(graph) = model.graph.take() else { bail!("the file holds no graph") };
    ensure!(
        graph.node.iter().all(|it| it.op_type != "QuantizeLinear"),
        "the graph is quantized already"
    );
    let graph = widened(graph);
    let values = flowing(&graph);
    ensure!(!values.is_empty(), "the graph has no convolution and no matrix");
    let ranges = watch(&giving_out(&model, &graph, values))?;
    model.graph = Some(narrowed(Writer::rewritten(graph, &ranges)?));
    Ok(model.encode_to_vec())
}

/// With float32 in place of weights that are stored in half precision, and no casts of them.
fn widened(mut graph: Graph) -> Graph {
    let weights: BTreeSet<String> = (graph.node.iter())
        .filter(|it| INTEGER.contains(&it.op_type.as_str()))
        .flat_map(|it| it.input[1..].to_vec())
        .collect();
    let (casts, kept): (Vec<Node>, _) = std::mem::take(&mut graph.node)
        .into_iter()
        .partition(|it| it.op_type == "Cast" && weights.contains(&it.output[0]));
    graph.node = kept;
    let stored: BTreeSet<&String> = casts.iter().map(|it| &it.input[0]).collect();
    let (halves, kept): (Vec<TensorData>, _) = std::mem::take(&mut graph.initializer)
        .into_iter()
        .partition(|it| it.data_type == FLOAT16 && stored.contains(&it.name));
    graph.initializer = kept;
    let cast = |it: &Node| {
        let half = halves.iter().find(|half| half.name == it.input[0])?;
        let numbers = half.raw_data.chunks_exact(2).map(|it| f16::from_le_bytes([it[0], it[1]]));
        let raw_data = numbers.flat_map(|it| it.to_f32().to_le_bytes()).collect();
        let name = it.output[0].clone();
        Some(TensorData { dims: half.dims.clone(), data_type: FLOAT, name, raw_data })
    };
    graph.initializer.extend(casts.iter().filter_map(cast));
    graph
}

/// What is to be eight bits wide: what convolutions take and give, the sums of such, and what is multiplied by
/// a matrix. What comes out of that is few and stays float.
fn flowing(graph: &Graph) -> Vec<String> {
    let mut names = BTreeSet::new();
    for node in &graph.node {
        let wide = match node.op_type.as_str() {
            "Conv" => {
                names.insert(node.input[0].clone());
                true
            }
            "Add" => node.input.iter().all(|it| names.contains(it)),
            "Gemm" => {
                names.insert(node.input[0].clone());
                false
            }
            _ => false,
        };
        if wide {
            names.insert(behind(graph, &node.output[0]));
        }
    }
    names.into_iter().collect()
}

/// A value, or what its one reader makes of it by cutting it off.
fn behind(graph: &Graph, value: &str) -> String {
    let mut readers = graph.node.iter().filter(|it| it.input.iter().any(|it| it == value));
    match (readers.next(), readers.next()) {
        (Some(it), None) if matches!(it.op_type.as_str(), "Clip" | "Relu") => it.output[0].clone(),
        _ => value.to_owned(),
    }
}

fn giving_out(model: &Model, graph: &Graph, values: Vec<String>) -> Watched {
    let mut graph = graph.clone();
    graph.output.clear();
    let mut shown = Vec::new();
    for (at, value) in values.into_iter().enumerate() {
        // An input cannot go out under its own name.
        let output = format!("shown.{at}");
        graph.node.push(Node {
            input: vec![value.clone()],
            output: vec![output.clone()],
            name: output.clone(),
            op_type: "Identity".to_owned(),
            attribute: Vec::new(),
        });
        let tensor_type = Some(TensorType { elem_type: FLOAT, shape: None });
        graph.output.push(ValueInfo { name: output.clone(), r#type: Some(Type { tensor_type }) });
        shown.push((value, output));
    }
    let graph = Model { graph: Some(graph), ..model.clone() }.encode_to_vec();
    Watched { graph, values: shown }
}

/// How numbers become whole ones: number = scale * (whole - zero).
struct Steps {
    scale: f32,
    zero: u8,
}

impl Steps {
    fn of(Seen { least, most, .. }: &Seen) -> Result<Steps> {
        ensure!(least.is_finite() && most.is_finite(), "a value is not finite");
        let scale = ((most - least) / MOST_ACTIVATION).max(1e-8);
        Ok(Steps { scale, zero: (-least / scale).round() as u8 })
    }
}

/// The scale of one output channel's weights.
pub fn scale(weights: &[f32], dims: &[i64]) -> f32 {
    let most = weights.iter().fold(1e-8_f32, |most, it| most.max(it.abs())) / MOST_WEIGHT;
    let pair = match dims[..] {
        // One filter a channel is never added up in pairs.
        [_, 1, ..] => 0.0,
        [_, _] | [_, _, 1, 1] => {
            weights.chunks_exact(2).fold(0.0_f32, |most, it| most.max((it[0] + it[1]).abs()))
        }
        // Who is whose neighbour depends on the kernel: the two largest of one sign might be.
        _ => {
            let mut sorted = weights.to_vec();
            sorted.sort_by(f32::total_cmp);
            match sorted[..] {
                [least, next, .., before, most] => (least + next).abs().max((before + most).abs()),
                _ => 2.0 * most * MOST_WEIGHT,
            }
        }
    };
    most.max(pair / MOST_PAIR)
}

struct Writer {
    graph: Graph,
    /// Values that went through eight bits.
    narrow: BTreeMap<String, Taken>,
}

/// A value once it went through eight bits.
#[derive(Clone)]
struct Taken {
    /// What it is called then.
    name: String,
    scale: f32,
    /// Channels of zeros that it got.
    missing: i64,
}

impl Writer {
    fn rewritten(mut graph: Graph, ranges: &Ranges) -> Result<Graph> {
        let nodes = std::mem::take(&mut graph.node);
        let inputs: Vec<String> = graph.input.iter().map(|it| it.name.clone()).collect();
        let mut writer = Writer { graph, narrow: BTreeMap::new() };
        for input in &inputs {
            let missing = writer.missing(input, &nodes);
            writer.narrow(input, ranges, missing)?;
        }
        for mut node in nodes {
            if INTEGER.contains(&node.op_type.as_str()) {
                let taken = &node.input[0];
                let seen = ranges.get(taken).zip(writer.narrow.get(taken).cloned());
                let Some((seen, taken)) = seen else {
                    bail!("{taken}, which {} takes, was not watched", node.name);
                };
                let (weight, bias) = writer.weights(&node, &taken, &seen.means)?;
                node.input.splice(1.., [weight, bias]);
            }
            for input in &mut node.input {
                if let Some(narrow) = writer.narrow.get(input) {
                    input.clone_from(&narrow.name);
                }
            }
            let outputs = node.output.clone();
            writer.graph.node.push(node);
            for output in &outputs {
                writer.narrow(output, ranges, 0)?;
            }
        }
        let used: BTreeSet<&String> = writer.graph.node.iter().flat_map(|it| &it.input).collect();
        let (kept, _): (Vec<TensorData>, _) =
            writer.graph.initializer.iter().cloned().partition(|it| used.contains(&it.name));
        Ok(Graph { initializer: kept, ..writer.graph })
    }

    /// How many channels of zeros an input's one reader, a convolution, would take with it to be fast.
    fn missing(&self, input: &str, nodes: &[Node]) -> i64 {
        let mut readers = nodes.iter().filter(|it| it.input.iter().any(|it| it == input));
        match (readers.next(), readers.next()) {
            (Some(it), None) if it.op_type == "Conv" => {
                let filters = self.graph.initializer.iter().find(|has| has.name == it.input[1]);
                // Of one input a filter it is another operation.
                match filters.map(|it| &it.dims[..]) {
                    Some([_, channels, ..]) if *channels != 1 => {
                        (CHANNELS - channels % CHANNELS) % CHANNELS
                    }
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    /// Sends a value through eight bits, if it was watched, with `missing` more channels of zeros.
    fn narrow(&mut self, value: &str, ranges: &Ranges, missing: i64) -> Result<()> {
        let Some(range) = ranges.get(value) else { return Ok(()) };
        let steps = Steps::of(range)?;
        let scale = self.numbers(&format!("{value}.scale"), &[], &[steps.scale]);
        let zero = self.tensor(&format!("{value}.zero"), UINT8, &[], vec![steps.zero]);
        let mut whole = self.node("QuantizeLinear", &[value, &scale, &zero], None);
        if missing != 0 {
            // Of (batch, channels, height, width): none before, so many channels after.
            let beside = [0, 0, 0, 0, 0, missing, 0, 0];
            let beside = beside.iter().flat_map(|it: &i64| it.to_le_bytes()).collect();
            let beside = self.tensor(&format!("{value}.beside"), INT64, &[8], beside);
            whole = self.node("Pad", &[&whole, &beside, &zero], None);
        }
        let read = self.node("DequantizeLinear", &[&whole, &scale, &zero], None);
        self.narrow.insert(value.to_owned(), Taken { name: read, scale: steps.scale, missing });
        Ok(())
    }

    /// The weights and biases of a convolution or a matrix as whole numbers, a scale per output channel. What
    /// rounding adds on average goes off the bias.
    fn weights(&mut self, node: &Node, taken: &Taken, means: &[f64]) -> Result<(String, String)> {
        let [_, weight, bias] = &node.input[..] else { bail!("{} has no bias", node.name) };
        let (mut dims, numbers) = self.stored(weight)?;
        let (_, biases) = self.stored(bias)?;
        let (channels, row) = (biases.len(), numbers.len() / biases.len());
        let kernel = dims[2..].iter().product::<i64>() as usize;
        let (mut whole, mut scales) = (Vec::with_capacity(numbers.len()), Vec::new());
        let (mut steps, mut offsets) = (Vec::new(), Vec::new());
        for (at, (weights, bias)) in numbers.chunks_exact(row).zip(&biases).enumerate() {
            // A filter of zeros leaves the bias alone, which must fit all the same.
            let scale = scale(weights, &dims).max(bias.abs() / (taken.scale * MOST_BIAS));
            let mut added = 0.0;
            for (slot, weight) in weights.iter().enumerate() {
                let rounded = (weight / scale).round();
                whole.push(rounded as i8 as u8);
                // Of one input a filter it is the channel's own.
                let input = if dims[1] == 1 { at } else { slot / kernel };
                let mean = means.get(input).copied().unwrap_or_default();
                added += f64::from(rounded * scale - weight) * mean;
            }
            whole.resize(whole.len() + taken.missing as usize * kernel, 0);
            let step = scale * taken.scale;
            let bias = (f64::from(*bias) - added) / f64::from(step);
            offsets.extend((bias.round() as i32).to_le_bytes());
            scales.push(scale);
            steps.push(step);
        }
        dims[1] += taken.missing;
        // By the node's name: others may share a constant, but not what it becomes.
        let [weight, bias] = ["weight", "bias"].map(|it| format!("{}.{it}", node.name));
        let weight = self.along_channels(&weight, INT8, &dims, whole, &scales, vec![0; channels]);
        let zeros = vec![0; 4 * channels];
        let bias = self.along_channels(&bias, INT32, &[channels as i64], offsets, &steps, zeros);
        Ok((weight, bias))
    }

    fn along_channels(
        &mut self,
        name: &str,
        kind: i32,
        dims: &[i64],
        whole: Vec<u8>,
        scales: &[f32],
        zeros: Vec<u8>,
    ) -> String {
        let channels = [scales.len() as i64];
        let whole = self.tensor(&format!("{name}.whole"), kind, dims, whole);
        let scale = self.numbers(&format!("{name}.scale"), &channels, scales);
        let zero = self.tensor(&format!("{name}.zero"), kind, &channels, zeros);
        self.node("DequantizeLinear", &[&whole, &scale, &zero], Some(0))
    }

    /// A float32 constant's shape and numbers.
    fn stored(&self, name: &str) -> Result<(Vec<i64>, Vec<f32>)> {
        let Some(it) = self.graph.initializer.iter().find(|it| it.name == name) else {
            bail!("{name} is no constant");
        };
        ensure!(it.data_type == FLOAT, "{name} is not float32");
        let numbers = it.raw_data.chunks_exact(4);
        let numbers = numbers.map(|it| f32::from_le_bytes([it[0], it[1], it[2], it[3]])).collect();
        Ok((it.dims.clone(), numbers))
    }

    fn numbers(&mut self, name: &str, dims: &[i64], numbers: &[f32]) -> String {
        let bytes = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        self.tensor(name, FLOAT, dims, bytes)
    }

    fn tensor(&mut self, name: &str, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> String {
        let (name, dims) = (name.to_owned(), dims.to_vec());
        self.graph.initializer.push(TensorData { dims, data_type, name: name.clone(), raw_data });
        name
    }

    fn node(&mut self, op: &str, inputs: &[&str], axis: Option<i64>) -> String {
        let name = format!("{op}_of_{}", inputs[0]);
        let attribute = axis.map(|it| Attribute::int("axis", it)).into_iter().collect();
        self.graph.node.push(Node::new(op, inputs, &name, attribute));
        name
    }
}
