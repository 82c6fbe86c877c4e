//! A host that is one program with this crate and SQLite: nothing is loaded, the names are just there.

use std::ffi::{c_char, c_int};

use libsqlite3_sys as linked;
use sqlite3ext_sys::{sqlite3, sqlite3_api_routines};

use crate::error::{Error, Result};

type Entry =
    unsafe extern "C" fn(*mut sqlite3, *mut *mut c_char, *const sqlite3_api_routines) -> c_int;
type LinkedEntry = unsafe extern "C" fn(
    *mut linked::sqlite3,
    *mut *mut c_char,
    *const linked::sqlite3_api_routines,
) -> c_int;

/// Has SQLite call `entry` for every connection that is opened from now on.
///
/// # Errors
/// A linked SQLite that is older than its bindings: the linker took another copy than rusqlite's.
pub fn register(entry: Entry) -> Result<()> {
    // SAFETY: asks for a constant.
    let version = unsafe { linked::sqlite3_libversion_number() };
    if version < linked::SQLITE_VERSION_NUMBER {
        return Err(Error::Usage(format!(
            "SQLite {version} is linked, but its bindings are for {} (write `extern crate dualpath;` at the top of main.rs, so that it is linked before rusqlite)",
            linked::SQLITE_VERSION_NUMBER
        )));
    }
    // SAFETY: both bindings describe the same C types.
    let entry = unsafe { std::mem::transmute::<Entry, LinkedEntry>(entry) };
    // SAFETY: the function stays for ever; registered twice, it is called once.
    let code = unsafe { linked::sqlite3_auto_extension(Some(entry)) };
    match code {
        linked::SQLITE_OK => Ok(()),
        code => Err(Error::Sqlite { code, message: "cannot register dualpath".to_owned() }),
    }
}
