//! Several ONNX graphs of ours as one.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use prost::Message;

use dualpath::model::protobuf::{Attribute, Graph, Model, Node, TensorData};

/// What every graph of ours gives out.
const EMBEDDING: &str = "embedding";

/// Graphs that take the same.
pub struct Members {
    graphs: Vec<Graph>,
    /// What they have but for their graphs.
    rest: Model,
}

impl Members {
    /// Reads files of `train export`.
    ///
    /// # Errors
    /// A file that holds no graph, members that take something else or are quantized.
    pub fn read(files: &[&[u8]]) -> Result<Members> {
        let mut members = Members { graphs: Vec::new(), rest: Model::default() };
        for file in files {
            let mut rest = Model::decode(*file)?;
            let alike = rest.opset_import == members.rest.opset_import;
            ensure!(members.graphs.is_empty() || alike, "a member is of another operator set");
            let graph = rest.graph.take().context("a member holds no graph")?;
            ensure!(
                graph.node.iter().all(|it| it.op_type != "QuantizeLinear"),
                "a member is quantized already (join first, then quantize)"
            );
            if let Some(first) = members.graphs.first() {
                ensure!(graph.input == first.input, "the members take different inputs");
            }
            members.graphs.push(graph);
            members.rest = rest;
        }
        Ok(members)
    }

    /// The file's bytes: the members give theirs side by side to `tail`.
    pub fn joined(self, tail: &[u8]) -> Result<Vec<u8>> {
        let tail = Model::decode(tail)?.graph.context("the tail holds no graph")?;
        let mut joined = Joined::default();
        let mut given = Vec::new();
        for (at, member) in self.graphs.into_iter().enumerate() {
            joined.graph.input.clone_from(&member.input);
            let input = member.input[0].name.clone();
            given.push(joined.add(&format!("{at}."), member, &input)?);
        }
        let beside = joined.beside(given);
        joined.graph.name.clone_from(&tail.name);
        joined.graph.output.clone_from(&tail.output);
        let embedding = joined.add("", tail, &beside)?;
        ensure!(embedding == EMBEDDING, "the tail gives {embedding}");
        Ok(Model { graph: Some(joined.graph), ..self.rest }.encode_to_vec())
    }
}

/// A graph that grows, in which nothing is stored or computed twice.
#[derive(Default)]
struct Joined {
    graph: Graph,
    /// The name of a constant, by what it is.
    constants: HashMap<Vec<u8>, String>,
    /// What a computation gives, by what it is and takes.
    computed: HashMap<Vec<u8>, Vec<String>>,
}

impl Joined {
    /// Adds a graph that reads its input from `input`; returns what it calls its embedding now.
    fn add(&mut self, prefix: &str, graph: Graph, input: &str) -> Result<String> {
        let mut names: BTreeMap<String, String> =
            graph.input.iter().map(|it| (it.name.clone(), input.to_owned())).collect();
        for mut constant in graph.initializer {
            let old = std::mem::take(&mut constant.name);
            let new = format!("{prefix}{old}");
            names.insert(old, self.constant(constant, new));
        }
        for mut node in graph.node {
            for input in &mut node.input {
                *input =
                    names.get(input).with_context(|| format!("nothing gives {input}"))?.clone();
            }
            let old = std::mem::take(&mut node.output);
            let new = old.iter().map(|it| format!("{prefix}{it}")).collect();
            names.extend(old.into_iter().zip(self.computation(node, new)));
        }
        names.remove(EMBEDDING).context("a graph gives no embedding")
    }

    fn constant(&mut self, constant: TensorData, name: String) -> String {
        let known = self.constants.entry(constant.encode_to_vec()).or_insert_with(|| {
            self.graph.initializer.push(TensorData { name: name.clone(), ..constant });
            name
        });
        known.clone()
    }

    fn computation(&mut self, mut node: Node, output: Vec<String>) -> Vec<String> {
        node.name.clear();
        let known = self.computed.entry(node.encode_to_vec()).or_insert_with(|| {
            node.name.clone_from(&output[0]);
            self.graph.node.push(Node { output: output.clone(), ..node });
            output
        });
        known.clone()
    }

    /// Rows side by side.
    fn beside(&mut self, rows: Vec<String>) -> String {
        let axis = Attribute::int("axis", 1);
        let name = "beside".to_owned();
        self.graph.node.push(Node {
            input: rows,
            output: vec![name.clone()],
            name: name.clone(),
            op_type: "Concat".to_owned(),
            attribute: vec![axis],
        });
        name
    }
}
