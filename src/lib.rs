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
pub mod sqlite;
pub mod error;

use std::ffi::{c_char, c_int};

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
