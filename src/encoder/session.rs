//! One graph of a model, opened in ONNX Runtime: checked against the manifest, or asked for its names.

use std::fmt::Debug;

use ndarray::{Array, Array2, Array4, ArrayView2, Axis, Dimension, RemoveAxis, stack};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue};
use ort::value::{Outlet, PrimitiveTensorElementType, Tensor, TensorElementType, ValueType};

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
pub struct ImageGraph(Opened);

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
    /// It takes one row at a time.
    single: bool,
}

struct Wanted {
    name: String,
    narrow: bool,
}

impl ImageGraph {
    /// Opens a model's image path.
    ///
    /// # Errors
    /// No ONNX Runtime; a graph it refuses; names, types or shapes other than expected.
    pub fn open(name: &str, model: &Model) -> Result<ImageGraph> {
        let size = i64::from(model.manifest.image.size);
        let row = [3, size, size];
        let session = open(name, &model.image_graph, IMAGE_GRAPH)?;
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
        Opened::new(session, name, &model.image_graph, input).map(ImageGraph)
    }

    /// (batch, 3, size, size) to as many embeddings; of one without a direction the others know nothing.
    pub fn run(&mut self, pixels: Array4<f32>) -> Result<Vec<Result<Embedding>>> {
        self.0.by_rows(pixels, |graph, rows| {
            let pixels = graph.tensor(rows)?;
            graph.run(vec![(graph.input.clone(), pixels)])
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
        let session = open(name, &model.text_graph, TEXT_GRAPH)?;
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
        let graph = Opened::new(session, name, &model.text_graph, input)?;
        Ok(TextGraph { graph, narrow, mask, any_length })
    }

    /// Whether sentences of fewer slots than the manifest's are the same to it.
    pub fn takes_any_length(&self) -> bool {
        self.any_length
    }

    /// (batch, length) to as many embeddings; the first `used` tokens of each row count.
    pub fn run(&mut self, tokens: Array2<i64>, used: &[usize]) -> Result<Vec<Embedding>> {
        let (narrow, mask) = (self.narrow, self.mask.as_ref());
        let counts = Array2::from_shape_fn(tokens.dim(), |(row, at)| i64::from(at < used[row]));
        let both = stack![Axis(2), tokens, counts];
        let embeddings = self.graph.by_rows(both, |graph, both| {
            let (tokens, counts) = (both.index_axis(Axis(2), 0), both.index_axis(Axis(2), 1));
            let mut inputs = vec![(graph.input.clone(), graph.integers(tokens, narrow)?)];
            if let Some(mask) = mask {
                inputs.push((mask.name.clone(), graph.integers(counts, mask.narrow)?));
            }
            graph.run(inputs)
        });
        embeddings?.into_iter().collect()
    }
}

impl Opened {
    /// With the output that is an embedding.
    fn new(
        session: Session,
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
        Ok(Opened { session, model: model.to_owned(), input, output, single })
    }

    fn by_rows<T: Clone, D: RemoveAxis>(
        &mut self,
        input: Array<T, D>,
        run: impl Fn(&mut Opened, Array<T, D>) -> Result<Vec<Result<Embedding>>>,
    ) -> Result<Vec<Result<Embedding>>> {
        if !self.single {
            return run(self, input);
        }
        let rows = input.axis_chunks_iter(Axis(0), 1);
        let each = rows.map(|it| run(self, it.to_owned()));
        Ok(each.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
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
        let output = outputs[self.output.as_str()].try_extract_tensor::<f32>();
        let (shape, numbers) = output.map_err(|err| refused(err.to_string()))?;
        let dimension = shape.last().map_or(0, |it| usize::try_from(*it).unwrap_or_default());
        if dimension == 0 {
            return Err(refused(format!("{} has the shape {shape:?}", self.output)));
        }
        Ok(numbers.chunks_exact(dimension).map(|it| Embedding::new(it.to_vec())).collect())
    }
}

fn open(model: &str, graph: &model::Graph, file: &str) -> Result<Session> {
    let environment = runtime::environment()?;
    let builder = || -> ort::Result<SessionBuilder> {
        Ok(Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(cores())?
            // A host's other threads need the cores more than an idle pool does.
            .with_intra_op_spinning(false)?)
    };
    let session = || -> ort::Result<Session> {
        match graph {
            model::Graph::Bytes(bytes) => builder()?.commit_from_memory(bytes),
            model::Graph::File(path) => builder()?.commit_from_file(path),
        }
    };
    session().map_err(|err| {
        let file = match graph {
            model::Graph::Bytes(_) => file.to_owned(),
            model::Graph::File(path) => path.display().to_string(),
        };
        Error::Inference { model: model.to_owned(), reason: format!("{file} is refused: {err}") }
    })
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
