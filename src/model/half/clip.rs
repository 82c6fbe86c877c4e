//! ReLU6 without `Clip`, whose kernel of CUDA's provider reads and writes one number at a time and took half of the built-in
//! networks' time on a GPU.

use std::collections::BTreeMap;

use half::f16;

use crate::model::protobuf::{Attribute, FLOAT, FLOAT16, Graph, Node, TensorData};

/// Between convolutions, clip(x, 0, c) = c · HardSigmoid(x / c) with a slope of 1: weights before are divided by c, those
/// behind multiplied by it.
pub fn without_clips(mut graph: Graph) -> Graph {
    let seen = Seen::of(&graph);
    let found = |(at, node): (usize, &Node)| Some((at, seen.between_convolutions(node)?));
    let clips: Vec<(usize, Scaled)> = graph.node.iter().enumerate().filter_map(found).collect();
    let mut factors: BTreeMap<usize, f64> = BTreeMap::new();
    for (at, Scaled { most, before, behind }) in clips {
        let each = before.into_iter().map(|it| (it, 1.0 / most));
        for (constant, factor) in each.chain(behind.into_iter().map(|it| (it, most))) {
            *factors.entry(constant).or_insert(1.0) *= factor;
        }
        let clip = &mut graph.node[at];
        clip.op_type = "HardSigmoid".to_owned();
        clip.input.truncate(1);
        clip.attribute = vec![Attribute::float("alpha", 1.0), Attribute::float("beta", 0.0)];
    }
    for (at, factor) in factors {
        scale(&mut graph.initializer[at], factor);
    }
    graph
}

/// What becomes another number when a clip goes.
struct Scaled {
    most: f64,
    /// Constants by their place.
    before: Vec<usize>,
    behind: Vec<usize>,
}

/// Who makes a value and who reads it.
struct Seen<'a> {
    graph: &'a Graph,
    makers: BTreeMap<&'a str, &'a Node>,
    readers: BTreeMap<&'a str, Vec<&'a Node>>,
    constants: BTreeMap<&'a str, usize>,
}

