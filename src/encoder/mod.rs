//! Encoders: pictures and sentences in, embeddings out, by the graphs of a loaded model.

mod registry;
mod runtime;
mod device;
mod assigned;
mod recent;
mod pixels;
mod session;
mod lanes;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use ndarray::{Array2, Array4, ArrayViewMut4, Axis};

pub use device::{want as use_device, wanted as device_wanted};
pub use registry::{DEFAULT, drop_model, find, list, load};
pub use runtime::{environment, state as runtime_state, use_library};

use self::lanes::Lanes;
use self::pixels::Pixels;
use self::recent::Recent;
pub use self::session::Place;
use self::session::{ImageGraph, TextGraph};
use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::model::{Manifest, Model};

/// Pictures that go through the image path in one call.
pub const BATCH: usize = 32;
/// Sentences that go through the text path in one call.
const SENTENCE_BATCH: usize = 256;

static LOADED: AtomicI64 = AtomicI64::new(0);

/// One loaded model. ONNX Runtime is opened at the first encoding, not before.
pub struct Encoder {
    name: String,
    /// Counts up with each loading, the built-in model being 1.
    number: i64,
    folder: Option<PathBuf>,
    model: Model,
    images: OnceLock<Mutex<ImageGraph>>,
    texts: OnceLock<Mutex<TextGraph>>,
    /// Taken while a graph is opened, so that it is opened once.
    opening: Mutex<()>,
    recent: Mutex<Recent>,
    pixels: Pixels,
    lanes: Lanes,
}

impl Encoder {
    fn new(name: &str, folder: Option<&Path>, model: Model) -> Encoder {
        Encoder {
            name: name.to_owned(),
            number: LOADED.fetch_add(1, Ordering::Relaxed) + 1,
            folder: folder.map(Path::to_owned),
            model,
            images: OnceLock::new(),
            texts: OnceLock::new(),
            opening: Mutex::new(()),
            recent: Mutex::default(),
            pixels: Pixels::default(),
            lanes: Lanes::default(),
        }
    }

    /// What tables and `dualpath_models` call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its rowid in `dualpath_models`.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Names the model whatever it is called: SHA-256 of all that changes an embedding.
    pub fn digest(&self) -> &str {
        &self.model.digest
    }

    /// Numbers in its embeddings.
    pub fn dimension(&self) -> usize {
        self.model.manifest.dimension
    }

    /// The folder it was loaded from; none for the built-in model.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// What `dualpath.json` says.
    pub fn manifest(&self) -> &Manifest {
        &self.model.manifest
    }

    /// Where its image path and its text path run, as far as they are open.
    pub fn places(&self) -> [Option<Place>; 2] {
        [
            self.images.get().map(|it| held(it).place().clone()).or_else(|| self.lanes.place()),
            self.texts.get().map(|it| held(it).place().clone()),
        ]
    }

    /// Encodes one picture: the bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF file.
    pub fn picture(&self, bytes: &[u8]) -> Result<Embedding> {
        match self.pictures(&[bytes]).pop() {
            Some(embedding) => embedding,
            None => Err(Error::Usage("internal error, please report".to_owned())),
        }
    }

    /// Encodes pictures, an answer for each: decoded in parallel, one call of the model a batch.
    pub fn pictures(&self, pictures: &[&[u8]]) -> Vec<Result<Embedding>> {
        self.pictures_unless(&AtomicBool::new(false), pictures)
    }

    /// The same; once it is given up, errors come instead, without the work.
    pub fn pictures_unless(
        &self,
        given_up: &AtomicBool,
        pictures: &[&[u8]],
    ) -> Vec<Result<Embedding>> {
        pictures.chunks(BATCH).flat_map(|batch| self.picture_batch(batch, given_up)).collect()
    }

    /// Encodes sentences, in order.
    pub fn sentences(&self, sentences: &[&str]) -> Result<Vec<Embedding>> {
        let words = &self.model.words;
        let mut embeddings = Vec::with_capacity(sentences.len());
        for batch in sentences.chunks(SENTENCE_BATCH) {
            let rows = batch.iter().map(|it| words.tokens(it)).collect::<Result<Vec<_>>>()?;
            let used: Vec<usize> = rows.iter().map(Vec::len).collect();
            let mut texts = held(self.texts()?);
            let slots = match texts.takes_any_length() {
                true => used.iter().copied().max().unwrap_or_default(),
                false => words.length(),
            };
            let mut tokens = Array2::from_elem((batch.len(), slots), words.padding());
            for (row, mut slots) in rows.iter().zip(tokens.outer_iter_mut()) {
                slots.iter_mut().zip(row).for_each(|(slot, token)| *slot = *token);
            }
            embeddings.extend(texts.run(&tokens, &used)?);
        }
        Ok(embeddings)
    }

    /// The checks of [`Encoder::sentence`] that need no ONNX Runtime.
    pub fn check_sentence(&self, sentence: &str) -> Result<()> {
        self.model.words.ids(sentence).map(|_| ())
    }

    /// Encodes a sentence, or remembers it from one of the last calls.
    pub fn sentence(&self, sentence: &str) -> Result<Embedding> {
        let known = held(&self.recent).find(sentence);
        if let Some(known) = known {
            return Ok(known);
        }
        let embedding = self.sentences(&[sentence])?.remove(0);
        held(&self.recent).remember(sentence, &embedding);
        Ok(embedding)
    }

