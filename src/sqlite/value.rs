//! SQL values: in as [`Value`], out as [`Output`].

use std::ffi::{c_int, c_void};
use std::slice;

use sqlite3ext_sys::{
    SQLITE_BLOB, SQLITE_FLOAT, SQLITE_INTEGER, SQLITE_NOMEM, SQLITE_NULL, SQLITE_TEXT, SQLITE_UTF8,
    sqlite3_context, sqlite3_value,
};

use super::api::{api, error_of};
use crate::error::{Error, Result};

/// One argument, one bound or stored value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// 64 bits, signed.
    Integer(i64),
    /// A double; never NaN, which SQLite turns into NULL.
    Real(f64),
    /// Valid UTF-8, perhaps with NUL inside.
    Text(&'a str),
    /// Bytes, perhaps none.
    Blob(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The number as a double, whether it is stored as an integer or not.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Integer(it) => Some(*it as f64),
            Value::Real(it) => Some(*it),
            _ => None,
        }
    }

    /// The storage class in the words of `typeof()`.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Integer(_) => "integer",
            Value::Real(_) => "real",
            Value::Text(_) => "text",
            Value::Blob(_) => "blob",
        }
    }

    /// # Safety
    /// `raw` is a value of SQLite that outlives `'a` and is not converted meanwhile.
    pub(super) unsafe fn read(raw: *mut sqlite3_value) -> Result<Value<'a>> {
        // SAFETY: the caller's promise; the pointer is asked for before the length, as SQLite wants it.
        unsafe {
            match api!(value_type(raw)) as u32 {
                SQLITE_INTEGER => Ok(Value::Integer(api!(value_int64(raw)))),
                SQLITE_FLOAT => Ok(Value::Real(api!(value_double(raw)))),
                SQLITE_TEXT => {
                    let start = api!(value_text(raw));
                    let bytes = bytes_at(start.cast(), api!(value_bytes(raw)))?;
                    text(bytes).map(Value::Text)
                }
                SQLITE_BLOB => {
                    let start = api!(value_blob(raw));
                    let length = api!(value_bytes(raw));
                    // SQLite's pointer to an empty blob is null.
                    if length == 0 {
                        return Ok(Value::Blob(&[]));
                    }
                    bytes_at(start.cast(), length).map(Value::Blob)
                }
                SQLITE_NULL => Ok(Value::Null),
                _ => Ok(Value::Null),
            }
        }
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<&str> {
    str::from_utf8(bytes).map_err(|err| {
        Error::Usage(format!(
            "the text is not valid UTF-8 at byte {} (pass pictures and vectors as BLOB)",
            err.valid_up_to()
        ))
    })
}

/// # Safety
/// `start` is null, or `length` bytes lie there for `'a`.
pub(super) unsafe fn bytes_at<'a>(start: *const u8, length: c_int) -> Result<&'a [u8]> {
    match usize::try_from(length) {
        // Null with a length of zero or more is how SQLite says that memory is out.
        _ if start.is_null() => Err(error_of(SQLITE_NOMEM as c_int, "reading a value")),
        // SAFETY: the caller's promise.
        Ok(length) => Ok(unsafe { slice::from_raw_parts(start, length) }),
        Err(_) => Ok(&[]),
    }
}

/// What a function or a column answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// SQL NULL.
    Null,
    /// 64 bits, signed.
    Integer(i64),
    /// A double.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Output {
    /// Over the connection's length limit SQLite answers `SQLITE_TOOBIG` itself.
    ///
    /// # Safety
    /// `context` is the one of the running callback.
    pub(super) unsafe fn answer(&self, context: *mut sqlite3_context) {
        // SAFETY: the caller's promise; SQLite copies text and bytes before the call returns.
        unsafe {
            match self {
                Output::Null => api!(result_null(context)),
                Output::Integer(it) => api!(result_int64(context, *it)),
                Output::Real(it) => api!(result_double(context, *it)),
                Output::Text(it) => {
                    let (start, length) = (it.as_ptr().cast(), it.len() as u64);
                    api!(result_text64(context, start, length, transient(), SQLITE_UTF8 as u8))
                }
                Output::Blob(it) => {
                    api!(result_blob64(context, it.as_ptr().cast(), it.len() as u64, transient()))
                }
            }
        }
    }
}

impl From<i64> for Output {
    fn from(it: i64) -> Output {
        Output::Integer(it)
    }
}

impl From<f64> for Output {
    fn from(it: f64) -> Output {
        Output::Real(it)
    }
}

impl From<String> for Output {
    fn from(it: String) -> Output {
        Output::Text(it)
    }
}

impl From<&str> for Output {
    fn from(it: &str) -> Output {
        Output::Text(it.to_owned())
    }
}

impl From<Vec<u8>> for Output {
    fn from(it: Vec<u8>) -> Output {
        Output::Blob(it)
    }
}

/// What SQLite does about bytes once it needs them no longer; none for `SQLITE_STATIC`.
pub(super) type Destructor = Option<unsafe extern "C" fn(*mut c_void)>;

/// `SQLITE_TRANSIENT`: copy the bytes now, they are gone after the call.
pub(super) fn transient() -> Destructor {
    // SAFETY: SQLite compares this pointer with -1 and never calls it.
    Some(unsafe { std::mem::transmute::<isize, unsafe extern "C" fn(*mut c_void)>(-1) })
}
