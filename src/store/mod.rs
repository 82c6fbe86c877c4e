//! The shadow tables of one virtual table: vectors in blocks, and where each row is.

mod bits;
mod blocks;
mod check;
mod content;
mod extend;
mod gathered;
mod learn;
mod lists;
mod moves;
mod newcomers;
mod pages;
mod places;
mod reading;
mod reassign;
mod rowids;
mod rows;
mod settle;
mod split;
mod statements;
mod upkeep;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use self::blocks::slots;
pub use self::content::{ContentTable, Kind, PictureColumn, Seen};
use self::lists::Kept;
use self::pages::Pages;
pub use self::reading::Reading;
pub use self::statements::INTERRUPT;
use self::statements::{integer, schema_of};

use crate::error::{Error, Result};
use crate::index::{Form, Found, Metric, Source, Storage};
use crate::sqlite::{Db, Statement, Value, quoted};
use crate::vector::Vector;

/// The format number of a table of its own.
pub const FORMAT: i64 = 1;
/// The format number of a table over another.
pub const CONTENT_FORMAT: i64 = 2;
/// The format number of either, once rows are in lists, as versions wrote it whose codes have no bound.
pub const LISTED_FORMAT: i64 = 3;
/// The format number of either, once rows are in lists, as versions wrote it whose lists have planes.
pub const BOUNDED_FORMAT: i64 = 4;
/// The format number of a table with another metric than the cosine, or another storage than float32.
pub const FORMED_FORMAT: i64 = 5;
/// The format number of such a table, once rows are in lists, as versions wrote it whose lists have planes.
pub const FORMED_LISTED_FORMAT: i64 = 6;
/// The format number of any table, once rows are in lists, as versions wrote it that have an entry for each row's place.
pub const PAGED_FORMAT: i64 = 7;
/// The format number of any table, once rows are in lists.
pub const PACKED_FORMAT: i64 = 8;
/// Most numbers a vector may have.
pub const MOST_DIMENSIONS: usize = 65_536;
/// Shadow tables are called after the table, `_`, and one of these.
pub const SHADOWS: &[&str] =
    &["config", "blocks", "low", "rows", "seen", "skipped", "lists", "codes", "paged", "places"];

const SCHEMA: &str = include_str!("../../sql/schema.sql");
const CONTENT_SCHEMA: &str = include_str!("../../sql/content.sql");
const LISTS_SCHEMA: &str = include_str!("../../sql/lists.sql");
const PAGED_SCHEMA: &str = include_str!("../../sql/paged.sql");
const PLACES_SCHEMA: &str = include_str!("../../sql/places.sql");
/// Those that a table has which is over no other: one of the rest's names may be a user's table.
const OWN_SHADOWS: &[&str] = &["config", "blocks", "low", "rows"];
const CONTENT_SHADOWS: &[&str] = &["seen", "skipped"];
const LISTED_SHADOWS: &[&str] = &["lists", "codes"];
/// Those that a table of the last format has for its lists.
const PACKED_SHADOWS: &[&str] = &["lists", "codes", "paged", "places"];
/// Blocks from here on are in lists.
const LISTED: i64 = 1 << 30;
/// Numbers that the blocks of a list may have.
const LIST_BLOCKS: i64 = 1 << 10;

/// What the table was made for.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Numbers in a vector.
    pub dimension: usize,
    /// Name and digest of the model; none where people bring their own vectors.
    pub model: Option<(String, String)>,
    /// The table that it is over.
    pub content: Option<ContentTable>,
    /// The share of the nearest rows that a search of a large table finds, where it was given.
    pub recall: Option<f64>,
    /// How vectors are compared.
    pub metric: Metric,
    /// How exact they are kept.
    pub storage: Storage,
}

impl Made {
    /// How vectors are written.
    pub fn form(&self) -> Form {
        Form { metric: self.metric, storage: self.storage, dimension: self.dimension }
    }

