//! Virtual tables: the C side of [`Table`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::{ptr, slice};

use sqlite3ext_sys::{
    SQLITE_CONSTRAINT, SQLITE_DONE, SQLITE_ERROR, SQLITE_FLOAT, SQLITE_INTEGER, SQLITE_MISMATCH,
    SQLITE_NOMEM, SQLITE_OK, SQLITE_VTAB_CONSTRAINT_SUPPORT, SQLITE_VTAB_DIRECTONLY, sqlite3,
    sqlite3_context, sqlite3_index_info, sqlite3_module, sqlite3_value, sqlite3_vtab,
    sqlite3_vtab_cursor,
};

use super::api::{self, api};
use super::database::{Db, c_text};
use super::function::code;
use super::plan::{Plan, Verdict};
use super::table::{Change, Declaration, OnConflict, Table};
use super::value::Value;
use crate::error::{Error, Result};

impl Db {
    /// Defines the module `name`, whose tables are `T`s.
    pub fn table<T: Table>(&self, name: &str) -> Result<()> {
        let name_text = c_text(name)?;
        let module: &'static Module = &Glue::<T>::MODULE;
        let known = Box::into_raw(Box::<Known<T>>::default()).cast();
        // SAFETY: the module is static; versions before 3.44 read only the part they know. `forget` gets
        // what is known, also where this fails.
        let code = unsafe {
            let module = ptr::from_ref(module).cast::<sqlite3_module>();
            let forget = Some(Glue::<T>::forget as unsafe extern "C" fn(*mut c_void));
            api!(create_module_v2(self.raw, name_text.as_ptr(), module, known, forget))
        };
        if code == SQLITE_OK as c_int { Ok(()) } else { Err(api::last_error(self.raw, name)) }
    }
}

/// One argument of [`Table::filter`].
pub struct Argument<'a> {
    raw: *mut sqlite3_value,
    lives: PhantomData<&'a ()>,
}

impl<'a> Argument<'a> {
    /// The value.
    pub fn value(&self) -> Result<Value<'a>> {
        // SAFETY: SQLite keeps the arguments until the callback is over.
        unsafe { Value::read(self.raw) }
    }

    /// Calls `take` with every value of an `IN (...)`.
    pub fn each(&self, mut take: impl FnMut(Value<'_>) -> Result<()>) -> Result<()> {
        let mut item = ptr::null_mut();
        // SAFETY: the argument of an IN that `Plan::argument` asked for as a whole.
        let mut code = unsafe { api!(vtab_in_first(self.raw, &mut item)) };
        while code == SQLITE_OK as c_int {
            // SAFETY: the item lives until the next call of vtab_in_next.
            take(unsafe { Value::read(item) }?)?;
            // SAFETY: as above.
            code = unsafe { api!(vtab_in_next(self.raw, &mut item)) };
        }
        if code == SQLITE_DONE as c_int { Ok(()) } else { Err(api::error_of(code, "IN")) }
    }
}

/// `sqlite3_module` with the field that came after the bindings.
#[repr(C)]
struct Module {
    known: sqlite3_module,
    /// 3.44 and newer, for `iVersion` 4.
    integrity: unsafe extern "C" fn(
        *mut sqlite3_vtab,
        *const c_char,
        *const c_char,
        c_int,
        *mut *mut c_char,
    ) -> c_int,
}

/// The tables of one connection, by schema and name.
///
/// SQLite connects a table anew when it reads a schema again, in the middle of a transaction too (after
/// ALTER TABLE, or ROLLBACK TO with a change to any schema), and tells both of its ends. They share one value.
struct Known<T>(RefCell<HashMap<(String, String), Weak<T>>>);

impl<T> Default for Known<T> {
    fn default() -> Known<T> {
        Known(RefCell::default())
    }
}

