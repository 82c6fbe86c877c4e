//! The scalar functions: `embed_*` makes and treats embeddings, `dualpath_*` is the extension itself.

use std::path::Path;
use std::sync::Arc;

use super::table::RECALL_WANTED;
use crate::embedding::Embedding;
use crate::encoder::{self, Encoder};
use crate::error::{Error, Result};
use crate::image;
use crate::index::{self, Metric};
use crate::kernel;
use crate::sqlite::{Context, Output, Value};
use crate::store::Store;
use crate::vector::{Vector, numbers_of_blob, numbers_of_json};

/// `embed_text(sentence [, model])`
pub fn embed_text(_: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let sentence = match arguments[0] {
        Value::Null => return Ok(Output::Null),
        Value::Text(sentence) => sentence,
        other => return Err(wrong_type("the sentence", &other, "TEXT")),
    };
    Ok(model(arguments.get(1))?.sentence(sentence)?.to_blob().into())
}

/// `embed_image(bytes [, model])`
pub fn embed_image(_: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let bytes = match arguments[0] {
        Value::Null => return Ok(Output::Null),
        Value::Blob(bytes) => bytes,
        other => {
            return Err(wrong_type(
                "the picture",
                &other,
                "a BLOB with the bytes of the file (embed_file(path) opens one)",
            ));
        }
    };
    // What is no picture is said to be none even where ONNX Runtime is missing.
    image::check(bytes)?;
    Ok(model(arguments.get(1))?.picture(bytes)?.to_blob().into())
}

/// `embed_file(path [, model])`
pub fn embed_file(_: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let path = match arguments[0] {
        Value::Null => return Ok(Output::Null),
        Value::Text(path) => Path::new(path),
        other => return Err(wrong_type("the path", &other, "TEXT")),
    };
    let unreadable = |reason: String| Error::File { path: path.to_owned(), reason };
    let about = std::fs::metadata(path).map_err(|err| unreadable(err.to_string()))?;
    if !about.is_file() {
        return Err(unreadable("it is no file".to_owned()));
    }
    if image::MOST_FILE_BYTES < about.len() {
        return Err(unreadable(format!(
            "it has {} bytes (the limit is {})",
            about.len(),
            image::MOST_FILE_BYTES
        )));
    }
    let bytes = std::fs::read(path).map_err(|err| unreadable(err.to_string()))?;
    Ok(model(arguments.get(1))?.picture(&bytes)?.to_blob().into())
}

/// `embed_distance(a, b [, metric])`
pub fn embed_distance(_: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let Some(metric) = metric(arguments.get(2))? else {
        return Ok(Output::Null);
    };
    let side = |at: usize| numbers(&arguments[at])?.map(|it| metric.vector(it)).transpose();
    match (side(0)?, side(1)?) {
        (Some(a), Some(b)) => Ok(metric.distance(&a, &b)?.into()),
        _ => Ok(Output::Null),
    }
}

/// `embed_add(a, b [, weight])`
pub fn embed_add(_: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let weight = match arguments.get(2) {
        None => 1.0,
        Some(Value::Null) => return Ok(Output::Null),
        Some(other) => other
            .number()
            .filter(|it| it.is_finite())
            .ok_or_else(|| wrong_type("the weight", other, "a finite number"))?,
    };
    match (embedding(&arguments[0])?, embedding(&arguments[1])?) {
        (Some(a), Some(b)) => Ok(a.add(&b, weight)?.to_blob().into()),
        _ => Ok(Output::Null),
    }
}

/// `embed_to_json(vector)`
pub fn embed_to_json(_: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let vector = numbers(&arguments[0])?.map(Vector::new).transpose()?;
    Ok(vector.map_or(Output::Null, |it| it.to_json().into()))
}

/// `embed_from_json(text [, metric])`
pub fn embed_from_json(_: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let Some(metric) = metric(arguments.get(1))? else {
        return Ok(Output::Null);
    };
    match arguments[0] {
        Value::Null => Ok(Output::Null),
        Value::Text(text) => Ok(metric.vector(numbers_of_json(text)?)?.to_blob().into()),
        other => Err(wrong_type("the vector", &other, "TEXT such as '[0.6, 0.8]'")),
    }
}

