//! A folder of pictures searched from Rust: SQLite and dualpath are both part of this program.
//!
//! `cargo run --example search --features static -- FOLDER 'a sentence'`, after `scripts/onnxruntime`.

// Before rusqlite, so that its SQLite is the one that is linked.
extern crate dualpath;

use std::error::Error;
use std::path::Path;

use rusqlite::Connection;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, sentence] = arguments.as_slice() else {
        return Err("usage: search FOLDER SENTENCE".into());
    };
    // From here on every connection knows dualpath's names.
    dualpath::register()?;
    let db = Connection::open_in_memory()?;
    db.execute_batch(
        "CREATE TABLE photos(id INTEGER PRIMARY KEY, file TEXT);
         CREATE VIRTUAL TABLE album USING dualpath(content = 'photos', content_rowid = 'id', path = 'file');",
    )?;
    for entry in std::fs::read_dir(folder)? {
        if let Some(name) = entry?.file_name().to_str() {
            db.execute("INSERT INTO photos(file) VALUES (?1)", [name])?;
        }
    }
    // Whatever is no picture is skipped, and listed in album_skipped.
    let root = Path::new(folder).canonicalize()?;
    db.query_row("SELECT dualpath_sync('album', ?1)", [root.to_str()], |_| Ok(()))?;
    let mut nearest = db.prepare(
        "SELECT file, distance FROM album JOIN photos ON photos.id = album.rowid
         WHERE text MATCH ?1 ORDER BY distance LIMIT 3",
    )?;
    let mut rows = nearest.query([sentence])?;
    while let Some(row) = rows.next()? {
        let (file, distance): (String, f64) = row.try_into()?;
        println!("{distance:.3}  {file}");
    }
    Ok(())
}
