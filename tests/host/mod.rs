//! The host's side: bundled SQLite with the built library loaded, as an application has it.
#![allow(dead_code)]

use std::path::PathBuf;

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
