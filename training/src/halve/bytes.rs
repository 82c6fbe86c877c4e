//! An image path that is handed bytes and normalises them itself: a device is sent a quarter of what it computes with.

use anyhow::{Context, Result, ensure};
use dualpath::image::Preprocess;
use prost::Message;

use super::graph::to;
use crate::onnx::{ints, value};
use crate::protobuf::{FLOAT, Graph, Model, Node, TensorData, UINT8};

/// What `train export` calls the input.
const PIXELS: &str = "pixels";
/// What stands in its place.
const PLANES: &str = "pixels.planes";

/// The file with uint8 (batch, size, size, 3) for float32 (batch, 3, size, size), normalised.
pub fn taking_bytes(file: &[u8], preprocess: &Preprocess) -> Result<Vec<u8>> {
    let mut model = Model::decode(file)?;
    let graph = model.graph.as_mut().context("the file holds no graph")?;
    ensure!(
        matches!(&*graph.input, [it] if it.name == PIXELS),
        "the graph takes something else than {PIXELS}"
    );
    for input in graph.node.iter_mut().flat_map(|it| &mut it.input).filter(|it| *it == PIXELS) {
        PLANES.clone_into(input);
    }
    let size = i64::from(preprocess.size);
    graph.input = vec![value(PIXELS, UINT8, &[size, size, 3])];
    let nodes = normalising(graph, preprocess);
    graph.node.splice(..0, nodes);
    Ok(model.encode_to_vec())
}

/// In float32, as the extension does it: bytes less their mean would not be exact in float16.
fn normalising(graph: &mut Graph, preprocess: &Preprocess) -> [Node; 4] {
    let mut row = |name: &str, numbers: [f32; 3]| {
        let name = format!("{PIXELS}.{name}");
        let raw_data = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        graph.initializer.push(TensorData {
            dims: vec![3],
            data_type: FLOAT,
            name: name.clone(),
            raw_data,
        });
        name
    };
    let mean = row("mean", preprocess.mean.map(|it| 255.0 * it));
    let scale = row("scale", preprocess.std.map(|it| 1.0 / (255.0 * it)));
    let [floats, centred, rows] = ["floats", "centred", "rows"].map(|it| format!("{PIXELS}.{it}"));
    [
        Node::new("Cast", &[PIXELS], &floats, vec![to(FLOAT)]),
        Node::new("Sub", &[&floats, &mean], &centred, Vec::new()),
        Node::new("Mul", &[&centred, &scale], &rows, Vec::new()),
        Node::new("Transpose", &[&rows], PLANES, vec![ints("perm", &[0, 3, 1, 2])]),
    ]
}