impl<T: Table> Known<T> {
    /// The value that serves the table from now on: `fresh`, or the one that it would repeat.
    fn settled(&self, schema: &str, name: &str, fresh: T) -> Rc<T> {
        let mut known = self.0.borrow_mut();
        known.retain(|_, it| 0 < it.strong_count());
        let key = (schema.to_owned(), name.to_owned());
        let before = known.get(&key).and_then(Weak::upgrade);
        if let Some(before) = before {
            if before.goes_on_as(&fresh) {
                return before;
            }
            before.replaced();
        }
        let fresh = Rc::new(fresh);
        known.insert(key, Rc::downgrade(&fresh));
        fresh
    }
}

/// A table as SQLite holds it.
#[repr(C)]
struct Instance<T> {
    base: sqlite3_vtab,
    table: Rc<T>,
    db: Db,
    name: String,
}

/// A cursor as SQLite holds it.
#[repr(C)]
struct Open<C> {
    base: sqlite3_vtab_cursor,
    cursor: C,
}

/// The callbacks of `T`.
struct Glue<T>(PhantomData<T>);

impl<T: Table> Glue<T> {
    const MODULE: Module = Module {
        known: sqlite3_module {
            iVersion: 4,
            xCreate: if T::EPONYMOUS { None } else { Some(Self::create) },
            xConnect: Some(Self::connect),
            xBestIndex: Some(Self::best_index),
            xDisconnect: Some(Self::disconnect),
            xDestroy: Some(Self::destroy),
            xOpen: Some(Self::open),
            xClose: Some(Self::close),
            xFilter: Some(Self::filter),
            xNext: Some(Self::next),
            xEof: Some(Self::eof),
            xColumn: Some(Self::column),
            xRowid: Some(Self::rowid),
            xUpdate: Some(Self::update),
            xBegin: Some(Self::begin),
            xSync: Some(Self::sync),
            xCommit: Some(Self::commit),
            xRollback: Some(Self::rollback),
            xFindFunction: None,
            xRename: Some(Self::rename),
            xSavepoint: Some(Self::savepoint),
            xRelease: Some(Self::release),
            xRollbackTo: Some(Self::rollback_to),
            xShadowName: Some(Self::shadow_name),
        },
        integrity: Self::integrity,
    };

    unsafe extern "C" fn forget(known: *mut c_void) {
        // SAFETY: from `Db::table`, whose end of it this is.
        drop(unsafe { Box::from_raw(known.cast::<Known<T>>()) });
    }

    unsafe extern "C" fn create(
        db: *mut sqlite3,
        known: *mut c_void,
        count: c_int,
        words: *const *const c_char,
        table: *mut *mut sqlite3_vtab,
        message: *mut *mut c_char,
    ) -> c_int {
        // SAFETY: xCreate's own arguments.
        unsafe { start(db, known, count, words, table, message, T::create) }
    }

    unsafe extern "C" fn connect(
        db: *mut sqlite3,
        known: *mut c_void,
        count: c_int,
        words: *const *const c_char,
        table: *mut *mut sqlite3_vtab,
        message: *mut *mut c_char,
    ) -> c_int {
        // SAFETY: xConnect's own arguments.
        unsafe { start(db, known, count, words, table, message, T::connect) }
    }

    unsafe extern "C" fn disconnect(table: *mut sqlite3_vtab) -> c_int {
        // SAFETY: made by `start`, and not used after this call.
        let instance = unsafe { Box::from_raw(table.cast::<Instance<T>>()) };
        // The message is SQLite's memory, and nobody else frees it now.
        // SAFETY: null or from `owned_text`.
        unsafe { api!(free(instance.base.zErrMsg.cast())) };
        // A panicking drop must not reach SQLite; there is nobody to tell.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(instance)));
        SQLITE_OK as c_int
    }

    unsafe extern "C" fn destroy(table: *mut sqlite3_vtab) -> c_int {
        // SAFETY: a table made by `start`; on failure SQLite keeps it.
        unsafe {
            match fenced::<T, ()>(table, |it| it.table.destroy()) {
                Ok(()) => Self::disconnect(table),
                Err(code) => code,
            }
        }
    }

