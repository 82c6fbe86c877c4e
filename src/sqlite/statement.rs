//! Prepared statements.

use std::ffi::c_int;
use std::ptr;

use sqlite3ext_sys::{
    SQLITE_BLOB, SQLITE_DONE, SQLITE_FLOAT, SQLITE_INTEGER, SQLITE_OK, SQLITE_PREPARE_PERSISTENT,
    SQLITE_ROW, SQLITE_TEXT, SQLITE_UTF8, sqlite3_stmt,
};

use super::api::{self, api};
use super::database::Db;
use super::value::{Destructor, Value, bytes_at, text, transient};
use crate::error::{Error, Result};

/// A compiled statement; finalised when dropped.
///
/// [`Statement::run`] for what answers nothing, [`Statement::start`] and [`Statement::step`] for rows.
pub struct Statement {
    db: Db,
    raw: *mut sqlite3_stmt,
}

impl Statement {
    pub(super) fn new(db: Db, sql: &str) -> Result<Statement> {
        let length = c_int::try_from(sql.len())
            .map_err(|_| Error::Usage("the statement is too long".to_owned()))?;
        let mut raw = ptr::null_mut();
        // SAFETY: the text has that length; the slot is ours.
        let code = unsafe {
            api!(prepare_v3(
                db.raw,
                sql.as_ptr().cast(),
                length,
                SQLITE_PREPARE_PERSISTENT,
                &mut raw,
                ptr::null_mut()
            ))
        };
        if code != SQLITE_OK as c_int {
            return Err(api::last_error(db.raw, ""));
        }
        Ok(Statement { db, raw })
    }

    /// Runs to the end with these arguments.
    pub fn run(&mut self, arguments: &[Value<'_>]) -> Result<()> {
        self.reset();
        // SAFETY: no binding outlives this call, which borrows the arguments.
        let outcome = unsafe { self.bind(arguments, None) }.and_then(|()| {
            while self.step()? {}
            Ok(())
        });
        self.reset();
        outcome
    }

    /// Binds the arguments; the first [`Statement::step`] goes to the first row.
    pub fn start(&mut self, arguments: &[Value<'_>]) -> Result<()> {
        self.reset();
        // SAFETY: SQLite copies text and bytes before the call returns.
        unsafe { self.bind(arguments, transient()) }
    }

    /// # Safety
    /// Without a `destructor` bindings are cleared before the arguments go.
    unsafe fn bind(&mut self, arguments: &[Value<'_>], destructor: Destructor) -> Result<()> {
        for (at, value) in (1..).zip(arguments) {
            // SAFETY: text and bytes are copied, or outlive their binding.
            let code = unsafe {
                match value {
                    Value::Null => api!(bind_null(self.raw, at)),
                    Value::Integer(it) => api!(bind_int64(self.raw, at, *it)),
                    Value::Real(it) => api!(bind_double(self.raw, at, *it)),
                    Value::Text(it) => {
                        let (start, length) = (it.as_ptr().cast(), it.len() as u64);
                        api!(bind_text64(
                            self.raw,
                            at,
                            start,
                            length,
                            destructor,
                            SQLITE_UTF8 as u8
                        ))
                    }
                    Value::Blob(it) => {
                        let (start, length) = (it.as_ptr().cast(), it.len() as u64);
                        api!(bind_blob64(self.raw, at, start, length, destructor))
                    }
                }
            };
            if code != SQLITE_OK as c_int {
                return Err(api::last_error(self.db.raw, ""));
            }
        }
        Ok(())
    }

    /// Goes to the next row; false after the last one.
    pub fn step(&mut self) -> Result<bool> {
        // SAFETY: the statement is ours.
        match unsafe { api!(step(self.raw)) } as u32 {
            SQLITE_ROW => Ok(true),
            SQLITE_DONE => Ok(false),
            _ => {
                let err = api::last_error(self.db.raw, "");
                self.reset();
                Err(err)
            }
        }
    }

    /// Ends the run, so that no lock and no argument is held.
    pub fn reset(&mut self) {
        // SAFETY: the statement is ours; the code repeats the one of the last step.
        unsafe {
            api!(reset(self.raw));
            api!(clear_bindings(self.raw));
        }
    }

    /// The column as a blob, if it is one: what else stands there is not looked at.
    pub fn blob(&self, column: usize) -> Result<Option<&[u8]>> {
        let column = column as c_int;
        // SAFETY: as in `value`; asking for a type reads nothing.
        unsafe {
            match api!(column_type(self.raw, column)) as u32 {
                SQLITE_BLOB => self.blob_at(column).map(Some),
                _ => Ok(None),
            }
        }
    }

    /// # Safety
    /// The column holds a blob.
    unsafe fn blob_at(&self, column: c_int) -> Result<&[u8]> {
        // SAFETY: as in `value`.
        unsafe {
            let start = api!(column_blob(self.raw, column));
            match api!(column_bytes(self.raw, column)) {
                0 => Ok(&[]),
                length => bytes_at(start.cast(), length),
            }
        }
    }

    /// The value of a column of the current row.
    pub fn value(&self, column: usize) -> Result<Value<'_>> {
        let column = column as c_int;
        // SAFETY: SQLite keeps the bytes until the next step, which needs the statement mutably.
        unsafe {
            match api!(column_type(self.raw, column)) as u32 {
                SQLITE_INTEGER => Ok(Value::Integer(api!(column_int64(self.raw, column)))),
                SQLITE_FLOAT => Ok(Value::Real(api!(column_double(self.raw, column)))),
                SQLITE_TEXT => {
                    let start = api!(column_text(self.raw, column));
                    text(bytes_at(start, api!(column_bytes(self.raw, column)))?).map(Value::Text)
                }
                SQLITE_BLOB => Ok(Value::Blob(self.blob_at(column)?)),
                _ => Ok(Value::Null),
            }
        }
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: the statement is ours and not used again.
        unsafe {
            api!(finalize(self.raw));
        }
    }
}
