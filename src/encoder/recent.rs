//! The last sentences and their embeddings, so that a constant costs one encoding a query.

use std::collections::VecDeque;

use crate::embedding::Embedding;

/// Sentences that are remembered.
const MOST: usize = 64;
/// Bytes of a sentence that is remembered; what is longer is hardly a constant.
const LONGEST: usize = 4096;

/// The one that was asked for last comes first.
#[derive(Default)]
pub struct Recent(VecDeque<(String, Embedding)>);

impl Recent {
    /// The embedding of a sentence, which is now the last that was asked for.
    pub fn find(&mut self, sentence: &str) -> Option<Embedding> {
        let at = self.0.iter().position(|it| it.0 == sentence)?;
        let found = self.0.remove(at)?;
        let embedding = found.1.clone();
        self.0.push_front(found);
        Some(embedding)
    }

    /// Remembers one more; the one that was asked for the longest ago is forgotten.
    pub fn remember(&mut self, sentence: &str, embedding: &Embedding) {
        if LONGEST < sentence.len() || self.0.iter().any(|it| it.0 == sentence) {
            return;
        }
        self.0.truncate(MOST - 1);
        self.0.push_front((sentence.to_owned(), embedding.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(number: usize) -> Embedding {
        Embedding::new(vec![1.0, number as f32]).unwrap()
    }

    #[test]
    fn what_was_asked_for_lately_is_remembered_and_no_more() {
        let mut recent = Recent::default();
        for number in 0..1_000 {
            assert_eq!(recent.find(&number.to_string()), None);
            recent.remember(&number.to_string(), &embedding(number));
            assert_eq!(recent.find("0"), Some(embedding(0)), "the constant of a query stays");
        }
        assert_eq!(recent.0.len(), MOST);
        assert_eq!(recent.find("999"), Some(embedding(999)));
        assert_eq!(recent.find("900"), None);
        recent.remember("999", &embedding(1));
        assert_eq!(recent.find("999"), Some(embedding(999)));
        recent.remember(&"long".repeat(LONGEST), &embedding(1));
        assert_eq!(recent.find(&"long".repeat(LONGEST)), None);
    }
}