impl<'a> Seen<'a> {
    fn of(graph: &'a Graph) -> Seen<'a> {
        let mut seen = Seen {
            graph,
            makers: BTreeMap::new(),
            readers: BTreeMap::new(),
            constants: graph.initializer.iter().map(|it| it.name.as_str()).zip(0..).collect(),
        };
        for node in &graph.node {
            seen.makers.extend(node.output.iter().map(|it| (it.as_str(), node)));
            for input in &node.input {
                seen.readers.entry(input).or_default().push(node);
            }
        }
        seen
    }

    fn between_convolutions(&self, clip: &Node) -> Option<Scaled> {
        let [x, low, high] = clip.input.as_slice() else { return None };
        let most = self.number(high)?;
        let goes_out = self.graph.output.iter().any(|it| clip.output.contains(&it.name));
        if clip.op_type != "Clip" || self.number(low)? != 0.0 || most <= 0.0 || goes_out {
            return None;
        }
        let maker = self.makers.get(x.as_str()).filter(|it| it.op_type == "Conv")?;
        let before = maker.input[1..].iter().map(|it| self.own(it)).collect::<Option<_>>()?;
        let alone = self.readers.get(x.as_str())?.len() == 1;
        let readers = self.readers.get(clip.output.first()?.as_str())?;
        let behind = readers.iter().map(|it| {
            let taken = it.op_type == "Conv" && it.input[0] == clip.output[0];
            taken.then(|| self.own(it.input.get(1)?)).flatten()
        });
        let behind = behind.collect::<Option<_>>()?;
        alone.then_some(Scaled { most, before, behind })
    }

    /// The place of a constant that one node reads, perhaps through a cast.
    fn own(&self, value: &str) -> Option<usize> {
        let is_alone = |it: &str| self.readers.get(it).is_some_and(|it| it.len() == 1);
        let stored = match self.makers.get(value) {
            Some(it) if it.op_type == "Cast" => it.input.first()?.as_str(),
            Some(_) => return None,
            None => value,
        };
        let at = *self.constants.get(stored)?;
        let is_float = [FLOAT, FLOAT16].contains(&self.graph.initializer[at].data_type);
        (is_float && is_alone(value) && is_alone(stored)).then_some(at)
    }

    fn number(&self, name: &str) -> Option<f64> {
        let stored = &self.graph.initializer[*self.constants.get(name)?];
        let bytes = (stored.data_type == FLOAT).then_some(stored.raw_data.as_slice())?;
        bytes.try_into().ok().map(|it| f64::from(f32::from_le_bytes(it)))
    }
}

fn scale(stored: &mut TensorData, factor: f64) {
    let scaled = |it: f32| (f64::from(it) * factor) as f32;
    if stored.data_type == FLOAT {
        for it in stored.raw_data.as_chunks_mut().0 {
            *it = scaled(f32::from_le_bytes(*it)).to_le_bytes();
        }
    } else {
        for it in stored.raw_data.as_chunks_mut().0 {
            *it = f16::from_f32(scaled(f16::from_le_bytes(*it).to_f32())).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(name: &str, data_type: i32, numbers: &[f32]) -> TensorData {
        let bytes = |it: &f32| match data_type {
            FLOAT => it.to_le_bytes().to_vec(),
            _ => f16::from_f32(*it).to_le_bytes().to_vec(),
        };
        let raw_data = numbers.iter().flat_map(bytes).collect();
        TensorData { dims: vec![numbers.len() as i64], data_type, name: name.to_owned(), raw_data }
    }

    fn read(graph: &Graph, name: &str) -> Vec<f32> {
        let it = graph.initializer.iter().find(|it| it.name == name).unwrap();
        let bytes = &it.raw_data;
        match it.data_type {
            FLOAT => bytes.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect(),
            _ => bytes.as_chunks().0.iter().map(|it| f16::from_le_bytes(*it).to_f32()).collect(),
        }
    }

    /// Three convolutions with a Clip behind each, the last before two pools.
    fn graph() -> Graph {
        let node = |op, input: &[&str], output| Node::new(op, input, output, vec![]);
        Graph {
            node: vec![
                node("Cast", &["a.half"], "a"),
                node("Conv", &["x", "a", "a.bias"], "1"),
                node("Clip", &["1", "zero", "six"], "2"),
                node("Conv", &["2", "b", "b.bias"], "3"),
                node("Clip", &["3", "zero", "six"], "4"),
                node("Conv", &["4", "c", "c.bias"], "5"),
                node("Clip", &["5", "zero", "six"], "6"),
                node("GlobalAveragePool", &["6"], "mean"),
                node("GlobalMaxPool", &["6"], "most"),
            ],
            initializer: vec![
                numbers("zero", FLOAT, &[0.0]),
                numbers("six", FLOAT, &[6.0]),
                numbers("a.half", FLOAT16, &[3.0, -12.0]),
                numbers("b", FLOAT, &[0.7, 0.1]),
                numbers("c", FLOAT, &[0.5, -1.0]),
                numbers("a.bias", FLOAT, &[6.0]),
                numbers("b.bias", FLOAT, &[-3.0]),
                numbers("c.bias", FLOAT, &[1.0]),
            ],
            ..Graph::default()
        }
    }

    fn kinds(graph: &Graph) -> Vec<&str> {
        let clips = |it: &&Node| ["Clip", "HardSigmoid"].contains(&it.op_type.as_str());
        graph.node.iter().filter(clips).map(|it| it.op_type.as_str()).collect()
    }

    #[test]
    fn what_a_clip_cuts_off_at_goes_into_the_weights_beside_it() {
        let written = without_clips(graph());
        assert_eq!(kinds(&written), ["HardSigmoid", "HardSigmoid", "Clip"]);
        assert_eq!(written.node[2].input, ["1"]);
        assert_eq!(written.node[2].attribute[0], Attribute::float("alpha", 1.0));
        let read = |name| read(&written, name);
        assert_eq!((read("a.half"), read("a.bias")), (vec![0.5, -2.0], vec![1.0]));
        // Multiplied and divided: as it was.
        assert_eq!((read("b"), read("b.bias")), (vec![0.7, 0.1], vec![-0.5]));
        assert_eq!((read("c"), read("c.bias")), (vec![3.0, -6.0], vec![1.0]));
        assert_eq!(kinds(&without_clips(written.clone())), kinds(&written));
    }

    #[test]
    fn other_clips_stay() {
        let changed = |change: &dyn Fn(&mut Graph)| {
            let mut graph = graph();
            change(&mut graph);
            let before = graph.clone();
            (without_clips(graph), before)
        };
        let with = |name: &'static str, it: f32| {
            move |graph: &mut Graph| graph.initializer.push(numbers(name, FLOAT, &[it]))
        };
        // From another number than zero, from and to what is computed, and of weights that others read, too.
        let (written, before) = changed(&|graph| {
            with("low", -1.0)(graph);
            graph.node[2].input[1] = "low".to_owned();
            graph.node[4].input[2] = "x".to_owned();
        });
        assert_eq!(written, before);
        let (written, before) = changed(&|graph| {
            graph.node.push(Node::new("Identity", &["b"], "other", vec![]));
        });
        assert_eq!(written, before);
        let (written, _) = changed(&|graph| {
            graph.node.push(Node::new("Add", &["1", "x"], "other", vec![]));
        });
        assert_eq!(kinds(&written), ["Clip", "HardSigmoid", "Clip"]);
    }
}
