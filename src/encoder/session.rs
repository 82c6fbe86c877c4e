//! One graph of a model, opened in ONNX Runtime: checked against the manifest, or asked for its names.

use std::fmt::Debug;
use std::ops::Range;

use ndarray::{Array, Array2, Array4, ArrayView2, ArrayView4, Axis, Dimension, Slice};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{
    Outlet, PrimitiveTensorElementType, Tensor, TensorElementType, TensorRef, ValueType,
};

use super::assigned::{self, Assigned};
use super::device::{self, Device};
use super::elsewhere::{Block, Bound};
use super::{cores, runtime};
use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::model::{self, IMAGE_GRAPH, Model, TEXT_GRAPH};

/// What `train export` calls the output, and what others do, the best first.
const OUTPUTS: [&str; 6] = [
    "embedding",
    "image_embeds",
    "text_embeds",
    "image_embedding",
    "text_embedding",
    "pooler_output",
];
const OUTPUT: &str = OUTPUTS[0];
/// What other graphs call the tokens, and where they want to know which of them count.
const TOKENS: [&str; 2] = ["input_ids", "text"];
const MASK: &str = "attention_mask";
/// A dimension of no fixed size.
const ANY: i64 = -1;

/// An opened image path.
pub struct ImageGraph {
    graph: Opened,
    bound: Option<Bound>,
}

/// An opened text path.
pub struct TextGraph {
    graph: Opened,
    /// Whether it is int32 that the tokens are asked for in, and the mask, if it is asked for.
    narrow: bool,
    mask: Option<Wanted>,
    any_length: bool,
}

struct Opened {
    session: Session,
    model: String,
    input: String,
    output: String,
    /// Rows in one call: one where the graph takes no more, fewer once the device had no memory.
    most_rows: usize,
    place: Place,
}

/// Where a graph runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// What was chosen.
    pub device: Device,
    /// Why it was not another, where any was allowed.
    pub passed_over: Vec<String>,
    /// What ran its nodes in the first call; none on the CPU, which runs all.
    pub nodes: Option<Assigned>,
    /// Rows that the device had no memory for, at some time.
    pub too_many: Option<usize>,
    /// Where pixels lie for the device, and why not in memory of its own choice; none on the CPU.
    pub memory: Option<String>,
}

struct Wanted {
    name: String,
    narrow: bool,
}

impl ImageGraph {
    /// Opens a model's image path, to be run by so many threads.
    ///
    /// # Errors
    /// No ONNX Runtime; a graph it refuses; names, types or shapes other than expected.
    pub fn open(name: &str, model: &Model, threads: usize) -> Result<ImageGraph> {
        let size = i64::from(model.manifest.image.size);
        let row = [3, size, size];
        let (session, place) = open(name, &model.image_graph, IMAGE_GRAPH, threads)?;
        let (file, inputs) = (IMAGE_GRAPH, session.inputs());
        let float = TensorElementType::Float32;
        let input = match &model.image_graph {
            model::Graph::Bytes(_) => {
                strict(name, file, inputs, "pixels", float, &row)?;
                strict(name, file, session.outputs(), OUTPUT, float, &dimension(model))?;
                &inputs[0]
            }
            model::Graph::File(_) => match inputs {
                [it] if takes(it, float, &row) => it,
                _ => {
                    let expected = format!("pixels of {}", described("any name", float, &row));
                    return Err(other(name, &model.image_graph, inputs, &expected));
                }
            },
        };
        let input = (input.name().to_owned(), is_single(input));
        let opened = Opened::new((session, place), name, &model.image_graph, input)?;
        let mut graph = ImageGraph { graph: opened, bound: None };
        let side = size as usize;
        if graph.place().is_elsewhere() {
            graph.run(Array4::ones((1, 3, side, side)).view())?;
            graph.graph.look_who_ran(IMAGE_GRAPH)?;
            graph.bind();
        }
        device::opened();
        Ok(graph)
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.graph.place
    }

    /// Binds input and output, which leaves plain memory where it cannot be.
    fn bind(&mut self) {
        let Opened { session, place, output, .. } = &mut self.graph;
        let bound = Bound::new(session, place.device, output);
        let plain = |reason: &str| format!("plain: {reason}");
        (self.bound, place.memory) = match bound {
            Some(Ok(bound)) => (Some(bound), Some("pinned".to_owned())),
            Some(Err(err)) => (None, Some(plain(&err.to_string()))),
            None => (None, Some(plain("the device has no other"))),
        };
    }

