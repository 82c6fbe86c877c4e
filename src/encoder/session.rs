//! One graph of a model, opened in ONNX Runtime and run there.

use std::fmt::{Debug, Display};
use std::ops::Range;

use ndarray::{Array, ArrayView2, Dimension};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{Outlet, PrimitiveTensorElementType, Tensor, TensorElementType};

use super::assigned::{self, Assigned};
use super::device::{self, Device};
use super::outlets::{OUTPUTS, element, other, shape};
use super::precision::{self, Precision};
use super::runtime;
use crate::error::{Error, Result};
use crate::image::Preprocess;
use crate::model;

/// Microseconds for which a thread without work waits before it sleeps. To be woken takes some seven.
const LOOK_OUT_US: &str = "50";

/// What a graph says to a row, of any length; others wait for the graph while it is read.
pub(super) type Answer = Vec<f32>;

pub(super) struct Opened {
    pub(super) session: Session,
    pub(super) model: String,
    file: &'static str,
    pub(super) input: String,
    pub(super) output: String,
    /// Rows in one call: one where the graph takes no more, fewer once the device had no memory.
    pub(super) most_rows: usize,
    pub(super) place: Place,
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
    /// What it is computed in.
    pub precision: Precision,
    /// Where pixels lie for the device, and why not in memory of its own choice; none on the CPU.
    pub memory: Option<String>,
}

impl Opened {
    /// With the output that is an embedding.
    pub(super) fn new(
        (session, place): (Session, Place),
        model: &str,
        (graph, file): (&model::Graph, &'static str),
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
        Ok(Opened { session, model: model.to_owned(), file, input, output, most_rows, place })
    }

    pub(super) fn by_rows(
        &mut self,
        rows: usize,
        run: impl Fn(&mut Opened, Range<usize>) -> Result<Vec<Answer>>,
    ) -> Result<Vec<Answer>> {
        let (before, mut most) = (self.most_rows, self.most_rows);
        let outcome = halving(rows, &mut most, |part| run(self, part));
        if most != before {
            (self.most_rows, self.place.too_many) = (most, Some(before.min(rows)));
        }
        outcome
    }

    /// Refuses a graph that none of its device's kernels ran, as its first call says.
    pub(super) fn look_who_ran(&mut self) -> Result<()> {
        let (device, model) = (self.place.device, &self.model);
        if device == Device::Cpu {
            return Ok(());
        }
        let refused = |reason: String| Error::Inference { model: model.clone(), reason };
        let nodes = match &mut self.place.nodes {
            Some(nodes) => nodes,
            none => none.insert(assigned::assigned(&mut self.session).map_err(refused)?),
        };
        if nodes.contains_key(device.provider()) {
            return Ok(());
        }
        let ran: Vec<&str> = nodes.keys().map(String::as_str).collect();
        Err(refused(format!(
            "{} was to run on '{}' and ran on {} alone (choose another device, or export the model for this one)",
            self.file,
            device.name(),
            ran.join(", ")
        )))
    }

    pub(super) fn refused(&self, err: ort::Error) -> Error {
        Error::Inference { model: self.model.clone(), reason: err.to_string() }
    }

    pub(super) fn tensor<T, D>(&self, numbers: Array<T, D>) -> Result<SessionInputValue<'static>>
    where
        T: PrimitiveTensorElementType + Debug + Clone + 'static,
        D: Dimension + 'static,
    {
        Ok(Tensor::from_array(numbers).map_err(|err| self.refused(err))?.into())
    }

    pub(super) fn integers(
        &self,
        numbers: ArrayView2<i64>,
        narrow: bool,
    ) -> Result<SessionInputValue<'static>> {
        match narrow {
            true => self.tensor(numbers.mapv(|it| it as i32)),
            false => self.tensor(numbers.to_owned()),
        }
    }

