//! What a content row holds now, held against what was seen last.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::queue::Content;
use super::wrong_type;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::sqlite::Value;
use crate::store::Seen;

/// One picture or sentence of a content row.
pub enum Sight {
    /// No picture or no sentence, or a file that is to be read another time.
    Nothing,
    /// As it was seen last.
    Same,
    /// The same bytes in another file, or at another time.
    Moved(Seen),
    /// What cannot be encoded, and why.
    Broken(Seen, String),
    /// What is to be encoded.
    New(Seen, Content),
}

/// A sentence.
pub fn sentence(
    name: &str,
    value: Value<'_>,
    last: Option<&Seen>,
    encoder: impl FnOnce() -> Result<Arc<Encoder>>,
) -> Result<Sight> {
    let Value::Text(sentence) = value else {
        return Ok(broken(wrong_type(name, &value, "TEXT: a sentence")));
    };
    let seen = seen_of(sentence.as_bytes());
    if last == Some(&seen) {
        return Ok(Sight::Same);
    }
    Ok(match encoder()?.check_sentence(sentence) {
        Ok(()) => Sight::New(seen, Content::Sentence(sentence.to_owned())),
        Err(err) if err.is_of_content() => Sight::Broken(seen, err.to_string()),
        Err(err) => return Err(err),
    })
}

/// A picture's bytes.
pub fn bytes(name: &str, value: Value<'_>, last: Option<&Seen>) -> Sight {
    let Value::Blob(bytes) = value else {
        return broken(wrong_type(name, &value, "a BLOB: the bytes of a picture file"));
    };
    let size = Some(bytes.len() as i64);
    let seen = seen_of(bytes);
    if last.is_some_and(|it| it.size == size && it.digest == seen.digest) {
        return Sight::Same;
    }
    Sight::New(seen, Content::Picture(bytes.to_vec()))
}

/// The name of a picture's file; without a folder, none is read.
pub fn file(name: &str, value: Value<'_>, last: Option<&Seen>, folder: Option<&Folder>) -> Sight {
    let Value::Text(path) = value else {
        return broken(wrong_type(name, &value, "TEXT: the path of a picture file"));
    };
    let path_seen = Seen { path: Some(path.to_owned()), ..Seen::default() };
    let Some(folder) = folder else {
        // Only `dualpath_sync` reads files; what has another name now waits for it.
        return match last.is_some_and(|it| it.path == path_seen.path) {
            true => Sight::Same,
            false => Sight::Nothing,
        };
    };
    let found = match folder.find(path) {
        Ok(found) => found,
        Err(err) => return Sight::Broken(path_seen, err.to_string()),
    };
    let (size, modified) = (i64::try_from(found.size).ok(), found.modified);
    if modified.is_some()
        && last.is_some_and(|it| {
            it.path == path_seen.path && it.size == size && it.modified == modified
        })
    {
        return Sight::Same;
    }
    let bytes = match found.read() {
        Ok(bytes) => bytes,
        Err(err) => return Sight::Broken(path_seen, err.to_string()),
    };
    let seen = Seen { path: path_seen.path, modified, ..seen_of(&bytes) };
    match last {
        Some(last) if *last == seen => Sight::Same,
        Some(last) if last.size == seen.size && last.digest == seen.digest => Sight::Moved(seen),
        _ => Sight::New(seen, Content::Picture(bytes)),
    }
}

fn seen_of(bytes: &[u8]) -> Seen {
    Seen {
        size: Some(bytes.len() as i64),
        digest: Some(Sha256::digest(bytes).to_vec()),
        ..Seen::default()
    }
}

fn broken(err: Error) -> Sight {
    Sight::Broken(Seen::default(), err.to_string())
}