    unsafe extern "C" fn best_index(
        table: *mut sqlite3_vtab,
        info: *mut sqlite3_index_info,
    ) -> c_int {
        // SAFETY: xBestIndex's own arguments.
        unsafe {
            let outcome = fenced::<T, Verdict>(table, |it| {
                let mut plan = Plan::new(info);
                let verdict = it.table.plan(&mut plan)?;
                if plan.finish() {
                    Ok(verdict)
                } else {
                    Err(api::error_of(SQLITE_NOMEM as c_int, "planning"))
                }
            });
            match outcome {
                Ok(Verdict::Possible) => SQLITE_OK as c_int,
                Ok(Verdict::Impossible) => SQLITE_CONSTRAINT as c_int,
                Err(code) => code,
            }
        }
    }

    unsafe extern "C" fn open(
        table: *mut sqlite3_vtab,
        slot: *mut *mut sqlite3_vtab_cursor,
    ) -> c_int {
        // SAFETY: xOpen's own arguments; SQLite fills in the cursor's table.
        unsafe {
            unit(fenced::<T, ()>(table, |it| {
                let cursor = it.table.open()?;
                let base = sqlite3_vtab_cursor { pVtab: ptr::null_mut() };
                *slot = Box::into_raw(Box::new(Open { base, cursor })).cast();
                Ok(())
            }))
        }
    }

    unsafe extern "C" fn close(cursor: *mut sqlite3_vtab_cursor) -> c_int {
        // SAFETY: made by `open`, and not used after this call.
        let open = unsafe { Box::from_raw(cursor.cast::<Open<T::Cursor>>()) };
        // As in `disconnect`.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(open)));
        SQLITE_OK as c_int
    }

    unsafe extern "C" fn filter(
        cursor: *mut sqlite3_vtab_cursor,
        _: c_int,
        notes: *const c_char,
        count: c_int,
        arguments: *mut *mut sqlite3_value,
    ) -> c_int {
        // SAFETY: xFilter's own arguments; the notes are those of `Plan::finish`.
        unsafe {
            unit(scanned::<T, ()>(cursor, |it, cursor| {
                let notes = api::text_at(notes).unwrap_or_default();
                let arguments: Vec<Argument<'_>> = values(count, arguments)
                    .iter()
                    .map(|raw| Argument { raw: *raw, lives: PhantomData })
                    .collect();
                it.filter(cursor, &notes, &arguments)
            }))
        }
    }

    unsafe extern "C" fn next(cursor: *mut sqlite3_vtab_cursor) -> c_int {
        // SAFETY: xNext's own argument.
        unsafe { unit(scanned::<T, ()>(cursor, |it, cursor| it.next(cursor))) }
    }

    unsafe extern "C" fn eof(cursor: *mut sqlite3_vtab_cursor) -> c_int {
        // SAFETY: xEof's own argument; a panic ends the scan.
        unsafe {
            scanned::<T, bool>(cursor, |it, cursor| Ok(it.ended(cursor))).unwrap_or(true) as c_int
        }
    }

    unsafe extern "C" fn column(
        cursor: *mut sqlite3_vtab_cursor,
        context: *mut sqlite3_context,
        column: c_int,
    ) -> c_int {
        // SAFETY: xColumn's own arguments.
        unsafe {
            unit(scanned::<T, ()>(cursor, |it, cursor| {
                // An UPDATE that leaves the column alone: no answer means "unchanged".
                if api!(vtab_nochange(context)) == 0 {
                    let column = usize::try_from(column).unwrap_or(usize::MAX);
                    it.column(cursor, column)?.answer(context);
                }
                Ok(())
            }))
        }
    }

    unsafe extern "C" fn rowid(cursor: *mut sqlite3_vtab_cursor, rowid: *mut i64) -> c_int {
        // SAFETY: xRowid's own arguments.
        unsafe {
            unit(scanned::<T, ()>(cursor, |it, cursor| {
                *rowid = it.rowid(cursor)?;
                Ok(())
            }))
        }
    }

