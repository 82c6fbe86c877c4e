//! Search in a host app: indexes a folder of pictures and asks sentences.
//!
//! `album FOLDER [SENTENCE ...]` keeps `demo/album.db` beside the working folder, encodes what is new
//! since the last run, prints the nearest files and writes `demo/album.html`.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine;
use image::{DynamicImage, ImageDecoder, ImageReader};
use indicatif::{ProgressBar, ProgressStyle};
use rusqlite::{Connection, LoadExtensionGuard, OptionalExtension, params};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS photos(id INTEGER PRIMARY KEY, file TEXT UNIQUE, bytes INTEGER, changed INTEGER);
    CREATE VIRTUAL TABLE IF NOT EXISTS album USING dualpath;";
const NEAREST: &str = "
    SELECT photos.file, distance FROM album JOIN photos ON photos.id = album.rowid
    WHERE text MATCH ?1 ORDER BY distance LIMIT 6";
const ENDINGS: [&str; 9] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jpe"];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: album FOLDER [SENTENCE ...]")?);
    let mut sentences: Vec<String> = arguments.collect();
    if sentences.is_empty() {
        sentences =
            ["people smiling", "a dog playing", "water and sky"].map(str::to_owned).to_vec();
    }
    std::fs::create_dir_all("demo")?;
    let mut db = Connection::open("demo/album.db")?;
    load(&db)?;
    forget_other_model(&db)?;
    db.execute_batch(SCHEMA)?;
    index(&mut db, &std::fs::canonicalize(&folder)?)?;

    let mut sheet = String::new();
    for sentence in &sentences {
        let mut query = db.prepare(NEAREST)?;
        let hits = query.query_map([sentence], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let hits = hits.collect::<rusqlite::Result<Vec<(String, f64)>>>()?;
        println!("\n{sentence}");
        for (file, distance) in &hits {
            println!(
                "  {distance:.3}  {}",
                Path::new(file).file_name().unwrap_or_default().display()
            );
        }
        section(&mut sheet, sentence, &hits)?;
    }
    std::fs::write("demo/album.html", include_str!("album.html").replace("{sections}", &sheet))?;
    println!("\nthe contact sheet is demo/album.html, the database demo/album.db");
    Ok(())
}

/// The library that `cargo build` put one folder up.
fn load(db: &Connection) -> Result<()> {
    let library = std::env::current_exe()?.with_file_name("").join("../libdualpath");
    // SAFETY: our own library, which holds no entry point but dualpath's.
    #[allow(unsafe_code)]
    unsafe {
        let _guard = LoadExtensionGuard::new(db)?;
        db.load_extension(library, None::<&str>)?;
    }
    Ok(())
}

/// Another build may bring another encoder; its embeddings and the old ones do not mix.
fn forget_other_model(db: &Connection) -> Result<()> {
    let is_there = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'album_config')";
    if !db.query_row(is_there, [], |row| row.get(0))? {
        return Ok(());
    }
    let same = "SELECT (SELECT value FROM album_config WHERE key = 'digest')
        IS (SELECT digest FROM dualpath_models WHERE name = 'default')";
    if !db.query_row(same, [], |row| row.get(0))? {
        println!("demo/album.db is of another model: encoding all pictures again");
        db.execute_batch("DROP TABLE album; DROP TABLE photos")?;
    }
    Ok(())
}

/// Encodes new and changed pictures in transactions of 64, forgets those that are gone.
fn index(db: &mut Connection, folder: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let stale = {
        let mut all = db.prepare("SELECT id, file FROM photos")?;
        let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows = rows.collect::<rusqlite::Result<Vec<(i64, String)>>>()?;
        rows.into_iter()
            .filter(|it| files.binary_search(&PathBuf::from(&it.1)).is_err())
            .collect::<Vec<_>>()
    };
    for (id, _) in stale {
        db.execute("DELETE FROM album WHERE rowid = ?1", [id])?;
        db.execute("DELETE FROM photos WHERE id = ?1", [id])?;
    }
    let style =
        ProgressStyle::with_template("indexing {bar:30} {pos}/{len}  {per_sec}  ETA {eta}")?;
    let bar = ProgressBar::new(files.len() as u64).with_style(style);
    let (mut added, mut broken) = (0, 0);
    for chunk in files.chunks(64) {
        // A picture that turns out damaged only while it is decoded takes its transaction back:
        // then each goes alone.
        let parts: Vec<&[PathBuf]> = match add_all(db, chunk) {
            Ok(new) => {
                added += new;
                vec![]
            }
            Err(_) => chunk.chunks(1).collect(),
        };
        for part in parts {
            match add_all(db, part) {
                Ok(new) => added += new,
                Err(err) => {
                    broken += 1;
                    bar.suspend(|| eprintln!("left out: {}: {err}", part[0].display()));
                }
            }
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    println!(
        "{} pictures in {}: {added} encoded, {broken} left out",
        files.len(),
        folder.display()
    );
    Ok(())
}

/// In one transaction; how many were new or changed.
fn add_all(db: &mut Connection, files: &[PathBuf]) -> Result<usize> {
    let transaction = db.transaction()?;
    let mut added = 0;
    for file in files {
        added += usize::from(add(&transaction, file)?);
    }
    transaction.commit()?;
    Ok(added)
}

fn add(db: &Connection, file: &Path) -> Result<bool> {
    let about = file.metadata()?;
    let changed = about.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_secs() as i64;
    let (name, bytes) = (file.to_string_lossy(), about.len() as i64);
    let known: Option<(i64, i64, i64)> = db
        .query_row("SELECT id, bytes, changed FROM photos WHERE file = ?1", [&name], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    if known.is_some_and(|it| (it.1, it.2) == (bytes, changed)) {
        return Ok(false);
    }
    // The picture first: a broken one leaves no row behind.
    let id = match known {
        Some((id, ..)) => {
            db.execute(
                "UPDATE album SET image = ?2 WHERE rowid = ?1",
                params![id, std::fs::read(file)?],
            )?;
            id
        }
        None => {
            db.execute("INSERT INTO album(image) VALUES (?1)", [std::fs::read(file)?])?;
            db.last_insert_rowid()
        }
    };
    db.execute(
        "INSERT OR REPLACE INTO photos VALUES (?1, ?2, ?3, ?4)",
        params![id, name, bytes, changed],
    )?;
    Ok(true)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files)?;
        } else if ENDINGS.contains(&ending.as_str()) {
            files.push(path);
        }
    }
    Ok(())
}

/// One sentence and its thumbnails, which travel inside the page.
fn section(sheet: &mut String, sentence: &str, hits: &[(String, f64)]) -> Result<()> {
    writeln!(sheet, "<section><h2>{}</h2><div>", escaped(sentence))?;
    for (file, distance) in hits {
        let picture = upright(file)?;
        let mut jpeg = std::io::Cursor::new(Vec::new());
        picture.thumbnail(480, 360).to_rgb8().write_to(&mut jpeg, image::ImageFormat::Jpeg)?;
        let data = base64::engine::general_purpose::STANDARD.encode(jpeg.into_inner());
        let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
        writeln!(
            sheet,
            "<figure><img src=\"data:image/jpeg;base64,{data}\" alt=\"\"><figcaption>{}<b>{distance:.3}</b></figcaption></figure>",
            escaped(&name)
        )?;
    }
    writeln!(sheet, "</div></section>")?;
    Ok(())
}

fn upright(file: &str) -> Result<DynamicImage> {
    let mut decoder = ImageReader::open(file)?.with_guessed_format()?.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