    /// Room for pixels, where the device reads them by itself if that can be had.
    pub fn block(&mut self, shape: [usize; 4]) -> Block {
        match self.bound.as_ref().map(|it| it.block(shape)) {
            Some(Ok(block)) => return block,
            Some(Err(err)) => self.graph.place.memory = Some(format!("plain: {err}")),
            None => {}
        }
        Block::Plain(Array4::zeros(shape))
    }

    /// The first `rows` of a block to as many embeddings; all of it is computed.
    pub fn run_block(&mut self, block: &Block, rows: usize) -> Result<Vec<Result<Embedding>>> {
        let graph = &mut self.graph;
        let fits = block.rows() <= graph.most_rows;
        if let (Block::Pinned(tensor), Some(bound), true) = (block, &mut self.bound, fits) {
            let refused = |reason| Error::Inference { model: graph.model.clone(), reason };
            let outputs = bound.run(&mut graph.session, &graph.input, tensor);
            let outcome = outputs
                .map_err(|err| refused(err.to_string()))
                .and_then(|it| embeddings(&it, &graph.output).map_err(refused));
            match outcome {
                Ok(mut all) if rows <= all.len() => {
                    all.truncate(rows);
                    return Ok(all);
                }
                // It is halved below.
                Err(err) if 1 < rows && is_out_of_memory(&err) => {}
                Err(err) => return Err(err),
                Ok(all) => return Err(miscounted(rows, all.len())),
            }
        }
        let pixels = block.view().map_err(|err| self.graph.lost(&err))?;
        let computed = if fits { block.rows() } else { rows };
        let mut all = self.run(pixels.slice_axis(Axis(0), Slice::from(..computed)))?;
        all.truncate(rows);
        Ok(all)
    }

    /// (batch, 3, size, size) to as many embeddings; of one without a direction the others know nothing.
    pub fn run(&mut self, pixels: ArrayView4<'_, f32>) -> Result<Vec<Result<Embedding>>> {
        let graph = &mut self.graph;
        graph.by_rows(pixels.len_of(Axis(0)), |graph, rows| {
            let rows = pixels.slice_axis(Axis(0), Slice::from(rows));
            let pixels = TensorRef::from_array_view(rows).map_err(|err| graph.refused(err))?;
            graph.run(vec![(graph.input.clone(), pixels.into())])
        })
    }
}

impl TextGraph {
    /// Opens a model's text path.
    ///
    /// # Errors
    /// As [`ImageGraph::open`].
    pub fn open(name: &str, model: &Model) -> Result<TextGraph> {
        let row = [model.manifest.text.length as i64];
        let (session, place) = open(name, &model.text_graph, TEXT_GRAPH, cores())?;
        let (file, inputs) = (TEXT_GRAPH, session.inputs());
        let wide = TensorElementType::Int64;
        let whole = |it: &Outlet| {
            [TensorElementType::Int32, wide].into_iter().any(|element| takes(it, element, &row))
        };
        let (input, mask) = match &model.text_graph {
            model::Graph::Bytes(_) => {
                let is_free = matches!(inputs, [it] if fits(it, "tokens", wide, &[ANY]));
                let row = if is_free { [ANY] } else { row };
                strict(name, file, inputs, "tokens", wide, &row)?;
                let float = TensorElementType::Float32;
                strict(name, file, session.outputs(), OUTPUT, float, &dimension(model))?;
                (&inputs[0], None)
            }
            model::Graph::File(_) => {
                let mask = inputs.iter().find(|it| it.name() == MASK);
                let tokens = inputs.iter().find(|it| TOKENS.contains(&it.name()));
                let known = usize::from(mask.is_some()) + usize::from(tokens.is_some());
                match tokens {
                    Some(it) if known == inputs.len() && whole(it) && mask.is_none_or(whole) => {
                        (it, mask)
                    }
                    _ => {
                        let expected = format!(
                            "{} and perhaps {MASK}, int32 or int64 (batch, {})",
                            TOKENS.join(" or "),
                            row[0]
                        );
                        return Err(other(name, &model.text_graph, inputs, &expected));
                    }
                }
            }
        };
        let is_free = shape(input).get(1) == Some(&ANY);
        let is_own = matches!(model.text_graph, model::Graph::Bytes(_));
        // Elsewhere padding changes nothing only where a mask hides it.
        let any_length = is_free && (is_own || mask.is_some());
        let is_narrow = |it: &Outlet| element(it) == Some(TensorElementType::Int32);
        let mask = mask.map(|it| Wanted { name: it.name().to_owned(), narrow: is_narrow(it) });
        let narrow = is_narrow(input);
        let input = (input.name().to_owned(), is_single(input));
        let graph = Opened::new((session, place), name, &model.text_graph, input)?;
        let mut graph = TextGraph { graph, narrow, mask, any_length };
        if graph.place().is_elsewhere() {
            graph.run(&Array2::ones((1, model.manifest.text.length)), &[1])?;
            graph.graph.look_who_ran(TEXT_GRAPH)?;
        }
        device::opened();
        Ok(graph)
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.graph.place
    }

