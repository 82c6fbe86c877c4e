//! `dualpath search`: the nearest pictures of a sentence, as lines.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use crate::album::Album;
use crate::command;
use crate::place::{self, Place};
use crate::query::{Like, Page, Query};
use crate::sheet::{self, Entry};

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Found {
    distance: f64,
    path: Option<String>,
    rowid: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
}

/// Answers whether there is anything.
pub fn search(command: &command::Search) -> Result<bool> {
    let here = std::env::current_dir()?;
    let below = command.folder.clone().unwrap_or_else(|| here.clone());
    let below = below.canonicalize().with_context(|| below.display().to_string())?;
    let place = match &command.album.db {
        Some(database) => Place::at(database, command.album.root.as_deref())?,
        None => Place::around(&below)?,
    };
    if let Some(model) = &command.album.model {
        place::load(model)?;
    }
    let db = place.read()?;
    let album = Album::find(&db, command.album.table.as_deref())
        .with_context(|| place.database.display().to_string())?;
    let query = query(&db, &album, command)?;
    let folder = lay_in(&db, &album, &place, command)?;
    let sheet = command.open || command.sheet.is_some();
    if sheet && folder != place.folder {
        let root = folder.display();
        bail!("a contact sheet needs the pictures' folder (add --root {root})");
    }
    let page = Page {
        count: command.count,
        within: command.within,
        below: below.strip_prefix(&folder).ok().and_then(prefix),
        after: None,
    };
    let mut found = Vec::new();
    for hit in query.hits(&db, &album, &page)? {
        let title = album.title(&db, hit.rowid)?;
        let (path, title) = match title {
            Some(file) if album.is_of_files() => (Some(shown(&folder.join(file), &here)), None),
            title => (None, title),
        };
        found.push(Found { distance: hit.distance, path, rowid: hit.rowid, title });
    }
    print(&found, command)?;
    if sheet {
        let heading = heading(command);
        let entries = found.iter().map(|it| Entry {
            title: it.name(),
            distance: it.distance,
            picture: album.picture(&db, &place.folder, it.rowid),
        });
        let sheet = sheet::page(&heading, &entries.collect::<Vec<_>>());
        let file = command
            .sheet
            .clone()
            .unwrap_or_else(|| std::env::temp_dir().join("dualpath-sheet.html"));
        std::fs::write(&file, sheet).with_context(|| file.display().to_string())?;
        eprintln!("the contact sheet is {}", file.display());
        if command.open {
            open(file.as_os_str());
        }
    }
    Ok(!found.is_empty())
}

fn query(db: &Connection, album: &Album, command: &command::Search) -> Result<Query> {
    let like = match &command.like {
        None => None,
        Some(picture) => {
            let model = album.model(db)?;
            let path = picture.to_string_lossy();
            let sql = "SELECT embed_file(?1, ?2)";
            Some(Like::Embedding(db.query_row(sql, [path.as_ref(), &model], |row| row.get(0))?))
        }
    };
    let text = Some(command.words.join(" ")).filter(|it| !it.trim().is_empty());
    if text.is_none() && like.is_none() {
        bail!("the sentence is empty (say what is on the picture)");
    }
    Ok(Query { text, not: command.not.clone(), like })
}

/// Where the files of the table lay when they were indexed; they are not read there.
fn lay_in(
    db: &Connection,
    album: &Album,
    place: &Place,
    command: &command::Search,
) -> Result<PathBuf> {
    let is_ours = album.is_of_files() && db.table_exists(None, "folder")?;
    if command.album.root.is_some() || place.database.ends_with(place::NAME) || !is_ours {
        return Ok(place.folder.clone());
    }
    let folder =
        db.query_row("SELECT path FROM folder", [], |row| row.get::<_, String>(0)).optional()?;
    Ok(folder.map_or(place.folder.clone(), PathBuf::from))
}

/// What the paths in a folder inside start with; none for the whole.
fn prefix(inside: &Path) -> Option<String> {
    let inside = inside.to_str().filter(|it| !it.is_empty())?;
    Some(format!("{inside}{}", std::path::MAIN_SEPARATOR))
}

/// From the current folder where it lies inside, else whole.
fn shown(path: &Path, here: &Path) -> String {
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn heading(command: &command::Search) -> String {
    let mut heading = command.words.join(" ");
    if let Some(picture) = &command.like {
        let name = picture.file_name().unwrap_or_default().to_string_lossy();
        heading = format!("like {name} {heading}").trim().to_owned();
    }
    command.not.iter().fold(heading, |so_far, it| format!("{so_far}, not {it}"))
}

impl Found {
    fn name(&self) -> String {
        let name = self.path.as_ref().or(self.title.as_ref());
        name.cloned().unwrap_or_else(|| format!("row {}", self.rowid))
    }
}

fn print(found: &[Found], command: &command::Search) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
    let (dim, end) = if out.is_terminal() && !plain { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    for it in found {
        match it {
            _ if command.json => writeln!(out, "{}", serde_json::to_string(it)?)?,
            _ if command.paths => writeln!(out, "{}", it.name())?,
            _ if command.paths0 => write!(out, "{}\0", it.name())?,
            _ => writeln!(out, "{dim}{:.3}{end}  {}", it.distance, it.name())?,
        }
    }
    Ok(out.flush()?)
}

/// Shows a file or an address in the browser, where there is one.
pub fn open(what: &std::ffi::OsStr) {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let quiet = || Stdio::null();
    let outcome =
        Command::new(opener).arg(what).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    if outcome.is_err() {
        eprintln!("there is no {opener} here (open it yourself)");
    }
}