/// `dualpath_version()`
pub fn dualpath_version(_: &Context, _: &[Value<'_>]) -> Result<Output> {
    Ok(env!("CARGO_PKG_VERSION").into())
}

/// `dualpath_runtime([path])`: the ONNX Runtime library in use, or the one to use.
pub fn dualpath_runtime(_: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    match arguments.first() {
        None => {}
        Some(Value::Null) => return Ok(Output::Null),
        Some(Value::Text(path)) => encoder::use_library(Path::new(path))?,
        Some(other) => return Err(wrong_type("the path", other, "TEXT")),
    }
    Ok(match encoder::runtime_state() {
        Ok((library, _)) => library.display().to_string().into(),
        Err(reason) => reason.into(),
    })
}

/// `dualpath_device([name])`: where graphs are run, or shall be.
pub fn dualpath_device(_: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    match arguments.first() {
        None => {}
        Some(Value::Null) => return Ok(Output::Null),
        Some(Value::Text(name)) => encoder::use_device(name)?,
        Some(other) => return Err(wrong_type("the device", other, "TEXT such as 'cpu' or 'cuda'")),
    }
    Ok(encoder::device_wanted().into())
}

/// `dualpath_threads([count])`: how many threads a search computes with; said once, also a large commit.
pub fn dualpath_threads(_: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let most = index::MOST_THREADS;
    match arguments.first() {
        None => {}
        Some(Value::Null) => return Ok(Output::Null),
        Some(Value::Integer(count)) => match usize::try_from(*count) {
            Ok(count) if (1..=most).contains(&count) => index::use_threads(count),
            _ => return Err(Error::Usage(format!("{count} threads are asked for (1 to {most})"))),
        },
        Some(other) => return Err(wrong_type("the count", other, "INTEGER")),
    }
    Ok(Output::Integer(index::threads() as i64))
}

/// `dualpath_debug()`: what a bug report needs, as JSON.
pub fn dualpath_debug(_: &Context, _: &[Value<'_>]) -> Result<Output> {
    let runtime = match encoder::runtime_state() {
        Ok((library, build)) => serde_json::json!({"library": library, "build": build}),
        Err(reason) => serde_json::json!({"library": null, "reason": reason}),
    };
    let models: Vec<serde_json::Value> = encoder::list()?
        .iter()
        .map(|it| {
            let [image, text] = it.places().map(|it| it.as_ref().map(place));
            serde_json::json!({
                "image": image,
                "text": text,
                "name": it.name(),
                "trained_as": it.manifest().name,
                "dimension": it.dimension(),
                "digest": it.digest(),
                "folder": it.folder(),
            })
        })
        .collect();
    let report = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": option_env!("DUALPATH_COMMIT").unwrap_or("unknown"),
        "runtime": runtime,
        "device": encoder::device_wanted(),
        "simd": kernel::name(),
        "models": models,
    });
    Ok(report.to_string().into())
}

/// Where a graph runs, as JSON.
fn place(it: &encoder::Place) -> serde_json::Value {
    serde_json::json!({
        "device": it.device.name(),
        "nodes": it.nodes,
        "passed_over": it.passed_over,
        "too_many_rows": it.too_many,
        "precision": it.precision.to_string(),
        "memory": it.memory,
    })
}

/// `dualpath_check(table)`: `ok`, or what is wrong, a line each.
pub fn dualpath_check(context: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let Some(store) = table_of(context, &arguments[0])? else {
        return Ok(Output::Null);
    };
    let findings = store.check()?;
    Ok(if findings.is_empty() { "ok".into() } else { findings.join("\n").into() })
}

/// `dualpath_status(table)`: how it is searched, as JSON.
pub fn dualpath_status(context: &Context, arguments: &[Value<'_>]) -> Result<Output> {
    let Some(store) = table_of(context, &arguments[0])? else {
        return Ok(Output::Null);
    };
    let (rows, listed) = (store.count()?, store.listed()?);
    let recall = match listed {
        Some(_) => store.made().recall.unwrap_or(RECALL_WANTED),
        None => 1.0,
    };
    let expected = match store.lists()?.filter(|_| recall < 1.0) {
        Some(lists) => (lists.learned.expected(recall) * 1e4).round() / 1e4,
        None => 1.0,
    };
    let listed = listed.unwrap_or_default();
    let status = serde_json::json!({
        "rows": rows,
        "recall": recall,
        "expected": expected,
        "lists": listed.lists,
        "pending": listed.pending,
        "long": listed.long,
        "bytes": listed.bytes,
        "metric": store.made().metric.name(),
        "storage": store.made().storage.name(),
    });
    Ok(status.to_string().into())
}

/// The table named by an argument, as `schema.table` or a table of `main`; none for NULL.
pub(super) fn table_of(context: &Context, argument: &Value<'_>) -> Result<Option<Store>> {
    match argument {
        Value::Null => Ok(None),
        Value::Text(name) => {
            let (schema, name) = name.split_once('.').unwrap_or(("main", name));
            Store::open(context.db(), schema, name).map(Some)
        }
        other => Err(wrong_type("the table", other, "TEXT: its name")),
    }
}

/// The model named by an optional argument; NULL names the built-in one.
fn model(argument: Option<&Value<'_>>) -> Result<Arc<Encoder>> {
    match argument {
        None | Some(Value::Null) => encoder::find(None),
        Some(Value::Text(name)) => encoder::find(Some(name)),
        Some(other) => Err(wrong_type("the model", other, "TEXT: a name from dualpath_models")),
    }
}

/// The metric named by an optional argument: the cosine without one, none for NULL.
fn metric(argument: Option<&Value<'_>>) -> Result<Option<Metric>> {
    match argument {
        None => Ok(Some(Metric::default())),
        Some(Value::Null) => Ok(None),
        Some(Value::Text(name)) => Metric::named(name).map(Some),
        Some(other) => {
            Err(wrong_type("the metric", other, &format!("TEXT: one of {}", Metric::NAMES)))
        }
    }
}

fn embedding(argument: &Value<'_>) -> Result<Option<Embedding>> {
    numbers(argument)?.map(Embedding::new).transpose()
}

fn numbers(argument: &Value<'_>) -> Result<Option<Vec<f32>>> {
    match argument {
        Value::Null => Ok(None),
        Value::Blob(bytes) => numbers_of_blob(bytes).map(Some),
        other => Err(wrong_type("the vector", other, "a BLOB (embed_from_json(text) makes one)")),
    }
}

pub(super) fn wrong_type(what: &str, got: &Value<'_>, expected: &str) -> Error {
    Error::Usage(format!("{what} is {}, expected {expected}", got.kind().to_uppercase()))
}
