//! Stored blobs, read and written in place.

use std::ffi::c_int;
use std::ptr;

use sqlite3ext_sys::{SQLITE_OK, sqlite3_blob};

use super::api::{self, api};
use super::database::{Db, c_text};
use crate::error::{Error, Result};

/// One open blob. Holds the transaction open until dropped, so it lives within one callback.
pub struct Blob {
    db: Db,
    raw: *mut sqlite3_blob,
}

impl Blob {
    pub(super) fn open(db: Db, name: [&str; 3], rowid: i64, write: bool) -> Result<Blob> {
        let [schema, table, column] = name;
        let (schema, table, column) = (c_text(schema)?, c_text(table)?, c_text(column)?);
        let mut raw = ptr::null_mut();
        // SAFETY: the texts end with NUL; the slot is ours.
        let code = unsafe {
            let (schema, table, column) = (schema.as_ptr(), table.as_ptr(), column.as_ptr());
            api!(blob_open(db.raw, schema, table, column, rowid, write.into(), &mut raw))
        };
        if code == SQLITE_OK as c_int {
            Ok(Blob { db, raw })
        } else {
            Err(api::last_error(db.raw, ""))
        }
    }

    /// Moves to the same column of another row.
    pub fn reopen(&mut self, rowid: i64) -> Result<()> {
        // SAFETY: the handle is ours.
        self.checked(unsafe { api!(blob_reopen(self.raw, rowid)) })
    }

    /// How many bytes; in-place writes never change it.
    pub fn length(&self) -> usize {
        // SAFETY: the handle is ours.
        usize::try_from(unsafe { api!(blob_bytes(self.raw)) }).unwrap_or(0)
    }

    /// Fills `bytes` from `offset` on.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let (length, offset) = self.range(offset, bytes.len())?;
        // SAFETY: the buffer has that length; SQLite checks the range against the blob.
        self.checked(unsafe {
            api!(blob_read(self.raw, bytes.as_mut_ptr().cast(), length, offset))
        })
    }

    /// Replaces as many bytes from `offset` on.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        let (length, offset) = self.range(offset, bytes.len())?;
        // SAFETY: the buffer has that length; SQLite checks the range against the blob.
        self.checked(unsafe { api!(blob_write(self.raw, bytes.as_ptr().cast(), length, offset)) })
    }

    fn range(&self, offset: usize, length: usize) -> Result<(c_int, c_int)> {
        match (c_int::try_from(length), c_int::try_from(offset)) {
            (Ok(length), Ok(offset)) => Ok((length, offset)),
            _ => Err(Error::Usage(format!("{length} bytes at {offset} are too much for a blob"))),
        }
    }

    fn checked(&self, code: c_int) -> Result<()> {
        if code == SQLITE_OK as c_int { Ok(()) } else { Err(api::last_error(self.db.raw, "")) }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and not used again.
        unsafe {
            api!(blob_close(self.raw));
        }
    }
}
