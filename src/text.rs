//! Sentences: text in, a fixed number of token ids out.

use tokenizers::{Tokenizer, TruncationParams};

use crate::error::{Error, Result};

/// Most bytes of a sentence that are looked at; what follows could not change the embedding anyway.
pub const MOST_SENTENCE_BYTES: usize = 1 << 20;

/// The words a text path knows, and how it counts them.
pub struct Words {
    tokenizer: Tokenizer,
    length: usize,
    dropped: Option<i64>,
    padding: i64,
    /// Whether the tokenizer marks a sentence's start and end.
    marks: bool,
}

impl Words {
    /// Reads a Hugging Face `tokenizer.json`; `length` is the number of ids per sentence.
    pub fn from_json(json: &[u8], length: usize) -> std::result::Result<Words, String> {
        Words::with(json, length, None, PADDING)
    }

    /// The same with the marks of start and end that the tokenizer puts around a sentence, which
    /// is cut off so that they find room; shorter ones are filled up with `padding`.
    pub fn with_marks(
        json: &[u8],
        length: usize,
        padding: i64,
    ) -> std::result::Result<Words, String> {
        let truncation = TruncationParams { max_length: length, ..TruncationParams::default() };
        Ok(Words { marks: true, ..Words::with(json, length, Some(truncation), padding)? })
    }

