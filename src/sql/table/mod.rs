//! The virtual table `dualpath`: pictures, sentences or vectors in, nearest rows out.

mod options;
mod queue;
mod scan;
mod sync;
mod sight;
mod walk;
mod progress;

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use self::progress::reports;
pub use self::scan::{Cursor, RECALL_WANTED};
pub use self::walk::{Walk, over};

use self::options::Options;
use self::queue::{Content, Queue, Row};
use crate::encoder::{self, Encoder};
use crate::error::{Error, Result};
use crate::image;
use crate::sqlite::{
    Argument, Change, Declaration, OnConflict, Output, Plan, Table, Value, Verdict,
};
use crate::store::{self, Kind, Made, Store};
use crate::vector::{Vector, numbers_of_blob};

/// Columns in the order of [`Table::columns`].
pub(super) const IMAGE: usize = 0;
pub(super) const TEXT: usize = 1;
pub(super) const EMBEDDING: usize = 2;
pub(super) const DISTANCE: usize = 3;
pub(super) const K: usize = 4;
pub(super) const RECALL: usize = 5;
const COMMAND: usize = 6;
/// Of tables over another.
pub(super) const KIND: usize = 7;
pub(super) const CONTENT_ROWID: usize = 8;

/// Names of all of them but the command column.
const COLUMNS: [&str; 8] =
    ["image", "text", "embedding", "distance", "k", "recall", "kind", "content_rowid"];

/// `SQLITE_CONSTRAINT_ROWID`
const ROWID_TAKEN: i32 = 2579;
/// `SQLITE_FULL`
const FULL: i32 = 13;

/// One table, seen from one connection.
pub struct Dualpath {
    name: String,
    store: Store,
    /// Rows inserted and not yet encoded and written.
    queue: RefCell<Queue>,
    /// The largest rowid, while this transaction knows it.
    last: Cell<Option<i64>>,
    /// While shadow tables are written for a content table.
    writing: Cell<bool>,
}

impl Table for Dualpath {
    type Cursor = Cursor;

