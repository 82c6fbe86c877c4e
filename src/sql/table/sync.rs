//! `INSERT INTO album(album) VALUES ('sync')`: an index made to agree with its content table.

use std::cell::{Cell, RefCell};

use sha2::{Digest, Sha256};

use super::progress::Progress;
use super::queue::{Content, Row};
use super::{Dualpath, wrong_type};
use crate::encoder::BATCH;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::sqlite::{Statement, Value, quoted};
use crate::store::{ContentTable, INTERRUPT, Kind, PictureColumn, Seen, Store};

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
    /// For all to see.
    pub progress: Progress,
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
            progress: Progress::begin(file_of(store)?, name, of),
        })
    }

    fn is_for(&self, store: &Store) -> bool {
        let (schema, name) = &self.table;
        schema.eq_ignore_ascii_case(store.schema()) && name.eq_ignore_ascii_case(store.name())
    }

    /// Runs the table's own command, whose transaction counts, with this walk for its arguments.
    pub fn through(self, command: &mut Statement) -> Result<Walk> {
        HANDED.with(|it| it.replace(Some(self)));
        let outcome = command.run(&[]);
        let walk = HANDED.with(|it| it.take());
        outcome?;
        walk.ok_or_else(|| Error::Usage("internal error, please report".to_owned()))
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

/// What a content row holds now.
enum Sight {
    /// No picture or no sentence, or a file that is to be read another time.
    Nothing,
    /// As it was seen last.
    Same,
    /// The same bytes in another file, or at another time.
    Moved(Seen),
    /// What cannot be encoded, and why.
    Broken(Seen, String),
    /// What is to be encoded.
    New(Seen, Content),
}

impl Dualpath {
    /// `sync`, by itself or on behalf of `dualpath_sync`; at most `most_rows` content rows.
    pub(super) fn sync(&self, most_rows: Option<i64>) -> Result<()> {
        let store = self.store();
        let handed = HANDED.with(|it| it.take());
        match handed.filter(|it| it.is_for(store)) {
            Some(mut walk) => {
                self.walk(&mut walk)?;
                HANDED.with(|it| it.replace(Some(walk)));
            }
            None => {
                if let Some(PictureColumn::Path(_)) = over(store)?.picture {
                    return Err(Error::Usage(format!(
                        "{} holds paths, and files are read below a folder that the caller names (SELECT dualpath_sync('{}', '/the/folder'))",
                        over(store)?.name,
                        store.name()
                    )));
                }
                let mut walk = Walk::begin(store)?;
                if let Some(most_rows) = most_rows {
                    walk.most_rows = most_rows;
                    walk.at = store.stopped()?;
                }
                self.walk(&mut walk)?;
                let ended = walk.ended;
                walk.progress.count(|it| it.complete = ended);
            }
        }
        Ok(())
    }

    fn walk(&self, walk: &mut Walk) -> Result<()> {
        let _alone = self.alone()?;
        self.flush()?;
        self.store().unnoticed(|| self.follow(walk))
    }

    fn follow(&self, walk: &mut Walk) -> Result<()> {
        let store = self.store();
        let content = over(store)?;
        let from = if walk.at.is_some() { "{rowid} > ?1" } else { "?1 IS NULL" };
        let to = if walk.until.is_some() { "{rowid} <= ?2" } else { "?2 IS NULL" };
        // One row more than are done tells the end, and a name that stands twice.
        let rest = format!("WHERE {from} AND {to} ORDER BY {{rowid}} LIMIT ?3");
        let mut rows = store.db().prepare(&content.select(store.schema(), &rest))?;
        let bound = |it: Option<i64>| it.map_or(Value::Null, Value::Integer);
        rows.start(&[bound(walk.at), bound(walk.until), Value::Integer(walk.most_rows + 1)])?;
        let (mut looked, mut encoded) = (0, 0);
        walk.ended = loop {
            if !rows.step()? {
                break true;
            }
            let row = named(content, &rows)?;
            if walk.at == Some(row) {
                return Err(twice(content, row));
            }
            if walk.most_rows <= looked || walk.most_encoded <= encoded {
                break false;
            }
            self.forget_between(walk, row.checked_sub(1))?;
            encoded +=
                self.look(content, row, &rows, walk.folder.as_ref(), Some(&walk.progress))?;
            walk.at = Some(row);
            looked += 1;
            walk.progress.count(|it| it.rows += 1);
        };
        if walk.ended {
            self.forget_between(walk, Some(walk.until.unwrap_or(i64::MAX)))?;
        }
        self.settle(Some(&walk.progress))?;
        store.set_stopped(if walk.ended { None } else { walk.at })
    }

    /// `rebuild`: everything is seen for the first time again.
    pub(super) fn rebuild(&self) -> Result<()> {
        if let Some(PictureColumn::Path(_)) = over(self.store())?.picture {
            let name = quoted(self.store().name());
            return Err(Error::Usage(format!(
                "files are read by a direct call alone (INSERT INTO {name}({name}) VALUES ('delete-all'), then SELECT dualpath_sync)",
            )));
        }
        self.store().clear()?;
        self.sync(None)
    }

    /// `INSERT INTO album(content_rowid)`: one content row as it is now, there or gone.
    pub(super) fn sync_row(&self, row: i64) -> Result<()> {
        let store = self.store();
        let content = over(store)?;
        let _alone = self.alone()?;
        let keys: Vec<i64> = content.kinds().filter_map(|it| content.key(row, it).ok()).collect();
        if keys.iter().any(|it| self.queue.borrow().holds(*it)) {
            self.flush()?;
        }
        let sql = content.select(store.schema(), "WHERE {rowid} = ?1 LIMIT 2");
        let mut rows = store.db().prepare(&sql)?;
        rows.start(&[Value::Integer(row)])?;
        store.unnoticed(|| {
            if !rows.step()? {
                keys.iter().try_for_each(|it| store.unsee(*it).map(|_| ()))?;
                return Ok(());
            }
            self.look(content, row, &rows, None, None)?;
            if rows.step()? { Err(twice(content, row)) } else { Ok(()) }
        })
    }

    /// Takes in one content row; answers how much of it is to be encoded.
    fn look(
        &self,
        content: &ContentTable,
        row: i64,
        values: &Statement,
        folder: Option<&Folder>,
        progress: Option<&Progress>,
    ) -> Result<i64> {
        self.stop_if_interrupted()?;
        let mut encoded = 0;
        for (column, kind) in (1..).zip(content.kinds()) {
            let key = content.key(row, kind)?;
            let known = self.store().seen(key)?;
            let last = known.as_ref();
            let sight = match (values.value(column), &content.picture, kind) {
                (Ok(Value::Null), ..) => Sight::Nothing,
                // Text that is no UTF-8.
                (Err(Error::Usage(reason)), ..) => Sight::Broken(Seen::default(), reason),
                (Err(err), ..) => return Err(err),
                (Ok(value), Some(PictureColumn::Bytes(name)), Kind::Image) => {
                    bytes(name, value, last)
                }
                (Ok(value), Some(PictureColumn::Path(name)), Kind::Image) => {
                    file(name, value, last, folder)
                }
                (Ok(value), ..) => {
                    let name = content.sentence.as_deref().unwrap_or_default();
                    self.sentence(name, value, last)?
                }
            };
            encoded += self.take_in(key, sight, known, progress)?;
        }
        Ok(encoded)
    }

    fn take_in(
        &self,
        key: i64,
        sight: Sight,
        known: Option<Seen>,
        progress: Option<&Progress>,
    ) -> Result<i64> {
        let (store, mut encoded) = (self.store(), 0);
        let (mut same, mut skipped, mut forgotten) = (0, 0, 0);
        let is_skipped = || store.reason(key).map(|it| i64::from(it.is_some()));
        match sight {
            Sight::Nothing => forgotten = i64::from(store.unsee(key)?),
            Sight::Same => skipped = is_skipped()?,
            Sight::Moved(seen) => {
                store.see(key, &seen)?;
                skipped = is_skipped()?;
            }
            Sight::Broken(seen, reason) => {
                if known.as_ref() != Some(&seen) || store.reason(key)?.as_ref() != Some(&reason) {
                    store.skip(key, over(store)?.source(key), &seen, &reason)?;
                }
                skipped = 1;
            }
            Sight::New(seen, content) => {
                self.queue.borrow_mut().push(Row { rowid: key, content, seen: Some(seen) });
                encoded = 1;
            }
        }
        same += i64::from(known.is_some() && encoded + skipped + forgotten == 0);
        if let Some(progress) = progress {
            progress.count(|it| {
                it.same += same;
                it.skipped += skipped;
                it.forgotten += forgotten;
            });
        }
        let full = {
            let queue = self.queue.borrow();
            // An interrupt waits for no more than one batch.
            queue.is_full() || BATCH <= queue.to_encode()
        };
        if full {
            self.settle(progress)?;
        }
        Ok(encoded)
    }

    /// Encodes what waits, and notes what could not be.
    pub(super) fn settle(&self, progress: Option<&Progress>) -> Result<()> {
        let rows = self.queue.borrow_mut().take();
        if rows.is_empty() {
            return Ok(());
        }
        self.stop_if_interrupted()?;
        let (store, encoder) = (self.store(), self.encoder()?);
        let content = over(store)?;
        let outcomes = super::queue::encoded(&rows, Some(&encoder))?;
        let (mut kept, mut skipped) = (Vec::new(), 0);
        let _writing = self.hold();
        let encoded = store.unnoticed(|| {
            for (row, outcome) in rows.into_iter().zip(outcomes) {
                let seen = row.seen.unwrap_or_default();
                match outcome {
                    Ok(embedding) => kept.push((row.rowid, seen, embedding)),
                    Err(err) if err.is_of_content() => {
                        let source = content.source(row.rowid);
                        store.skip(row.rowid, source, &seen, &err.to_string())?;
                        skipped += 1;
                    }
                    Err(err) => return Err(err),
                }
            }
            let encoded = kept.len() as i64;
            store.keep(kept)?;
            Ok(encoded)
        })?;
        if let Some(progress) = progress {
            progress.count(|it| {
                it.encoded += encoded;
                it.skipped += skipped;
            });
        }
        Ok(())
    }

    fn sentence(&self, name: &str, value: Value<'_>, last: Option<&Seen>) -> Result<Sight> {
        let Value::Text(sentence) = value else {
            return Ok(broken(wrong_type(name, &value, "TEXT: a sentence")));
        };
        let seen = seen_of(sentence.as_bytes());
        if last == Some(&seen) {
            return Ok(Sight::Same);
        }
        Ok(match self.encoder()?.check_sentence(sentence) {
            Ok(()) => Sight::New(seen, Content::Sentence(sentence.to_owned())),
            Err(err) if err.is_of_content() => Sight::Broken(seen, err.to_string()),
            Err(err) => return Err(err),
        })
    }

    /// Forgets what was seen of content rows after the walk's place, up to `last`, which are gone.
    fn forget_between(&self, walk: &Walk, last: Option<i64>) -> Result<()> {
        let (store, content) = (self.store(), over(self.store())?);
        let first = match walk.at {
            None => Some(i64::MIN),
            Some(at) => at.checked_add(1),
        };
        let (Some(first), Some(last)) = (first, last) else {
            return Ok(());
        };
        let mut gone = Vec::new();
        if content.is_double() {
            let first = first.max(0);
            if first <= last {
                gone = store.seen_between(first, last)?;
                gone.extend(store.seen_between(!last, !first)?);
            }
        } else if first <= last {
            gone = store.seen_between(first, last)?;
        }
        for key in &gone {
            store.unsee(*key)?;
        }
        walk.progress.count(|it| it.forgotten += gone.len() as i64);
        Ok(())
    }

    fn stop_if_interrupted(&self) -> Result<()> {
        match self.store().db().interrupted() {
            true => Err(Error::Sqlite { code: INTERRUPT, message: "interrupted".to_owned() }),
            false => Ok(()),
        }
    }

    /// Triggers on shadow tables, which only a hostile file has, would come back in here for ever.
    fn alone(&self) -> Result<Held<'_>> {
        if self.writing.get() {
            return Err(Error::Usage(
                "the table is being written already (its shadow tables must have no triggers)"
                    .to_owned(),
            ));
        }
        Ok(self.hold())
    }

    fn hold(&self) -> Held<'_> {
        Held { writing: &self.writing, before: self.writing.replace(true) }
    }
}