    unsafe extern "C" fn update(
        table: *mut sqlite3_vtab,
        count: c_int,
        arguments: *mut *mut sqlite3_value,
        rowid: *mut i64,
    ) -> c_int {
        // SAFETY: xUpdate's own arguments.
        unsafe {
            unit(fenced::<T, ()>(table, |it| {
                let change = change(values(count, arguments))?;
                let conflict = match api!(vtab_on_conflict(it.db.raw)) {
                    1 => OnConflict::Rollback,
                    2 => OnConflict::Ignore,
                    3 => OnConflict::Fail,
                    5 => OnConflict::Replace,
                    _ => OnConflict::Abort,
                };
                *rowid = it.table.update(change, conflict)?;
                Ok(())
            }))
        }
    }

    unsafe extern "C" fn begin(table: *mut sqlite3_vtab) -> c_int {
        // SAFETY: xBegin's own argument.
        unsafe { unit(fenced::<T, ()>(table, |it| it.table.begin())) }
    }

    unsafe extern "C" fn sync(table: *mut sqlite3_vtab) -> c_int {
        // SAFETY: xSync's own argument.
        unsafe { unit(fenced::<T, ()>(table, |it| it.table.sync())) }
    }

    unsafe extern "C" fn commit(table: *mut sqlite3_vtab) -> c_int {
        // SAFETY: xCommit's own argument.
        unsafe {
            unit(fenced::<T, ()>(table, |it| {
                it.table.commit();
                Ok(())
            }))
        }
    }

    unsafe extern "C" fn rollback(table: *mut sqlite3_vtab) -> c_int {
        // SAFETY: xRollback's own argument.
        unsafe {
            unit(fenced::<T, ()>(table, |it| {
                it.table.rollback();
                Ok(())
            }))
        }
    }

    unsafe extern "C" fn savepoint(table: *mut sqlite3_vtab, number: c_int) -> c_int {
        // SAFETY: xSavepoint's own arguments.
        unsafe { unit(fenced::<T, ()>(table, |it| it.table.savepoint(number))) }
    }

    unsafe extern "C" fn release(table: *mut sqlite3_vtab, number: c_int) -> c_int {
        // SAFETY: xRelease's own arguments.
        unsafe { unit(fenced::<T, ()>(table, |it| it.table.release(number))) }
    }

    unsafe extern "C" fn rollback_to(table: *mut sqlite3_vtab, number: c_int) -> c_int {
        // SAFETY: xRollbackTo's own arguments.
        unsafe { unit(fenced::<T, ()>(table, |it| it.table.rollback_to(number))) }
    }

    unsafe extern "C" fn rename(table: *mut sqlite3_vtab, name: *const c_char) -> c_int {
        // SAFETY: xRename's own arguments.
        unsafe { unit(fenced::<T, ()>(table, |it| it.table.rename(&word(name)?))) }
    }

    unsafe extern "C" fn shadow_name(name: *const c_char) -> c_int {
        // SAFETY: xShadowName's own argument, never null.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        T::SHADOWS.iter().any(|it| it.as_bytes().eq_ignore_ascii_case(name)).into()
    }

    unsafe extern "C" fn integrity(
        table: *mut sqlite3_vtab,
        _: *const c_char,
        name: *const c_char,
        _: c_int,
        message: *mut *mut c_char,
    ) -> c_int {
        // SAFETY: xIntegrity's own arguments; SQLite frees the message.
        unsafe {
            unit(fenced::<T, ()>(table, |it| {
                // An error here would stop the whole pragma, so it is a finding as well.
                let findings = it.table.integrity().unwrap_or_else(|err| vec![err.to_string()]);
                if !findings.is_empty() {
                    let name = api::text_at(name).unwrap_or_default();
                    *message = api::owned_text(&format!("{name}: {}", findings.join("; ")));
                }
                Ok(())
            }))
        }
    }
}

