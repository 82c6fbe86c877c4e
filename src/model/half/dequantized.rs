//! A graph of `train quantize` with the numbers that its whole ones stand for, computed in float32.

use std::collections::{BTreeMap, BTreeSet};

use super::Result;
use crate::model::protobuf::{FLOAT, Graph, INT8, INT32, Node, TensorData, UINT8};

/// Whether anything in it is eight bits wide on its way.
pub fn is_quantized(graph: &Graph) -> bool {
    graph.node.iter().any(|it| it.op_type == "DequantizeLinear")
}

/// Whole weights become the floats that they stand for, and what flows is rounded to none: it differs from what the
/// quantized graph says by what that rounds.
pub fn dequantized(mut graph: Graph) -> Result<Graph> {
    let stored: BTreeMap<String, TensorData> = std::mem::take(&mut graph.initializer)
        .into_iter()
        .map(|it| (it.name.clone(), it))
        .collect();
    // What goes through eight bits is called as it was before.
    let mut before: BTreeMap<String, String> = BTreeMap::new();
    let (mut floats, mut nodes): (BTreeMap<String, TensorData>, Vec<Node>) = Default::default();
    for mut node in std::mem::take(&mut graph.node) {
        let output = node.output.first().cloned().unwrap_or_default();
        let is_there = node.input.first().is_some_and(|it| stored.contains_key(it));
        match (node.op_type.as_str(), is_there) {
            ("DequantizeLinear", true) => {
                floats.insert(output.clone(), meant(&node, &stored, output)?);
            }
            ("QuantizeLinear" | "DequantizeLinear", _) => {
                let input = node.input.into_iter().next().unwrap_or_default();
                before.insert(output, before.get(&input).cloned().unwrap_or(input));
            }
            (op, _) => {
                let is_padded = op == "Pad" && before.contains_key(&node.input[0]);
                for input in &mut node.input {
                    if let Some(name) = before.get(input) {
                        input.clone_from(name);
                    }
                }
                if is_padded && let Some(filling) = node.input.get_mut(2) {
                    // It was filled with what stands for none.
                    let zero = format!("{filling}.float");
                    let (name, raw_data) = (zero.clone(), vec![0; 4]);
                    let number = TensorData { dims: vec![], data_type: FLOAT, name, raw_data };
                    floats.insert(zero.clone(), number);
                    *filling = zero;
                }
                nodes.push(node);
            }
        }
    }
    let used: BTreeSet<&String> = nodes.iter().flat_map(|it| &it.input).collect();
    let all = stored.into_values().chain(floats.into_values());
    graph.initializer = all.filter(|it| used.contains(&it.name)).collect();
    graph.node = nodes;
    Ok(graph)
}

/// scale * (whole - zero), with a scale for each index of the first axis or one for all.
fn meant(node: &Node, stored: &BTreeMap<String, TensorData>, name: String) -> Result<TensorData> {
    let given = |at: usize| {
        let input = node.input.get(at).ok_or_else(|| format!("{} takes too little", node.name))?;
        stored.get(input).ok_or_else(|| format!("{input} is no constant"))
    };
    let (whole, scales, zeros) = (given(0)?, given(1)?, given(2)?);
    let (numbers, zeros) = (integers(whole)?, integers(zeros)?);
    let scales: Vec<f32> =
        scales.raw_data.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect();
    let axis = node.attribute.iter().find(|it| it.name == "axis").and_then(|it| it.i).unwrap_or(0);
    let fits = scales.len() == zeros.len()
        && !scales.is_empty()
        && numbers.len().is_multiple_of(scales.len())
        && (scales.len() == 1 || axis == 0 && whole.dims.first() == Some(&(scales.len() as i64)));
    if !fits {
        return Err(format!("{} has another shape than its scales", whole.name));
    }
    let row = (numbers.len() / scales.len()).max(1);
    let each = numbers.chunks(row).zip(scales.into_iter().zip(zeros));
    let raw_data = each
        .flat_map(|(row, (scale, zero))| {
            // A bias has more digits than a float.
            row.iter().map(move |it| (f64::from(scale) * (it - zero) as f64) as f32)
        })
        .flat_map(f32::to_le_bytes)
        .collect();
    Ok(TensorData { dims: whole.dims.clone(), data_type: FLOAT, name, raw_data })
}

