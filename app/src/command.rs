//! The command line and its help pages.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Searches your pictures with sentences: index a folder, ask for what is on a picture.
#[derive(Parser)]
#[command(name = "dualpath", version, about, after_long_help = WHOLE)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

const WHOLE: &str = "\
Example:
  dualpath index ~/Pictures
  cd ~/Pictures
  dualpath search 'two dogs in the snow'
  dualpath gallery

The index of a folder is one SQLite database in it, FOLDER/.dualpath.db. `search` and `gallery` look for it in
the current folder and the folders above, as git looks for .git. Nothing leaves this machine.

What you asked for goes to stdout, everything else to stderr. Pictures are only read.

Exit status: 0 when it is done, 1 when a search finds nothing, 2 for an error, 130 when it was stopped by
Ctrl-C. NO_COLOR is respected. ONNX Runtime's library lies beside this program, or ORT_DYLIB_PATH names it.";

const INDEX: &str = "\
Examples:
  dualpath index                              the current folder
  dualpath index ~/Pictures --exclude trash
  dualpath index /media/card --db card.db     the folder stays as it is

Files that end in jpg, jpeg, jpe, png, webp, gif, bmp, tif, tiff, avif, heic or heif are indexed, in all
folders inside. Hidden files and folders are not, and links are not followed. Run it again when pictures have
changed: only what is new or has another size, time and content is encoded, what is gone is forgotten. Ctrl-C
loses nothing; the next run goes on. A folder that cannot be read keeps its place in the index.

A GPU pays from some thousand pictures on, as it takes some ten seconds to begin: --device cuda, with an ONNX
Runtime made for it (ORT_DYLIB_PATH). Searches run on the processor, of such an index too.

What cannot be read or is no picture is left out and listed with the reason; the next run tries it again
once it has changed.

Exit status: 0 when everything that is a picture is indexed, 2 for an error, 130 when it was stopped.";

const SEARCH: &str = "\
Examples:
  dualpath search two dogs in the snow
  dualpath search 'a beach' --not people -n 50
  dualpath search --like dog.jpg at night             a picture and a sentence
  dualpath search 'a red car' --paths0 | xargs -0 cp -t found/
  dualpath search 'a red car' --json | jq -r 'select(.distance < 0.6).path'
  dualpath search 'a red car' --open                  see them in the browser

Each line is a cosine distance and a path: 0 is the same, 1 has nothing to do with it. How near is near depends
on the model; the built-in one puts a good picture at 0.5 to 0.7. In a folder below the indexed one, only
pictures below it are found.

--json prints an object a line: {\"distance\": 0.53, \"path\": \"a/dog.jpg\", \"rowid\": 7}. Any database with
a dualpath table can be searched (--db); where its pictures are no files, `path` is null and `title` may say more.

Exit status: 0 when there are pictures, 1 when there are none, 2 for an error.";

const GALLERY: &str = "\
Examples:
  dualpath gallery                     the index of the current folder
  dualpath gallery ~/Pictures
  dualpath gallery album.db            any database with a dualpath table
  dualpath gallery album.db --root ~/Pictures     where its file names lead
  dualpath gallery --listen 0.0.0.0    others may look, with the token that is printed

It prints the page's address and serves until Ctrl-C. The database is opened for reading alone. Files are read
below the database's own folder or --root, nowhere else.";

#[derive(Subcommand)]
pub enum Verb {
    #[command(after_long_help = INDEX)]
    Index(Index),
    #[command(after_long_help = SEARCH)]
    Search(Search),
    #[command(after_long_help = GALLERY)]
    Gallery(Gallery),
}

/// Encodes the pictures of a folder that are new or have changed.
#[derive(Args)]
pub struct Index {
    /// The folder; pictures in folders inside it count.
    #[arg(default_value = ".")]
    pub folder: PathBuf,
    /// The database [default: FOLDER/.dualpath.db].
    #[arg(long, value_name = "FILE")]
    pub db: Option<PathBuf>,
    /// Leave folders of this name out; may stand more than once.
    #[arg(long, value_name = "NAME")]
    pub exclude: Vec<String>,
    /// Encode with the model in this folder instead of the built-in one.
    #[arg(long, value_name = "FOLDER")]
    pub model: Option<PathBuf>,
    /// Encode on this device: cpu, cuda, coreml, directml, openvino, or auto, the first of the others that there is.
    #[arg(long, value_name = "NAME", default_value = "cpu", hide_default_value = true)]
    pub device: String,
    /// Forget everything first: after a change of the model.
    #[arg(long)]
    pub rebuild: bool,
    /// Print what was done as a JSON object.
    #[arg(long)]
    pub json: bool,
    /// Say nothing but errors.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Finds the pictures that are nearest to a sentence.
#[derive(Args)]
pub struct Search {
    /// What is on the picture; words need no quotes.
    #[arg(value_name = "SENTENCE", required_unless_present = "like")]
    pub words: Vec<String>,
    /// Away from this.
    #[arg(long, value_name = "WORDS")]
    pub not: Option<String>,
    /// Near to this picture, by itself or beside a sentence.
    #[arg(long, value_name = "PICTURE")]
    pub like: Option<PathBuf>,
    /// How many at most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub count: u32,
    /// Only nearer than this distance.
    #[arg(long, value_name = "DISTANCE")]
    pub within: Option<f64>,
    /// Look below this folder [default: the current one].
    #[arg(long = "in", value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    #[command(flatten)]
    pub album: Album,
    /// Print JSON, an object a line.
    #[arg(long, group = "form")]
    pub json: bool,
    /// Print paths alone.
    #[arg(long, group = "form")]
    pub paths: bool,
    /// Print paths alone, each ended by a NUL, for `xargs -0`.
    #[arg(long, group = "form")]
    pub paths0: bool,
    /// Write a contact sheet and open it in the browser.
    #[arg(long)]
    pub open: bool,
    /// Write the contact sheet to this file.
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,
}

/// Shows the pictures in a browser: search as you type, similar ones, your own picture.
#[derive(Args)]
pub struct Gallery {
    /// A database, or a folder with an index [default: the one of the current folder].
    #[arg(value_name = "ALBUM")]
    pub place: Option<PathBuf>,
    #[command(flatten)]
    pub album: Album,
    /// The port; 0 is any free one.
    #[arg(long, value_name = "PORT", default_value_t = 7474)]
    pub port: u16,
    /// The address to listen at; others than this machine need the token that is printed then.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub listen: IpAddr,
    /// Open it in the browser.
    #[arg(long)]
    pub open: bool,
}

/// Which index, and what belongs to it.
#[derive(Args)]
pub struct Album {
    /// The database.
    #[arg(long, value_name = "FILE")]
    pub db: Option<PathBuf>,
    /// The dualpath table, where the database has several.
    #[arg(long, value_name = "NAME")]
    pub table: Option<String>,
    /// The folder that file names lead from [default: the one with the database].
    #[arg(long, value_name = "FOLDER")]
    pub root: Option<PathBuf>,
    /// The folder of the table's model, where it is not the built-in one.
    #[arg(long, value_name = "FOLDER")]
    pub model: Option<PathBuf>,
}
