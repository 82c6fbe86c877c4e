//! Captioned pictures: captions files and their images in, checked pictures and token ids out.

mod captions;
mod places;
pub(crate) mod vectors;
mod vocabulary;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::config::Run;
use captions::Captioned;
pub use captions::Form;
use places::Places;
pub use vectors::word_vectors;
pub use vocabulary::{UNKNOWN, tokenizer};

/// Which part of the data a picture belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Weights are fitted to it.
    #[serde(alias = "restval")]
    Train,
    /// Recall is measured on it after every epoch.
    Val,
    /// Looked at once, at the end.
    Test,
}

/// A picture's place and its sentences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// The file's name in the captions file.
    pub name: String,
    /// Its part of the data.
    pub split: Split,
    /// What it shows where several pictures show the same, such as a person's number; pictures
    /// without it are a class each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What people said it shows.
    pub sentences: Vec<String>,
    /// The file that holds it: itself or a tar.
    pub file: PathBuf,
    /// Where its bytes start.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Picture {
    /// The encoded picture.
    pub fn read(&self) -> Result<Vec<u8>> {
        let file =
            File::open(&self.file).with_context(|| format!("opening {}", self.file.display()))?;
        let mut bytes = vec![0; self.bytes as usize];
        file.read_exact_at(&mut bytes, self.offset)
            .with_context(|| format!("reading {} from {}", self.name, self.file.display()))?;
        Ok(bytes)
    }
}

/// The class of each picture, counted from 0 in the order in which they come.
pub fn classes(pictures: &[&Picture]) -> Vec<i64> {
    let mut known = HashMap::new();
    let mut next = 0;
    let mut fresh = || {
        next += 1;
        next - 1
    };
    pictures
        .iter()
        .map(|it| match &it.class {
            Some(class) => *known.entry(class).or_insert_with(&mut fresh),
            None => fresh(),
        })
        .collect()
}

/// Joins the captions files to the pictures; nothing is decoded yet.
///
/// # Errors
/// A file that cannot be read, two captions files that disagree, a captioned picture that no tar
/// or folder holds.
pub fn collect(run: &Run, folder: &Path) -> Result<Vec<Picture>> {
    let data = &run.data;
    let captioned = merged(
        data.captions
            .all()
            .iter()
            .map(|file| Ok((file.clone(), captions::read(data.form, &folder.join(file))?)))
            .collect::<Result<Vec<_>>>()?,
    )?;
    let mut places = Places::default();
    for source in &data.images {
        places.add(&folder.join(source))?;
    }
    let (mut missing, mut pictures) = (Vec::new(), Vec::new());
    for mut it in captioned {
        if 0 < data.sentences {
            it.sentences.truncate(data.sentences);
        }
        match places.find(&it.name)? {
            None => missing.push(it.name),
            Some((file, offset, bytes)) => pictures.push(Picture {
                name: it.name,
                split: it.split.unwrap_or(Split::Train),
                class: it.class,
                sentences: it.sentences,
                file,
                offset,
                bytes,
            }),
        }
    }
    if let Some(first) = missing.first() {
        bail!(
            "{} of the captioned pictures are in none of {:?}, the first is {first} (data.images names tar files and folders)",
            missing.len(),
            data.images
        );
    }
    hold_out(&mut pictures, data.held_out, run.seed)?;
    Ok(pictures)
}

/// One entry a picture; the sentences of several files add up.
fn merged(files: Vec<(PathBuf, Vec<Captioned>)>) -> Result<Vec<Captioned>> {
    let mut all: Vec<Captioned> = Vec::new();
    let mut origins: HashMap<String, (usize, PathBuf)> = HashMap::new();
    for (file, captioned) in files {
        for it in captioned {
            let Some((at, origin)) = origins.get(&it.name) else {
                origins.insert(it.name.clone(), (all.len(), file.clone()));
                all.push(it);
                continue;
            };
            let known = &mut all[*at];
            if (known.split, &known.class) != (it.split, &it.class) {
                bail!(
                    "{} is {} in {} and {} in {} (correct one of them)",
                    it.name,
                    known.place(),
                    origin.display(),
                    it.place(),
                    file.display()
                );
            }
            for sentence in it.sentences {
                if !known.sentences.contains(&sentence) {
                    known.sentences.push(sentence);
                }
            }
        }
    }
    Ok(all)
}

/// Takes pictures out of the training part where the captions leave validation or test empty.
fn hold_out(pictures: &mut [Picture], [val, test]: [usize; 2], seed: i64) -> Result<()> {
    let mut train: Vec<usize> =
        (0..pictures.len()).filter(|it| pictures[*it].split == Split::Train).collect();
    if val + test == 0 {
        return Ok(());
    }
    if train.len() <= val + test {
        bail!("data.held_out = [{val}, {test}], but there are {} training pictures", train.len());
    }
    train.shuffle(&mut ChaCha8Rng::seed_from_u64(seed as u64));
    for (rank, at) in train.into_iter().take(val + test).enumerate() {
        pictures[at].split = if rank < val { Split::Val } else { Split::Test };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captioned(name: &str, split: Split, sentence: &str) -> Captioned {
        let sentences = vec![sentence.to_owned()];
        Captioned { name: name.to_owned(), split: Some(split), class: None, sentences }
    }

    #[test]
    fn files_add_up_or_are_told_apart() {
        let one = ("a.json".into(), vec![captioned("1.jpg", Split::Train, "a dog")]);
        let more = ("b.json".into(), vec![captioned("1.jpg", Split::Train, "a brown dog")]);
        let other = ("c.json".into(), vec![captioned("1.jpg", Split::Val, "a dog")]);
        let all = merged(vec![one.clone(), more]).unwrap();
        assert_eq!(all[0].sentences, ["a dog", "a brown dog"]);
        let message = merged(vec![one, other]).unwrap_err().to_string();
        assert_eq!(
            message,
            "1.jpg is in 'train' in a.json and in 'val' in c.json (correct one of them)"
        );
    }

    #[test]
    fn held_out_pictures_are_the_seeds() {
        let picture = |at: usize| Picture {
            name: at.to_string(),
            split: Split::Train,
            class: (at < 2).then(|| "same".to_owned()),
            sentences: vec![],
            file: PathBuf::new(),
            offset: 0,
            bytes: 0,
        };
        let held = |seed| {
            let mut pictures: Vec<Picture> = (0..10).map(picture).collect();
            hold_out(&mut pictures, [3, 2], seed).unwrap();
            pictures.into_iter().map(|it| it.split).collect::<Vec<_>>()
        };
        assert_eq!(held(1).iter().filter(|it| **it == Split::Val).count(), 3);
        assert_eq!(held(1).iter().filter(|it| **it == Split::Test).count(), 2);
        assert_eq!(held(1), held(1));
        assert_ne!(held(1), held(2));
        let pictures: Vec<Picture> = (0..4).map(picture).collect();
        assert_eq!(classes(&pictures.iter().collect::<Vec<_>>()), [0, 0, 1, 2]);
        assert!(hold_out(&mut [picture(0)], [1, 0], 1).is_err());
    }
}