/// While it lives, the table counts as being written.
struct Held<'a> {
    writing: &'a Cell<bool>,
    before: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.writing.set(self.before);
    }
}

fn bytes(name: &str, value: Value<'_>, last: Option<&Seen>) -> Sight {
    let Value::Blob(bytes) = value else {
        return broken(wrong_type(name, &value, "a BLOB: the bytes of a picture file"));
    };
    let size = Some(bytes.len() as i64);
    let seen = seen_of(bytes);
    if last.is_some_and(|it| it.size == size && it.digest == seen.digest) {
        return Sight::Same;
    }
    Sight::New(seen, Content::Picture(bytes.to_vec()))
}

fn file(name: &str, value: Value<'_>, last: Option<&Seen>, folder: Option<&Folder>) -> Sight {
    let Value::Text(path) = value else {
        return broken(wrong_type(name, &value, "TEXT: the path of a picture file"));
    };
    let path_seen = Seen { path: Some(path.to_owned()), ..Seen::default() };
    let Some(folder) = folder else {
        // Only `dualpath_sync` reads files; what has another name now waits for it.
        return match last.is_some_and(|it| it.path == path_seen.path) {
            true => Sight::Same,
            false => Sight::Nothing,
        };
    };
    let found = match folder.find(path) {
        Ok(found) => found,
        Err(err) => return Sight::Broken(path_seen, err.to_string()),
    };
    let (size, modified) = (i64::try_from(found.size).ok(), found.modified);
    if modified.is_some()
        && last.is_some_and(|it| {
            it.path == path_seen.path && it.size == size && it.modified == modified
        })
    {
        return Sight::Same;
    }
    let bytes = match found.read() {
        Ok(bytes) => bytes,
        Err(err) => return Sight::Broken(path_seen, err.to_string()),
    };
    let seen = Seen { path: path_seen.path, modified, ..seen_of(&bytes) };
    match last {
        Some(last) if *last == seen => Sight::Same,
        Some(last) if last.size == seen.size && last.digest == seen.digest => Sight::Moved(seen),
        _ => Sight::New(seen, Content::Picture(bytes)),
    }
}

fn seen_of(bytes: &[u8]) -> Seen {
    Seen {
        size: Some(bytes.len() as i64),
        digest: Some(Sha256::digest(bytes).to_vec()),
        ..Seen::default()
    }
}

fn broken(err: Error) -> Sight {
    Sight::Broken(Seen::default(), err.to_string())
}

/// The content row's name.
fn named(content: &ContentTable, row: &Statement) -> Result<i64> {
    match row.value(0)? {
        Value::Integer(row) => Ok(row),
        other => Err(Error::Usage(format!(
            "{}.{} is {} (content_rowid names a column of unique whole numbers)",
            content.name,
            content.rowid,
            other.kind().to_uppercase()
        ))),
    }
}

fn twice(content: &ContentTable, row: i64) -> Error {
    Error::Usage(format!(
        "{}.{} holds {row} twice (content_rowid names a column of unique whole numbers)",
        content.name, content.rowid
    ))
}
