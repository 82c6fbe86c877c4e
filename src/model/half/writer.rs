//! Float16 in place of float32, but for the lengths and what follows them.

use std::collections::{BTreeMap, BTreeSet};

use half::f16;

use super::Result;
use crate::model::protobuf::{Attribute, FLOAT, FLOAT16, Graph, Node, TensorData};

/// Sums of squares and powers soon leave float16's range: they stay float32, and all that follows them,
/// which is of a row's length only.
const WIDE: [&str; 2] = ["ReduceL2", "Pow"];

/// What a value of floats is called in each width, where it is there.
#[derive(Clone, Default)]
struct Floats {
    half: Option<String>,
    full: Option<String>,
    /// It follows what is wide.
    is_late: bool,
}

/// The graph, computed in float16.
pub fn in_float16(mut graph: Graph) -> Result<Graph> {
    let nodes = std::mem::take(&mut graph.node);
    let mut writer = Writer { graph, floats: BTreeMap::new() };
    writer.declare();
    for node in nodes {
        writer.node(node)?;
    }
    writer.widen_outputs();
    let mut graph = writer.graph;
    let used: BTreeSet<&String> = graph.node.iter().flat_map(|it| &it.input).collect();
    graph.initializer.retain(|it| used.contains(&it.name));
    Ok(graph)
}

struct Writer {
    graph: Graph,
    /// By their name in the graph that is read; what is not here is no float.
    floats: BTreeMap<String, Floats>,
}

impl Writer {
    /// Notes what is float from the start.
    fn declare(&mut self) {
        let inputs = self.graph.input.iter().filter_map(|it| {
            let tensor = it.r#type.as_ref()?.tensor_type.as_ref()?;
            Some((&it.name, tensor.elem_type))
        });
        let constants = self.graph.initializer.iter().map(|it| (&it.name, it.data_type));
        for (name, element) in inputs.chain(constants) {
            let (half, full) = match element {
                FLOAT16 => (Some(name.clone()), None),
                FLOAT => (None, Some(name.clone())),
                _ => continue,
            };
            self.floats.insert(name.clone(), Floats { half, full, is_late: false });
        }
    }

    fn node(&mut self, mut node: Node) -> Result<()> {
        let target = (node.op_type == "Cast").then(|| target(&node)).flatten();
        let to_float = target.is_some_and(|it| it == i64::from(FLOAT) || it == i64::from(FLOAT16));
        if to_float && let Some(source) = self.floats.get(&node.input[0]).cloned() {
            // From one width to another: that is done where it is needed.
            self.floats.insert(node.output[0].clone(), source);
            return Ok(());
        }
        let late = |it: &String| self.floats.get(it).is_some_and(|it| it.is_late);
        let is_late = WIDE.contains(&node.op_type.as_str()) || node.input.iter().any(late);
        let gives_floats = match target {
            Some(_) => to_float,
            None => node.op_type != "Greater" && self.floats.contains_key(&node.input[0]),
        };
        for input in &mut node.input {
            if self.floats.contains_key(input.as_str()) {
                *input = self.named(input, is_late)?;
            }
        }
        if to_float {
            node.attribute = vec![to(if is_late { FLOAT } else { FLOAT16 })];
        }
        if gives_floats {
            for output in &node.output {
                let name = Some(output.clone());
                let (half, full) = if is_late { (None, name) } else { (name, None) };
                self.floats.insert(output.clone(), Floats { half, full, is_late });
            }
        }
        self.graph.node.push(node);
        Ok(())
    }

    /// What the value is called in the width that is asked for, in which it is made if it is not there.
    fn named(&mut self, value: &str, full: bool) -> Result<String> {
        let it = self.floats.get(value).cloned().unwrap_or_default();
        let (there, other) = if full { (it.full, it.half) } else { (it.half, it.full) };
        if let Some(name) = there {
            return Ok(name);
        }
        let other = other.ok_or_else(|| format!("nothing gives {value}"))?;
        let name = format!("{other}.{}", if full { "float" } else { "half" });
        let known = |it: &&TensorData| it.name == other;
        match self.graph.initializer.iter().find(known).filter(|_| !full) {
            Some(constant) => {
                let narrow = narrow(constant, &name)?;
                self.graph.initializer.push(narrow);
            }
            None => self.cast(other, &name, if full { FLOAT } else { FLOAT16 }),
        }
        if let Some(it) = self.floats.get_mut(value) {
            *(if full { &mut it.full } else { &mut it.half }) = Some(name.clone());
        }
        Ok(name)
    }

    /// What goes out is float32 and called as before.
    fn widen_outputs(&mut self) {
        for output in self.graph.output.clone() {
            let is_half = self.floats.get(&output.name).is_some_and(|it| it.full.is_none());
            let Some(maker) = self.graph.node.iter_mut().find(|it| it.output[0] == output.name)
            else {
                continue;
            };
            if is_half {
                let inner = format!("{}.half", output.name);
                maker.output[0].clone_from(&inner);
                self.cast(inner, &output.name, FLOAT);
            }
        }
    }

    fn cast(&mut self, from: String, name: &str, element: i32) {
        self.graph.node.push(Node::new("Cast", &[&from], name, vec![to(element)]));
    }
}

/// A float32 constant in half precision.
fn narrow(constant: &TensorData, name: &str) -> Result<TensorData> {
    let numbers = constant.raw_data.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it));
    let mut raw_data = Vec::with_capacity(constant.raw_data.len() / 2);
    for number in numbers {
        let half = f16::from_f32(number);
        if !half.is_finite() {
            return Err(format!("{number} of {} does not fit half precision", constant.name));
        }
        raw_data.extend(half.to_le_bytes());
    }
    let (name, dims) = (name.to_owned(), constant.dims.clone());
    Ok(TensorData { dims, data_type: FLOAT16, name, raw_data })
}

fn target(cast: &Node) -> Option<i64> {
    cast.attribute.iter().find(|it| it.name == "to")?.i
}

/// To what a Cast casts.
pub fn to(element: i32) -> Attribute {
    Attribute::int("to", i64::from(element))
}
