//! One connection of the host.

use std::ffi::{CString, c_int};
use std::ptr;

use sqlite3ext_sys::{
    SQLITE_ERROR, SQLITE_FCNTL_DATA_VERSION, SQLITE_FCNTL_RESERVE_BYTES, SQLITE_INTERRUPT,
    SQLITE_LIMIT_LENGTH, SQLITE_OK, sqlite3,
};

use super::api::{self, api};
use super::blob::Blob;
use super::statement::Statement;
use super::value::Value;
use crate::error::{Error, Result};

/// One connection, open as long as the callback or the table that it was handed to.
#[derive(Clone, Copy)]
pub struct Db {
    pub(super) raw: *mut sqlite3,
}

impl Db {
    pub(super) fn new(raw: *mut sqlite3) -> Db {
        Db { raw }
    }

    /// Compiles one statement, to be kept and run often.
    pub fn prepare(&self, sql: &str) -> Result<Statement> {
        Statement::new(*self, sql)
    }

    /// Runs statements separated by semicolons, without arguments and answers.
    pub fn execute(&self, sql: &str) -> Result<()> {
        let text = c_text(sql)?;
        // SAFETY: the text ends with NUL; no callback is given.
        let code =
            unsafe { api!(exec(self.raw, text.as_ptr(), None, ptr::null_mut(), ptr::null_mut())) };
        if code == SQLITE_OK as c_int { Ok(()) } else { Err(api::last_error(self.raw, "")) }
    }

    /// Whether a schema has a table of this name.
    pub fn has_table(&self, schema: &str, name: &str) -> Result<bool> {
        let (schema, name) = (c_text(schema)?, c_text(name)?);
        let (schema, name, column) = (schema.as_ptr(), name.as_ptr(), ptr::null());
        let (texts, numbers) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the texts end with NUL; nothing is asked of a column, so that the code is all of the answer.
        let code = unsafe {
            api!(table_column_metadata(
                self.raw, schema, name, column, texts, texts, numbers, numbers, numbers
            ))
        };
        match code as u32 {
            SQLITE_OK => Ok(true),
            SQLITE_ERROR => Ok(false),
            _ => Err(api::last_error(self.raw, "")),
        }
    }

    /// Opens one stored blob for reading in place.
    pub fn blob(&self, schema: &str, table: &str, column: &str, rowid: i64) -> Result<Blob> {
        Blob::open(*self, [schema, table, column], rowid, false)
    }

    /// Opens one stored blob for writing in place.
    pub fn blob_mut(&self, schema: &str, table: &str, column: &str, rowid: i64) -> Result<Blob> {
        Blob::open(*self, [schema, table, column], rowid, true)
    }

    /// What `last_insert_rowid()` answers.
    pub fn last_insert_rowid(&self) -> i64 {
        // SAFETY: the connection is open.
        unsafe { api!(last_insert_rowid(self.raw)) }
    }

    /// Sets what `last_insert_rowid()` answers: rows of shadow tables are not the user's.
    pub fn set_last_insert_rowid(&self, rowid: i64) {
        // SAFETY: the connection is open.
        unsafe { api!(set_last_insert_rowid(self.raw, rowid)) }
    }

    /// Most bytes of one value on this connection.
    pub fn length_limit(&self) -> usize {
        // SAFETY: the connection is open; -1 asks without setting.
        let limit = unsafe { api!(limit(self.raw, SQLITE_LIMIT_LENGTH as c_int, -1)) };
        usize::try_from(limit).unwrap_or(0)
    }

    /// Whether somebody interrupts the running statement.
    pub fn interrupted(&self) -> bool {
        // Before 3.41 only a statement is told, as it is stopped.
        api::interrupted(self.raw).unwrap_or_else(|| {
            matches!(
                self.execute("SELECT 1"),
                Err(Error::Sqlite { code, .. }) if code == SQLITE_INTERRUPT as i32
            )
        })
    }

    /// A number that is another one after every change to a schema's database, also to those made by
    /// other connections; as of the open transaction.
    pub fn data_version(&self, schema: &str) -> Result<u32> {
        let (schema, mut version) = (c_text(schema)?, 0u32);
        // SAFETY: the text ends with NUL; the slot is ours and of the type that the code asks for.
        let code = unsafe {
            let slot = (&raw mut version).cast();
            api!(file_control(self.raw, schema.as_ptr(), SQLITE_FCNTL_DATA_VERSION as c_int, slot))
        };
        if code == SQLITE_OK as c_int { Ok(version) } else { Err(api::last_error(self.raw, "")) }
    }

    /// A number that is another one after other connections' changes to a schema's database; as of the open transaction.
    pub fn foreign_version(&self, schema: &str) -> Result<i64> {
        let mut asked = self.prepare(&format!("PRAGMA {}.data_version", quoted(schema)))?;
        match (asked.step()?, asked.value(0)?) {
            (true, Value::Integer(version)) => Ok(version),
            _ => Err(Error::Usage("internal error, please report".to_owned())),
        }
    }

    /// Has a schema's file read through a mapping, up to the size that this SQLite was built for, unless
    /// the connection has a setting of its own (`PRAGMA mmap_size`). Without one each page costs a
    /// call of the operating system.
    pub fn read_mapped(&self, schema: &str) -> Result<()> {
        let pragma = format!("PRAGMA {}.mmap_size", quoted(schema));
        let mut asked = self.prepare(&pragma)?;
        if asked.step()? && asked.value(0)? == Value::Integer(0) {
            asked.reset();
            self.execute(&format!("{pragma} = {}", i64::MAX))?;
        }
        Ok(())
    }

    /// Bytes of a page of a schema's file that SQLite uses, so without those that are reserved for others.
    pub fn page_bytes(&self, schema: &str) -> Result<usize> {
        let mut asked = self.prepare(&format!("PRAGMA {}.page_size", quoted(schema)))?;
        asked.step()?;
        let Value::Integer(page) = asked.value(0)? else {
            return Ok(0);
        };
        let (schema, mut reserved): (_, c_int) = (c_text(schema)?, -1);
        // SAFETY: the text ends with NUL; the slot is ours and of the type that the code asks for; -1 asks without setting.
        let code = unsafe {
            let slot = (&raw mut reserved).cast();
            api!(file_control(self.raw, schema.as_ptr(), SQLITE_FCNTL_RESERVE_BYTES as c_int, slot))
        };
        if code != SQLITE_OK as c_int {
            return Err(api::last_error(self.raw, ""));
        }
        Ok(usize::try_from(page - i64::from(reserved)).unwrap_or(0))
    }

    /// Such as 3040001 for SQLite 3.40.1.
    pub fn sqlite_version(&self) -> i32 {
        api::version()
    }
}

/// A name as an identifier: `odd"name` becomes `"odd""name"`.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn c_text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|err| {
        Error::Usage(format!("a name or statement holds a NUL at byte {}", err.nul_position()))
    })
}
