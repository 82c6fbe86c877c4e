//! What a graph takes and gives: held against the manifest, or against the names and shapes that others use.

use ort::value::{Outlet, TensorElementType, ValueType};

use crate::error::{Error, Result};
use crate::model::{self, Model};

/// What `train export` calls the output, and what others do, the best first.
pub(super) const OUTPUTS: [&str; 6] = [
    "embedding",
    "image_embeds",
    "text_embeds",
    "image_embedding",
    "text_embedding",
    "pooler_output",
];
pub(super) const OUTPUT: &str = OUTPUTS[0];
/// What other graphs call the tokens, and where they want to know which of them count.
pub(super) const TOKENS: [&str; 2] = ["input_ids", "text"];
pub(super) const MASK: &str = "attention_mask";
/// A dimension of no fixed size.
pub(super) const ANY: i64 = -1;

/// One outlet, and that as the manifest says.
pub(super) fn strict(
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

pub(super) fn other(
    model: &str,
    graph: &model::Graph,
    outlets: &[Outlet],
    expected: &str,
) -> Error {
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

pub(super) fn dimension(model: &Model) -> [i64; 1] {
    [model.manifest.dimension as i64]
}

pub(super) fn names(outlets: &[Outlet]) -> String {
    outlets.iter().map(Outlet::name).collect::<Vec<_>>().join(", ")
}

/// What a graph has there, in the words of what is asked for.
pub(super) fn seen(outlet: &Outlet) -> String {
    let Some(element) = element(outlet) else {
        return format!("{}, which is no tensor", outlet.name());
    };
    let name = |it: &i64| if *it == ANY { "any".to_owned() } else { it.to_string() };
    let lengths: Vec<String> = shape(outlet).iter().map(name).collect();
    format!("{} {element} ({})", outlet.name(), lengths.join(", "))
}

pub(super) fn described(name: &str, element: TensorElementType, row: &[i64]) -> String {
    format!(
        "{name} {element} (batch, {})",
        row.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
    )
}

pub(super) fn fits(outlet: &Outlet, name: &str, expected: TensorElementType, row: &[i64]) -> bool {
    // The batch must be free; the rest as in the manifest.
    outlet.name() == name
        && element(outlet) == Some(expected)
        && shape(outlet).first() == Some(&ANY)
        && shape(outlet).get(1..) == Some(row)
}

/// Whether such rows can be handed over, any number of them or one by one.
pub(super) fn takes(outlet: &Outlet, expected: TensorElementType, row: &[i64]) -> bool {
    let shape = shape(outlet);
    element(outlet) == Some(expected)
        && shape.len() == row.len() + 1
        && [ANY, 1].contains(&shape[0])
        && shape[1..].iter().zip(row).all(|(has, want)| has == want || *has == ANY)
}

pub(super) fn is_single(outlet: &Outlet) -> bool {
    shape(outlet).first() == Some(&1)
}

pub(super) fn element(outlet: &Outlet) -> Option<TensorElementType> {
    match outlet.dtype() {
        ValueType::Tensor { ty, .. } => Some(*ty),
        _ => None,
    }
}

pub(super) fn shape(outlet: &Outlet) -> &[i64] {
    match outlet.dtype() {
        ValueType::Tensor { shape, .. } => shape,
        _ => &[],
    }
}
