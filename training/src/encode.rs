//! Pictures and sentences through the two paths, for measuring.

use anyhow::Result;
use tch::Tensor;

use crate::ahead::Ahead;
use crate::augment;
use crate::config::Run;
use crate::data::Picture;
use crate::net::Layer;
use crate::prepare::Prepared;
use crate::progress;
use crate::torch::{Mode, Parameters, forward};

const PICTURES: usize = 32;
const SENTENCES: i64 = 500;

/// Embeddings of whole pictures, (N, dimension), decoded as the extension decodes them.
pub fn pictures(
    run: &Run,
    path: &[Layer],
    weights: &Parameters,
    pictures: &[&Picture],
) -> Result<Tensor> {
    let device = weights.get("fc1.weight").device();
    let batches: Vec<&[&Picture]> = pictures.chunks(PICTURES).collect();
    let make = |at: usize| -> Result<Tensor> {
        augment::bytes(run.net.size, batches[at].iter().map(|it| augment::whole(run, it)))
    };
    let bar = progress::bar(pictures.len(), "encoding pictures");
    let mut embeddings = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let mut decoded = Ahead::start(scope, batches.len(), &make);
        for batch in &batches {
            let input = augment::pixels(run, &decoded.next()?, device);
            embeddings.push(tch::no_grad(|| forward(path, weights, &input, Mode::Eval)));
            bar.inc(batch.len() as u64);
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(Tensor::cat(&embeddings, 0))
}

/// Embeddings of the pictures' sentences, (M, dimension), and whose each is. A sentence without
/// a word that the path knows is passed over, as nobody can search with it.
pub fn sentences(
    path: &[Layer],
    weights: &Parameters,
    prepared: &Prepared,
    pictures: &[&Picture],
) -> Result<(Tensor, Vec<usize>)> {
    let device = weights.get("lookup.weight").device();
    let (mut ids, mut owner) = (Vec::new(), Vec::new());
    for (at, picture) in pictures.iter().enumerate() {
        for sentence in &picture.sentences {
            if let Ok(known) = prepared.words.ids(sentence) {
                ids.extend(known);
                owner.push(at);
            }
        }
    }
    let tokens = Tensor::from_slice(&ids).view((owner.len() as i64, -1)).to_device(device);
    let embeddings: Vec<Tensor> = tokens
        .split(SENTENCES, 0)
        .iter()
        .map(|it| tch::no_grad(|| forward(path, weights, it, Mode::Eval)))
        .collect();
    Ok((Tensor::cat(&embeddings, 0), owner))
}
