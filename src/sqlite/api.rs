//! The host's table of functions, the one it hands over at load.
//!
//! The table of an older host is shorter than the bindings' struct, so it is never borrowed as a
//! whole: each call reads one field through the pointer. Everything up to SQLite 3.38 is there
//! because [`super::load`] refuses older hosts.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use sqlite3ext_sys::{sqlite3, sqlite3_api_routines};

use crate::error::{Error, Result};

static HOST: AtomicPtr<sqlite3_api_routines> = AtomicPtr::new(ptr::null_mut());

/// Keeps the host's table, or names the conflict when another copy of SQLite came first.
pub(super) fn adopt(host: *mut sqlite3_api_routines) -> Result<()> {
    match HOST.compare_exchange(ptr::null_mut(), host, Ordering::AcqRel, Ordering::Acquire) {
        Err(first) if first != host => Err(Error::Usage(
            "this process holds two copies of SQLite and the other one has loaded dualpath already \
             (load it through one of them only)"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// The table; null before [`adopt`].
pub(super) fn host() -> *mut sqlite3_api_routines {
    HOST.load(Ordering::Acquire)
}

/// Calls one function of the host's table: `api!(step(statement))`.
macro_rules! api {
    ($name:ident($($argument:expr),* $(,)?)) => {
        ((*$crate::sqlite::api::host()).$name.expect("in SQLite since 3.38"))($($argument),*)
    };
}
pub(super) use api;

/// Such as 3040001 for 3.40.1.
pub(super) fn version() -> i32 {
    // SAFETY: the field has been there since SQLite 3.3.13.
    unsafe { api!(libversion_number()) }
}

/// A copy of `text` in SQLite's own memory, for messages that SQLite frees.
///
/// Null when memory is out, which SQLite takes for "no message". A NUL inside ends the text.
pub(super) fn owned_text(text: &str) -> *mut c_char {
    // SAFETY: the buffer has one byte more than the text; it is filled and ended before anyone sees it.
    unsafe {
        let copy = api!(malloc64(text.len() as u64 + 1)).cast::<u8>();
        if !copy.is_null() {
            ptr::copy_nonoverlapping(text.as_ptr(), copy, text.len());
            *copy.add(text.len()) = 0;
        }
        copy.cast()
    }
}

/// The connection's last error: its extended code and its words, after `doing`.
pub(super) fn last_error(db: *mut sqlite3, doing: &str) -> Error {
    // SAFETY: the connection is open; its message lives until the next call on it.
    let (code, words) =
        unsafe { (api!(extended_errcode(db)), text_at(api!(errmsg(db))).unwrap_or_default()) };
    let message = if doing.is_empty() { words } else { format!("{doing}: {words}") };
    Error::Sqlite { code, message }
}

/// SQLite's general words for `code`, after `doing`.
pub(super) fn error_of(code: c_int, doing: &str) -> Error {
    // SAFETY: errstr() returns a static text for every number.
    let words = unsafe { text_at(api!(errstr(code))).unwrap_or_default() };
    Error::Sqlite { code, message: format!("{doing}: {words}") }
}

/// # Safety
/// `text` is null or ends with a NUL.
pub(super) unsafe fn text_at(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// Whether somebody called `sqlite3_interrupt()`; none before 3.41, which cannot say.
pub(super) fn interrupted(db: *mut sqlite3) -> Option<bool> {
    if version() < 3_041_000 {
        return None;
    }
    // After `db_name`, where the bindings end, the table goes on with value_encoding (3.40) and
    // is_interrupted (3.41).
    let offset = std::mem::offset_of!(sqlite3_api_routines, db_name) + 2 * size_of::<usize>();
    // SAFETY: the version says that the field is there, and its type is the one of sqlite3ext.h.
    unsafe {
        let field = host().cast::<u8>().add(offset);
        let call = field.cast::<Option<unsafe extern "C" fn(*mut sqlite3) -> c_int>>().read();
        call.map(|call| call(db) != 0)
    }
}