/// # Safety
/// The arguments are those of `xCreate` or `xConnect`.
unsafe fn start<T: Table>(
    db: *mut sqlite3,
    known: *mut c_void,
    count: c_int,
    words: *const *const c_char,
    slot: *mut *mut sqlite3_vtab,
    message: *mut *mut c_char,
    make: fn(&Declaration) -> Result<T>,
) -> c_int {
    let mut name = String::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller's promise.
        let words = unsafe { slice::from_raw_parts(words, count as usize) };
        let words = words
            .iter()
            // SAFETY: SQLite's words end with NUL.
            .map(|it| unsafe { word(*it) })
            .collect::<Result<Vec<String>>>()?;
        let [_module, schema, table, options @ ..] = words.as_slice() else {
            return Err(Error::Usage("SQLite gave no table name".to_owned()));
        };
        name.clone_from(table);
        let declaration = Declaration {
            db: Db::new(db),
            schema: schema.clone(),
            name: table.clone(),
            options: options.to_vec(),
        };
        // SAFETY: from `Db::table`, and SQLite's as long as there is the module.
        let known = unsafe { &*known.cast::<Known<T>>() };
        let table = known.settled(&declaration.schema, &declaration.name, make(&declaration)?);
        let columns = c_text(&format!("CREATE TABLE x({})", table.columns()))?;
        // SAFETY: called within xCreate or xConnect, where these settings are made; vtab_config is
        // variadic, and takes an int after CONSTRAINT_SUPPORT, nothing after DIRECTONLY.
        let code = unsafe {
            let mut code = api!(declare_vtab(db, columns.as_ptr()));
            if code == SQLITE_OK as c_int {
                code = api!(vtab_config(db, SQLITE_VTAB_CONSTRAINT_SUPPORT as c_int, 1 as c_int));
            }
            if code == SQLITE_OK as c_int && T::DIRECT_ONLY {
                code = api!(vtab_config(db, SQLITE_VTAB_DIRECTONLY as c_int));
            }
            code
        };
        if code != SQLITE_OK as c_int {
            return Err(api::last_error(db, "declaring the columns"));
        }
        let base = sqlite3_vtab { pModule: ptr::null(), nRef: 0, zErrMsg: ptr::null_mut() };
        let instance = Instance { base, table, db: Db::new(db), name: name.clone() };
        // SAFETY: SQLite gives the slot, and fills in the base.
        unsafe { *slot = Box::into_raw(Box::new(instance)).cast() };
        Ok(())
    }))
    .unwrap_or_else(|_| Err(panicked()));
    match outcome {
        Ok(()) => SQLITE_OK as c_int,
        Err(err) => {
            // SAFETY: SQLite frees the message.
            unsafe { *message = api::owned_text(&worded(&name, &err)) };
            code(&err)
        }
    }
}

/// Runs a callback of the table; an error goes to the table's message and comes back as its code.
///
/// # Safety
/// `table` was made by [`start`] for this `T`, and SQLite is in a callback of it.
unsafe fn fenced<T: Table, R>(
    table: *mut sqlite3_vtab,
    body: impl FnOnce(&Instance<T>) -> Result<R>,
) -> std::result::Result<R, c_int> {
    let outcome = {
        // SAFETY: the caller's promise; shared, as callbacks of other cursors may be under way.
        let instance = unsafe { &*table.cast::<Instance<T>>() };
        catch_unwind(AssertUnwindSafe(|| body(instance))).unwrap_or_else(|_| Err(panicked()))
    };
    outcome.map_err(|err| {
        // SAFETY: the old message is null or SQLite's memory, and ours to free.
        unsafe {
            let text = worded(&(*table.cast::<Instance<T>>()).name, &err);
            api!(free((*table).zErrMsg.cast()));
            (*table).zErrMsg = api::owned_text(&text);
        }
        code(&err)
    })
}

