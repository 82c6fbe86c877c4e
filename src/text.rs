//! Sentences: text in, a fixed number of token ids out.

use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// Most bytes of a sentence that are looked at; what follows could not change the embedding anyway.
pub const MOST_SENTENCE_BYTES: usize = 1 << 20;

/// The words a text path knows, and how it counts them.
pub struct Words {
    tokenizer: Tokenizer,
    length: usize,
}

impl Words {
    /// Reads a Hugging Face `tokenizer.json`; `length` is the number of ids per sentence.
    pub fn from_json(json: &[u8], length: usize) -> std::result::Result<Words, String> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|err| err.to_string())?;
        // Length and padding are the text path's, whatever the file says.
        tokenizer.with_truncation(None).map_err(|err| err.to_string())?;
        tokenizer.with_padding(None);
        Ok(Words { tokenizer, length })
    }

    /// The first `length` tokens of the sentence, then zeros.
    ///
    /// # Errors
    /// A sentence without any token, or over [`MOST_SENTENCE_BYTES`].
    pub fn ids(&self, sentence: &str) -> Result<Vec<i64>> {
        if MOST_SENTENCE_BYTES < sentence.len() {
            let reason = format!(
                "has {} bytes (the limit is {MOST_SENTENCE_BYTES}; the first {} words count)",
                sentence.len(),
                self.length
            );
            return Err(Error::Sentence { reason });
        }
        let encoding = self
            .tokenizer
            .encode_fast(sentence, false)
            .map_err(|err| Error::Sentence { reason: format!("cannot be tokenized: {err}") })?;
        if encoding.get_ids().is_empty() {
            let reason = "has no words (say what the picture shows)".to_owned();
            return Err(Error::Sentence { reason });
        }
        let mut ids: Vec<i64> = encoding.get_ids().iter().map(|it| i64::from(*it)).collect();
        ids.resize(self.length, PADDING);
        Ok(ids)
    }

    /// Ids per sentence.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many different tokens there are.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }
}

/// The id of an empty position.
pub const PADDING: i64 = 0;
