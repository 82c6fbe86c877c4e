//! `dualpath index`: a folder's files in a table, and an index over that table.

use std::collections::HashSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use crate::album::Album;
use crate::command;
use crate::files::Files;
use crate::place::{self, Place};
use crate::stop;

/// The table of files, the index over it, and where the files lay.
const SCHEMA: &str = include_str!("schema.sql");
const OURS: &str = "SELECT count(*) FROM sqlite_schema WHERE name IN ('photos', 'album', 'folder')";
const OTHERS: &str = "SELECT count(*) FROM sqlite_schema";
/// Left-out files that are listed; `--json` lists all.
const LISTED: usize = 20;
/// How often the progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Summary {
    folder: String,
    database: String,
    /// Picture files in the folder.
    pictures: usize,
    encoded: i64,
    same: i64,
    forgotten: i64,
    left_out: Vec<LeftOut>,
    /// Whether all of it was gone through.
    complete: bool,
}

#[derive(Debug, Serialize)]
struct LeftOut {
    path: String,
    reason: String,
}

/// Answers whether it came to its end.
pub fn index(command: &command::Index) -> Result<bool> {
    let place = Place::of(&command.folder, command.db.as_deref())?;
    place::encode_on(&command.device)?;
    let model = command.model.as_deref().map(place::load).transpose()?;
    let mut db = place.open()?;
    prepare(&mut db, &place, model.as_deref(), command.rebuild)?;
    stop::interrupts(db.get_interrupt_handle());

    let files = Files::below(&place.folder, &command.exclude, &stop::asked);
    let mut summary = Summary {
        folder: place.folder.display().to_string(),
        database: place.database.display().to_string(),
        pictures: files.pictures.len(),
        ..Summary::default()
    };
    if !stop::asked() {
        summary.forgotten = note(&mut db, &files)?;
        sync(&db, &place, &mut summary, command.quiet)?;
    }
    let album = Album::find(&db, Some("album"))?;
    let skipped = album.skipped(&db, i64::MAX)?.into_iter();
    summary.left_out = skipped
        .map(|it| (it.title.unwrap_or_default(), it.reason))
        .chain(files.left_out)
        .map(|(path, reason)| LeftOut { path, reason })
        .collect();
    if command.json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&summary)?)?;
    }
    if !command.quiet {
        say(&summary);
    }
    Ok(summary.complete)
}

fn prepare(db: &mut Connection, place: &Place, model: Option<&str>, rebuild: bool) -> Result<()> {
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
    if count(OURS)? < 3 && 0 < count(OTHERS)? {
        bail!(
            "{}: the database is another program's (name one of your own with --db)",
            place.database.display()
        );
    }
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    if rebuild {
        transaction.execute_batch("DROP TABLE IF EXISTS album")?;
    }
    let option =
        model.map_or(String::new(), |it| format!(", model = '{}'", it.replace('\'', "''")));
    transaction.execute_batch(&SCHEMA.replace("{model}", &option))?;
    let folder = place.folder.to_str().context("the folder's name is no UTF-8")?;
    let before =
        transaction.query_row("SELECT path FROM folder", [], |row| row.get::<_, String>(0));
    // The same database over another folder would forget the first.
    match before.optional()? {
        Some(before)
            if before != folder && place.database.parent() != Some(place.folder.as_path()) =>
        {
            bail!(
                "{}: the database is the index of {before} (name another one with --db)",
                place.database.display()
            )
        }
        _ => transaction.execute_batch("DELETE FROM folder")?,
    }
    transaction.execute("INSERT INTO folder(path) VALUES (?1)", [folder])?;
    transaction.commit()?;
    let album = Album::find(db, Some("album"))?;
    album.model(db).context("use --rebuild to encode all pictures with another model")?;
    Ok(())
}

