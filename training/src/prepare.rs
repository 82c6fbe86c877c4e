//! `train prepare`: every picture decoded once, every sentence tokenized once, before any epoch.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use dualpath::text::Words;

use crate::config::Run;
use crate::data::{self, Picture, Split};
use crate::progress;

/// What `prepare` leaves in the run's folder.
const PICTURES: &str = "pictures.json";
const TOKENIZER: &str = "tokenizer.json";

/// Checked pictures and the vocabulary made from their sentences.
pub struct Prepared {
    /// All of them decode, all have a sentence.
    pub pictures: Vec<Picture>,
    /// Reads sentences.
    pub words: Words,
    /// `tokenizer.json` as written.
    pub tokenizer: Vec<u8>,
}

/// Checks the data of a run and writes what `fit` reads.
pub fn prepare(run: &Run, data: &Path, out: &Path) -> Result<()> {
    let pictures = data::collect(run, data)?;
    let (sound, broken) = decoded(pictures)?;
    for (name, reason) in &broken {
        eprintln!("left out: {name}: {reason}");
    }
    let known: Option<HashSet<String>> = match (&run.net.words, run.data.known_words) {
        (Some(file), true) => Some(data::vectors::words(&data.join(file))?.into_iter().collect()),
        _ => None,
    };
    let tokenizer = data::tokenizer(&sound, run.data.least_count, known.as_ref())?;
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    tokenizer.save(out.join(TOKENIZER), true).map_err(anyhow::Error::msg)?;
    std::fs::write(out.join(PICTURES), serde_json::to_vec(&sound)?)?;

    let prepared = Prepared::read(run, out)?;
    let count = |split| prepared.pictures.iter().filter(|it| it.split == split).count();
    let sentences: usize = prepared.pictures.iter().map(|it| it.sentences.len()).sum();
    println!(
        "{} training, {} validation and {} test pictures, {} left out; {sentences} sentences; {} words",
        count(Split::Train),
        count(Split::Val),
        count(Split::Test),
        broken.len(),
        prepared.words.vocabulary(),
    );
    println!("wrote {}", out.display());
    Ok(())
}

impl Prepared {
    /// Reads what [`prepare`] wrote.
    pub fn read(run: &Run, out: &Path) -> Result<Prepared> {
        let remedy = || format!("reading {} (run `train prepare` first)", out.display());
        let pictures = std::fs::read(out.join(PICTURES)).with_context(remedy)?;
        let tokenizer = std::fs::read(out.join(TOKENIZER)).with_context(remedy)?;
        let words = Words::from_json(&tokenizer, run.data.length)
            .map_err(anyhow::Error::msg)?
            .without(run.data.dropped());
        Ok(Prepared { pictures: serde_json::from_slice(&pictures)?, words, tokenizer })
    }

    /// The pictures of one part of the data.
    pub fn split(&self, split: Split) -> Vec<&Picture> {
        self.pictures.iter().filter(|it| it.split == split).collect()
    }
}

type Broken = Vec<(String, String)>;

/// Those that decode and have sentences, and the others with the reason.
fn decoded(pictures: Vec<Picture>) -> Result<(Vec<Picture>, Broken)> {
    let next = AtomicUsize::new(0);
    let broken = Mutex::new(Vec::new());
    let bar = progress::bar(pictures.len(), "checking pictures");
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((at, picture)) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|at| Some((at, pictures.get(at)?)))
                {
                    if let Err(reason) = fault(picture) {
                        broken.lock().unwrap_or_else(|it| it.into_inner()).push((at, reason));
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut broken = broken.into_inner().unwrap_or_else(|it| it.into_inner());
    broken.sort();
    let reasons: std::collections::BTreeMap<usize, String> = broken.into_iter().collect();
    let (mut sound, mut left_out) = (Vec::new(), Vec::new());
    for (at, picture) in pictures.into_iter().enumerate() {
        match reasons.get(&at) {
            Some(reason) => left_out.push((picture.name, reason.clone())),
            None => sound.push(picture),
        }
    }
    if sound.is_empty() {
        bail!("not one picture can be used");
    }
    Ok((sound, left_out))
}

fn fault(picture: &Picture) -> Result<(), String> {
    if picture.sentences.iter().all(|it| it.trim().is_empty()) {
        return Err("it has no sentence".to_owned());
    }
    let bytes = picture.read().map_err(|err| format!("{err:#}"))?;
    dualpath::image::decode(&bytes).map_err(|err| err.to_string())?;
    Ok(())
}