fn integers(stored: &TensorData) -> Result<Vec<i64>> {
    let bytes = &stored.raw_data;
    match stored.data_type {
        UINT8 => Ok(bytes.iter().map(|it| i64::from(*it)).collect()),
        INT8 => Ok(bytes.iter().map(|it| i64::from(*it as i8)).collect()),
        INT32 => {
            Ok(bytes.as_chunks().0.iter().map(|it| i64::from(i32::from_le_bytes(*it))).collect())
        }
        other => Err(format!("{} is of data type {other}, not of eight bits", stored.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::protobuf::Attribute;

    fn tensor(name: &str, data_type: i32, dims: &[i64], raw_data: Vec<u8>) -> TensorData {
        TensorData { dims: dims.to_vec(), data_type, name: name.to_owned(), raw_data }
    }

    /// Two filters, which a Conv takes with what came through eight bits and a Pad.
    fn graph(scales: &[f32]) -> Graph {
        let scales = scales.iter().flat_map(|it| it.to_le_bytes()).collect();
        let (whole, zero) = ([2_i8, -4, 6, 8].map(|it| it as u8), vec![3]);
        Graph {
            node: vec![
                Node::new("QuantizeLinear", &["x", "x.scale", "x.zero"], "x.whole", vec![]),
                Node::new("Pad", &["x.whole", "beside", "x.zero"], "padded", vec![]),
                Node::new("DequantizeLinear", &["padded", "x.scale", "x.zero"], "y", vec![]),
                Node::new(
                    "DequantizeLinear",
                    &["w.whole", "w.scale", "w.zero"],
                    "w",
                    vec![Attribute::int("axis", 0)],
                ),
                Node::new("Conv", &["y", "w"], "out", vec![]),
            ],
            initializer: vec![
                tensor("x.scale", FLOAT, &[], 0.5_f32.to_le_bytes().to_vec()),
                tensor("x.zero", UINT8, &[], zero),
                tensor("beside", 7, &[8], vec![0; 64]),
                tensor("w.whole", INT8, &[2, 2], whole.to_vec()),
                tensor("w.scale", FLOAT, &[2], scales),
                tensor("w.zero", INT8, &[2], vec![0, 1]),
            ],
            ..Graph::default()
        }
    }

    #[test]
    fn whole_numbers_become_what_they_stand_for() {
        let graph = graph(&[0.5, 2.0]);
        assert!(is_quantized(&graph));
        let floats = dequantized(graph).unwrap();
        assert!(!is_quantized(&floats));
        let nodes: Vec<(&str, Vec<&str>)> = (floats.node.iter())
            .map(|it| (it.op_type.as_str(), it.input.iter().map(String::as_str).collect()))
            .collect();
        let pad = ("Pad", vec!["x", "beside", "x.zero.float"]);
        assert_eq!(nodes, [pad, ("Conv", vec!["padded", "w"])]);
        let of = |name: &str| floats.initializer.iter().find(|it| it.name == name).unwrap();
        let numbers = |name| -> Vec<f32> {
            of(name).raw_data.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
        };
        assert_eq!(numbers("w"), [1.0, -2.0, 10.0, 14.0]);
        assert_eq!((numbers("x.zero.float"), of("w").dims.clone()), (vec![0.0], vec![2, 2]));
        assert_eq!(floats.initializer.len(), 3);
        let again = dequantized(floats.clone()).unwrap();
        assert_eq!(again.node, floats.node);
    }

    #[test]
    fn other_scales_than_filters_are_refused() {
        for scales in [&[][..], &[1.0], &[1.0; 3]] {
            let refused = dequantized(graph(scales)).unwrap_err();
            assert!(refused.contains("w.whole has another shape"), "{refused}");
        }
        let mut cut = graph(&[0.5, 2.0]);
        cut.initializer.retain(|it| it.name != "w.zero");
        assert!(dequantized(cut).unwrap_err().contains("w.zero is no constant"));
    }
}