    /// Whether versions read it that know neither metric nor storage.
    fn is_plain(&self) -> bool {
        self.metric == Metric::default() && self.storage == Storage::default()
    }
}

/// The shadow tables, seen from one connection.
pub struct Store {
    db: Db,
    schema: String,
    name: String,
    made: Made,
    /// A number of this table alone; tables of earlier versions have none.
    identity: Option<i64>,
    prepared: RefCell<HashMap<&'static str, Statement>>,
    /// Whether rows are in lists.
    listed: Known<bool>,
    /// How rows of lists lie in pages, if they do.
    pages: Known<Option<Pages>>,
    kept: RefCell<Option<Kept>>,
    /// Rows written since lists were seen to.
    written: Cell<usize>,
    /// Free slots of the block that was written last, or those of a new one.
    room: Cell<usize>,
    /// Whether the file is read through a mapping, or cannot be.
    mapped: Cell<bool>,
    /// About how many rows there are.
    rough: Known<i64>,
}

/// What is known of a table in one state of the database: another connection may change it.
struct Known<T>(Cell<Option<(u32, T)>>);

impl<T: Copy> Known<T> {
    fn nothing() -> Known<T> {
        Known(Cell::new(None))
    }

    /// What `find` finds, where it is not known.
    fn or_find(&self, store: &Store, find: impl FnOnce() -> Result<T>) -> Result<T> {
        let version = store.db.data_version(&store.schema)?;
        if let Some((_, known)) = self.0.get().filter(|it| it.0 == version) {
            return Ok(known);
        }
        let found = find()?;
        self.0.set(Some((version, found)));
        Ok(found)
    }

    fn forget(&self) {
        self.0.set(None);
    }
}

impl Store {
    /// Makes the shadow tables.
    pub fn create(db: Db, schema: &str, name: &str, made: Made) -> Result<Store> {
        db.execute(&schema_of(SCHEMA, schema, name, &made))?;
        let format = match &made.content {
            _ if !made.is_plain() => FORMED_FORMAT,
            Some(_) => CONTENT_FORMAT,
            None => FORMAT,
        };
        let config = format!("{}.{}", quoted(schema), quoted(&format!("{name}_config")));
        let mut insert =
            db.prepare(&format!("INSERT INTO {config}(key, value) VALUES (?1, ?2)"))?;
        insert.run(&[Value::Text("format"), Value::Integer(format)])?;
        insert.run(&[Value::Text("dimension"), Value::Integer(made.dimension as i64)])?;
        // Another table of the same name, which a transaction may have seen before, is not this one.
        let mut random = db.prepare("SELECT random()")?;
        random.step()?;
        let identity = integer(&random, 0)?;
        insert.run(&[Value::Text("identity"), Value::Integer(identity)])?;
        if let Some((model, digest)) = &made.model {
            insert.run(&[Value::Text("model"), Value::Text(model)])?;
            insert.run(&[Value::Text("digest"), Value::Text(digest)])?;
        }
        if let Some(recall) = made.recall {
            insert.run(&[Value::Text("recall"), Value::Real(recall)])?;
        }
        if !made.is_plain() {
            insert.run(&[Value::Text("metric"), Value::Text(made.metric.name())])?;
            insert.run(&[Value::Text("storage"), Value::Text(made.storage.name())])?;
        }
        if let Some(content) = &made.content {
            db.execute(&schema_of(CONTENT_SCHEMA, schema, name, &made))?;
            for (key, value) in content.settings() {
                insert.run(&[Value::Text(key), Value::Text(value)])?;
            }
        }
        Ok(Store::new(db, schema, name, made, Some(identity)))
    }

