//! What a graph is computed in: a quantized one in float16 on devices that are made for that.

use std::fmt::{self, Display};

use super::device::Device;
use crate::image::Preprocess;
use crate::model::Graph;
use crate::model::half::{halved_if_quantized, taking_bytes};

/// What a graph is computed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precision {
    /// What its file says.
    Own,
    /// Float16 for int8. An image path takes bytes then.
    Half,
    /// What its file says, int8, as it could not be made float16.
    Unhalved(String),
}

impl Display for Precision {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Precision::Own => write!(to, "as written"),
            Precision::Half => write!(to, "float16"),
            Precision::Unhalved(reason) => write!(to, "as written: {reason}"),
        }
    }
}

/// The file that a device is given in place of the graph's own, if it is another; an image path comes with what it expects.
///
/// CUDA's provider has no kernels for whole numbers: it turns each value into them and back, at a tenth of the speed (H100).
pub fn given(
    device: Device,
    graph: &Graph,
    image: Option<&Preprocess>,
) -> (Option<Vec<u8>>, Precision) {
    let (Graph::Bytes(file), Device::Cuda) = (graph, device) else {
        return (None, Precision::Own);
    };
    let half = halved_if_quantized(file).and_then(|half| match (half, image) {
        (Some(half), Some(image)) => taking_bytes(&half, image).map(Some),
        (half, _) => Ok(half),
    });
    match half {
        Ok(Some(half)) => (Some(half), Precision::Half),
        Ok(None) => (None, Precision::Own),
        Err(reason) => (None, Precision::Unhalved(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn what_is_quantized_is_halved_where_halves_are_fast() {
        let model = Model::built_in().unwrap();
        let image = Some(&model.manifest.image);
        for (graph, image) in [(&model.image_graph, image), (&model.text_graph, None)] {
            assert_eq!(given(Device::Cpu, graph, image), (None, Precision::Own));
            let (half, precision) = given(Device::Cuda, graph, image);
            assert_eq!((half.is_some(), precision.to_string()), (true, "float16".to_owned()));
            let half = Graph::Bytes(half.unwrap().into());
            assert_eq!(given(Device::Cuda, &half, image), (None, Precision::Own));
        }
        // A text path takes no pixels.
        let (half, precision) = given(Device::Cuda, &model.text_graph, image);
        let said = precision.to_string();
        assert!(half.is_none() && said.starts_with("as written: the graph takes"), "{said}");
        // ONNX Runtime says what is wrong with a file that is none.
        let (half, precision) = given(Device::Cuda, &Graph::Bytes(b"none".into()), None);
        assert!(half.is_none() && precision != Precision::Half, "{precision}");
    }
}
