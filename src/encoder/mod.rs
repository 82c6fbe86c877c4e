//! Encoders: pictures and sentences in, embeddings out, by the graphs of a loaded model.

mod registry;
mod runtime;
mod device;
mod assigned;
mod recent;
mod pixels;
mod precision;
mod outlets;
mod session;
mod graphs;
mod lanes;
mod elsewhere;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use ndarray::{Array2, ArrayViewMut4, Axis, Slice};

pub use device::{want as use_device, wanted as device_wanted};
pub use registry::{DEFAULT, drop_model, find, list, load};
pub use runtime::{environment, state as runtime_state, use_library};

use self::device::Device;
use self::graphs::{ImageGraph, TextGraph};
use self::lanes::Lanes;
use self::pixels::{Memory, Pixel};
use self::recent::Recent;
use self::session::Answer;
pub use self::session::Place;

use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::image::Pixels;
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
    memory: Memory,
    lanes: Lanes,
    elsewhere: Elsewhere,
    /// Held while a batch's pictures are handed out to threads: one batch after the other is ready, rather than all at last.
    turn: Mutex<()>,
}

/// What is there once a graph is open on another device than the CPU.
#[derive(Default)]
struct Elsewhere {
    is_used: AtomicBool,
    /// What the image path takes there, which may be another thing than on the CPU.
    takes_bytes: AtomicBool,
    /// Rows of one call, as far as is known.
    most_rows: AtomicUsize,
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
            memory: Memory::default(),
            lanes: Lanes::default(),
            elsewhere: Elsewhere::default(),
            turn: Mutex::default(),
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
        let image = self.images.get().map(|it| held(it).place().clone());
        [image.or_else(|| self.lanes.place()), self.texts.get().map(|it| held(it).place().clone())]
    }

    /// Rows that are best handed over at once.
    pub fn batch(&self) -> usize {
        if self.is_elsewhere() { elsewhere::BATCH } else { BATCH }
    }

    /// Batches that are best under way at once.
    pub fn under_way(&self) -> usize {
        match self.is_elsewhere() {
            true => elsewhere::UNDER_WAY,
            false if self.lanes.take(&self.model, BATCH, cores()) => lanes::UNDER_WAY,
            false => 1,
        }
    }

    /// Rows that are encoded in one of many transactions; while one is committed, a device has little to do.
    pub fn in_a_transaction(&self) -> usize {
        if self.is_elsewhere() { elsewhere::IN_A_TRANSACTION } else { 2 * BATCH }
    }

    fn is_elsewhere(&self) -> bool {
        self.elsewhere.is_used.load(Ordering::Relaxed)
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
        let encoded = |batch| match self.pixels() {
            Pixels::Floats => self.picture_batch::<f32>(batch, given_up),
            Pixels::Bytes => self.picture_batch::<u8>(batch, given_up),
        };
        pictures.chunks(self.batch()).flat_map(encoded).collect()
    }

    /// What the image path takes, where it runs.
    fn pixels(&self) -> Pixels {
        if device::candidates() != [Device::Cpu] && self.images().is_ok() {
            // Errors come again where there is a picture to say them of.
            return match self.elsewhere.takes_bytes.load(Ordering::Relaxed) {
                true => Pixels::Bytes,
                false => Pixels::Floats,
            };
        }
        self.model.manifest.image.pixels
    }

    /// Encodes sentences, in order.
    pub fn sentences(&self, sentences: &[&str]) -> Result<Vec<Embedding>> {
        let words = &self.model.words;
        let mut embeddings = Vec::with_capacity(sentences.len());
        for batch in sentences.chunks(SENTENCE_BATCH) {
            let mut rows = batch.iter().map(|it| words.tokens(it)).collect::<Result<Vec<_>>>()?;
            let mut texts = held(self.texts()?);
            let device = texts.place().device;
            rows.resize(elsewhere::rows(device, batch.len(), SENTENCE_BATCH), rows[0].clone());
            let used: Vec<usize> = rows.iter().map(Vec::len).collect();
            let slots = match texts.takes_any_length() && !elsewhere::has_sizes(device) {
                true => used.iter().copied().max().unwrap_or_default(),
                false => words.length(),
            };
            let mut tokens = Array2::from_elem((rows.len(), slots), words.padding());
            for (row, mut slots) in rows.iter().zip(tokens.outer_iter_mut()) {
                slots.iter_mut().zip(row).for_each(|(slot, token)| *slot = *token);
            }
            embeddings.extend(texts.run(&tokens, &used)?.into_iter().take(batch.len()));
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

    fn picture_batch<P: Pixel>(
        &self,
        batch: &[&[u8]],
        given_up: &AtomicBool,
    ) -> Vec<Result<Embedding>> {
        if self.is_elsewhere() {
            return self.by_device::<P>(batch, given_up);
        }
        let threads = cores().min(batch.len());
        if self.lanes.take(&self.model, batch.len(), threads) {
            return self.by_lanes::<P>(batch, threads, given_up);
        }
        let kept = &P::kept(&self.memory).spare;
        let mut pixels = kept.take(batch.len(), self.model.manifest.image.size as usize);
        let faults = self.decoded(batch, pixels.view_mut(), threads, given_up, || ());
        let outcomes = embedded(faults, || held(self.images()?).run(pixels.view()));
        kept.give_back(pixels);
        outcomes
    }

    /// Each thread decodes some pictures and runs them through a graph of its own, by turns.
    fn by_lanes<P: Pixel>(
        &self,
        batch: &[&[u8]],
        threads: usize,
        given_up: &AtomicBool,
    ) -> Vec<Result<Embedding>> {
        let rows = lanes::rows(batch.len(), threads);
        let mut outcomes: Vec<Vec<Result<Embedding>>> = Vec::new();
        outcomes.resize_with(batch.len().div_ceil(rows), Vec::new);
        let work = Mutex::new(batch.chunks(rows).zip(&mut outcomes));
        let (kept, size) = (&P::kept(&self.memory).spare, self.model.manifest.image.size as usize);
        let run = || {
            let mut pixels = kept.take(rows, size);
            while let Some((bytes, outcomes)) = { held(&work).next() } {
                let mut lane = self.lanes.lane();
                let mut pixels = pixels.slice_axis_mut(Axis(0), Slice::from(..bytes.len()));
                let faults = self.decoded(bytes, pixels.view_mut(), 1, given_up, || ());
                *outcomes = embedded(faults, || lane.run(&self.name, &self.model, pixels.view()));
            }
            kept.give_back(pixels);
        };
        let turn = held(&self.turn);
        side_by_side(threads, run, || drop(turn));
        outcomes.into_iter().flatten().collect()
    }

    /// All threads decode into memory that the device reads by itself, while it computes the batch before.
    fn by_device<P: Pixel>(
        &self,
        batch: &[&[u8]],
        given_up: &AtomicBool,
    ) -> Vec<Result<Embedding>> {
        let (blocks, count) = (&P::kept(&self.memory).blocks, batch.len());
        let none = || std::iter::repeat_with(|| None).take(count).collect();
        let images = match self.images() {
            Ok(images) => images,
            Err(err) => return embedded(none(), || Err(err)),
        };
        let device = held(images).place().device;
        let (rows, side) = (
            elsewhere::rows(device, count, elsewhere::BATCH),
            self.model.manifest.image.size as usize,
        );
        let mut block = blocks.take(rows, || held(images).block(P::shape(rows, side)));
        let faults = block.view_mut().map(|mut pixels| {
            let pixels = pixels.slice_axis_mut(Axis(0), Slice::from(..count));
            let turn = held(&self.turn);
            let threads = elsewhere::threads(cores()).min(count);
            self.decoded(batch, pixels, threads, given_up, || drop(turn))
        });
        let outcomes = match faults {
            Ok(faults) => embedded(faults, || {
                // One that is to be halved is copied by halves.
                let fits = block.rows() <= self.elsewhere.most_rows.load(Ordering::Relaxed);
                let sent = if fits { block.send() } else { Ok(()) };
                let mut images = held(images);
                let answers = images.run_block(&mut block, sent, count);
                self.elsewhere.most_rows.store(images.most_rows(), Ordering::Relaxed);
                answers
            }),
            Err(err) => embedded(none(), || Err(Error::Usage(err.to_string()))),
        };
        blocks.give_back(block);
        outcomes
    }

    /// Fills a row of pixels for each picture, and says which could not be read; calls `handed_out` when the
    /// last of them are being read.
    fn decoded<P: Pixel>(
        &self,
        batch: &[&[u8]],
        mut pixels: ArrayViewMut4<'_, P>,
        threads: usize,
        given_up: &AtomicBool,
        handed_out: impl FnOnce(),
    ) -> Vec<Option<Error>> {
        let preprocess = &self.model.manifest.image;
        let mut faults: Vec<Option<Error>> = Vec::new();
        faults.resize_with(batch.len(), || None);
        let work = batch.iter().zip(pixels.outer_iter_mut()).zip(&mut faults);
        // One by one: a large picture keeps one thread busy while the others go on.
        let work = Mutex::new(work);
        let read = || {
            while let Some(((bytes, plane), fault)) = { held(&work).next() } {
                *fault = match given_up.load(Ordering::Relaxed) {
                    true => Some(Error::Usage("interrupted".to_owned())),
                    false => P::read(preprocess, bytes, plane).err(),
                };
            }
        };
        side_by_side(threads, read, handed_out);
        // A broken picture keeps its place as zeros: the others' answers do not depend on it.
        for (fault, mut plane) in faults.iter().zip(pixels.outer_iter_mut()) {
            if fault.is_some() {
                plane.fill(P::default());
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
            let white = held(self.images()?).run_white(&self.model)?;
            let white = white.into_iter().map(Embedding::new).collect::<Result<Vec<_>>>()?;
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
        self.opened(&self.images, || {
            let graph = ImageGraph::open(&self.name, &self.model, cores())?;
            let takes_bytes = graph.pixels() == Pixels::Bytes;
            self.elsewhere.takes_bytes.store(takes_bytes, Ordering::Relaxed);
            self.elsewhere.most_rows.store(graph.most_rows(), Ordering::Relaxed);
            self.elsewhere.is_used.fetch_or(graph.place().is_elsewhere(), Ordering::Relaxed);
            Ok(graph)
        })
    }

    fn texts(&self) -> Result<&Mutex<TextGraph>> {
        self.opened(&self.texts, || {
            let graph = TextGraph::open(&self.name, &self.model)?;
            self.elsewhere.is_used.fetch_or(graph.place().is_elsewhere(), Ordering::Relaxed);
            Ok(graph)
        })
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
    run: impl FnOnce() -> Result<Vec<Answer>>,
) -> Vec<Result<Embedding>> {
    if faults.iter().all(Option::is_some) {
        return faults.into_iter().flatten().map(Err).collect();
    }
    match run() {
        // Of one without a direction the others know nothing.
        Ok(answers) => answers
            .into_iter()
            .zip(faults)
            .map(|(answer, fault)| fault.map_or_else(|| Embedding::new(answer), Err))
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

/// Does the same in so many threads, this one among them, which calls `done` once it has done its part.
fn side_by_side(threads: usize, body: impl Fn() + Sync, done: impl FnOnce()) {
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(&body)).collect();
        body();
        done();
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
    // Asked once: it reads files, 0.05 ms.
    static CORES: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    *CORES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The way of other devices, without one: whole batches, padded ones, a single picture, a broken one.
    #[test]
    fn the_way_of_devices_says_what_the_cpus_says() {
        let picture = |number: usize| {
            let mut bytes = std::io::Cursor::new(Vec::new());
            let colour = |x: u32, y: u32| image::Rgb([number as u8, (3 * x) as u8, (2 * y) as u8]);
            let drawn = image::RgbImage::from_fn(80, 60, colour);
            drawn.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
            bytes.into_inner()
        };
        let mut files: Vec<Vec<u8>> = (0..elsewhere::BATCH + 2).map(picture).collect();
        files[5] = b"no picture".to_vec();
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let encoder = |elsewhere: bool| {
            let encoder = Encoder::new("any", None, Model::built_in().unwrap());
            encoder.elsewhere.is_used.store(elsewhere, Ordering::Relaxed);
            encoder
        };
        let (cpu, device) = (encoder(false), encoder(true));
        assert_eq!((device.batch(), device.under_way()), (elsewhere::BATCH, elsewhere::UNDER_WAY));
        assert_eq!((device.in_a_transaction(), cpu.in_a_transaction()), (4_096, 64));
        let alike = |one: &[f32], other: &[f32]| {
            let cosine: f32 = one.iter().zip(other).map(|(a, b)| a * b).sum();
            assert!(0.9999 < cosine, "{cosine}");
        };
        let all = cpu.pictures(&files).into_iter().zip(device.pictures(&files));
        for (at, (one, other)) in all.enumerate() {
            match (one, other) {
                (Ok(one), Ok(other)) => alike(one.as_slice(), other.as_slice()),
                (Err(one), Err(other)) => {
                    assert_eq!((at, one.to_string()), (5, other.to_string()));
                }
                (one, other) => panic!("{at}: {:?} and {:?}", one.err(), other.err()),
            }
        }
        let sentences = ["a dog", "two men in the snow with a red ball", "water"];
        let all = cpu.sentences(&sentences).unwrap();
        for (one, other) in all.iter().zip(device.sentences(&sentences).unwrap()) {
            alike(one.as_slice(), other.as_slice());
        }
    }
}
