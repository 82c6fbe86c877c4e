//! The host's side: bundled SQLite with the built library loaded, as an application has it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use rusqlite::{Connection, LoadExtensionGuard};

/// The library that this test run built, beside the test executable.
pub fn library() -> PathBuf {
    let name = format!("{}dualpath{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::env::current_exe().unwrap().with_file_name(name)
}

/// Loads the extension into a connection.
pub fn loaded(connection: Connection) -> Connection {
    // SAFETY: the library is ours, built a moment ago.
    #[allow(unsafe_code)]
    unsafe {
        let guard = LoadExtensionGuard::new(&connection).unwrap();
        connection.load_extension(library(), None::<&str>).unwrap();
        drop(guard);
    }
    connection
}

/// An in-memory database with the extension.
pub fn memory() -> Connection {
    loaded(Connection::open_in_memory().unwrap())
}

/// A database file with the extension.
pub fn open(database: &Path) -> Connection {
    loaded(Connection::open(database).unwrap())
}

/// A vector as a table takes it.
pub fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|it| it.to_le_bytes()).collect()
}

/// What a search by a vector finds, in its order.
pub fn nearest(connection: &Connection, to: &[f32], sql: &str) -> rusqlite::Result<Vec<i64>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map([bytes(to)], |row| row.get(0))?.collect()
}

/// What the table `t` says of itself.
pub fn check(connection: &Connection) -> String {
    connection.query_row("SELECT dualpath_check('t')", [], |row| row.get(0)).unwrap()
}

/// Opens so many copies of a database, each with eight bits flipped anywhere.
pub fn flipped(sound: &Path, copies: u64, then: impl Fn(&Connection)) {
    let file = std::fs::read(sound).unwrap();
    let database = sound.with_file_name("flipped.db");
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for copy in 0..copies {
        let mut flipped = file.clone();
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            // The first page is the schema: without it no statement could be prepared.
            let place = 4096 + (state >> 24) as usize % (flipped.len() - 4096);
            flipped[place] ^= 1 << (copy % 8);
        }
        std::fs::write(&database, flipped).unwrap();
        then(&open(&database));
    }
}

/// The error's own words.
#[track_caller]
pub fn message<T: std::fmt::Debug>(outcome: rusqlite::Result<T>) -> String {
    match outcome.unwrap_err() {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message,
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        other => other.to_string(),
    }
}

/// Fails with the remedy where ONNX Runtime is not set up.
pub fn runtime() {
    let connection = memory();
    let encoded =
        connection.query_row("SELECT embed_text('a dog')", [], |row| row.get::<_, Vec<u8>>(0));
    if let Err(err) = encoded {
        panic!("{err}\nrun scripts/onnxruntime, then the tests again");
    }
}