    /// Finds the shadow tables of an existing table.
    ///
    /// # Errors
    /// Another format number; a config that is missing or makes no sense.
    pub fn open(db: Db, schema: &str, name: &str) -> Result<Store> {
        let config = format!("{name}_config");
        let mut select =
            db.prepare(&format!("SELECT key, value FROM {}.{}", quoted(schema), quoted(&config)))?;
        let (mut format, mut dimension, mut model, mut digest) = (None, None, None, None);
        let (mut settings, mut recall, mut identity) = (Vec::new(), None, None);
        select.start(&[])?;
        while select.step()? {
            match (select.value(0)?, select.value(1)?) {
                (Value::Text("format"), Value::Integer(it)) => format = Some(it),
                (Value::Text("dimension"), Value::Integer(it)) => dimension = Some(it),
                (Value::Text("identity"), Value::Integer(it)) => identity = Some(it),
                (Value::Text("model"), Value::Text(it)) => model = Some(it.to_owned()),
                (Value::Text("digest"), Value::Text(it)) => digest = Some(it.to_owned()),
                (Value::Text("recall"), Value::Real(it)) => recall = Some(it),
                (Value::Text(key), Value::Text(it)) => {
                    settings.push((key.to_owned(), it.to_owned()));
                }
                _ => {}
            }
        }
        select.reset();
        if format.is_some_and(|it| !(FORMAT..=PACKED_FORMAT).contains(&it)) {
            return Err(Error::Usage(format!(
                "the table has format {}, this version of dualpath reads {FORMAT} to {PACKED_FORMAT} (use the version that wrote it)",
                format.unwrap_or_default()
            )));
        }
        let dimension = dimension
            .and_then(|it| usize::try_from(it).ok())
            .filter(|it| (1..=MOST_DIMENSIONS).contains(it));
        let damaged =
            |reason| Error::Damaged { table: config.clone(), name: name.to_owned(), reason };
        let (Some(format), Some(dimension)) = (format, dimension) else {
            return Err(damaged(format!(
                "it lacks 'format' or 'dimension' (1 to {MOST_DIMENSIONS})"
            )));
        };
        let content = match format {
            LISTED_FORMAT.. if settings.iter().all(|it| it.0 != "content") => None,
            CONTENT_FORMAT.. => Some(ContentTable::from_settings(&settings).ok_or_else(|| {
                damaged("it lacks 'content', 'content_rowid', or a column to encode".to_owned())
            })?),
            _ => None,
        };
        if let Some(it) = recall.filter(|it| !(0.0 < *it && *it <= 1.0)) {
            return Err(damaged(format!("'recall' is {it} (above 0, up to 1)")));
        }
        let (mut metric, mut storage) = (Metric::default(), Storage::default());
        if FORMED_FORMAT <= format {
            let of = |key: &str| {
                let found = settings.iter().find(|it| it.0 == key).map(|it| it.1.as_str());
                found.ok_or_else(|| damaged(format!("it lacks '{key}'")))
            };
            metric = Metric::named(of("metric")?).map_err(|err| damaged(err.to_string()))?;
            storage = Storage::named(of("storage")?).map_err(|err| damaged(err.to_string()))?;
        }
        let model = model.zip(digest);
        let made = Made { dimension, model, content, recall, metric, storage };
        Ok(Store::new(db, schema, name, made, identity))
    }

    fn new(db: Db, schema: &str, name: &str, made: Made, identity: Option<i64>) -> Store {
        let (schema, name) = (schema.to_owned(), name.to_owned());
        let (prepared, kept) = (RefCell::default(), RefCell::default());
        let (listed, pages, rough) = (Known::nothing(), Known::nothing(), Known::nothing());
        let (written, mapped) = (Cell::new(0), Cell::new(false));
        let room = Cell::new(slots(&made.form()));
        Store {
            db,
            schema,
            name,
            made,
            identity,
            prepared,
            listed,
            pages,
            kept,
            written,
            room,
            mapped,
            rough,
        }
    }

    /// What the table was made for.
    pub fn made(&self) -> &Made {
        &self.made
    }

