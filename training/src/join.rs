//! `train join`: several models become one, whose embedding is what theirs say together.
//!
//! Runs that differ in their seed err in different places. Their embeddings stand beside each other,
//! turned to the directions in which training pictures and sentences lie, as many as the new embedding
//! has numbers; hubs are evened out behind that. Layers that members have in common are computed once.

mod graph;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use dualpath::encoder::{self, Encoder};
use dualpath::model::{Graph, IMAGE_GRAPH, Manifest, Model, Recall, TEXT_GRAPH, TOKENIZER};
use tch::{Device, Kind, Tensor};

use self::graph::Members;
use crate::config::Run;
use crate::data::Split;
use crate::eval::Embedded;
use crate::folder::{self, own};
use crate::net::{Layer, Side};
use crate::onnx::{self, Input, Precision};
use crate::prepare::Prepared;
use crate::querybank;
use crate::served;
use crate::torch::{Mode, Parameters, forward, numbers};

/// Names the matrix behind the members.
const TURN: &str = "turn";

/// Writes the folder `to`, with the run's dimension, querybank and name, from the model folders
/// `members`, which were trained on the run's pictures and sentences; prints what recall each has.
///
/// # Errors
/// Fewer than two members, members of another tokenizer or preprocessing, one whose graphs are not of
/// `train export` or quantized already, fewer numbers in all than the run's dimension.
pub fn join(run: &Run, out: &Path, members: &[PathBuf], to: &Path) -> Result<()> {
    ensure!(1 < members.len(), "one model is no company (give --model several times)");
    ensure!(
        !members.iter().any(|it| it == to),
        "{} would be written over (name another folder)",
        to.display()
    );
    let prepared = Prepared::read(run, out)?;
    let (training, val) = (prepared.split(Split::Train), prepared.split(Split::Val));
    let models =
        members.iter().map(|it| Ok(Model::from_folder(it)?)).collect::<Result<Vec<_>>>()?;
    let manifest = shared(members, &models)?;
    // Whatever does not fit is told before minutes of encoding.
    enough(run, models.iter().map(|it| it.manifest.dimension as i64).sum())?;
    let read = |of: fn(&Model) -> &Graph| {
        let files: Vec<&[u8]> = (models.iter().zip(members))
            .map(|(model, folder)| own(of(model), folder))
            .collect::<Result<_>>()?;
        Members::read(&files)
    };
    let image = read(|it| &it.image_graph).context(IMAGE_GRAPH)?;
    let text = read(|it| &it.text_graph).context(TEXT_GRAPH)?;
    let encoders = members.iter().map(|it| loaded(it)).collect::<Result<Vec<_>>>()?;
    let mut seen = Vec::new();
    for (encoder, member) in encoders.iter().zip(members) {
        println!("{}: {}", member.display(), served::embedded(encoder, &val)?.ranks().report());
        seen.push(served::embedded(encoder, &training)?);
    }
    let tail = Tail::fitted(run, &seen)?;
    let image = image.joined(&tail.written(run, Side::Picture)).context(IMAGE_GRAPH)?;
    let text = text.joined(&tail.written(run, Side::Sentence)).context(TEXT_GRAPH)?;
    let tokenizer = std::fs::read(members[0].join(TOKENIZER))?;
    let manifest = Manifest {
        name: run.name.clone(),
        dimension: run.net.dimension as usize,
        recall: Some(Recall {
            data: folder::measured_on(&run.name, &val),
            text_to_image: [0.0; 3],
            image_to_text: [0.0; 3],
        }),
        ..manifest
    };
    let report = folder::write(to, manifest, [&image, &text, &tokenizer], &val)?;
    println!("together: {report}");
    Ok(())
}

fn enough(run: &Run, wide: i64) -> Result<()> {
    ensure!(
        run.width() <= wide,
        "the members have {wide} numbers together, too few for net.dimension = {}",
        run.net.dimension
    );
    Ok(())
}

