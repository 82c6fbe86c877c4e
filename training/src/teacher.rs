//! A better model that a run learns from: what it makes of the training pictures and their sentences.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use crate::batch::Batch;
use crate::config::Teacher;
use crate::data::Picture;
use crate::served;

/// Embeddings by a teacher, computed once: of whole pictures and of all their words, as it is used.
pub struct Taught {
    /// (N, the teacher's dimension), in the pictures' order.
    pictures: Tensor,
    /// (M, the teacher's dimension), in the order in which a batch counts sentences.
    sentences: Tensor,
    scale: f64,
}

impl Taught {
    /// Runs the teacher, which may have another vocabulary and other dimensions, over everything.
    ///
    /// # Errors
    /// A folder that is no model, a sentence of which the teacher knows no word.
    pub fn by(
        teacher: &Teacher,
        data: &Path,
        pictures: &[&Picture],
        sentences: &[&str],
    ) -> Result<Taught> {
        let folder = data.join(&teacher.model);
        let model = served::model(Some(&folder)).context("the run's teacher")?;
        for sentence in sentences {
            model.check_sentence(sentence).with_context(|| {
                format!("the teacher {} cannot read '{sentence}'", folder.display())
            })?;
        }
        Ok(Taught {
            pictures: served::pictures(&model, pictures)?,
            sentences: served::sentences(&model, sentences)?,
            scale: teacher.scale,
        })
    }

    /// On the device that trains.
    pub fn to_device(&self, device: Device) -> Taught {
        let [pictures, sentences] =
            [&self.pictures, &self.sentences].map(|it| it.to_device(device));
        Taught { pictures, sentences, scale: self.scale }
    }

    /// What the teacher says of a batch, (B, B) for each of its `sets` of sentences.
    pub fn logits(&self, batch: &Batch, sets: i64) -> Vec<Tensor> {
        let chosen = |of: &Tensor, rows: &Tensor| of.index_select(0, &rows.to_device(of.device()));
        let pictures = chosen(&self.pictures, &batch.pictures);
        let sentences = chosen(&self.sentences, &batch.sentences);
        let each = |it: &Tensor| pictures.mm(&it.transpose(0, 1)) * self.scale;
        sentences.chunk(sets, 0).iter().map(each).collect()
    }
}
