//! Scalar functions.

use std::any::TypeId;
use std::collections::HashMap;
use std::ffi::c_int;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex, PoisonError};

use sqlite_loadable::{FunctionFlags, define_scalar_function};
use sqlite3ext_sys::{SQLITE_CORRUPT_VTAB, SQLITE_ERROR, sqlite3_context, sqlite3_value};

use super::api::api;
use super::database::Db;
use super::value::{Output, Value};
use crate::error::{Error, Result};

/// What SQLite may assume about a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flags {
    /// Nothing: usable in the application's own SQL, and in a schema only while it is trusted.
    Plain,
    /// Same arguments, same answer, no harm: usable in indexes, views and generated columns.
    Pure,
    /// Refused in triggers and views: for whatever opens a file or changes a setting.
    DirectOnly,
}

/// The running call of a function.
pub struct Context {
    raw: *mut sqlite3_context,
}

impl Context {
    /// The connection that asks.
    pub fn db(&self) -> Db {
        // SAFETY: a context exists only inside the callback that SQLite gave it to.
        Db::new(unsafe { api!(context_db_handle(self.raw)) })
    }
}

impl Db {
    /// Defines `name` for each number of arguments in `arguments`.
    ///
    /// `body` is a function or a closure without captures. Its errors reach the user as `<name>: <error>`.
    pub fn function<F>(
        &self,
        name: &'static str,
        arguments: RangeInclusive<i32>,
        flags: Flags,
        body: F,
    ) -> Result<()>
    where
        F: Fn(&Context, &[Value<'_>]) -> Result<Output> + Copy + 'static,
    {
        const { assert!(size_of::<F>() == 0, "sqlite-loadable would leak what a closure captures") };
        let flags = FunctionFlags::UTF8
            | match flags {
                Flags::Plain => FunctionFlags::empty(),
                Flags::Pure => FunctionFlags::DETERMINISTIC | FunctionFlags::INNOCUOUS,
                Flags::DirectOnly => FunctionFlags::DIRECTONLY,
            };
        NAMES.lock().unwrap_or_else(PoisonError::into_inner).insert(TypeId::of::<F>(), name);
        for count in arguments {
            define_scalar_function(self.raw, name, count, fenced(body), flags).map_err(|err| {
                Error::Sqlite {
                    code: SQLITE_ERROR as i32,
                    message: format!("{name}: {}", err.result_error_message()),
                }
            })?;
        }
        Ok(())
    }
}

/// The SQL name of each function, for its errors; a capture would leak with every connection.
static NAMES: LazyLock<Mutex<HashMap<TypeId, &'static str>>> = LazyLock::new(Default::default);

/// Answers or fails, always through SQLite: unwinding into it would end the host process.
fn fenced<F>(
    body: F,
) -> impl Fn(*mut sqlite3_context, &[*mut sqlite3_value]) -> sqlite_loadable::Result<()>
where
    F: Fn(&Context, &[Value<'_>]) -> Result<Output> + Copy + 'static,
{
    move |context, arguments| {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let arguments = arguments
                .iter()
                // SAFETY: SQLite keeps the arguments until the call is over.
                .map(|it| unsafe { Value::read(*it) })
                .collect::<Result<Vec<Value<'_>>>>()?;
            body(&Context { raw: context }, &arguments)
        }))
        .unwrap_or_else(|_| Err(Error::Usage("internal error, please report".to_owned())));
        match outcome {
            // SAFETY: the context of this very call.
            Ok(output) => unsafe { output.answer(context) },
            Err(err) => {
                let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
                let name = names.get(&TypeId::of::<F>()).copied().unwrap_or("dualpath");
                // SAFETY: the context of this very call.
                unsafe { fail(context, &format!("{name}: {err}"), code(&err)) };
            }
        }
        Ok(())
    }
}

/// # Safety
/// `context` is the one of the running callback.
pub(super) unsafe fn fail(context: *mut sqlite3_context, message: &str, code: c_int) {
    // SAFETY: the caller's promise; SQLite copies the message. The code comes last, as the text resets it.
    unsafe {
        api!(result_error(context, message.as_ptr().cast(), message.len() as c_int));
        api!(result_error_code(context, code));
    }
}

/// The result code that goes with an error.
pub(super) fn code(err: &Error) -> c_int {
    match err {
        Error::Sqlite { code, .. } => *code,
        Error::Damaged { .. } => SQLITE_CORRUPT_VTAB as c_int,
        _ => SQLITE_ERROR as c_int,
    }
}