fn loaded(folder: &Path) -> Result<Arc<Encoder>> {
    let name = folder.display().to_string();
    encoder::load(&name, folder).with_context(|| format!("loading the model folder {name}"))
}

/// What all members have in common.
fn shared(members: &[PathBuf], models: &[Model]) -> Result<Manifest> {
    let (first, name) = (&models[0].manifest, members[0].display());
    let mut notices = BTreeSet::new();
    for (model, folder) in models.iter().zip(members) {
        let it = &model.manifest;
        let differs =
            |what: &str| format!("{what} of {} differs from that of {name}", folder.display());
        folder::whole(it, folder)?;
        ensure!(it.image == first.image, differs("the preprocessing"));
        ensure!(it.text == first.text, differs("the length of sentences"));
        ensure!(it.files.get(TOKENIZER) == first.files.get(TOKENIZER), differs("the tokenizer"));
        notices.insert(it.notice.as_str());
    }
    let notice = notices.into_iter().collect::<Vec<_>>().join(" ");
    Ok(Manifest { notice, ..first.clone() })
}

/// What stands behind the members: both sides turned alike, each with its querybank.
struct Tail {
    /// Numbers of all members.
    wide: i64,
    weights: Parameters,
}

impl Tail {
    /// From what the members make of the training pictures and their sentences.
    fn fitted(run: &Run, seen: &[Embedded]) -> Result<Tail> {
        let beside =
            |of: fn(&Embedded) -> &Tensor| Tensor::cat(&seen.iter().map(of).collect::<Vec<_>>(), 1);
        let (pictures, sentences) = (beside(|it| &it.pictures), beside(|it| &it.sentences));
        let wide = pictures.size()[1];
        enough(run, wide)?;
        let path = |side| path(run, wide, side);
        let mut weights = Parameters::fresh(&path(Side::Picture), Device::Cpu);
        weights.extend(Parameters::fresh(&path(Side::Sentence), Device::Cpu));
        weights.assign(&format!("{TURN}.weight"), &turn(&[&pictures, &sentences], run.width()))?;
        // In front of the querybanks.
        let turned = |x: &Tensor, side| forward(&path(side)[..2], &weights, x, Mode::Eval);
        let (pictures, sentences) =
            (turned(&pictures, Side::Picture), turned(&sentences, Side::Sentence));
        for (side, own, others) in
            [(Side::Picture, &pictures, &sentences), (Side::Sentence, &sentences, &pictures)]
        {
            if let Some(Layer::Querybank(bank)) = path(side).last() {
                querybank::fill(bank, own, others, run.seed, &mut weights)?;
            }
        }
        Ok(Tail { wide, weights })
    }

    fn written(&self, run: &Run, side: Side) -> Vec<u8> {
        let values = |name: &str| numbers(self.weights.get(name));
        let input = Input::Row(self.wide);
        onnx::write(&path(run, self.wide, side), input, run.net.dimension, Precision::Half, values)
    }
}

fn path(run: &Run, wide: i64, side: Side) -> Vec<Layer> {
    let turn =
        Layer::Linear { name: TURN.to_owned(), input: wide, output: run.width(), bias: false };
    run.served(vec![turn, Layer::Unit], side)
}

/// The directions (width, D) that keep most of the rows (N, D), of each tensor alike: the largest
/// eigenvectors of their mean second moment.
fn turn(rows: &[&Tensor], width: i64) -> Tensor {
    let _guard = tch::no_grad_guard();
    let wide = rows[0].size()[1];
    let mut moment = Tensor::zeros([wide, wide], (Kind::Double, Device::Cpu));
    for rows in rows {
        let rows = rows.to_kind(Kind::Double);
        moment += rows.transpose(0, 1).mm(&rows) / rows.size()[0] as f64;
    }
    let (_, vectors) = moment.linalg_eigh("L");
    // Their eigenvalues rise.
    vectors.narrow(1, wide - width, width).transpose(0, 1).to_kind(Kind::Float).contiguous()
}

#[cfg(test)]
mod tests;