    /// The connection.
    pub fn db(&self) -> Db {
        self.db
    }

    /// Where the table stands: `main`, `temp` or an attached schema.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// What the table's shadow tables are called after.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the table is there: nobody is told when its creation is taken back by ROLLBACK TO.
    pub fn is_there(&self) -> Result<bool> {
        self.db.has_table(&self.schema, &self.shadow("config"))
    }

    /// Whether the other one is of the same table.
    pub fn is_as(&self, other: &Store) -> bool {
        self.identity == other.identity && self.made == other.made
    }

    /// Makes ready for a search, which reads many pages.
    pub fn read_mapped(&self) {
        if !self.mapped.replace(true) {
            // Where it is refused, by an authorizer say, pages are read one by one.
            let _ = self.db.read_mapped(&self.schema);
        }
    }

    /// Drops the shadow tables.
    pub fn destroy(&self) -> Result<()> {
        self.forget();
        for part in self.shadows()? {
            self.db.execute(&format!("DROP TABLE IF EXISTS {}", self.table(part)))?;
        }
        Ok(())
    }

    /// Renames the shadow tables.
    pub fn rename(&self, name: &str) -> Result<()> {
        self.forget();
        for part in self.shadows()? {
            let to = quoted(&format!("{name}_{part}"));
            self.db.execute(&format!("ALTER TABLE {} RENAME TO {to}", self.table(part)))?;
        }
        Ok(())
    }

    /// Gives up prepared statements, so that nothing stands in the way of a schema change.
    pub fn forget(&self) {
        self.prepared.borrow_mut().clear();
    }

    /// About how many rows, without looking; asked each time that a statement is prepared.
    pub fn roughly(&self) -> Result<i64> {
        self.rough.or_find(self, || {
            let sql = "SELECT max(block) FROM {blocks} WHERE block < {listed}";
            let last = self.first(sql, &[], |row| integer(row, 0)).unwrap_or_default().unwrap_or(0);
            let listed = self.lists().unwrap_or_default().map_or(0, |it| it.rows());
            let tail = last.saturating_mul(slots(&self.made.form()) as i64);
            Ok(tail.saturating_add(listed as i64))
        })
    }

    /// Whether the row is there.
    pub fn holds(&self, rowid: i64) -> Result<bool> {
        self.place(rowid).map(|it| it.is_some())
    }

    /// A row's vector.
    pub fn embedding(&self, rowid: i64) -> Result<Option<Vector>> {
        let Some((block, slot)) = self.place(rowid)? else {
            return Ok(None);
        };
        let mut found = None;
        let rows = [Found { block, slot, rowid }];
        self.reading().whole(&rows, &mut |_, vector| found = Some(vector))?;
        Ok(found)
    }

    /// The places of those rows that are there.
    pub fn places(&self, rowids: impl IntoIterator<Item = i64>) -> Result<Vec<Found>> {
        let mut places = Vec::new();
        for rowid in rowids {
            if let Some((block, slot)) = self.place(rowid)? {
                places.push(Found { block, slot, rowid });
            }
        }
        places.sort_by_key(|it| (it.block, it.slot));
        Ok(places)
    }

    /// Runs what inserts into shadow tables, which is not the user's last insert.
    pub fn unnoticed<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let last_insert = self.db.last_insert_rowid();
        let outcome = body();
        self.db.set_last_insert_rowid(last_insert);
        outcome
    }

    fn shadows(&self) -> Result<Vec<&'static str>> {
        let mut shadows = OWN_SHADOWS.to_vec();
        if self.made.content.is_some() {
            shadows.extend(CONTENT_SHADOWS);
        }
        if self.is_listed()? {
            shadows.extend(LISTED_SHADOWS);
        }
        if self.pages()?.is_some() {
            shadows.push("paged");
        }
        if self.is_packed()? {
            shadows.push("places");
        }
        self.forget();
        Ok(shadows)
    }
}
