//! The words of the training sentences, as a Hugging Face tokenizer.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Result, bail};
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::normalizers::{Lowercase, NFC, Sequence};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, Tokenizer,
};

use super::{Picture, Split};

/// The unknown word's id; 0 is the empty position.
pub const UNKNOWN: i64 = 1;

const SPECIAL: [&str; 2] = ["[PAD]", "[UNK]"];

/// Words that stand at least `least_count` times, commonest first, behind the two special tokens;
/// with `known`, only words that it has, written as they are, for the paper keeps capitals.
pub fn tokenizer(
    pictures: &[Picture],
    least_count: usize,
    known: Option<&HashSet<String>>,
) -> Result<Tokenizer> {
    // An empty vocabulary already splits and lower-cases, so words are counted as they will be read.
    let build = |words: Vec<String>| build(words, known.is_none()).map_err(anyhow::Error::msg);
    let split = build(SPECIAL.map(str::to_owned).to_vec())?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for sentence in
        pictures.iter().filter(|it| it.split == Split::Train).flat_map(|it| &it.sentences)
    {
        for word in words(&split, sentence).map_err(anyhow::Error::msg)? {
            *counts.entry(word).or_default() += 1;
        }
    }
    let mut kept: Vec<(usize, String)> = counts
        .into_iter()
        .filter(|it| least_count <= it.1 && known.is_none_or(|known| known.contains(&it.0)))
        .map(|(word, count)| (count, word))
        .collect();
    if kept.is_empty() {
        bail!(
            "the vocabulary is empty: no word stands {least_count} times in the training sentences{} (lower data.least_count)",
            if known.is_some() { " and has a vector in net.words" } else { "" }
        );
    }
    kept.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let words =
        SPECIAL.map(str::to_owned).into_iter().chain(kept.into_iter().map(|it| it.1)).collect();
    let mut tokenizer = build(words)?;
    tokenizer
        .add_special_tokens(SPECIAL.map(|it| AddedToken::from(it, true)))
        .map_err(anyhow::Error::msg)?;
    Ok(tokenizer)
}

fn build(words: Vec<String>, lowercase: bool) -> tokenizers::Result<Tokenizer> {
    let vocabulary = words.into_iter().zip(0..).collect();
    let model = WordLevel::builder().vocab(vocabulary).unk_token(SPECIAL[1].to_owned()).build()?;
    let mut tokenizer = Tokenizer::new(model);
    let mut normalizers: Vec<NormalizerWrapper> = vec![NFC.into()];
    if lowercase {
        normalizers.push(Lowercase.into());
    }
    tokenizer.with_normalizer(Some(Sequence::new(normalizers)))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    Ok(tokenizer)
}

fn words(tokenizer: &Tokenizer, sentence: &str) -> tokenizers::Result<Vec<String>> {
    let mut text = NormalizedString::from(sentence);
    if let Some(normalizer) = tokenizer.get_normalizer() {
        normalizer.normalize(&mut text)?;
    }
    let mut pieces = PreTokenizedString::from(text);
    if let Some(splitter) = tokenizer.get_pre_tokenizer() {
        splitter.pre_tokenize(&mut pieces)?;
    }
    let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(splits.into_iter().map(|it| it.0.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures() -> Vec<Picture> {
        let sentences = vec!["A dog and a Dog.".to_owned(), "The dog".to_owned()];
        vec![Picture {
            name: "1.jpg".into(),
            split: Split::Train,
            class: None,
            sentences,
            file: "1.jpg".into(),
            offset: 0,
            bytes: 0,
        }]
    }

    #[test]
    fn commonest_words_come_first() {
        let tokenizer = tokenizer(&pictures(), 2, None).unwrap();
        let vocabulary = tokenizer.get_vocab(true);
        let id = |word| vocabulary.get(word).copied();
        assert_eq!([id("[PAD]"), id("[UNK]"), id("dog"), id("a")], [0, 1, 2, 3].map(Some));
        assert_eq!(vocabulary.len(), 4);
        assert!(super::tokenizer(&pictures(), 9, None).is_err());
    }

    #[test]
    fn known_words_keep_their_capitals() {
        let known = ["Dog", "The", "dog", "cat"].map(str::to_owned).into();
        let vocabulary = tokenizer(&pictures(), 1, Some(&known)).unwrap().get_vocab(true);
        let mut words: Vec<&String> = vocabulary.keys().collect();
        words.sort();
        assert_eq!(words, ["Dog", "The", "[PAD]", "[UNK]", "dog"]);
    }
}
