//! Behaviour as text: runs `sql/*.slt` in bundled SQLite. `tests/slt.py` runs the same files in
//! Python's; the form is sqllogictest's, less what is not needed here.
//!
//! ```text
//! connection NAME            switch to another connection of the same database file
//! statement ok               the SQL up to the blank line succeeds
//! statement error WORDS      it fails, and WORDS stand in its message
//! query                      its rows, columns joined by |, are the lines after ----
//! ```
#![allow(clippy::unwrap_used)]

mod host;

use std::collections::HashMap;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

#[test]
fn files() {
    host::runtime();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    files.retain(|it| it.extension().is_some_and(|it| it == "slt"));
    files.sort();
    assert!(3 <= files.len());
    for file in files {
        let records = run(&file);
        println!("{}: {records} records", file.file_name().unwrap().display());
        assert!(0 < records);
    }
}

fn run(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("test.db");
    let open = || host::loaded(Connection::open(&database).unwrap());
    let mut connections = HashMap::from([("main".to_owned(), open())]);
    let mut current = "main".to_owned();
    let mut records = 0;
    let mut line = 1;
    for record in text.split("\n\n") {
        let at = format!("{}:{line}", file.display());
        line += record.matches('\n').count() + 2;
        let record: Vec<&str> = record.lines().filter(|it| !it.starts_with('#')).collect();
        let Some((head, body)) = record.split_first() else {
            continue;
        };
        records += 1;
        if let Some(name) = head.strip_prefix("connection ") {
            current = name.to_owned();
            connections.entry(current.clone()).or_insert_with(open);
            continue;
        }
        let connection = &connections[&current];
        let split = body.iter().position(|it| *it == "----").unwrap_or(body.len());
        let sql = body[..split].join("\n");
        match (*head, head.strip_prefix("statement error ")) {
            ("statement ok", _) => {
                connection.execute_batch(&sql).unwrap_or_else(|err| panic!("{at}: {err}\n{sql}"));
            }
            (_, Some(words)) => {
                let message = host::message(connection.execute_batch(&sql));
                assert!(message.contains(words), "{at}: the error is: {message}\n{sql}");
            }
            ("query", _) => {
                let expected = body.get(split + 1..).unwrap_or_default();
                let rows =
                    rows(connection, &sql).unwrap_or_else(|err| panic!("{at}: {err}\n{sql}"));
                assert_eq!(rows, expected, "{at}\n{sql}");
            }
            (other, _) => panic!("{at}: '{other}' is no record"),
        }
    }
    records
}

fn rows(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        let cells: Vec<String> = (0..columns)
            .map(|at| match row.get_ref(at).unwrap() {
                ValueRef::Null => "NULL".to_owned(),
                ValueRef::Integer(it) => it.to_string(),
                ValueRef::Real(it) => format!("{it:.3}"),
                ValueRef::Text(it) => String::from_utf8_lossy(it).into_owned(),
                ValueRef::Blob(it) => format!("blob of {}", it.len()),
            })
            .collect();
        Ok(cells.join("|"))
    })?;
    rows.collect()
}
