//! The conversation in which SQLite's planner asks what a table can do (`xBestIndex`).

use std::slice;

use sqlite3ext_sys::{
    SQLITE_INDEX_CONSTRAINT_EQ, SQLITE_INDEX_CONSTRAINT_GE, SQLITE_INDEX_CONSTRAINT_GT,
    SQLITE_INDEX_CONSTRAINT_LE, SQLITE_INDEX_CONSTRAINT_LIMIT, SQLITE_INDEX_CONSTRAINT_LT,
    SQLITE_INDEX_CONSTRAINT_MATCH, SQLITE_INDEX_CONSTRAINT_OFFSET, SQLITE_INDEX_SCAN_UNIQUE,
    sqlite3_index_info,
};

use super::api::{self, api};

/// One term of the WHERE clause that mentions the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constraint {
    /// Its place in the planner's list.
    pub at: usize,
    /// The column, counted from 0; `None` is the rowid.
    pub column: Option<usize>,
    /// What stands between the column and the value.
    pub operator: Operator,
    /// Whether its value is known before the table is read, in the join order being asked about.
    pub usable: bool,
}

/// The comparisons that tables here tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operator {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Match,
    Limit,
    Offset,
    Other,
}

impl Operator {
    /// Whether it bounds a column from one side.
    pub fn is_range(self) -> bool {
        use Operator::*;
        matches!(self, Less | LessOrEqual | Greater | GreaterOrEqual)
    }
}

/// Whether a table can be read in the way that the planner asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, as noted in the [`Plan`].
    Possible,
    /// No; the planner tries another join order.
    Impossible,
}

/// The planner's question, and the answer being written.
pub struct Plan<'a> {
    info: &'a mut sqlite3_index_info,
    arguments: i32,
    notes: String,
}

impl Plan<'_> {
    /// # Safety
    /// `info` is the one of the running `xBestIndex`.
    pub(super) unsafe fn new<'a>(info: *mut sqlite3_index_info) -> Plan<'a> {
        // SAFETY: the caller's promise; hosts since 3.38 have every field of the bindings.
        Plan { info: unsafe { &mut *info }, arguments: 0, notes: String::new() }
    }

    /// The terms of the WHERE clause.
    pub fn constraints(&self) -> Vec<Constraint> {
        let count = usize::try_from(self.info.nConstraint).unwrap_or(0);
        if count == 0 {
            return Vec::new();
        }
        // SAFETY: SQLite allocated that many.
        let raw = unsafe { slice::from_raw_parts(self.info.aConstraint, count) };
        let read =
            |(at, it): (usize, &sqlite3ext_sys::sqlite3_index_info_sqlite3_index_constraint)| {
                Constraint {
                    at,
                    column: usize::try_from(it.iColumn).ok(),
                    operator: match it.op as u32 {
                        SQLITE_INDEX_CONSTRAINT_EQ => Operator::Equal,
                        SQLITE_INDEX_CONSTRAINT_LT => Operator::Less,
                        SQLITE_INDEX_CONSTRAINT_LE => Operator::LessOrEqual,
                        SQLITE_INDEX_CONSTRAINT_GT => Operator::Greater,
                        SQLITE_INDEX_CONSTRAINT_GE => Operator::GreaterOrEqual,
                        SQLITE_INDEX_CONSTRAINT_MATCH => Operator::Match,
                        SQLITE_INDEX_CONSTRAINT_LIMIT => Operator::Limit,
                        SQLITE_INDEX_CONSTRAINT_OFFSET => Operator::Offset,
                        _ => Operator::Other,
                    },
                    usable: it.usable != 0,
                }
            };
        raw.iter().enumerate().map(read).collect()
    }

    /// The ORDER BY clause: column (`None` is the rowid) and whether it descends.
    pub fn order(&self) -> Vec<(Option<usize>, bool)> {
        let count = usize::try_from(self.info.nOrderBy).unwrap_or(0);
        if count == 0 {
            return Vec::new();
        }
        // SAFETY: SQLite allocated that many.
        let raw = unsafe { slice::from_raw_parts(self.info.aOrderBy, count) };
        raw.iter().map(|it| (usize::try_from(it.iColumn).ok(), it.desc != 0)).collect()
    }

    /// Whether an equality is `IN (...)`.
    pub fn is_in(&mut self, constraint: &Constraint) -> bool {
        // SAFETY: called within xBestIndex with a place of its list; -1 only asks.
        unsafe { api!(vtab_in(self.info, constraint.at as i32, -1)) != 0 }
    }

    /// Passes the constraint's value to `filter` as its next argument, noted as `note`.
    ///
    /// An `IN (...)` arrives whole, as [`super::Argument::each`]. SQLite checks the term again on
    /// every row unless it is `taken` for good.
    pub fn argument(&mut self, constraint: &Constraint, note: char, taken: bool) {
        if self.is_in(constraint) {
            // SAFETY: called within xBestIndex with a place of its list.
            unsafe { api!(vtab_in(self.info, constraint.at as i32, 1)) };
        }
        self.arguments += 1;
        self.notes.push(note);
        // SAFETY: SQLite allocated one usage per constraint.
        let usage = unsafe { &mut *self.info.aConstraintUsage.add(constraint.at) };
        usage.argvIndex = self.arguments;
        usage.omit = taken.into();
    }

    /// Adds a note for `filter` that comes with no argument; after all arguments.
    pub fn note(&mut self, note: char) {
        self.notes.push(note);
    }

    /// Promises the rows in the order asked for.
    pub fn ordered(&mut self) {
        self.info.orderByConsumed = 1;
    }

    /// Promises at most one row.
    pub fn unique(&mut self) {
        self.info.idxFlags |= SQLITE_INDEX_SCAN_UNIQUE as i32;
    }

    /// The price of the whole scan, in rows of an ordinary table, and how many rows it yields.
    pub fn costs(&mut self, cost: f64, rows: i64) {
        self.info.estimatedCost = cost;
        self.info.estimatedRows = rows;
    }

    /// Hands the notes to SQLite, which gives them to `filter`; false when memory is out.
    pub(super) fn finish(self) -> bool {
        self.info.idxStr = api::owned_text(&self.notes);
        self.info.needToFreeIdxStr = 1;
        !self.info.idxStr.is_null()
    }
}
