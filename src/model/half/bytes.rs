//! An image path that is handed bytes and normalises them itself: a device is sent a quarter of what it computes with.

use prost::Message;

use super::writer::to;
use super::{Result, read};
use crate::image::Preprocess;
use crate::model::protobuf::{Attribute, FLOAT, Graph, Node, TensorData, UINT8, ValueInfo};

/// What `train export` calls the input.
const PIXELS: &str = "pixels";
/// What stands in its place.
const PLANES: &str = "pixels.planes";

/// The file of an image path with uint8 (batch, size, size, 3) for float32 (batch, 3, size, size), normalised.
///
/// # Errors
/// No graph; one that takes something else.
pub fn taking_bytes(file: &[u8], preprocess: &Preprocess) -> Result<Vec<u8>> {
    let (mut model, mut graph) = read(file)?;
    if !matches!(&*graph.input, [it] if it.name == PIXELS) {
        return Err(format!("the graph takes something else than {PIXELS}"));
    }
    for input in graph.node.iter_mut().flat_map(|it| &mut it.input).filter(|it| *it == PIXELS) {
        PLANES.clone_into(input);
    }
    let size = i64::from(preprocess.size);
    graph.input = vec![ValueInfo::rows(PIXELS, UINT8, &[size, size, 3])];
    let nodes = normalising(&mut graph, preprocess);
    graph.node.splice(..0, nodes);
    model.graph = Some(graph);
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
        Node::new("Transpose", &[&rows], PLANES, vec![Attribute::ints("perm", &[0, 3, 1, 2])]),
    ]
}