    /// Whether sentences of fewer slots than the manifest's are the same to it.
    pub fn takes_any_length(&self) -> bool {
        self.any_length
    }

    /// (batch, length) to as many embeddings; the first `used` tokens of each row count.
    pub fn run(&mut self, tokens: &Array2<i64>, used: &[usize]) -> Result<Vec<Embedding>> {
        let (narrow, mask) = (self.narrow, self.mask.as_ref());
        let counts = Array2::from_shape_fn(tokens.dim(), |(row, at)| i64::from(at < used[row]));
        let embeddings = self.graph.by_rows(tokens.nrows(), |graph, rows| {
            let rows = Slice::from(rows);
            let part = |it: &Array2<i64>, narrow: bool| {
                graph.integers(it.slice_axis(Axis(0), rows), narrow)
            };
            let mut inputs = vec![(graph.input.clone(), part(tokens, narrow)?)];
            if let Some(mask) = mask {
                inputs.push((mask.name.clone(), part(&counts, mask.narrow)?));
            }
            graph.run(inputs)
        });
        embeddings?.into_iter().collect()
    }
}

impl Opened {
    /// With the output that is an embedding.
    fn new(
        (session, place): (Session, Place),
        model: &str,
        graph: &model::Graph,
        (input, single): (String, bool),
    ) -> Result<Opened> {
        let outputs = session.outputs();
        let output = OUTPUTS.iter().find_map(|name| outputs.iter().find(|it| it.name() == *name));
        let is_flat =
            |it: &&Outlet| element(it) == Some(TensorElementType::Float32) && shape(it).len() == 2;
        let Some(output) = output.filter(is_flat) else {
            let expected = format!("one of {} float32 (batch, dimension)", OUTPUTS.join(", "));
            return Err(other(model, graph, outputs, &expected));
        };
        let output = output.name().to_owned();
        let most_rows = if single { 1 } else { usize::MAX };
        Ok(Opened { session, model: model.to_owned(), input, output, most_rows, place })
    }

    fn by_rows(
        &mut self,
        rows: usize,
        run: impl Fn(&mut Opened, Range<usize>) -> Result<Vec<Result<Embedding>>>,
    ) -> Result<Vec<Result<Embedding>>> {
        let (before, mut most) = (self.most_rows, self.most_rows);
        let outcome = halving(rows, &mut most, |part| run(self, part));
        if most != before {
            (self.most_rows, self.place.too_many) = (most, Some(before.min(rows)));
        }
        outcome
    }

    /// Refuses a graph that none of its device's kernels ran, after its first call.
    fn look_who_ran(&mut self, file: &str) -> Result<()> {
        if self.place.device == Device::Cpu {
            return Ok(());
        }
        let refused = |reason: String| Error::Inference { model: self.model.clone(), reason };
        let nodes = assigned::assigned(&mut self.session).map_err(refused)?;
        let device = self.place.device;
        if !nodes.contains_key(device.provider()) {
            let ran: Vec<&str> = nodes.keys().map(String::as_str).collect();
            return Err(refused(format!(
                "{file} was to run on '{}' and ran on {} alone (choose another device, or export the model for this one)",
                device.name(),
                ran.join(", ")
            )));
        }
        self.place.nodes = Some(nodes);
        Ok(())
    }

