//! The table or view that an index is over, and what was seen of it last.

use super::Store;
use super::statements::integer;
use crate::error::{Error, Result};
use crate::sqlite::{Db, Statement, Value, quoted};
use crate::vector::Vector;

/// A content table, in the schema of its index, and the columns that are encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentTable {
    /// Table, view or virtual table.
    pub name: String,
    /// The column of unique whole numbers that names a row, or `rowid`.
    pub rowid: String,
    /// Where its pictures are.
    pub picture: Option<PictureColumn>,
    /// The column of its sentences.
    pub sentence: Option<String>,
}

/// How a content table holds pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PictureColumn {
    /// As the bytes of files.
    Bytes(String),
    /// As names of files.
    Path(String),
}

/// What a row of the index was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Image,
    Text,
}

impl Kind {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Image => "image",
            Kind::Text => "text",
        }
    }
}

impl PictureColumn {
    /// The column.
    pub fn column(&self) -> &str {
        match self {
            PictureColumn::Bytes(column) | PictureColumn::Path(column) => column,
        }
    }
}

impl ContentTable {
    /// Whether a content row may have two rows in the index.
    pub fn is_double(&self) -> bool {
        self.picture.is_some() && self.sentence.is_some()
    }

    /// The rowid in the index: the content row's, or for a sentence beside a picture -1 - the row.
    ///
    /// # Errors
    /// A negative content row where both have rowids.
    pub fn key(&self, row: i64, kind: Kind) -> Result<i64> {
        match kind {
            _ if !self.is_double() => Ok(row),
            _ if row < 0 => Err(Error::Usage(format!(
                "{}.{} is {row} (a sentence beside picture 7 is row -8, so both go from 0 on; or make a table for each)",
                self.name, self.rowid
            ))),
            Kind::Image => Ok(row),
            Kind::Text => Ok(!row),
        }
    }

    /// The rowids in the index of a content row.
    pub fn keys(&self, row: i64) -> impl Iterator<Item = i64> {
        self.kinds().filter_map(move |it| self.key(row, it).ok())
    }

    /// The content row of a rowid in the index, and what it was made from.
    pub fn source(&self, key: i64) -> (i64, Kind) {
        match (&self.picture, &self.sentence) {
            (Some(_), Some(_)) if key < 0 => (!key, Kind::Text),
            (None, _) => (key, Kind::Text),
            _ => (key, Kind::Image),
        }
    }