    fn picture_batch(&self, batch: &[&[u8]], given_up: &AtomicBool) -> Vec<Result<Embedding>> {
        let size = self.model.manifest.image.size as usize;
        let mut pixels = self.pixels.take(batch.len(), size);
        let threads = cores().min(batch.len());
        let outcomes = match self.lanes.take(&self.model, batch.len(), threads) {
            true => self.by_lanes(batch, pixels.view_mut(), threads, given_up),
            false => {
                let faults = self.decoded(batch, pixels.view_mut(), threads, given_up);
                embedded(faults, || held(self.images()?).run(pixels.view()))
            }
        };
        self.pixels.give_back(pixels);
        outcomes
    }

    /// Each thread decodes some pictures and runs them through a graph of its own, by turns.
    fn by_lanes(
        &self,
        batch: &[&[u8]],
        mut pixels: ArrayViewMut4<'_, f32>,
        threads: usize,
        given_up: &AtomicBool,
    ) -> Vec<Result<Embedding>> {
        let rows = lanes::rows(batch.len(), threads);
        let mut outcomes: Vec<Vec<Result<Embedding>>> = Vec::new();
        outcomes.resize_with(batch.len().div_ceil(rows), Vec::new);
        let work = batch.chunks(rows).zip(pixels.axis_chunks_iter_mut(Axis(0), rows));
        let work = Mutex::new(work.zip(&mut outcomes));
        side_by_side(threads, || {
            while let Some(((bytes, mut pixels), outcomes)) = { held(&work).next() } {
                let faults = self.decoded(bytes, pixels.view_mut(), 1, given_up);
                *outcomes = embedded(faults, || {
                    self.lanes.with(&self.name, &self.model, |it| it.run(pixels.view()))?
                });
            }
        });
        outcomes.into_iter().flatten().collect()
    }

    /// Fills a row of pixels for each picture, and says which could not be read.
    fn decoded(
        &self,
        batch: &[&[u8]],
        mut pixels: ArrayViewMut4<'_, f32>,
        threads: usize,
        given_up: &AtomicBool,
    ) -> Vec<Option<Error>> {
        let preprocess = &self.model.manifest.image;
        let mut faults: Vec<Option<Error>> = Vec::new();
        faults.resize_with(batch.len(), || None);
        let work = batch.iter().zip(pixels.outer_iter_mut()).zip(&mut faults);
        // One by one: a large picture keeps one thread busy while the others go on.
        let work = Mutex::new(work);
        side_by_side(threads, || {
            while let Some(((bytes, plane), fault)) = { held(&work).next() } {
                *fault = match given_up.load(Ordering::Relaxed) {
                    true => Some(Error::Usage("interrupted".to_owned())),
                    false => preprocess.read(bytes, plane).err(),
                };
            }
        });
        // A broken picture keeps its place as zeros: the others' answers do not depend on it.
        for (fault, mut plane) in faults.iter().zip(pixels.outer_iter_mut()) {
            if fault.is_some() {
                plane.fill(0.0);
            }
        }
        faults
    }

    /// Opens both graphs, so that a model that does not fit its manifest is refused at once; one
    /// whose folder does not say its dimension is asked for it.
    fn open_both(&mut self) -> Result<()> {
        self.images()?;
        self.texts()?;
        if self.dimension() == 0 {
            let side = self.model.manifest.image.size as usize;
            let white = held(self.images()?).run(Array4::ones((1, 3, side, side)).view())?;
            let white = white.into_iter().collect::<Result<Vec<_>>>()?;
            let sentence = self.sentences(&["a"])?;
            let [picture, sentence] =
                [&white, &sentence].map(|it| it.first().map_or(0, Embedding::dimension));
            if picture != sentence {
                return Err(Error::Inference {
                    model: self.name.clone(),
                    reason: format!(
                        "pictures have {picture} dimensions, sentences {sentence} (they must share one space)"
                    ),
                });
            }
            self.model.manifest.dimension = picture;
        }
        Ok(())
    }

    fn images(&self) -> Result<&Mutex<ImageGraph>> {
        self.opened(&self.images, || ImageGraph::open(&self.name, &self.model, cores()))
    }

    fn texts(&self) -> Result<&Mutex<TextGraph>> {
        self.opened(&self.texts, || TextGraph::open(&self.name, &self.model))
    }

    /// A failed opening leaves nothing behind, so the next call tries again.
    fn opened<'a, T>(
        &self,
        slot: &'a OnceLock<Mutex<T>>,
        open: impl FnOnce() -> Result<T>,
    ) -> Result<&'a Mutex<T>> {
        if slot.get().is_none() {
            let _alone = held(&self.opening);
            if slot.get().is_none() {
                let _ = slot.set(Mutex::new(open()?));
            }
        }
        slot.get().ok_or_else(|| Error::Usage("internal error, please report".to_owned()))
    }
}

/// An answer for each picture: its fault, or what the graph says, which is only run where there are others.
fn embedded(
    faults: Vec<Option<Error>>,
    run: impl FnOnce() -> Result<Vec<Result<Embedding>>>,
) -> Vec<Result<Embedding>> {
    if faults.iter().all(Option::is_some) {
        return faults.into_iter().flatten().map(Err).collect();
    }
    match run() {
        Ok(embeddings) => embeddings
            .into_iter()
            .zip(faults)
            .map(|(embedding, fault)| fault.map_or(embedding, Err))
            .collect(),
        Err(err) => {
            let message = err.to_string();
            let again = || Error::Usage(message.clone());
            std::iter::once(err)
                .chain(std::iter::repeat_with(again))
                .map(Err)
                .take(faults.len())
                .collect()
        }
    }
}

/// Does the same in so many threads, this one among them.
fn side_by_side(threads: usize, body: impl Fn() + Sync) {
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(&body)).collect();
        body();
        // A scope waits for what they do, not for their end: the next ones would find their memory taken.
        for other in others {
            if let Err(panic) = other.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// One run at a time; a panic in another left nothing half-done.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many threads decode, and how many the model uses: never more at once.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}
