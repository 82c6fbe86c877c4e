//! A graph of `train export`, rewritten for a GPU, which computes in float16 what CPUs compute in float32 or int8.

mod dequantized;
mod clip;
mod writer;
mod bytes;

use prost::Message;

pub use self::bytes::taking_bytes;

use self::clip::without_clips;
use self::dequantized::{dequantized, is_quantized};
use self::writer::in_float16;
use crate::model::protobuf::{Graph, Model};

/// Or what is wrong with the file.
type Result<T> = std::result::Result<T, String>;

/// The file of a graph, quantized or not, as one that is computed in float16.
///
/// # Errors
/// No such graph; a number beyond float16's range, by its name.
pub fn halved(file: &[u8]) -> Result<Vec<u8>> {
    rewritten(read(file)?)
}

/// The same for a quantized graph; none for others.
///
/// # Errors
/// As [`halved`].
pub fn halved_if_quantized(file: &[u8]) -> Result<Option<Vec<u8>>> {
    let (model, graph) = read(file)?;
    is_quantized(&graph).then(|| rewritten((model, graph))).transpose()
}

fn read(file: &[u8]) -> Result<(Model, Graph)> {
    let mut model = Model::decode(file).map_err(|err| err.to_string())?;
    let graph = model.graph.take().ok_or("the file holds no graph")?;
    Ok((model, graph))
}

fn rewritten((mut model, graph): (Model, Graph)) -> Result<Vec<u8>> {
    model.graph = Some(in_float16(without_clips(dequantized(graph)?))?);
    Ok(model.encode_to_vec())
}