    const SHADOWS: &'static [&'static str] = store::SHADOWS;

    fn create(declaration: &Declaration) -> Result<Dualpath> {
        let Declaration { db, schema, name, .. } = declaration;
        let options = Options::read(&declaration.options)?;
        let metric = options.metric.unwrap_or_default();
        let storage = options.storage.unwrap_or_default();
        let made = match options {
            Options { dimensions: Some(dimension), recall, .. } => {
                Made { dimension, model: None, content: None, recall, metric, storage }
            }
            Options { model, content, recall, .. } => {
                let encoder = encoder::find(model.as_deref())?;
                if let Some(content) = &content {
                    content.check(*db, schema)?;
                }
                Made {
                    dimension: encoder.dimension(),
                    model: Some((encoder.name().to_owned(), encoder.digest().to_owned())),
                    content,
                    recall,
                    metric,
                    storage,
                }
            }
        };
        refuse_column(name, &made)?;
        Ok(Dualpath::new(name, Store::create(*db, schema, name, made)?))
    }

    fn connect(declaration: &Declaration) -> Result<Dualpath> {
        let Declaration { db, schema, name, .. } = declaration;
        Ok(Dualpath::new(name, Store::open(*db, schema, name)?))
    }

    fn goes_on_as(&self, fresh: &Dualpath) -> bool {
        self.store.is_as(&fresh.store)
    }

    fn replaced(&self) {
        self.rollback();
    }

    fn columns(&self) -> String {
        let command = crate::sqlite::quoted(&self.name);
        let over_another = match self.store.made().content {
            Some(_) => ", kind TEXT, content_rowid INTEGER",
            None => "",
        };
        // Earlier versions made tables of that name, and SQLite wants no name twice.
        let recall = match self.name.eq_ignore_ascii_case("recall") {
            true => "recall_wanted",
            false => "recall",
        };
        format!(
            "image BLOB, text TEXT, embedding BLOB, distance REAL, k HIDDEN, {recall} HIDDEN, {command} HIDDEN{over_another}"
        )
    }

    fn destroy(&self) -> Result<()> {
        self.store.destroy()
    }

    fn plan(&self, plan: &mut Plan<'_>) -> Result<Verdict> {
        scan::plan(plan, self.store.roughly()?)
    }

    fn open(&self) -> Result<Cursor> {
        Ok(Cursor::default())
    }

    fn filter(&self, cursor: &mut Cursor, notes: &str, arguments: &[Argument<'_>]) -> Result<()> {
        self.flush()?;
        *cursor = scan::start(self, notes, arguments)?;
        Ok(())
    }

    fn next(&self, cursor: &mut Cursor) -> Result<()> {
        cursor.advance(&self.store)
    }

    fn ended(&self, cursor: &Cursor) -> bool {
        cursor.rowid().is_none()
    }

    fn rowid(&self, cursor: &Cursor) -> Result<i64> {
        cursor.rowid().ok_or_else(|| Error::Usage("the scan is over".to_owned()))
    }

    fn column(&self, cursor: &mut Cursor, column: usize) -> Result<Output> {
        Ok(match column {
            EMBEDDING => {
                let embedding = cursor.rowid().map(|it| self.store.embedding(it)).transpose()?;
                embedding.flatten().map_or(Output::Null, |it| it.to_blob().into())
            }
            DISTANCE => cursor.distance().map_or(Output::Null, Output::Real),
            K => cursor.count_asked().map_or(Output::Null, Output::Integer),
            RECALL => cursor.recall_asked().map_or(Output::Null, Output::Real),
            KIND | CONTENT_ROWID => match (&self.store.made().content, cursor.rowid()) {
                (Some(content), Some(rowid)) => match content.source(rowid) {
                    (_, kind) if column == KIND => kind.name().into(),
                    (row, _) => row.into(),
                },
                _ => Output::Null,
            },
            // Only the embedding is kept of a picture or a sentence.
            _ => Output::Null,
        })
    }

    fn update(&self, change: Change<'_>, conflict: OnConflict) -> Result<i64> {
        match change {
            Change::Insert { values, .. }
                if values.get(COMMAND).is_some_and(|it| *it != Value::Null) =>
            {
                self.command(&values).map(|()| 0)
            }
            Change::Insert { values, .. } if self.store.made().content.is_some() => {
                let row = self.content_row(&values)?;
                self.sync_row(row).map(|()| row)
            }
            _ if self.store.made().content.is_some() => Err(self.read_only()),
            Change::Delete { rowid } => {
                self.flush()?;
                self.store.remove(rowid)?;
                self.last.set(None);
                Ok(rowid)
            }
            Change::Insert { rowid, values } => self.insert(rowid, &values, conflict),
            Change::Update { rowid, new_rowid, values } => {
                self.change(rowid, new_rowid, &values, conflict)
            }
        }
    }

    fn begin(&self) -> Result<()> {
        self.last.set(None);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let outcome = self.flush().and_then(|()| self.store.tend());
        // A statement that stays prepared would keep its schema from changing elsewhere.
        self.store.forget();
        outcome
    }

    fn commit(&self) {
        self.last.set(None);
    }

    fn rollback(&self) {
        self.store.void();
        self.queue.borrow_mut().clear();
        self.last.set(None);
    }

    fn savepoint(&self, _: i32) -> Result<()> {
        self.flush()
    }

    fn release(&self, _: i32) -> Result<()> {
        self.flush()
    }

    fn rollback_to(&self, _: i32) -> Result<()> {
        self.store.rolled_back();
        // What stood in the queue came after the savepoint, which was flushed when it was set.
        self.queue.borrow_mut().clear();
        self.last.set(None);
        Ok(())
    }

    fn rename(&self, name: &str) -> Result<()> {
        refuse_column(name, self.store.made())?;
        self.sync()?;
        self.store.rename(name)?;
        // SQLite connects the table anew under its other name.
        self.replaced();
        Ok(())
    }

    fn integrity(&self) -> Result<Vec<String>> {
        self.flush()?;
        self.store.check()
    }
}

impl Dualpath {
    fn new(name: &str, store: Store) -> Dualpath {
        Dualpath {
            name: name.to_owned(),
            store,
            queue: RefCell::default(),
            last: Cell::new(None),
            writing: Cell::new(false),
        }
    }