    pub(super) fn run(
        &mut self,
        inputs: Vec<(String, SessionInputValue<'_>)>,
    ) -> Result<Vec<Answer>> {
        let model = self.model.clone();
        let refused = |reason: String| Error::Inference { model: model.clone(), reason };
        let outputs = self.session.run(inputs).map_err(|err| refused(err.to_string()))?;
        let answers = answers(&outputs, &self.output).map_err(refused)?;
        drop(outputs);
        self.look_who_ran()?;
        Ok(answers)
    }

    pub(super) fn lost(&self, reason: &dyn Display) -> Error {
        Error::Inference { model: self.model.clone(), reason: reason.to_string() }
    }
}

impl Place {
    /// Whether it is another device than the CPU.
    pub fn is_elsewhere(&self) -> bool {
        self.device != Device::Cpu
    }
}

/// The rows of an output.
pub(super) fn answers(
    outputs: &SessionOutputs<'_>,
    name: &str,
) -> std::result::Result<Vec<Answer>, String> {
    let output = outputs.get(name).ok_or_else(|| format!("there is no {name}"))?;
    let output = output.try_extract_tensor::<f32>();
    let (shape, numbers) = output.map_err(|err| err.to_string())?;
    let dimension = shape.last().map_or(0, |it| usize::try_from(*it).unwrap_or_default());
    if dimension == 0 {
        return Err(format!("{name} has the shape {shape:?}"));
    }
    Ok(numbers.chunks_exact(dimension).map(<[f32]>::to_vec).collect())
}

pub(super) fn miscounted(rows: usize, answers: usize) -> Error {
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
pub(super) fn is_out_of_memory(err: &Error) -> bool {
    let said = err.to_string().to_lowercase();
    ["out of memory", "out_of_memory", "outofmemory", "failed to allocate memory", "bad_alloc"]
        .iter()
        .any(|it| said.contains(it))
}

/// Opens a graph on the first device that takes it; an image path with what it expects.
pub(super) fn open(
    model: &str,
    (graph, file): (&model::Graph, &str),
    image: Option<&Preprocess>,
    threads: usize,
) -> Result<(Session, Place)> {
    runtime::environment()?;
    let mut passed_over = Vec::new();
    let devices = device::candidates();
    for device in &devices {
        match open_on(*device, model, (graph, file), image, threads) {
            Ok((session, precision)) => {
                let place = Place {
                    device: *device,
                    passed_over,
                    nodes: None,
                    too_many: None,
                    precision,
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
    (graph, file): (&model::Graph, &str),
    image: Option<&Preprocess>,
    threads: usize,
) -> Result<(Session, Precision)> {
    let environment = runtime::environment()?;
    let builder = || -> ort::Result<SessionBuilder> {
        Ok(Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            // A picture has 130 operations, and threads that meet behind each.
            .with_intra_op_spinning(true)?
            .with_config_entry("session.intra_op.spin_duration_us", LOOK_OUT_US)?
            // A host's other threads need the cores more than an idle pool does.
            .with_config_entry("session.force_spinning_stop", "1")?)
    };
    let elsewhere = |builder: SessionBuilder| -> ort::Result<SessionBuilder> {
        match device.dispatch() {
            None => Ok(builder),
            Some(provider) => Ok(builder
                .with_execution_providers([provider])?
                .with_profiling(assigned::record())?),
        }
    };
    let refused = |err: ort::Error| {
        let file = match graph {
            model::Graph::Bytes(_) => file.to_owned(),
            model::Graph::File(path) => path.display().to_string(),
        };
        Error::Inference { model: model.to_owned(), reason: format!("{file} is refused: {err}") }
    };
    let (file_given, precision) = precision::given(device, graph, image);
    let session = |mut builder: SessionBuilder| -> ort::Result<Session> {
        match (&file_given, graph) {
            (Some(bytes), _) => builder.commit_from_memory(bytes),
            (None, model::Graph::Bytes(bytes)) => builder.commit_from_memory(bytes),
            (None, model::Graph::File(path)) => builder.commit_from_file(path),
        }
    };
    let builder = builder().map_err(refused)?;
    let builder = elsewhere(builder).map_err(|err| device.missing(&err.to_string()))?;
    Ok((session(builder).map_err(refused)?, precision))
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
}