    /// The kinds of row that the index has.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        let image = self.picture.as_ref().map(|_| Kind::Image);
        image.into_iter().chain(self.sentence.as_ref().map(|_| Kind::Text))
    }

    /// The columns that are read, after the one that names the row.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let picture = self.picture.as_ref().map(PictureColumn::column);
        picture.into_iter().chain(self.sentence.as_deref())
    }

    /// A SELECT of the row's name and the columns, with what comes after FROM.
    fn select(&self, schema: &str, rest: &str) -> String {
        // Qualified, as SQLite takes an unknown name between double quotes for a text.
        let columns: Vec<String> = std::iter::once(self.rowid.as_str())
            .chain(self.columns())
            .map(|it| format!("c.{}", quoted(it)))
            .collect();
        let table = format!("{}.{} AS c", quoted(schema), quoted(&self.name));
        let rest = rest.replace("{rowid}", &columns[0]);
        format!("SELECT {} FROM {table} {rest}", columns.join(", "))
    }

    /// Compiles a SELECT of the row's name and the columns; where that fails, says what the content lacks.
    pub fn prepare(&self, db: Db, schema: &str, rest: &str) -> Result<Statement> {
        db.prepare(&self.select(schema, rest)).map_err(|err| match self.check(db, schema) {
            Err(lack @ Error::Usage(_)) => lack,
            _ => err,
        })
    }

    /// What SQLite calls the content: `table`, `view` or `virtual`.
    ///
    /// # Errors
    /// No such table, a column that it lacks, no rowid.
    pub fn check(&self, db: Db, schema: &str) -> Result<String> {
        let mut select = db.prepare(
            "SELECT type, wr FROM pragma_table_list(?1) WHERE schema = ?2 COLLATE NOCASE",
        )?;
        select.start(&[Value::Text(&self.name), Value::Text(schema)])?;
        if !select.step()? {
            return Err(Error::Usage(format!(
                "content is '{}', but schema {schema} has no such table or view (create it; if it has another name now, make the index and its triggers again)",
                self.name
            )));
        }
        let kind = text(&select, 0)?.unwrap_or_default();
        let without_rowid = integer(&select, 1)? != 0;
        select.reset();
        let mut columns = Vec::new();
        let mut select = db.prepare("SELECT name FROM pragma_table_xinfo(?1, ?2)")?;
        select.start(&[Value::Text(&self.name), Value::Text(schema)])?;
        while select.step()? {
            columns.extend(text(&select, 0)?);
        }
        select.reset();
        let has = |column: &str| columns.iter().any(|it| it.eq_ignore_ascii_case(column));
        if let Some(column) = self.columns().find(|it| !has(it)) {
            return Err(Error::Usage(format!(
                "{} has no column '{column}' (make the index with one of {})",
                self.name,
                columns.join(", ")
            )));
        }
        if !has(&self.rowid) && (without_rowid || kind == "view" || !self.is_rowid()) {
            let reason = match (self.is_rowid(), kind.as_str()) {
                (false, _) => format!("has no column '{}'", self.rowid),
                (true, "view") => "is a view, so it has no rowid".to_owned(),
                (true, _) => "is WITHOUT ROWID".to_owned(),
            };
            return Err(Error::Usage(format!(
                "{} {reason} (name a column of unique whole numbers with content_rowid; it has {})",
                self.name,
                columns.join(", ")
            )));
        }
        Ok(kind)
    }

    /// Whether the row's name is one of SQLite's own for the rowid.
    pub fn is_rowid(&self) -> bool {
        ["rowid", "oid", "_rowid_"].iter().any(|it| it.eq_ignore_ascii_case(&self.rowid))
    }

    /// Keys and values for the table's config.
    pub(super) fn settings(&self) -> Vec<(&'static str, &str)> {
        let mut settings = vec![("content", self.name.as_str()), ("content_rowid", &self.rowid)];
        match &self.picture {
            Some(PictureColumn::Bytes(column)) => settings.push(("image", column)),
            Some(PictureColumn::Path(column)) => settings.push(("path", column)),
            None => {}
        }
        settings.extend(self.sentence.as_deref().map(|it| ("text", it)));
        settings
    }

    /// The other way round; none where they make no content table.
    pub(super) fn from_settings(settings: &[(String, String)]) -> Option<ContentTable> {
        let get = |key: &str| settings.iter().find(|it| it.0 == key).map(|it| it.1.clone());
        let picture = match (get("image"), get("path")) {
            (Some(column), None) => Some(PictureColumn::Bytes(column)),
            (None, Some(column)) => Some(PictureColumn::Path(column)),
            (None, None) => None,
            (Some(_), Some(_)) => return None,
        };
        let sentence = get("text");
        if picture.is_none() && sentence.is_none() {
            return None;
        }
        Some(ContentTable {
            name: get("content")?,
            rowid: get("content_rowid")?,
            picture,
            sentence,
        })
    }
}

/// What tells whether a picture or a sentence has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The file's name, where there is one.
    pub path: Option<String>,
    /// Bytes; none where there was nothing to read.
    pub size: Option<i64>,
    /// The file's time of change in nanoseconds since 1970; none where it cannot be relied on.
    pub modified: Option<i64>,
    /// SHA-256.
    pub digest: Option<Vec<u8>>,
}

impl Store {
    /// What was seen last behind a rowid.
    pub fn seen(&self, key: i64) -> Result<Option<Seen>> {
        let sql = "SELECT path, size, modified, digest FROM {seen} WHERE rowid = ?1";
        self.first(sql, &[Value::Integer(key)], |row| {
            let number = |column| match row.value(column)? {
                Value::Integer(it) => Ok(Some(it)),
                _ => Ok::<_, Error>(None),
            };
            Ok(Seen {
                path: text(row, 0)?,
                size: number(1)?,
                modified: number(2)?,
                digest: match row.value(3)? {
                    Value::Blob(it) => Some(it.to_owned()),
                    _ => None,
                },
            })
        })
    }

