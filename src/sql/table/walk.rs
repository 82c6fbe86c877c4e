//! How far a sync has come along a content table.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::progress::Progress;
use super::queue::Queue;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::sqlite::{Statement, Value, quoted};
use crate::store::{ContentTable, Store};

/// A way along a content table, by rising rowid.
pub struct Walk {
    /// The index: schema and name.
    table: (String, String),
    /// The content row that was done last.
    pub at: Option<i64>,
    /// The last one to do; none: to the end.
    pub until: Option<i64>,
    /// Where files are read.
    pub folder: Option<Folder>,
    /// Content rows in one call.
    pub most_rows: i64,
    /// Pictures and sentences to encode in one call.
    pub most_encoded: i64,
    /// Whether the way is done.
    pub ended: bool,
    /// Whether what is being encoded at a call's end may wait for the next call.
    pub carries: bool,
    /// What does.
    pub carried: Option<Carried>,
    /// Whether the table took it, and handed it back.
    followed: bool,
    /// For all to see.
    pub progress: Progress,
}

/// Rows that are encoded while the transaction that took them in is committed, and another begins.
pub struct Carried {
    /// They themselves.
    pub queue: Queue,
    /// The content rows that they come from.
    pub rows: BTreeSet<i64>,
    /// The database that these were read from, as others had left it.
    pub version: i64,
}

thread_local! {
    /// The walk of `dualpath_sync`, which only direct SQL can call, on its way through SQLite to the
    /// table: a folder to read never comes out of a trigger.
    static HANDED: RefCell<Option<Walk>> = const { RefCell::new(None) };
}

impl Walk {
    /// A way along the whole content of an index.
    pub fn begin(store: &Store) -> Result<Walk> {
        let content = over(store)?;
        content.check(store.db(), store.schema())?;
        let table = format!("{}.{}", quoted(store.schema()), quoted(&content.name));
        let mut count = store.db().prepare(&format!("SELECT count(*) FROM {table}"))?;
        count.start(&[])?;
        let of = match (count.step()?, count.value(0)?) {
            (true, Value::Integer(of)) => of,
            _ => 0,
        };
        let name = format!("{}.{}", store.schema(), store.name());
        Ok(Walk {
            table: (store.schema().to_owned(), store.name().to_owned()),
            at: None,
            until: None,
            folder: None,
            most_rows: i64::MAX - 1,
            most_encoded: i64::MAX,
            ended: false,
            carries: false,
            carried: None,
            followed: false,
            progress: Progress::begin(file_of(store)?, name, of),
        })
    }

    /// Whether it goes along this index's content.
    fn is_for(&self, store: &Store) -> bool {
        let (schema, name) = &self.table;
        schema.eq_ignore_ascii_case(store.schema()) && name.eq_ignore_ascii_case(store.name())
    }

    /// The walk that was handed over for an index, if there is one.
    pub fn handed(store: &Store) -> Option<Walk> {
        HANDED.with(|it| it.take()).filter(|it| it.is_for(store))
    }

    /// Content rows that were looked at and wait for nothing.
    pub fn done(&self) -> i64 {
        let carried = self.carried.as_ref().map_or(0, |it| it.rows.len() as i64);
        self.progress.report().rows - carried
    }

    /// Hands it back.
    pub fn hand_back(mut self) {
        self.followed = true;
        HANDED.with(|it| it.replace(Some(self)));
    }

    /// Runs the table's own command, whose transaction counts, with this walk for its arguments.
    ///
    /// # Errors
    /// Those of the command; a table that only has an index's shadow tables beside it.
    pub fn through(mut self, command: &mut Statement) -> Result<Walk> {
        let (schema, name) = self.table.clone();
        self.followed = false;
        HANDED.with(|it| it.replace(Some(self)));
        let outcome = command.run(&[]);
        let walk = HANDED.with(|it| it.take());
        outcome?;
        walk.filter(|it| it.followed).ok_or_else(|| {
            Error::Usage(format!(
                "{schema}.{name} is no dualpath table (CREATE VIRTUAL TABLE ... USING dualpath makes one)"
            ))
        })
    }
}

/// The database's file; empty for one in memory.
fn file_of(store: &Store) -> Result<String> {
    let mut select = store
        .db()
        .prepare("SELECT file FROM pragma_database_list WHERE name = ?1 COLLATE NOCASE")?;
    select.start(&[Value::Text(store.schema())])?;
    match (select.step()?, select.value(0)?) {
        (true, Value::Text(file)) => Ok(file.to_owned()),
        _ => Ok(String::new()),
    }
}

/// The content table of an index.
pub fn over(store: &Store) -> Result<&ContentTable> {
    store.made().content.as_ref().ok_or_else(|| {
        Error::Usage(
            "the table is over no other (make it with content = 'photos' and image = 'jpeg' or the like)"
                .to_owned(),
        )
    })
}
