//! Virtual tables: the trait to implement.

use super::database::Db;
use super::module::Argument;
use super::plan::{Plan, Verdict};
use super::value::{Output, Value};
use crate::error::{Error, Result};

/// A kind of virtual table; one value per table and connection.
///
/// ```text
/// CREATE ─> create ┐                     ┌─> begin ─> update … ─> sync ─> commit
/// first use > connect ┴─> columns, plan ─┤        └ savepoint(n), release(n), rollback_to(n), rollback
///                                        └─> open ─> filter ─> (ended? rowid, column, next)…
/// ```
///
/// All methods take `&self`: SQLite may hold several cursors and write meanwhile, so what changes
/// stands in a `Cell` or `RefCell`. No method calls SQL that reaches the same table. Errors come to the
/// user as `<table>: <error>`, panics as an error too.
///
/// A table that exists without `CREATE VIRTUAL TABLE` and stores nothing (such as `dualpath_models`)
/// sets [`Table::EPONYMOUS`], and writes `connect`, `columns`, `plan` (for which
/// `Ok(Verdict::Possible)` is enough), the cursor's methods, and `update` if it takes writes.
pub trait Table: Sized + 'static {
    /// One running scan.
    type Cursor: 'static;

    /// Whether it exists on every connection under the module's name, and cannot be created.
    const EPONYMOUS: bool = false;

    /// Whether triggers and views may not use it: for what opens files or changes settings.
    const DIRECT_ONLY: bool = false;

    /// `t_blocks` belongs to table `t` when this holds `"blocks"`.
    const SHADOWS: &'static [&'static str] = &[];

    /// `CREATE VIRTUAL TABLE`: makes what is stored.
    fn create(declaration: &Declaration) -> Result<Self> {
        Self::connect(declaration)
    }

    /// First use of an existing table on a connection.
    fn connect(declaration: &Declaration) -> Result<Self>;

    /// The columns as in `CREATE TABLE t(...)`, such as `name TEXT, k HIDDEN`.
    fn columns(&self) -> String;

    /// Whether this value, which a transaction may be in the midst of, serves the table that SQLite connects
    /// anew as `fresh`: nothing of what was declared has changed.
    fn goes_on_as(&self, _fresh: &Self) -> bool {
        false
    }

    /// The table of this name is another one from now on: this one was dropped, or its creation taken back.
    fn replaced(&self) {}

    /// `DROP TABLE`: removes what is stored.
    fn destroy(&self) -> Result<()> {
        Ok(())
    }

    /// Says how a query would be answered, and leaves notes for [`Table::filter`].
    fn plan(&self, plan: &mut Plan<'_>) -> Result<Verdict>;

    /// A new scan, before its first [`Table::filter`].
    fn open(&self) -> Result<Self::Cursor>;

    /// Starts the scan over with the notes and the arguments of the chosen plan, at its first row.
    fn filter(
        &self,
        cursor: &mut Self::Cursor,
        notes: &str,
        arguments: &[Argument<'_>],
    ) -> Result<()>;

    /// Goes to the next row.
    fn next(&self, cursor: &mut Self::Cursor) -> Result<()>;

    /// Whether the scan stands after its last row.
    fn ended(&self, cursor: &Self::Cursor) -> bool;

    /// The rowid of the current row.
    fn rowid(&self, cursor: &Self::Cursor) -> Result<i64>;

    /// A column of the current row, counted from 0.
    fn column(&self, cursor: &mut Self::Cursor, column: usize) -> Result<Output>;

    /// One row written; answers the rowid of the row inserted (any number for other changes).
    ///
    /// Changes nothing when it fails: SQLite keeps no journal for single-row statements.
    fn update(&self, _change: Change<'_>, _conflict: OnConflict) -> Result<i64> {
        Err(Error::Usage("the table is read-only".to_owned()))
    }

    /// The first write of a transaction is about to come.
    fn begin(&self) -> Result<()> {
        Ok(())
    }

    /// The transaction is about to be committed: the last moment to write and to fail.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// The transaction is committed.
    fn commit(&self) {}

    /// The transaction is gone, with all that was written in it.
    fn rollback(&self) {}

    /// A savepoint, or a statement that may have to be taken back.
    fn savepoint(&self, _number: i32) -> Result<()> {
        Ok(())
    }

    /// The savepoint and those after it are forgotten; what was written stays.
    fn release(&self, _number: i32) -> Result<()> {
        Ok(())
    }

    /// What was written after the savepoint is gone.
    fn rollback_to(&self, _number: i32) -> Result<()> {
        Ok(())
    }

    /// `ALTER TABLE ... RENAME TO`.
    fn rename(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    /// `PRAGMA integrity_check`: what is wrong, a line each (SQLite 3.44 and newer ask).
    fn integrity(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// What `CREATE VIRTUAL TABLE schema.name USING module(options)` says.
#[derive(Clone)]
pub struct Declaration {
    /// The connection.
    pub db: Db,
    /// Such as `main`.
    pub schema: String,
    /// The table's name.
    pub name: String,
    /// What stands between the parentheses, split at commas.
    pub options: Vec<String>,
}

/// One row to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Change<'a> {
    /// Remove the row.
    Delete {
        /// The row.
        rowid: i64,
    },
    /// A new row.
    Insert {
        /// The rowid asked for, or the table chooses.
        rowid: Option<i64>,
        /// A value per column.
        values: Vec<Value<'a>>,
    },
    /// New values for a row.
    Update {
        /// The row.
        rowid: i64,
        /// Its rowid from now on, mostly the same.
        new_rowid: i64,
        /// A value per column; `None` where the statement does not set it.
        values: Vec<Option<Value<'a>>>,
    },
}

/// What `INSERT OR ...` asks for when the rowid is taken.
///
/// An error with code `SQLITE_CONSTRAINT_ROWID` serves all but `Replace`: SQLite does the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OnConflict {
    Rollback,
    Ignore,
    Fail,
    Abort,
    Replace,
}