/// Makes the table of files agree with the folder; answers how many are gone.
fn note(db: &mut Connection, files: &Files) -> Result<i64> {
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS found(file TEXT PRIMARY KEY); DELETE FROM found",
    )?;
    {
        let mut insert = transaction.prepare("INSERT INTO found(file) VALUES (?1)")?;
        for file in &files.pictures {
            insert.execute([file])?;
        }
        // What is in a folder that cannot be read now is not gone.
        let mut keep = transaction.prepare(
            "INSERT OR IGNORE INTO found(file) SELECT file FROM photos WHERE substr(file, 1, length(?1)) = ?1",
        )?;
        for folder in &files.closed {
            let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            keep.execute([prefix])?;
        }
    }
    let gone =
        transaction.execute("DELETE FROM photos WHERE file NOT IN (SELECT file FROM found)", [])?;
    transaction.execute(
        "INSERT INTO photos(file) SELECT file FROM found WHERE file NOT IN (SELECT file FROM photos)",
        [],
    )?;
    transaction.commit()?;
    Ok(gone as i64)
}

/// Encodes what is new, with a bar that another thread moves.
fn sync(db: &Connection, place: &Place, summary: &mut Summary, quiet: bool) -> Result<()> {
    let ended = AtomicBool::new(false);
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(summary.pictures as u64) };
    let style = "indexing {wide_bar} {human_pos} of {human_len}  {pace}  ETA {eta}";
    let style = ProgressStyle::with_template(style)?.progress_chars("━╸─").with_key(
        "pace",
        |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{:.0}/s", state.per_sec());
        },
    );
    bar.set_style(style);
    let outcome = std::thread::scope(|threads| {
        threads.spawn(|| {
            // Another connection of this process is told how far the first one is.
            let Ok(watch) = Connection::open_in_memory() else {
                return;
            };
            while !ended.load(Ordering::Acquire) {
                std::thread::sleep(TICK);
                stop::interrupt();
                let sql =
                    "SELECT dualpath_progress() ->> '$[0].rows', dualpath_progress() ->> '$[0].of'";
                let at = watch.query_row(sql, [], |row| <(i64, i64)>::try_from(row));
                if let Ok((rows, of)) = at {
                    bar.set_length(of.unsigned_abs());
                    bar.set_position(rows.unsigned_abs());
                }
            }
        });
        let folder = place.folder.to_string_lossy();
        let outcome = db.query_row("SELECT dualpath_sync('album', ?1)", [&folder], |row| {
            row.get::<_, String>(0)
        });
        ended.store(true, Ordering::Release);
        outcome
    });
    bar.finish_and_clear();
    let report = match outcome {
        Ok(report) => report,
        Err(err) if err.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) => {
            db.query_row("SELECT dualpath_progress() -> '$[0]'", [], |row| row.get(0))?
        }
        Err(err) => return Err(err.into()),
    };
    let report: serde_json::Value = serde_json::from_str(&report)?;
    let number = |key: &str| report[key].as_i64().unwrap_or(0);
    summary.encoded = number("encoded");
    summary.same = number("same");
    summary.complete = report["complete"] == true;
    Ok(())
}

fn say(summary: &Summary) {
    let Summary { folder, pictures, encoded, same, forgotten, left_out, .. } = summary;
    eprintln!(
        "{pictures} picture{} in {folder}: {encoded} encoded, {same} unchanged, {forgotten} forgotten, {} left out",
        if *pictures == 1 { "" } else { "s" },
        left_out.len()
    );
    let mut told = HashSet::new();
    for LeftOut { path, reason } in left_out.iter().take(LISTED) {
        // What to do stands in brackets; once is enough.
        let what = match reason.rsplit_once(" (") {
            Some((what, remedy)) if !told.insert(remedy) => what,
            _ => reason.as_str(),
        };
        eprintln!("left out: {path}: {what}");
    }
    if LISTED < left_out.len() {
        eprintln!("... and {} more (--json lists them all)", left_out.len() - LISTED);
    }
    if !summary.complete {
        eprintln!("stopped; the same command goes on from there");
    }
}