    fn refused(&self, err: ort::Error) -> Error {
        Error::Inference { model: self.model.clone(), reason: err.to_string() }
    }

    fn tensor<T, D>(&self, numbers: Array<T, D>) -> Result<SessionInputValue<'static>>
    where
        T: PrimitiveTensorElementType + Debug + Clone + 'static,
        D: Dimension + 'static,
    {
        Ok(Tensor::from_array(numbers).map_err(|err| self.refused(err))?.into())
    }

    fn integers(
        &self,
        numbers: ArrayView2<i64>,
        narrow: bool,
    ) -> Result<SessionInputValue<'static>> {
        match narrow {
            true => self.tensor(numbers.mapv(|it| it as i32)),
            false => self.tensor(numbers.to_owned()),
        }
    }

    fn run(
        &mut self,
        inputs: Vec<(String, SessionInputValue<'_>)>,
    ) -> Result<Vec<Result<Embedding>>> {
        let model = self.model.clone();
        let refused = |reason: String| Error::Inference { model: model.clone(), reason };
        let outputs = self.session.run(inputs).map_err(|err| refused(err.to_string()))?;
        embeddings(&outputs, &self.output).map_err(refused)
    }

    fn lost(&self, reason: &dyn std::fmt::Display) -> Error {
        Error::Inference { model: self.model.clone(), reason: reason.to_string() }
    }
}

impl Place {
    /// Whether it is another device than the CPU.
    pub fn is_elsewhere(&self) -> bool {
        // That all but the device itself can be tried without one.
        self.device != Device::Cpu || device::experiment("elsewhere").is_some()
    }
}

/// The rows of an output.
fn embeddings(
    outputs: &SessionOutputs<'_>,
    name: &str,
) -> std::result::Result<Vec<Result<Embedding>>, String> {
    let output = outputs.get(name).ok_or_else(|| format!("there is no {name}"))?;
    let output = output.try_extract_tensor::<f32>();
    let (shape, numbers) = output.map_err(|err| err.to_string())?;
    let dimension = shape.last().map_or(0, |it| usize::try_from(*it).unwrap_or_default());
    if dimension == 0 {
        return Err(format!("{name} has the shape {shape:?}"));
    }
    Ok(numbers.chunks_exact(dimension).map(|it| Embedding::new(it.to_vec())).collect())
}

fn miscounted(rows: usize, answers: usize) -> Error {
    Error::Usage(format!("the graph answered {rows} rows with {answers} embeddings"))
}

/// Calls `run` for ranges that together are all rows, halving them while the device has no memory.
fn halving<T>(
    rows: usize,
    most: &mut usize,
    mut run: impl FnMut(Range<usize>) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let mut all = Vec::with_capacity(rows);
    while all.len() < rows {
        let count = (rows - all.len()).min(*most);
        match run(all.len()..all.len() + count) {
            Ok(more) if more.len() == count => all.extend(more),
            Ok(more) => {
                return Err(miscounted(count, more.len()));
            }
            Err(err) if 1 < count && is_out_of_memory(&err) => *most = count.div_ceil(2),
            Err(err) => return Err(err),
        }
    }
    Ok(all)
}

/// As ONNX Runtime's arena, CUDA, DirectML and OpenVINO say it.
fn is_out_of_memory(err: &Error) -> bool {
    let said = err.to_string().to_lowercase();
    ["out of memory", "out_of_memory", "outofmemory", "failed to allocate memory", "bad_alloc"]
        .iter()
        .any(|it| said.contains(it))
}

fn open(model: &str, graph: &model::Graph, file: &str, threads: usize) -> Result<(Session, Place)> {
    runtime::environment()?;
    let mut passed_over = Vec::new();
    let devices = device::candidates();
    for device in &devices {
        match open_on(*device, model, graph, file, threads) {
            Ok(session) => {
                let place = Place {
                    device: *device,
                    passed_over,
                    nodes: None,
                    too_many: None,
                    memory: None,
                };
                return Ok((session, place));
            }
            Err(err) if devices.len() == 1 => return Err(err),
            Err(err) => passed_over.push(err.to_string()),
        }
    }
    Err(Error::Inference { model: model.to_owned(), reason: passed_over.join("; ") })
}

