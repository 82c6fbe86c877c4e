//! Everything that can go wrong, each as a sentence for the person at the SQL prompt.

use std::path::PathBuf;

/// What the extension's own code returns.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure, worded `<name>: <what is wrong, with both values> (<what to do>)`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes whose length is no multiple of four, or none at all.
    #[error(
        "the vector has {bytes} bytes (expected 4 per dimension: little-endian float32, as embed_text() returns)"
    )]
    VectorBytes {
        /// The blob's length.
        bytes: usize,
    },

    /// NaN or infinity among the numbers.
    #[error("the vector holds {value} at dimension {at} (every number must be finite)")]
    VectorNumber {
        /// What stands there.
        value: f32,
        /// Counted from 0.
        at: usize,
    },

    /// A zero vector points nowhere, so no cosine exists.
    #[error("the vector is all zeros (it has no direction to compare)")]
    VectorZero,

    /// Squares of its numbers could not be added up in float32.
    #[error(
        "the vector has length {length:.1e}, at most 1e15 is taken (make all vectors smaller alike)"
    )]
    VectorLength {
        /// How long it is.
        length: f64,
    },

    /// Vectors of two sizes.
    #[error("the vector has {got} dimensions, expected {expected} (use one model for both sides)")]
    Dimension {
        /// What the table or the other side has.
        expected: usize,
        /// What was given.
        got: usize,
    },

    /// JSON that is not an array of numbers.
    #[error("the JSON is no vector: {reason} (expected an array of numbers such as [0.6, 0.8])")]
    VectorJson {
        /// The parser's words.
        reason: String,
    },

    /// Bytes that no decoder takes.
    #[error(
        "the picture cannot be read: {reason} (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and HEIC are read)"
    )]
    Picture {
        /// The decoder's words.
        reason: String,
    },

    /// A picture over the limits of [`crate::image`].
    #[error(
        "the picture has {width} x {height} pixels (the limit is {limit}; make it smaller first)"
    )]
    PictureSize {
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
        /// The limit in words.
        limit: String,
    },

    /// A sentence that cannot be encoded.
    #[error("the sentence {reason}")]
    Sentence {
        /// What is wrong and what to do.
        reason: String,
    },

    /// A model folder that cannot be used.
    #[error("model folder {}: {reason}", path.display())]
    ModelFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },

    /// No model of that name is loaded.
    #[error(
        "no model is named '{name}' (loaded: {loaded}; INSERT INTO dualpath_models(name, path) loads a folder)"
    )]
    NoModel {
        /// The name asked for.
        name: String,
        /// The loaded ones, with commas.
        loaded: String,
    },

    /// ONNX Runtime's library is not to be found or not to be used.
    #[error(
        "ONNX Runtime is missing: {reason} (looked at {looked}; scripts/onnxruntime puts it beside the extension, or set ORT_DYLIB_PATH)"
    )]
    Runtime {
        /// The loader's words.
        reason: String,
        /// The places, with commas.
        looked: String,
    },

    /// A device that was asked for cannot be used.
    #[error(
        "the device '{name}' cannot be used: {reason} (it needs {needs}; looked for by {library} and the system's loader, LD_LIBRARY_PATH included; dualpath_device('cpu') goes without)"
    )]
    Device {
        /// The setting.
        name: &'static str,
        /// ONNX Runtime's words, which name the file that is missing.
        reason: String,
        /// What has to be there.
        needs: &'static str,
        /// ONNX Runtime's library, beside which providers lie.
        library: String,
    },

    /// ONNX Runtime refused a graph or a run.
    #[error("model '{model}': {reason}")]
    Inference {
        /// The model's name.
        model: String,
        /// The runtime's words.
        reason: String,
    },

    /// A file that cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// The path as given.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },

    /// A shadow table that does not hold what it should.
    #[error(
        "{table}: {reason} (the table is damaged; INSERT INTO {name}({name}) VALUES ('integrity-check') lists everything)"
    )]
    Damaged {
        /// The shadow table.
        table: String,
        /// The virtual table.
        name: String,
        /// What is wrong.
        reason: String,
    },

    /// A wrong argument, option or command: the message says all.
    #[error("{0}")]
    Usage(String),

    /// SQLite's own result code, with its words.
    #[error("{message}")]
    Sqlite {
        /// Primary or extended result code.
        code: i32,
        /// `sqlite3_errmsg()`, with what was being done.
        message: String,
    },
}

impl Error {
    /// Whether the picture or the sentence itself is at fault, so that others may do better.
    pub fn is_of_content(&self) -> bool {
        matches!(
            self,
            // A model may have no direction for a picture.
            Error::VectorZero
                | Error::VectorNumber { .. }
                | Error::Picture { .. }
                | Error::PictureSize { .. }
                | Error::Sentence { .. }
        )
    }
}