    fn with(
        json: &[u8],
        length: usize,
        truncation: Option<TruncationParams>,
        padding: i64,
    ) -> std::result::Result<Words, String> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|err| err.to_string())?;
        // Length and padding are the text path's, whatever the file says.
        tokenizer.with_truncation(truncation).map_err(|err| err.to_string())?;
        tokenizer.with_padding(None);
        // A sentence is data: "[PAD]" in it is three words, not the end of it.
        tokenizer.set_encode_special_tokens(true);
        Ok(Words { tokenizer, length, dropped: None, padding, marks: false })
    }

    /// Leaves tokens of this id out, as the paper leaves out words it has no vector for; the
    /// sentence closes up over them.
    pub fn without(self, dropped: Option<i64>) -> Words {
        Words { dropped, ..self }
    }

    /// [`Words::tokens`], filled up to `length` ids.
    pub fn ids(&self, sentence: &str) -> Result<Vec<i64>> {
        let mut ids = self.tokens(sentence)?;
        ids.resize(self.length, self.padding);
        Ok(ids)
    }

    /// The first `length` tokens of the sentence. What comes after them is not read.
    ///
    /// # Errors
    /// A sentence without any token, with a NUL inside, or over [`MOST_SENTENCE_BYTES`].
    pub fn tokens(&self, sentence: &str) -> Result<Vec<i64>> {
        if let Some(at) = sentence.find('\0') {
            let reason = format!("has a NUL at byte {at} (pass the text before it)");
            return Err(Error::Sentence { reason });
        }
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
            .encode_fast(sentence, self.marks)
            .map_err(|err| Error::Sentence { reason: format!("cannot be tokenized: {err}") })?;
        let all = encoding.get_ids().iter().map(|it| i64::from(*it));
        let mut ids: Vec<i64> = all.filter(|it| Some(*it) != self.dropped).collect();
        ids.truncate(self.length);
        let is_empty = match self.marks {
            true => encoding.get_special_tokens_mask().iter().all(|it| *it == 1),
            // Not even a tokenizer from elsewhere may hand over padding alone: its mean is 0 / 0.
            false => ids.iter().all(|it| *it == PADDING),
        };
        if is_empty {
            let reason = "has no words (say what the picture shows)".to_owned();
            return Err(Error::Sentence { reason });
        }
        Ok(ids)
    }

    /// The id of an empty position.
    pub fn padding(&self) -> i64 {
        self.padding
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

/// The id of an empty position in models of `train export`.
pub const PADDING: i64 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    /// The form that `train prepare` writes.
    fn words(length: usize) -> Words {
        let json = serde_json::json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "padding": null,
            "added_tokens": [
                {"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false,
                 "rstrip": false, "normalized": false, "special": true},
                {"id": 1, "content": "[UNK]", "single_word": false, "lstrip": false,
                 "rstrip": false, "normalized": false, "special": true},
            ],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": null,
            "decoder": null,
            "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab":
                {"[PAD]": 0, "[UNK]": 1, "two": 2, "dogs": 3, ".": 4, "caf\u{e9}": 5}},
        });
        Words::from_json(json.to_string().as_bytes(), length).unwrap()
    }

    #[test]
    fn case_punctuation_and_accents() {
        let words = words(5);
        assert_eq!(words.ids("Two DOGS.").unwrap(), [2, 3, 4, 0, 0]);
        assert_eq!(words.ids("  two\tdogs\n.").unwrap(), [2, 3, 4, 0, 0]);
        assert_eq!(words.ids("cafe\u{301} zebra").unwrap(), [5, 1, 0, 0, 0]);
        assert_eq!((words.length(), words.vocabulary()), (5, 6));
    }

    #[test]
    fn a_sentence_closes_up_over_dropped_words() {
        let words = words(3).without(Some(1));
        assert_eq!(words.ids("two zebra dogs").unwrap(), [2, 3, 0]);
        assert!(words.ids("zebra").is_err());
    }

    #[test]
    fn marks_stand_around_what_fits_between_them() {
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]},
                                   "</s>": {"id": "</s>", "ids": [8], "tokens": ["</s>"]}},
            },
            "decoder": null,
            "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"two": 2, "dogs": 3, "?": 1, "<s>": 7, "</s>": 8}},
        });
        let words = Words::with_marks(json.to_string().as_bytes(), 4, 9).unwrap();
        assert_eq!(words.tokens("Dogs").unwrap(), [7, 3, 8]);
        assert_eq!(words.ids("Dogs").unwrap(), [7, 3, 8, 9]);
        assert_eq!(words.ids("two dogs two dogs").unwrap(), [7, 2, 3, 8]);
        assert!(words.ids(" ").unwrap_err().to_string().contains("has no words"));
    }

    #[test]
    fn the_first_words_count() {
        let words = words(3);
        assert_eq!(words.ids("two dogs two dogs two").unwrap(), [2, 3, 2]);
        let long = format!("two dogs two{}", " dogs".repeat(10_000));
        assert_eq!(words.ids(&long).unwrap(), [2, 3, 2]);
    }

    #[test]
    fn words_never_seen_are_words() {
        assert_eq!(words(3).ids("xyzzy \u{1f415}").unwrap(), [1, 1, 0]);
    }

    #[test]
    fn tokens_of_the_model_are_plain_text() {
        let ids = words(8).ids("[PAD] [UNK] dogs").unwrap();
        assert_eq!(ids, [1, 1, 1, 1, 1, 1, 3, 0]);
    }

    #[test]
    fn what_is_no_sentence() {
        let message = |it: &str| words(3).ids(it).unwrap_err().to_string();
        let none = "the sentence has no words (say what the picture shows)";
        assert_eq!(message(""), none);
        assert_eq!(message(" \t\r\n\u{3000}"), none);
        assert_eq!(
            message("two\0dogs"),
            "the sentence has a NUL at byte 3 (pass the text before it)"
        );
        let endless = "a".repeat(MOST_SENTENCE_BYTES + 1);
        assert!(message(&endless).contains("has 1048577 bytes (the limit is 1048576"));
    }

    #[test]
    fn any_text_is_refused_or_encoded() {
        let words = words(4);
        arbtest::arbtest(|u| {
            let sentence: String = u.arbitrary()?;
            if let Ok(ids) = words.ids(&sentence) {
                assert_eq!(ids.len(), 4);
                assert!(ids.iter().all(|it| (0..6).contains(it)) && ids[0] != PADDING);
            }
            Ok(())
        });
    }
}
