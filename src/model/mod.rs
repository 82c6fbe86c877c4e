//! A model folder: two ONNX graphs, a tokenizer and the manifest that binds them.

mod hub;
pub mod protobuf;
pub mod half;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::image::Preprocess;
use crate::text::Words;

/// The only format number so far.
pub const FORMAT: u32 = 1;
/// The manifest's file name.
pub const MANIFEST: &str = "dualpath.json";
/// The image path: `pixels` (batch, 3, size, size) float32 to `embedding` (batch, dimension) float32.
pub const IMAGE_GRAPH: &str = "image.onnx";
/// The text path: `tokens` (batch, length or any) int64 to `embedding` (batch, dimension) float32.
pub const TEXT_GRAPH: &str = "text.onnx";
/// Words to ids, in Hugging Face's form.
pub const TOKENIZER: &str = "tokenizer.json";

/// `dualpath.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// How tables and `dualpath_models` call it.
    pub name: String,
    /// Numbers in an embedding.
    pub dimension: usize,
    /// What the image path expects.
    pub image: Preprocess,
    /// What the text path expects.
    pub text: Sentences,
    /// SHA-256 of the other files, in hexadecimal.
    pub files: BTreeMap<String, String>,
    /// Whose data and weights it was made from, under which terms.
    pub notice: String,
    /// What was measured when it was made.
    pub recall: Option<Recall>,
}

/// What a text path expects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sentences {
    /// Token ids per sentence; shorter ones are padded with 0.
    pub length: usize,
    /// The id of tokens that are left out of a sentence, where the text path wants that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<i64>,
}

/// Recall at 1, 5 and 10, in percent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recall {
    /// The pictures and sentences it was measured on.
    pub data: String,
    /// A sentence finds its picture.
    pub text_to_image: [f64; 3],
    /// A picture finds one of its sentences.
    pub image_to_text: [f64; 3],
}

/// A model whose files were read and found to be what the manifest says.
pub struct Model {
    /// The manifest as read.
    pub manifest: Manifest,
    /// Names the model whatever it is called: SHA-256 of all that changes an embedding.
    pub digest: String,
    /// The tokenizer.
    pub words: Words,
    /// The image path.
    pub image_graph: Graph,
    /// The text path.
    pub text_graph: Graph,
}

/// An ONNX graph, before it is opened.
pub enum Graph {
    /// Of `train export`: names, types and shapes are as [`IMAGE_GRAPH`] and [`TEXT_GRAPH`] say.
    Bytes(Cow<'static, [u8]>),
    /// Of somebody else: opened where it lies, beside weights that it may keep there, and asked for
    /// its names and types.
    File(PathBuf),
}

impl Model {
    /// Reads and checks a model folder: of `train export`, of the Hugging Face hub, or of immich.
    ///
    /// # Errors
    /// A missing file, a digest that differs, another format number, a manifest with unknown keys,
    /// preprocessing that cannot be done.
    pub fn from_folder(path: &Path) -> Result<Model> {
        if !path.join(MANIFEST).exists()
            && let Some(model) = hub::read(path)
        {
            return model;
        }
        Model::read(path, |file| std::fs::read(path.join(file)).map(Cow::Owned))
    }

    /// The encoder pair that is compiled into the library.
    pub fn built_in() -> Result<Model> {
        Model::read(Path::new("models/default"), |file| {
            Ok(Cow::Borrowed(match file {
                MANIFEST => include_bytes!("../../models/default/dualpath.json"),
                IMAGE_GRAPH => include_bytes!("../../models/default/image.onnx"),
                TEXT_GRAPH => include_bytes!("../../models/default/text.onnx"),
                TOKENIZER => include_bytes!("../../models/default/tokenizer.json"),
                _ => return Err(std::io::ErrorKind::NotFound.into()),
            }))
        })
    }

    fn read(
        path: &Path,
        file: impl Fn(&str) -> std::io::Result<Cow<'static, [u8]>>,
    ) -> Result<Model> {
        let refused = |reason: String| Error::ModelFolder { path: path.to_owned(), reason };
        let read = |name: &str| file(name).map_err(|err| refused(format!("{name}: {err}")));
        let manifest = manifest(&read(MANIFEST)?).map_err(&refused)?;
        let checked = |name: &str| {
            let bytes = read(name)?;
            let expected = manifest.files.get(name).map_or("", String::as_str);
            let got = sha256(&bytes);
            if expected != got {
                return Err(refused(format!(
                    "{name} has digest {got}, {MANIFEST} says '{expected}' (copy the folder again)"
                )));
            }
            Ok(bytes)
        };
        let words = Words::from_json(&checked(TOKENIZER)?, manifest.text.length)
            .map_err(|err| refused(format!("{TOKENIZER}: {err}")))?
            .without(manifest.text.dropped);
        let image_graph = Graph::Bytes(checked(IMAGE_GRAPH)?);
        let text_graph = Graph::Bytes(checked(TEXT_GRAPH)?);
        let digest = manifest.digest();
        Ok(Model { manifest, digest, words, image_graph, text_graph })
    }
}

impl Manifest {
    /// SHA-256 over everything that changes an embedding: name, notice and recall do not.
    pub fn digest(&self) -> String {
        let parts = serde_json::json!([self.dimension, self.image, self.text, self.files]);
        sha256(parts.to_string().as_bytes())
    }
}

/// In hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|it| format!("{it:02x}")).collect()
}

fn manifest(json: &[u8]) -> std::result::Result<Manifest, String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let wrong = |err: serde_json::Error| format!("{MANIFEST}: {err}");
    // Another format may have other keys, so its number is looked at first.
    let Format { format } = serde_json::from_slice(json).map_err(wrong)?;
    if format != FORMAT {
        return Err(format!(
            "{MANIFEST} has format {format}, expected {FORMAT} (export it with the `train` of this version)"
        ));
    }
    let manifest: Manifest = serde_json::from_slice(json).map_err(wrong)?;
    let limits = [
        ("dimension", manifest.dimension, 65_536),
        ("image.size", manifest.image.size as usize, 4_096),
        ("text.length", manifest.text.length, 4_096),
    ];
    for (key, value, most) in limits {
        if !(1..=most).contains(&value) {
            return Err(format!("{MANIFEST}: {key} is {value} (1 to {most})"));
        }
    }
    if manifest.image.std.iter().any(|it| it.is_nan() || *it <= 0.0) {
        return Err(format!("{MANIFEST}: image.std is {:?} (above 0)", manifest.image.std));
    }
    Ok(manifest)
}
