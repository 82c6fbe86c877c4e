//! Tables that stay float in the arithmetic, stored in eight bits: a scale per row, by which ONNX Runtime
//! multiplies them once, when it loads the graph.

use std::collections::BTreeSet;

use half::f16;

use super::graph::MOST_WEIGHT;
use dualpath::model::protobuf::{Attribute, FLOAT, FLOAT16, Graph, INT8, Node, TensorData};

/// The graph with what it looks up in stored as int8.
pub fn narrowed(mut graph: Graph) -> Graph {
    let tables: BTreeSet<String> = (graph.node.iter())
        .filter(|it| it.op_type == "Gather")
        .filter_map(|it| it.input.first())
        .cloned()
        .collect();
    let mut added = Vec::new();
    for name in tables {
        // What is stored in half precision goes through a cast to the name that it is read by.
        let cast = graph.node.iter().position(|it| it.op_type == "Cast" && it.output[0] == name);
        let stored = cast.map_or(&name, |at| &graph.node[at].input[0]);
        let Some(at) = graph.initializer.iter().position(|it| it.name == *stored) else { continue };
        let Some((rows, numbers)) = matrix(&graph.initializer[at]) else { continue };
        let dims = graph.initializer.remove(at).dims;
        if let Some(at) = cast {
            graph.node.remove(at);
        }
        let (mut whole, mut scales) = (Vec::with_capacity(numbers.len()), Vec::new());
        for row in numbers.chunks_exact(numbers.len() / rows) {
            let scale = row.iter().fold(1e-8_f32, |most, it| most.max(it.abs())) / MOST_WEIGHT;
            whole.extend(row.iter().map(|it| (it / scale).round() as i8 as u8));
            scales.extend(scale.to_le_bytes());
        }
        let [stored, float, scale] = ["whole", "float", "scale"].map(|it| format!("{name}.{it}"));
        let tensor = |name: &str, data_type, dims, raw_data| TensorData {
            dims,
            data_type,
            name: name.to_owned(),
            raw_data,
        };
        graph.initializer.push(tensor(&stored, INT8, dims, whole));
        graph.initializer.push(tensor(&scale, FLOAT, vec![rows as i64, 1], scales));
        let to = Attribute::int("to", i64::from(FLOAT));
        added.push(Node::new("Cast", &[&stored], &float, vec![to]));
        added.push(Node::new("Mul", &[&float, &scale], &name, Vec::new()));
    }
    graph.node.splice(..0, added);
    graph
}

/// Rows and numbers of a float matrix.
fn matrix(stored: &TensorData) -> Option<(usize, Vec<f32>)> {
    let bytes = &stored.raw_data;
    let numbers: Vec<f32> = match stored.data_type {
        FLOAT => bytes.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect(),
        FLOAT16 => bytes.as_chunks().0.iter().map(|it| f16::from_le_bytes(*it).to_f32()).collect(),
        _ => return None,
    };
    match stored.dims[..] {
        [rows, wide] if 0 < rows && 0 < wide => Some((rows as usize, numbers)),
        _ => None,
    }
}
