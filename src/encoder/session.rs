//! One graph of a model, opened in ONNX Runtime and checked against the manifest.

use std::fmt::Debug;

use ndarray::{Array, Dimension};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, PrimitiveTensorElementType, Tensor, TensorElementType, ValueType};

use super::{cores, runtime};
use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::model::{IMAGE_GRAPH, Model, TEXT_GRAPH};

const OUTPUT: &str = "embedding";
/// A dimension of no fixed size.
const ANY: i64 = -1;

/// An opened graph: one input, one output, (batch, ...) to (batch, dimension).
pub struct Graph {
    session: Session,
    model: String,
    dimension: usize,
    any_length: bool,
}

impl Graph {
    /// Opens `image.onnx` or `text.onnx` of a model.
    ///
    /// # Errors
    /// No ONNX Runtime; a graph it refuses; names, types or shapes other than the manifest's.
    pub fn open(name: &str, model: &Model, file: &str) -> Result<Graph> {
        let refused = |reason: String| Error::Inference { model: name.to_owned(), reason };
        let environment = runtime::environment()?;
        let manifest = &model.manifest;
        let (bytes, input, element, row) = if file == IMAGE_GRAPH {
            let size = i64::from(manifest.image.size);
            (&model.image_graph, "pixels", TensorElementType::Float32, vec![3, size, size])
        } else {
            let length = manifest.text.length as i64;
            (&model.text_graph, "tokens", TensorElementType::Int64, vec![length])
        };
        let open = || -> ort::Result<Session> {
            Session::builder(environment)?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(cores())?
                // A host's other threads need the cores more than an idle pool does.
                .with_intra_op_spinning(false)?
                .commit_from_memory(bytes)
        };
        let session = open().map_err(|err| refused(format!("{file} is refused: {err}")))?;
        let any_length = file == TEXT_GRAPH
            && matches!(session.inputs(), [it] if fits(it, input, element, &[ANY]));
        let row = if any_length { vec![ANY] } else { row };
        for (outlets, name, element, row) in [
            (session.inputs(), input, element, row),
            (
                session.outputs(),
                OUTPUT,
                TensorElementType::Float32,
                vec![manifest.dimension as i64],
            ),
        ] {
            let expected = described(name, element, &row);
            let [outlet] = outlets else {
                let names: Vec<&str> = outlets.iter().map(Outlet::name).collect();
                return Err(refused(format!(
                    "{file} has [{}] where dualpath.json asks for {expected}",
                    names.join(", ")
                )));
            };
            if !fits(outlet, name, element, &row) {
                return Err(refused(format!(
                    "{file} has {} {:?} where dualpath.json asks for {expected}",
                    outlet.name(),
                    outlet.dtype(),
                )));
            }
        }
        Ok(Graph { session, model: name.to_owned(), dimension: manifest.dimension, any_length })
    }

    /// Whether a text graph takes sentences of fewer slots than the manifest's, as those do in
    /// which padding changes nothing.
    pub fn takes_any_length(&self) -> bool {
        self.any_length
    }

    /// One call of the model.
    pub fn run<T, D>(&mut self, input: Array<T, D>) -> Result<Vec<Embedding>>
    where
        T: PrimitiveTensorElementType + Debug + Clone + 'static,
        D: Dimension + 'static,
    {
        let model = self.model.clone();
        let refused =
            |err: ort::Error| Error::Inference { model: model.clone(), reason: err.to_string() };
        let input = Tensor::from_array(input).map_err(&refused)?;
        let outputs = self.session.run(ort::inputs![input]).map_err(&refused)?;
        let (_, numbers) = outputs[OUTPUT].try_extract_tensor::<f32>().map_err(&refused)?;
        numbers.chunks_exact(self.dimension).map(|it| Embedding::new(it.to_vec())).collect()
    }
}

fn described(name: &str, element: TensorElementType, row: &[i64]) -> String {
    format!(
        "{name} {element} (batch, {})",
        row.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
    )
}

fn fits(outlet: &Outlet, name: &str, element: TensorElementType, row: &[i64]) -> bool {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return false;
    };
    // The batch must be free; the rest as in the manifest.
    outlet.name() == name
        && *ty == element
        && shape.first() == Some(&ANY)
        && shape.get(1..) == Some(row)
}
