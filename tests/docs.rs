//! `docs/recipes.md` runs as it stands, and prints what it says.
#![allow(clippy::unwrap_used)]

mod host;

use rusqlite::Batch;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;

#[test]
fn every_recipe_prints_what_it_says() {
    host::runtime();
    let text = include_str!("../docs/recipes.md");
    let connection = host::memory();
    let (mut printed, mut compared) = (Vec::new(), 0);
    for block in text.split("\n```").skip(1).step_by(2) {
        let (form, body) = block.split_once('\n').unwrap();
        match form {
            "sql" => {
                let mut batch = Batch::new(&connection, body);
                while let Some(mut statement) =
                    batch.next().unwrap_or_else(|err| panic!("{err}\n{body}"))
                {
                    let columns = statement.column_count();
                    let rows = statement.query([]).unwrap().mapped(|row| {
                        let cells = (0..columns).map(|at| shown(row.get_ref(at).unwrap()));
                        Ok(cells.collect::<Vec<_>>().join("|"))
                    });
                    printed = rows
                        .collect::<rusqlite::Result<Vec<_>>>()
                        .unwrap_or_else(|err| panic!("{err}\n{body}"));
                }
            }
            "text" => {
                let expected: Vec<&str> = body.lines().collect();
                assert_eq!(printed, expected);
                compared += 1;
            }
            other => panic!("'{other}' is no form of a recipe"),
        }
    }
    assert_eq!(compared, text.matches("\n## ").count() + 1, "a recipe prints nothing");
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(it) => it.to_string(),
        ValueRef::Real(it) => format!("{it:.3}"),
        ValueRef::Text(it) => String::from_utf8_lossy(it).into_owned(),
        ValueRef::Blob(it) => format!("blob of {}", it.len()),
    }
}
