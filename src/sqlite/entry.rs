//! One load of the library into one connection.

use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use sqlite_loadable::entrypoints::register_entrypoint_load_permanently;
use sqlite3ext_sys::{SQLITE_ERROR, sqlite3, sqlite3_api_routines};

use super::api;
use super::database::Db;
use crate::error::{Error, Result};

/// `vtab_in`, which `rowid IN (...)` needs, came with 3.38.
const OLDEST: i32 = 3_038_000;

/// `SQLITE_OK_LOAD_PERMANENTLY`, what [`load`] returns when all is well.
pub const LOADED: c_int = 256;

/// What an entry point does: checks the host, then lets `register` define its names.
///
/// Returns [`LOADED`]: the library stays in the process after the connection closes,
/// as its models and threads do.
///
/// # Safety
/// The three pointers are those that SQLite gives to an entry point.
pub unsafe fn load(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    host: *mut sqlite3_api_routines,
    register: fn(&Db) -> Result<()>,
) -> c_int {
    let problem = Cell::new(None);
    let code = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller's promise.
        if let Err(err) = unsafe { check(host) } {
            problem.set(Some(err.to_string()));
            return SQLITE_ERROR;
        }
        register_entrypoint_load_permanently(db, message, host, |db| {
            register(&Db::new(db)).map_err(|err| {
                problem.set(Some(err.to_string()));
                sqlite_loadable::Error::new_message("")
            })
        })
    }));
    let problem = match (code, problem.take()) {
        (_, Some(problem)) => problem,
        (Ok(code), None) => return code as c_int,
        (Err(_), None) => "internal error, please report".to_owned(),
    };
    if !message.is_null() && !api::host().is_null() {
        // SAFETY: SQLite owns the slot and frees what stands in it.
        unsafe { *message = api::owned_text(&format!("dualpath: {problem}")) };
    }
    SQLITE_ERROR as c_int
}

/// # Safety
/// `host` is null or SQLite's table.
unsafe fn check(host: *mut sqlite3_api_routines) -> Result<()> {
    if host.is_null() {
        return Err(Error::Usage("SQLite handed over no function table".to_owned()));
    }
    api::adopt(host)?;
    let version = api::version();
    if version < OLDEST {
        let (major, minor) = (version / 1_000_000, version / 1000 % 1000);
        return Err(Error::Usage(format!(
            "this is SQLite {major}.{minor}.{} (3.38.0 or newer is needed)",
            version % 1000
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::{CStr, c_void};

    unsafe extern "C" fn old() -> c_int {
        3_034_001
    }

    unsafe extern "C" fn memory(bytes: u64) -> *mut c_void {
        // SAFETY: any size may be asked for.
        unsafe { libc::malloc(bytes as usize) }
    }

    /// As Debian 11 has it.
    #[test]
    fn an_older_host_is_told_what_is_needed() {
        // SAFETY: every field is a function or none, and none is all zeros.
        let mut table: sqlite3_api_routines = unsafe { std::mem::zeroed() };
        table.libversion_number = Some(old);
        table.malloc64 = Some(memory);
        let host = Box::leak(Box::new(table));
        let mut message: *mut c_char = std::ptr::null_mut();
        let unreached = |_: &Db| -> Result<()> { unreachable!("no name is registered there") };
        // SAFETY: the connection is not touched, as the version is looked at first.
        let code = unsafe { load(std::ptr::null_mut(), &mut message, host, unreached) };
        assert_eq!(code, SQLITE_ERROR as c_int);
        // SAFETY: an error comes with words, ended by a NUL.
        let words = unsafe { CStr::from_ptr(message) }.to_str().unwrap();
        assert_eq!(words, "dualpath: this is SQLite 3.34.1 (3.38.0 or newer is needed)");
    }
}