fn open_on(
    device: Device,
    model: &str,
    graph: &model::Graph,
    file: &str,
    threads: usize,
) -> Result<Session> {
    let environment = runtime::environment()?;
    let builder = || -> ort::Result<SessionBuilder> {
        Ok(Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            // A host's other threads need the cores more than an idle pool does.
            .with_intra_op_spinning(false)?)
    };
    let elsewhere = |builder: SessionBuilder| -> ort::Result<SessionBuilder> {
        match device.dispatch() {
            None => Ok(builder),
            Some(provider) => Ok(builder
                .with_execution_providers([provider])?
                .with_profiling(assigned::record())?),
        }
    };
    let session = |mut builder: SessionBuilder| -> ort::Result<Session> {
        match graph {
            model::Graph::Bytes(bytes) => builder.commit_from_memory(bytes),
            model::Graph::File(path) => builder.commit_from_file(path),
        }
    };
    let refused = |err: ort::Error| {
        let file = match graph {
            model::Graph::Bytes(_) => file.to_owned(),
            model::Graph::File(path) => path.display().to_string(),
        };
        Error::Inference { model: model.to_owned(), reason: format!("{file} is refused: {err}") }
    };
    let builder = builder().map_err(refused)?;
    let builder = elsewhere(builder).map_err(|err| device.missing(&err.to_string()))?;
    session(builder).map_err(refused)
}

/// One outlet, and that as the manifest says.
fn strict(
    model: &str,
    file: &str,
    outlets: &[Outlet],
    name: &str,
    element: TensorElementType,
    row: &[i64],
) -> Result<()> {
    let refused = |reason: String| Error::Inference { model: model.to_owned(), reason };
    let expected = described(name, element, row);
    let [outlet] = outlets else {
        return Err(refused(format!(
            "{file} has [{}] where dualpath.json asks for {expected}",
            names(outlets)
        )));
    };
    if !fits(outlet, name, element, row) {
        return Err(refused(format!(
            "{file} has {} where dualpath.json asks for {expected}",
            seen(outlet),
        )));
    }
    Ok(())
}

fn other(model: &str, graph: &model::Graph, outlets: &[Outlet], expected: &str) -> Error {
    let file = match graph {
        model::Graph::Bytes(_) => String::new(),
        model::Graph::File(path) => format!("{} ", path.display()),
    };
    let found: Vec<String> = outlets.iter().map(seen).collect();
    Error::Inference {
        model: model.to_owned(),
        reason: format!("{file}has {} where {expected} is needed", found.join(", ")),
    }
}

fn dimension(model: &Model) -> [i64; 1] {
    [model.manifest.dimension as i64]
}

fn names(outlets: &[Outlet]) -> String {
    outlets.iter().map(Outlet::name).collect::<Vec<_>>().join(", ")
}

/// What a graph has there, in the words of what is asked for.
fn seen(outlet: &Outlet) -> String {
    let Some(element) = element(outlet) else {
        return format!("{}, which is no tensor", outlet.name());
    };
    let name = |it: &i64| if *it == ANY { "any".to_owned() } else { it.to_string() };
    let lengths: Vec<String> = shape(outlet).iter().map(name).collect();
    format!("{} {element} ({})", outlet.name(), lengths.join(", "))
}

fn described(name: &str, element: TensorElementType, row: &[i64]) -> String {
    format!(
        "{name} {element} (batch, {})",
        row.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
    )
}

fn fits(outlet: &Outlet, name: &str, expected: TensorElementType, row: &[i64]) -> bool {
    // The batch must be free; the rest as in the manifest.
    outlet.name() == name
        && element(outlet) == Some(expected)
        && shape(outlet).first() == Some(&ANY)
        && shape(outlet).get(1..) == Some(row)
}

/// Whether such rows can be handed over, any number of them or one by one.
fn takes(outlet: &Outlet, expected: TensorElementType, row: &[i64]) -> bool {
    let shape = shape(outlet);
    element(outlet) == Some(expected)
        && shape.len() == row.len() + 1
        && [ANY, 1].contains(&shape[0])
        && shape[1..].iter().zip(row).all(|(has, want)| has == want || *has == ANY)
}