/// As [`fenced`], with the cursor.
///
/// # Safety
/// `cursor` was made by `open` for this `T`, and SQLite is in a callback of it.
unsafe fn scanned<T: Table, R>(
    cursor: *mut sqlite3_vtab_cursor,
    body: impl FnOnce(&T, &mut T::Cursor) -> Result<R>,
) -> std::result::Result<R, c_int> {
    // SAFETY: the caller's promise; SQLite runs one callback of a cursor at a time.
    unsafe {
        let table = (*cursor).pVtab;
        let open = &mut *cursor.cast::<Open<T::Cursor>>();
        fenced::<T, R>(table, |it| body(&*it.table, &mut open.cursor))
    }
}

fn unit(outcome: std::result::Result<(), c_int>) -> c_int {
    outcome.err().unwrap_or(SQLITE_OK as c_int)
}

fn panicked() -> Error {
    Error::Sqlite {
        code: SQLITE_ERROR as c_int,
        message: "internal error, please report".to_owned(),
    }
}

/// SQLite's own words and those that name a table already stand as they are.
fn worded(name: &str, err: &Error) -> String {
    match err {
        Error::Sqlite { .. } | Error::Damaged { .. } => err.to_string(),
        _ => format!("{name}: {err}"),
    }
}

/// # Safety
/// `text` ends with NUL.
unsafe fn word(text: *const c_char) -> Result<String> {
    // SAFETY: the caller's promise.
    match unsafe { CStr::from_ptr(text) }.to_str() {
        Ok(word) => Ok(word.to_owned()),
        Err(_) => Err(Error::Usage("a name or option is not valid UTF-8".to_owned())),
    }
}

/// # Safety
/// `arguments` holds `count` values, for the running callback.
unsafe fn values<'a>(count: c_int, arguments: *mut *mut sqlite3_value) -> &'a [*mut sqlite3_value] {
    match usize::try_from(count) {
        // SAFETY: the caller's promise.
        Ok(count) if 0 < count => unsafe { slice::from_raw_parts(arguments, count) },
        _ => &[],
    }
}

/// # Safety
/// The values are those of the running `xUpdate`.
unsafe fn change<'a>(arguments: &[*mut sqlite3_value]) -> Result<Change<'a>> {
    // SAFETY: the caller's promise, for every call below.
    unsafe {
        let [old, rest @ ..] = arguments else {
            return Err(Error::Usage("SQLite gave no row to write".to_owned()));
        };
        let [new, values @ ..] = rest else {
            let rowid = rowid_of(*old)?.ok_or_else(mismatch)?;
            return Ok(Change::Delete { rowid });
        };
        let Some(rowid) = rowid_of(*old)? else {
            let rowid = rowid_of(*new)?;
            let values = values.iter().map(|it| Value::read(*it)).collect::<Result<_>>()?;
            return Ok(Change::Insert { rowid, values });
        };
        let new_rowid = rowid_of(*new)?.ok_or_else(mismatch)?;
        let values = values
            .iter()
            .map(|it| match api!(value_nochange(*it)) {
                0 => Value::read(*it).map(Some),
                _ => Ok(None),
            })
            .collect::<Result<_>>()?;
        Ok(Change::Update { rowid, new_rowid, values })
    }
}

/// A rowid as an ordinary table takes it: 7, 7.0 and '7' are the same, NULL is none.
///
/// # Safety
/// `raw` is a value of the running callback.
unsafe fn rowid_of(raw: *mut sqlite3_value) -> Result<Option<i64>> {
    // SAFETY: the caller's promise.
    unsafe {
        match api!(value_numeric_type(raw)) as u32 {
            SQLITE_INTEGER => Ok(Some(api!(value_int64(raw)))),
            SQLITE_FLOAT => {
                let (real, whole) = (api!(value_double(raw)), api!(value_int64(raw)));
                if whole as f64 == real { Ok(Some(whole)) } else { Err(mismatch()) }
            }
            sqlite3ext_sys::SQLITE_NULL => Ok(None),
            _ => Err(mismatch()),
        }
    }
}

fn mismatch() -> Error {
    Error::Sqlite { code: SQLITE_MISMATCH as c_int, message: "datatype mismatch".to_owned() }
}