    /// Notes what was seen.
    pub fn see(&self, key: i64, seen: &Seen) -> Result<()> {
        let number = |it: Option<i64>| it.map_or(Value::Null, Value::Integer);
        self.run(
            "INSERT OR REPLACE INTO {seen}(rowid, path, size, modified, digest) VALUES (?1, ?2, ?3, ?4, ?5)",
            &[
                Value::Integer(key),
                seen.path.as_deref().map_or(Value::Null, Value::Text),
                number(seen.size),
                number(seen.modified),
                seen.digest.as_deref().map_or(Value::Null, Value::Blob),
            ],
        )
    }

    /// Writes embeddings, over those that are there.
    pub fn keep(&self, rows: Vec<(i64, Seen, Vector)>) -> Result<()> {
        let mut new = Vec::new();
        for (key, seen, vector) in rows {
            self.run("DELETE FROM {skipped} WHERE rowid = ?1", &[Value::Integer(key)])?;
            self.see(key, &seen)?;
            if self.holds(key)? {
                self.replace(key, &vector)?;
            } else {
                new.push((key, vector));
            }
        }
        self.append(&new)
    }

    /// Notes why something has no embedding.
    pub fn skip(&self, key: i64, source: (i64, Kind), seen: &Seen, reason: &str) -> Result<()> {
        self.remove(key)?;
        self.see(key, seen)?;
        let (row, kind) = source;
        self.run(
            "INSERT OR REPLACE INTO {skipped}(rowid, content_rowid, kind, reason) VALUES (?1, ?2, ?3, ?4)",
            &[Value::Integer(key), Value::Integer(row), Value::Text(kind.name()), Value::Text(reason)],
        )
    }

    /// Why something has no embedding.
    pub fn reason(&self, key: i64) -> Result<Option<String>> {
        let sql = "SELECT reason FROM {skipped} WHERE rowid = ?1";
        self.first(sql, &[Value::Integer(key)], |row| text(row, 0)).map(Option::flatten)
    }

    /// Forgets what was seen, with its embedding; says whether there was something.
    pub fn unsee(&self, key: i64) -> Result<bool> {
        let known = self.seen(key)?.is_some();
        if known {
            self.remove(key)?;
            self.run("DELETE FROM {skipped} WHERE rowid = ?1", &[Value::Integer(key)])?;
            self.run("DELETE FROM {seen} WHERE rowid = ?1", &[Value::Integer(key)])?;
        }
        Ok(known)
    }

    /// The rowids of a range that were seen.
    pub fn seen_between(&self, first: i64, last: i64) -> Result<Vec<i64>> {
        let sql = "SELECT rowid FROM {seen} WHERE rowid BETWEEN ?1 AND ?2";
        let mut keys = Vec::new();
        self.each(sql, &[Value::Integer(first), Value::Integer(last)], |row| {
            keys.push(integer(row, 0)?);
            Ok(())
        })?;
        Ok(keys)
    }

    /// Forgets everything.
    pub fn clear(&self) -> Result<()> {
        for sql in [
            "DELETE FROM {blocks}",
            "DELETE FROM {low}",
            "DELETE FROM {seen}",
            "DELETE FROM {skipped}",
        ] {
            self.run(sql, &[])?;
        }
        self.forget_all_places()?;
        if self.is_listed()? {
            self.run("DELETE FROM {codes}", &[])?;
            self.run("DELETE FROM {lists}", &[])?;
            if self.pages()?.is_some() {
                self.run("DELETE FROM {paged}", &[])?;
            }
            self.changed();
        }
        self.set_stopped(None)
    }

    /// The content row after which a sync stopped.
    pub fn stopped(&self) -> Result<Option<i64>> {
        let sql = "SELECT value FROM {config} WHERE key = 'stopped'";
        self.first(sql, &[], |row| match row.value(0)? {
            Value::Integer(it) => Ok(Some(it)),
            _ => Ok(None),
        })
        .map(Option::flatten)
    }

    /// Notes it for the next one.
    pub fn set_stopped(&self, row: Option<i64>) -> Result<()> {
        if self.stopped()? == row {
            return Ok(());
        }
        match row {
            Some(row) => self.run(
                "INSERT OR REPLACE INTO {config}(key, value) VALUES ('stopped', ?1)",
                &[Value::Integer(row)],
            ),
            None => self.run("DELETE FROM {config} WHERE key = 'stopped'", &[]),
        }
    }
}

fn text(row: &Statement, column: usize) -> Result<Option<String>> {
    match row.value(column)? {
        Value::Text(it) => Ok(Some(it.to_owned())),
        _ => Ok(None),
    }
}
