//! dualpath: search your pictures with sentences, inside SQLite.

pub mod sql;

pub mod encoder;
pub mod store;

pub mod model;
pub mod text;
pub mod image;
pub mod folder;

pub mod index;

pub mod embedding;
pub mod vector;
pub mod sqlite;
mod kernel;
pub mod error;

use std::ffi::{c_char, c_int};

/// Gives dualpath's names to every connection that this process opens from now on.
///
/// For a program that links this crate and SQLite (rusqlite with `bundled`, say) into itself; a host
/// that loads the library needs no such call. Calling it again changes nothing.
///
/// # Errors
/// The SQLite that was linked is older than the one that its bindings were made for.
#[cfg(feature = "static")]
pub fn register() -> error::Result<()> {
    sqlite::register(sqlite3_dualpath_auto)
}

/// SQLite calls this once per connection when it loads the library.
///
/// # Safety
/// The three pointers are SQLite's own and outlive the call.
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub unsafe extern "C" fn sqlite3_dualpath_init(
    db: *mut sqlite::sqlite3,
    message: *mut *mut c_char,
    host: *mut sqlite::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { sqlite::load(db, message, host, sql::register) }
}

/// The same for `sqlite3_auto_extension()`, which takes any answer but 0 for a failure.
///
/// # Safety
/// The three pointers are SQLite's own and outlive the call.
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
pub unsafe extern "C" fn sqlite3_dualpath_auto(
    db: *mut sqlite::sqlite3,
    message: *mut *mut c_char,
    host: *const sqlite::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { sqlite::load(db, message, host.cast_mut(), sql::register) } {
        sqlite::LOADED => 0,
        code => code,
    }
}