fn is_single(outlet: &Outlet) -> bool {
    shape(outlet).first() == Some(&1)
}

fn element(outlet: &Outlet) -> Option<TensorElementType> {
    match outlet.dtype() {
        ValueType::Tensor { ty, .. } => Some(*ty),
        _ => None,
    }
}

fn shape(outlet: &Outlet) -> &[i64] {
    match outlet.dtype() {
        ValueType::Tensor { shape, .. } => shape,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_memory() -> Error {
        let reason = "CUDA failure 2: out of memory ; GPU=0".to_owned();
        Error::Inference { model: "any".to_owned(), reason }
    }

    #[test]
    fn a_batch_that_does_not_fit_is_halved_for_good() {
        let (mut most, mut calls) = (usize::MAX, Vec::new());
        for _ in 0..2 {
            let all = halving(32, &mut most, |rows| {
                calls.push(rows.len());
                if rows.len() <= 10 { Ok(rows.collect()) } else { Err(no_memory()) }
            });
            assert_eq!(all.unwrap(), Vec::from_iter(0..32));
        }
        assert_eq!((most, calls), (8, vec![32, 16, 8, 8, 8, 8, 8, 8, 8, 8]));
    }

    #[test]
    fn one_row_without_memory_and_other_errors_end_the_batch() {
        let (mut most, mut calls) = (usize::MAX, 0);
        let outcome: Result<Vec<usize>> = halving(4, &mut most, |_| {
            calls += 1;
            Err(no_memory())
        });
        assert!(outcome.unwrap_err().to_string().contains("out of memory"));
        assert_eq!((calls, most), (3, 1));
        let broken = || Error::Inference { model: "any".to_owned(), reason: "lost".to_owned() };
        let outcome: Result<Vec<usize>> = halving(4, &mut usize::MAX.clone(), |_| Err(broken()));
        assert!(outcome.unwrap_err().to_string().contains("lost"));
    }

    /// What is bound, whole or halved or plain, says what a plain call says.
    #[test]
    fn blocks_say_what_plain_pixels_say() {
        let model = Model::built_in().unwrap();
        let side = model.manifest.image.size as usize;
        let mut graph = ImageGraph::open("any", &model, 1).unwrap();
        let pixels = Array4::from_shape_fn((8, 3, side, side), |(row, channel, y, x)| {
            ((row + 1) as f32 * 0.01 * (x + 2 * y) as f32 + channel as f32).sin()
        });
        let first = pixels.slice_axis(Axis(0), Slice::from(..5));
        let numbers = |all: Result<Vec<Result<Embedding>>>| {
            let all: Result<Vec<Embedding>> = all.unwrap().into_iter().collect();
            all.unwrap().iter().map(|it| it.as_slice().to_vec()).collect::<Vec<_>>()
        };
        let expected = numbers(graph.run(first));
        let check = |graph: &mut ImageGraph, block: &Block| {
            for (one, other) in numbers(graph.run_block(block, 5)).iter().zip(&expected) {
                let cosine: f32 = one.iter().zip(other).map(|(a, b)| a * b).sum();
                assert!(0.999_999 < cosine, "{cosine}");
            }
            assert_eq!(numbers(graph.run_block(block, 5)).len(), 5);
        };
        let filled = |mut block: Block| {
            block.view_mut().unwrap().assign(&pixels);
            block
        };
        let plain = filled(graph.block([8, 3, side, side]));
        assert!(matches!(plain, Block::Plain(_)));
        check(&mut graph, &plain);
        graph.bind();
        assert_eq!(graph.place().memory.as_deref(), Some("pinned"));
        let pinned = filled(graph.block([8, 3, side, side]));
        assert!(matches!(pinned, Block::Pinned(_)), "{:?}", graph.place().memory);
        check(&mut graph, &pinned);
        let mut one = graph.block([1, 3, side, side]);
        one.view_mut().unwrap().assign(&pixels.slice_axis(Axis(0), Slice::from(..1)));
        assert_eq!(numbers(graph.run_block(&one, 1)).len(), 1);
        check(&mut graph, &pinned);
        graph.graph.most_rows = 2;
        check(&mut graph, &pinned);
    }
}
