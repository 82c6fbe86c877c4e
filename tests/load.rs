//! The built library, loaded as a user loads it.

use std::path::PathBuf;

use rusqlite::Connection;

/// `cargo test` builds the library beside the test executable.
fn library() -> PathBuf {
    let folder = std::env::current_exe().expect("the test runs from a file");
    folder.with_file_name(format!("{}dualpath", std::env::consts::DLL_PREFIX))
}

/// A connection to `path` with the extension loaded.
fn open(path: &str) -> Connection {
    let db = Connection::open(path).expect("the database opens");
    // SAFETY: the library is the one under test.
    #[allow(unsafe_code)]
    unsafe {
        let _guard = rusqlite::LoadExtensionGuard::new(&db).expect("loading is allowed");
        db.load_extension(library(), None::<&str>).expect("the library loads");
    }
    db
}

#[test]
fn version_answers_on_every_connection() {
    for _ in 0..3 {
        let db = open(":memory:");
        let version: String =
            db.query_row("SELECT dualpath_version()", [], |row| row.get(0)).unwrap();
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn wrong_count_of_arguments_is_an_error() {
    let db = open(":memory:");
    let err = db.query_row("SELECT dualpath_version(1)", [], |_| Ok(())).unwrap_err();
    assert!(err.to_string().contains("wrong number of arguments"), "{err}");
}
