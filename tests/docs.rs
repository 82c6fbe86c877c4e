//! What the documents show runs as it stands, and prints what they say.
#![allow(clippy::unwrap_used)]

mod host;

use std::path::Path;

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection};

/// Where the documents' files lie.
const HOME: &str = "/home/me";

#[test]
fn every_recipe_prints_what_it_says() {
    let recipes = include_str!("../docs/recipes.md");
    let connection = host::memory();
    let compared = run(recipes, &connection);
    assert_eq!(compared, recipes.matches("\n## ").count() + 1, "a recipe prints nothing");
    // The one that is kept as a file is the page's.
    let hybrid = include_str!("../sql/hybrid.sql");
    let (_, query) = hybrid.split_once("\nWITH").unwrap();
    assert!(recipes.contains(&format!("WITH{}", query.trim_end())));
    let found = prints(&connection, hybrid).unwrap();
    assert_eq!(found, ["A dog catches a ball on the grass.", "A boy kicks a ball on the grass."]);
}

#[test]
fn the_reference_prints_what_it_says() {
    let home = home();
    let connection = host::memory();
    // The shell's own.
    connection
        .create_scalar_function("readfile", 1, FunctionFlags::SQLITE_UTF8, |call| {
            Ok(std::fs::read(call.get::<String>(0)?).unwrap())
        })
        .unwrap();
    let reference = include_str!("../docs/sql.md");
    run(&reference.replace(HOME, home.path().to_str().unwrap()), &connection);
    let shown: String = reference.split("\n```").skip(1).step_by(2).collect();
    for section in reference.split("\n### `").skip(1) {
        let name = section.split('(').next().unwrap();
        assert!(shown.contains(&format!("{name}(")), "{name} has no example");
    }
}

/// Over a table that somebody has already, as it says.
#[test]
fn the_readme_s_statements_run() {
    host::runtime();
    let readme = include_str!("../README.md");
    let (_, block) = readme.split_once("\n```sql\n").unwrap();
    let (block, _) = block.split_once("\n```").unwrap();
    let (load, statements) = block.split_once('\n').unwrap();
    assert_eq!(load, ".load target/release/libdualpath");
    let home = home();
    let connection = host::memory();
    connection
        .execute_batch("CREATE TABLE photos(id INTEGER PRIMARY KEY, title TEXT, jpeg BLOB)")
        .unwrap();
    let jpeg = std::fs::read(home.path().join("photos/dog.jpg")).unwrap();
    let insert = "INSERT INTO photos(title, jpeg) VALUES ('Rex', ?1), ('Broken', x'FFD8FF')";
    connection.execute(insert, [jpeg]).unwrap();
    let printed = prints(&connection, statements).unwrap();
    assert!(printed.len() == 1 && printed[0].starts_with("Rex|"), "{printed:?}");
}

/// Runs a document's blocks in order and compares what they print; how many it compared.
fn run(text: &str, connection: &Connection) -> usize {
    host::runtime();
    let (mut printed, mut compared, mut wrong) = (Ok(Vec::new()), 0, Vec::new());
    for block in text.split("\n```").skip(1).step_by(2) {
        let (form, body) = block.split_once('\n').unwrap_or((block, ""));
        match form {
            "sql" => {
                if let Err(err) = &printed {
                    panic!("{err}");
                }
                printed = prints(connection, body).map_err(|err| format!("{err}\n{body}"));
            }
            "text" => {
                let printed = std::mem::replace(&mut printed, Ok(Vec::new()));
                let lines = printed
                    .unwrap_or_else(|err| vec![format!("Error: {}", err.lines().next().unwrap())]);
                if lines.join("\n").trim_end() != body {
                    wrong.push(format!("prints\n{}\nand not\n{body}\n", lines.join("\n")));
                }
                compared += 1;
            }
            other => panic!("'{other}' is no form of a block"),
        }
    }
    if let Err(err) = printed {
        panic!("{err}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    compared
}

/// What the last statement prints.
fn prints(connection: &Connection, body: &str) -> Result<Vec<String>, String> {
    let mut batch = Batch::new(connection, body);
    let mut printed = Vec::new();
    let said = |err| host::message::<()>(Err(err));
    while let Some(mut statement) = batch.next().map_err(said)? {
        let columns = statement.column_count();
        let rows = statement.query([]).map_err(said)?.mapped(|row| {
            let cells = (0..columns).map(|at| shown(row.get_ref(at).unwrap()));
            Ok(cells.collect::<Vec<_>>().join("|"))
        });
        printed = rows.collect::<rusqlite::Result<Vec<_>>>().map_err(said)?;
    }
    Ok(printed)
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(it) => it.to_string(),
        ValueRef::Real(it) => format!("{:?}", (it * 1000.0).round() / 1000.0),
        ValueRef::Text(it) => String::from_utf8_lossy(it).into_owned(),
        ValueRef::Blob(it) => format!("blob of {}", it.len()),
    }
}

/// A folder with the photographs and the model that the documents name.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let (photos, mine) = (home.path().join("photos"), home.path().join("models/mine"));
    std::fs::create_dir_all(&photos).unwrap();
    std::fs::create_dir_all(&mine).unwrap();
    let dog = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([200, 4 * x as u8, 5 * y as u8]));
    dog.save(photos.join("dog.jpg")).unwrap();
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default");
    for entry in std::fs::read_dir(built_in).unwrap() {
        let file = entry.unwrap().path();
        std::fs::copy(&file, mine.join(file.file_name().unwrap())).unwrap();
    }
    home
}
