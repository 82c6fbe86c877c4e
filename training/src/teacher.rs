//! Better models that a run learns from: what they make of the training pictures and their sentences.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use dualpath::encoder::Encoder;
use dualpath::model::sha256;
use tch::{Device, Kind, Tensor};

use crate::batch::Batch;
use crate::checkpoint;
use crate::config::Teacher;
use crate::data::Picture;
use crate::device::sent;
use crate::served;

/// Embeddings by teachers, computed once: of whole pictures and of all their words, as they are used.
pub struct Taught {
    /// (N, all dimensions), in the pictures' order; products of rows are means of the teachers' cosines.
    pictures: Tensor,
    /// (M, all dimensions), in the order in which a batch counts sentences.
    sentences: Tensor,
    scale: f64,
}

/// What one of them made of everything.
type Embeddings = [Tensor; 2];

/// The tensors of a cached file.
const NAMES: [&str; 2] = ["pictures", "sentences"];

impl Taught {
    /// Runs the teachers, which may have other vocabularies and dimensions, over everything, or reads from
    /// the folder `cache` what they made of it before.
    ///
    /// # Errors
    /// A folder that is no model, a sentence of which a teacher knows no word.
    pub fn by(
        teacher: &Teacher,
        data: &Path,
        cache: &Path,
        pictures: &[&Picture],
        sentences: &[&str],
    ) -> Result<Taught> {
        let mut sides = [Vec::new(), Vec::new()];
        for folder in &teacher.models {
            let folder = data.join(folder);
            let model = served::model(Some(&folder)).context("the run's teacher")?;
            for sentence in sentences {
                model.check_sentence(sentence).with_context(|| {
                    format!("the teacher {} cannot read '{sentence}'", folder.display())
                })?;
            }
            let said = embedded(&model, cache, pictures, sentences)?;
            served::close(&model);
            for (side, rows) in sides.iter_mut().zip(said) {
                side.push(rows);
            }
        }
        let length = (teacher.models.len() as f64).sqrt();
        let [pictures, sentences] = sides.map(|it| Tensor::cat(&it, 1) / length);
        Ok(Taught { pictures, sentences, scale: teacher.scale })
    }

    /// On the device that trains.
    pub fn to_device(&self, device: Device) -> Taught {
        let [pictures, sentences] =
            [&self.pictures, &self.sentences].map(|it| it.to_device(device));
        Taught { pictures, sentences, scale: self.scale }
    }

    /// What the teachers say of a batch, (B, B) for each of its `sets` of sentences.
    pub fn logits(&self, batch: &Batch, sets: i64) -> Vec<Tensor> {
        let chosen = |of: &Tensor, rows: &Tensor| of.index_select(0, &sent(rows, of.device()));
        let pictures = chosen(&self.pictures, &batch.pictures);
        let sentences = chosen(&self.sentences, &batch.sentences);
        let each = |it: &Tensor| pictures.mm(&it.transpose(0, 1)) * self.scale;
        sentences.chunk(sets, 0).iter().map(each).collect()
    }
}

/// One model's embeddings, kept as float16 under a name of all that decides them.
fn embedded(
    model: &Arc<Encoder>,
    cache: &Path,
    pictures: &[&Picture],
    sentences: &[&str],
) -> Result<Embeddings> {
    let seen: Vec<_> = pictures.iter().map(|it| (&it.name, it.bytes)).collect();
    let decided = serde_json::json!((model.digest(), seen, sentences)).to_string();
    let name = format!("teacher-{}.safetensors", &sha256(decided.as_bytes())[..12]);
    let file = cache.join(name);
    std::fs::create_dir_all(cache)?;
    // Another run may be at it.
    let held = File::open(cache).with_context(|| format!("opening {}", cache.display()))?;
    held.lock().with_context(|| format!("locking {}", cache.display()))?;
    if !file.exists() {
        let rows = [served::pictures(model, pictures)?, served::sentences(model, sentences)?];
        let rows = NAMES.into_iter().zip(rows);
        let rows: Vec<_> =
            rows.map(|(name, it)| (name.to_owned(), it.to_kind(Kind::Half))).collect();
        checkpoint::write(&file, &rows)?;
    }
    // Read back in either case, so that a run that goes on has the same numbers.
    let reading = || format!("reading {} (remove it, and it is made anew)", file.display());
    let read = Tensor::read_safetensors(&file).with_context(reading)?;
    let side = |name: &str| -> Result<Tensor> {
        let found = read.iter().find(|it| it.0 == name).with_context(reading)?;
        Ok(found.1.to_kind(Kind::Float))
    };
    Ok([side(NAMES[0])?, side(NAMES[1])?])
}
