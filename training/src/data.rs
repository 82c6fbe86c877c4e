//! Captioned pictures: a captions file and its images in, checked pictures and token ids out.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::config::Data;

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

/// Karpathy's JSON; keys that are not needed are passed over.
#[derive(Deserialize)]
struct Captions {
    images: Vec<Captioned>,
}

#[derive(Deserialize)]
struct Captioned {
    filename: String,
    split: Split,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: String,
}

/// Joins the captions file to the pictures; nothing is decoded yet.
///
/// # Errors
/// A file that cannot be read, a captioned picture that no tar or folder holds.
pub fn collect(data: &Data, folder: &Path) -> Result<Vec<Picture>> {
    let captions = folder.join(&data.captions);
    let text = std::fs::read(&captions)
        .with_context(|| format!("reading the captions {}", captions.display()))?;
    let captions: Captions = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not in Karpathy's form", captions.display()))?;
    let mut places = HashMap::new();
    for source in &data.images {
        index(&folder.join(source), &mut places)?;
    }
    let mut missing = Vec::new();
    let mut pictures = Vec::new();
    for it in captions.images {
        let sentences: Vec<String> = it.sentences.into_iter().map(|it| it.raw).collect();
        match places.get(&it.filename) {
            None => missing.push(it.filename),
            Some((file, offset, bytes)) => pictures.push(Picture {
                name: it.filename,
                split: it.split,
                sentences,
                file: file.clone(),
                offset: *offset,
                bytes: *bytes,
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
    Ok(pictures)
}

type Places = HashMap<String, (PathBuf, u64, u64)>;

fn index(source: &Path, places: &mut Places) -> Result<()> {
    let reading = || format!("reading the pictures of {}", source.display());
    if source.is_dir() {
        for entry in std::fs::read_dir(source).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let path = std::path::absolute(entry.path())?;
            if path.is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                places.insert(name, (path, 0, entry.metadata()?.len()));
            }
        }
        return Ok(());
    }
    let file = File::open(source).with_context(reading)?;
    for entry in tar::Archive::new(file).entries().with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let path = entry.path().with_context(reading)?;
        let Some(name) = path.file_name().filter(|_| entry.header().entry_type().is_file()) else {
            continue;
        };
        let place = (std::path::absolute(source)?, entry.raw_file_position(), entry.size());
        places.insert(name.to_string_lossy().into_owned(), place);
    }
    Ok(())
}

/// The unknown word's id; 0 is the empty position.
pub const UNKNOWN: i64 = 1;

/// Lower-cased words that stand at least `least_count` times, commonest first, behind the two
/// special tokens, as a Hugging Face tokenizer.
pub fn tokenizer(pictures: &[Picture], least_count: usize) -> Result<tokenizers::Tokenizer> {
    use tokenizers::models::wordlevel::WordLevel;
    use tokenizers::normalizers::{Lowercase, NFC, Sequence};
    use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
    use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

    let special = ["[PAD]", "[UNK]"];
    let build = |words: Vec<String>| -> tokenizers::Result<Tokenizer> {
        let vocabulary = words.into_iter().zip(0..).collect();
        let model =
            WordLevel::builder().vocab(vocabulary).unk_token(special[1].to_owned()).build()?;
        let mut tokenizer = Tokenizer::new(model);
        let normalizer: Vec<NormalizerWrapper> = vec![NFC.into(), Lowercase.into()];
        tokenizer.with_normalizer(Some(Sequence::new(normalizer)))?;
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        Ok(tokenizer)
    };
    // An empty vocabulary already splits and lower-cases, so words are counted as they will be read.
    let split = build(special.map(str::to_owned).to_vec()).map_err(anyhow::Error::msg)?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for sentence in
        pictures.iter().filter(|it| it.split == Split::Train).flat_map(|it| &it.sentences)
    {
        for word in words(&split, sentence)? {
            *counts.entry(word).or_default() += 1;
        }
    }
    let mut known: Vec<(usize, String)> = counts
        .into_iter()
        .filter(|it| least_count <= it.1)
        .map(|(word, count)| (count, word))
        .collect();
    if known.is_empty() {
        bail!(
            "no word stands {least_count} times in the training sentences (lower data.least_count)"
        );
    }
    known.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let words =
        special.map(str::to_owned).into_iter().chain(known.into_iter().map(|it| it.1)).collect();
    let mut tokenizer = build(words).map_err(anyhow::Error::msg)?;
    tokenizer
        .add_special_tokens(special.map(|it| AddedToken::from(it, true)))
        .map_err(anyhow::Error::msg)?;
    Ok(tokenizer)
}

fn words(tokenizer: &tokenizers::Tokenizer, sentence: &str) -> Result<Vec<String>> {
    use tokenizers::{Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
    let mut text = tokenizers::NormalizedString::from(sentence);
    let prepare =
        |text: &mut tokenizers::NormalizedString| -> tokenizers::Result<PreTokenizedString> {
            if let Some(normalizer) = tokenizer.get_normalizer() {
                normalizer.normalize(text)?;
            }
            let mut pieces = PreTokenizedString::from(text.clone());
            if let Some(splitter) = tokenizer.get_pre_tokenizer() {
                splitter.pre_tokenize(&mut pieces)?;
            }
            Ok(pieces)
        };
    let pieces = prepare(&mut text).map_err(anyhow::Error::msg)?;
    let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(splits.into_iter().map(|it| it.0.to_owned()).collect())
}

/// Word vectors in GloVe's text format, for the words of the vocabulary only.
pub fn word_vectors(
    file: &Path,
    vocabulary: &HashMap<String, u32>,
) -> Result<Vec<(u32, Vec<f32>)>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading the word vectors {}", file.display()))?;
    let mut vectors = Vec::new();
    for (line, content) in text.lines().enumerate() {
        let mut fields = content.split(' ');
        let Some(id) = fields.next().and_then(|word| vocabulary.get(word)) else {
            continue;
        };
        let numbers: Result<Vec<f32>, _> = fields.map(str::parse).collect();
        let numbers = numbers.with_context(|| format!("{} line {}", file.display(), line + 1))?;
        vectors.push((*id, numbers));
    }
    Ok(vectors)
}