    /// The shadow tables.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The content row to take in, which an INSERT names and nothing else.
    fn content_row(&self, values: &[Value<'_>]) -> Result<i64> {
        let mut others = values.iter().enumerate().filter(|it| it.0 != CONTENT_ROWID);
        match values.get(CONTENT_ROWID) {
            _ if others.any(|it| *it.1 != Value::Null) => Err(self.read_only()),
            Some(Value::Integer(row)) => Ok(*row),
            None => Err(self.read_only()),
            Some(other) => Err(wrong_type("content_rowid", other, "a whole number")),
        }
    }

    fn read_only(&self) -> Error {
        let content = self.store.made().content.as_ref().map_or("", |it| &it.name);
        let name = &self.name;
        Error::Usage(format!(
            "the table is an index over {content} (write there, then INSERT INTO {name}({name}) VALUES ('sync'))"
        ))
    }

    /// The rowids that a content row has here.
    pub(super) fn rowids_of(&self, row: i64) -> Vec<i64> {
        let content = self.store.made().content.iter();
        content.flat_map(|it| it.kinds().filter_map(|kind| it.key(row, kind).ok())).collect()
    }

    /// Where the rows of a kind are; none where there is no such kind.
    pub(super) fn range_of(&self, kind: &Value<'_>) -> Option<RangeInclusive<i64>> {
        let content = self.store.made().content.as_ref()?;
        let Value::Text(name) = kind else {
            return None;
        };
        let kind = content.kinds().find(|it| it.name().eq_ignore_ascii_case(name))?;
        Some(match kind {
            _ if !content.is_double() => i64::MIN..=i64::MAX,
            Kind::Image => 0..=i64::MAX,
            Kind::Text => i64::MIN..=-1,
        })
    }

    fn insert(
        &self,
        rowid: Option<i64>,
        values: &[Value<'_>],
        conflict: OnConflict,
    ) -> Result<i64> {
        let content = self.content(values)?.ok_or_else(|| {
            Error::Usage("the row is empty (give one of image, text and embedding)".to_owned())
        })?;
        let rowid = match rowid {
            None => self.free_rowid()?,
            Some(rowid) => {
                if self.is_taken(rowid)? {
                    if conflict != OnConflict::Replace {
                        return Err(self.taken());
                    }
                    self.flush()?;
                    self.store.remove(rowid)?;
                }
                rowid
            }
        };
        if self.last.get().is_some_and(|last| last < rowid) {
            self.last.set(Some(rowid));
        }
        let mut queue = self.queue.borrow_mut();
        queue.push(Row { rowid, content, seen: None });
        if queue.is_full(self.store.room()) {
            drop(queue);
            self.send()?;
        }
        Ok(rowid)
    }

    fn change(
        &self,
        rowid: i64,
        new_rowid: i64,
        values: &[Option<Value<'_>>],
        conflict: OnConflict,
    ) -> Result<i64> {
        let given: Vec<Value<'_>> = values.iter().map(|it| it.unwrap_or(Value::Null)).collect();
        if given.get(COMMAND).is_some_and(|it| *it != Value::Null) {
            return Err(Error::Usage(
                "a command is inserted (INSERT INTO t(t) VALUES ('optimize'))".to_owned(),
            ));
        }
        self.flush()?;
        let embedding = match self.content(&given)? {
            Some(content) => {
                let row = Row { rowid, content, seen: None };
                Some(self.encode(vec![row])?.remove(0).1)
            }
            // SET embedding = NULL says that the row shall hold nothing.
            None if values.get(EMBEDDING).is_some_and(|it| *it == Some(Value::Null)) => {
                return Err(Error::Usage(
                    "the embedding is NULL (delete the row instead)".to_owned(),
                ));
            }
            None => None,
        };
        if rowid != new_rowid && self.store.holds(new_rowid)? {
            if conflict != OnConflict::Replace {
                return Err(self.taken());
            }
            self.store.remove(new_rowid)?;
        }
        if let Some(embedding) = embedding {
            self.store.replace(rowid, &embedding)?;
        }
        if rowid != new_rowid {
            self.store.move_row(rowid, new_rowid)?;
            self.last.set(None);
        }
        Ok(new_rowid)
    }

    fn command(&self, values: &[Value<'_>]) -> Result<()> {
        let is_over = self.store.made().content.is_some();
        let known = match is_over {
            true => "'sync', 'rebuild', 'delete-all', 'optimize', 'integrity-check'",
            false => "'rebuild', 'optimize', 'integrity-check'",
        };
        let of = |column: usize| values.get(column).copied().unwrap_or(Value::Null);
        let Value::Text(name) = of(COMMAND) else {
            return Err(Error::Usage(format!(
                "the command is {}, expected one of {known}",
                of(COMMAND).kind().to_uppercase()
            )));
        };
        self.flush()?;
        match name {
            "sync" => match of(K) {
                Value::Null => self.sync_rows(None),
                Value::Integer(rows) if 0 < rows => self.sync_rows(Some(rows)),
                _ => Err(Error::Usage(
                    "k is no count of content rows (a whole number from 1 on)".to_owned(),
                )),
            },
            "rebuild" if is_over => self.rebuild(),
            "rebuild" => self.store.rebuild(),
            "delete-all" if is_over => self.store.clear(),
            "optimize" => self.store.optimize(),
            "integrity-check" => match self.store.check()? {
                findings if findings.is_empty() => Ok(()),
                findings => Err(self.store.damaged("blocks", findings.join("; "))),
            },
            _ => Err(Error::Usage(format!("there is no command '{name}' (known: {known})"))),
        }
    }

    /// The one of image, text and embedding that is given.
    fn content(&self, values: &[Value<'_>]) -> Result<Option<Content>> {
        let given: Vec<(usize, Value<'_>)> = values
            .iter()
            .copied()
            .enumerate()
            .take(DISTANCE)
            .filter(|it| it.1 != Value::Null)
            .collect();
        for (column, name) in [(DISTANCE, "distance"), (K, "k"), (RECALL, "recall")] {
            if values.get(column).is_some_and(|it| *it != Value::Null) {
                return Err(Error::Usage(format!(
                    "{name} is no column to write (it is asked for with MATCH)"
                )));
            }
        }
        match given[..] {
            [] => Ok(None),
            [one] => self.typed(one.0, one.1).map(Some),
            _ => Err(Error::Usage(
                "the row has more than one of image, text and embedding (give one, it decides the encoder)".to_owned(),
            )),
        }
    }

    /// Checked as far as it can be without an encoder, so that a bad row fails its own statement.
    fn typed(&self, column: usize, value: Value<'_>) -> Result<Content> {
        if column != EMBEDDING && self.store.made().model.is_none() {
            return Err(Error::Usage(
                "the table was made with dimensions, so it has no encoder (give embedding)"
                    .to_owned(),
            ));
        }
        match (column, value) {
            (IMAGE, Value::Blob(bytes)) => {
                image::check(bytes)?;
                Ok(Content::Picture(bytes.to_vec()))
            }
            (TEXT, Value::Text(sentence)) => {
                self.encoder()?.check_sentence(sentence)?;
                Ok(Content::Sentence(sentence.to_owned()))
            }
            (EMBEDDING, Value::Blob(bytes)) => self.vector(bytes).map(Content::Vector),
            (IMAGE, other) => {
                Err(wrong_type("image", &other, "a BLOB: the bytes of a picture file"))
            }
            (TEXT, other) => Err(wrong_type("text", &other, "TEXT")),
            (_, other) => {
                Err(wrong_type("embedding", &other, "a BLOB (embed_from_json(text) makes one)"))
            }
        }
    }

    /// What MATCH compares with.
    pub(super) fn query(&self, column: usize, value: Value<'_>) -> Result<Vector> {
        match self.typed(column, value)? {
            Content::Sentence(sentence) => self.encoder()?.sentence(&sentence).map(Vector::from),
            Content::Picture(bytes) => self.encoder()?.picture(&bytes).map(Vector::from),
            Content::Vector(vector) => Ok(vector),
        }
    }

    fn vector(&self, bytes: &[u8]) -> Result<Vector> {
        let vector = self.store.made().metric.vector(numbers_of_blob(bytes)?)?;
        let (expected, got) = (self.store.made().dimension, vector.dimension());
        if expected != got {
            return Err(Error::Dimension { expected, got });
        }
        Ok(vector)
    }

    /// The loaded model whose embeddings this table holds, whatever it is called now.
    fn encoder(&self) -> Result<Arc<Encoder>> {
        let Some((name, digest)) = &self.store.made().model else {
            return Err(Error::Usage(
                "the table was made with dimensions, so it has no encoder".to_owned(),
            ));
        };
        let loaded = encoder::list()?;
        if let Some(encoder) = loaded.iter().find(|it| it.digest() == digest) {
            return Ok(encoder.clone());
        }
        Err(match loaded.iter().find(|it| it.name() == name) {
            Some(_) if name == encoder::DEFAULT => Error::Usage(format!(
                "the table holds embeddings of another version's built-in model, with digest {digest} (drop it and make it anew, for a folder with dualpath index --rebuild; or load that version's models/default: INSERT INTO dualpath_models(name, path))"
            )),
            Some(other) => Error::Usage(format!(
                "the table holds embeddings of model '{name}' with digest {digest}, the loaded one has {} (load the folder of the first: INSERT INTO dualpath_models(name, path))",
                other.digest()
            )),
            None => Error::Usage(format!(
                "the table holds embeddings of model '{name}' with digest {digest}, which is not loaded (INSERT INTO dualpath_models(name, path) loads its folder)"
            )),
        })
    }

    /// Has what waits encoded while the statement goes on, once no more batches are under way than fit.
    fn send(&self) -> Result<()> {
        let is_ready = self.queue.borrow().is_ready();
        if is_ready {
            return self.flush();
        }
        let encoder = self.encoder()?;
        self.land(encoder.under_way() - 1)?;
        self.queue.borrow_mut().send(encoder)
    }

    /// Writes batches that are under way, until so many are left.
    fn land(&self, left: usize) -> Result<()> {
        loop {
            let landed = self.queue.borrow_mut().landed(left);
            let Some((rows, outcomes)) = landed else { return Ok(()) };
            self.store.append(&named(&rows, outcomes?)?)?;
        }
    }

    /// Encodes and writes all that waits or is under way.
    fn flush(&self) -> Result<()> {
        if self.queue.borrow().is_empty() {
            return Ok(());
        }
        if !self.store.is_there()? {
            self.replaced();
            return Ok(());
        }
        if self.store.made().content.is_some() {
            return self.settle(None);
        }
        self.land(0)?;
        let rows = self.queue.borrow_mut().take();
        if rows.is_empty() {
            return Ok(());
        }
        self.store.append(&self.encode(rows)?)
    }

    fn encode(&self, rows: Vec<Row>) -> Result<Vec<(i64, Vector)>> {
        if rows.iter().all(Row::is_ready) {
            return Ok(rows.into_iter().filter_map(Row::into_ready).collect());
        }
        let outcomes = queue::encoded(&rows, &*self.encoder()?, &AtomicBool::new(false))?;
        named(&rows, outcomes)
    }

    fn is_taken(&self, rowid: i64) -> Result<bool> {
        // Behind the last rowid nothing is taken, and most inserts go there.
        if self.largest()?.is_none_or(|last| last < rowid) {
            return Ok(false);
        }
        Ok(self.queue.borrow().holds(rowid) || self.store.holds(rowid)?)
    }

    fn free_rowid(&self) -> Result<i64> {
        let next = match self.largest()? {
            None => 1,
            Some(last) => last.checked_add(1).ok_or_else(|| Error::Sqlite {
                code: FULL,
                message: format!("{}: the largest rowid is taken (choose a free one)", self.name),
            })?,
        };
        if self.last.get().is_none() {
            self.last.set(Some(next));
        }
        Ok(next)
    }

    fn largest(&self) -> Result<Option<i64>> {
        if self.last.get().is_none() {
            let stored = self.store.last()?;
            self.last.set(stored.max(self.queue.borrow().largest()));
        }
        Ok(self.last.get())
    }

    fn taken(&self) -> Error {
        let message = format!("UNIQUE constraint failed: {}.rowid", self.name);
        Error::Sqlite { code: ROWID_TAKEN, message }
    }
}

/// The first picture that cannot be decoded is an error that names its row.
fn named(rows: &[Row], outcomes: Vec<Result<Vector>>) -> Result<Vec<(i64, Vector)>> {
    let each = rows.iter().zip(outcomes).map(|(row, outcome)| match outcome {
        Ok(vector) => Ok((row.rowid, vector)),
        Err(err) => Err(Error::Usage(format!("row {}: {err}", row.rowid))),
    });
    each.collect()
}

/// The hidden command column is called after the table, and SQLite wants no name twice.
fn refuse_column(name: &str, made: &Made) -> Result<()> {
    let columns = match made.content {
        Some(_) => &COLUMNS[..],
        None => &COLUMNS[..=RECALL],
    };
    match columns.iter().any(|it| it.eq_ignore_ascii_case(name)) {
        true => Err(Error::Usage(format!(
            "a table cannot be called '{name}', as a column is (give it another name)"
        ))),
        false => Ok(()),
    }
}

fn wrong_type(column: &str, got: &Value<'_>, expected: &str) -> Error {
    Error::Usage(format!("{column} is {}, expected {expected}", got.kind().to_uppercase()))
}
