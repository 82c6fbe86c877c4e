//! `INSERT INTO album(album) VALUES ('sync')`: an index made to agree with its content table.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use super::Dualpath;
use super::progress::Progress;
use super::queue::{self, Outcomes, Row};
use super::sight::{self, Sight};
use super::walk::{Carried, Walk, over};
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::sqlite::{Statement, Value, quoted};
use crate::store::{ContentTable, INTERRUPT, Kind, PictureColumn, Seen};

impl Dualpath {
    /// `sync`, by itself or on behalf of `dualpath_sync`; at most `most_rows` content rows.
    pub(super) fn sync_rows(&self, most_rows: Option<i64>) -> Result<()> {
        let store = self.store();
        match Walk::handed(store) {
            Some(mut walk) => {
                self.walk(&mut walk)?;
                walk.hand_back();
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
                walk.progress.end(walk.ended);
            }
        }
        Ok(())
    }

    fn walk(&self, walk: &mut Walk) -> Result<()> {
        let _alone = self.alone()?;
        self.flush()?;
        self.store().unnoticed(|| {
            self.go_on_with_carried(walk)?;
            self.follow(walk)?;
            let stopped = if walk.carries && !walk.ended {
                self.carry(walk)?
            } else {
                self.settle(Some(&walk.progress))?;
                if walk.ended { None } else { walk.at }
            };
            self.store().set_stopped(stopped)
        })
    }

    /// Leaves what is being encoded to the walk's next call, so that nothing stands still while this one's transaction is
    /// committed; answers the content row up to which all is done.
    fn carry(&self, walk: &mut Walk) -> Result<Option<i64>> {
        let content = over(self.store())?;
        let version = self.store().db().foreign_version(self.store().schema())?;
        let queue = self.queue.take();
        let rows: BTreeSet<i64> = queue.rowids().map(|key| content.source(key).0).collect();
        let stopped = match rows.first() {
            Some(first) => first.checked_sub(1),
            None => walk.at,
        };
        walk.carried = Some(Carried { queue, rows, version });
        Ok(stopped)
    }

    /// Takes up what the call before left; looks at it anew, and leaves no more, if others have written since.
    fn go_on_with_carried(&self, walk: &mut Walk) -> Result<()> {
        let Some(Carried { queue, rows, version }) = walk.carried.take() else {
            return Ok(());
        };
        let store = self.store();
        if version == store.db().foreign_version(store.schema())? {
            self.queue.replace(queue);
            return Ok(());
        }
        drop(queue);
        walk.carries = false;
        rows.into_iter()
            .try_for_each(|row| self.look_at(row, walk.folder.as_ref(), Some(&walk.progress)))
    }

    fn follow(&self, walk: &mut Walk) -> Result<()> {
        let store = self.store();
        let content = over(store)?;
        let from = if walk.at.is_some() { "{rowid} > ?1" } else { "?1 IS NULL" };
        let to = if walk.until.is_some() { "{rowid} <= ?2" } else { "?2 IS NULL" };
        // One row more than are done tells the end, and a name that stands twice.
        let rest = format!("WHERE {from} AND {to} ORDER BY {{rowid}} LIMIT ?3");
        let mut rows = content.prepare(store.db(), store.schema(), &rest)?;
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
        Ok(())
    }

    /// `rebuild`: everything is seen for the first time again.
    pub(super) fn rebuild(&self) -> Result<()> {
        let (store, content) = (self.store(), over(self.store())?);
        if let Some(PictureColumn::Path(_)) = content.picture {
            let name = quoted(store.name());
            return Err(Error::Usage(format!(
                "files are read by a direct call alone (INSERT INTO {name}({name}) VALUES ('delete-all'), then SELECT dualpath_sync)",
            )));
        }
        // Within a transaction of the user's, an error would leave it empty.
        content.check(store.db(), store.schema())?;
        store.clear()?;
        self.sync_rows(None)
    }

    /// `INSERT INTO album(content_rowid)`: one content row as it is now, there or gone.
    pub(super) fn sync_row(&self, row: i64) -> Result<()> {
        let _alone = self.alone()?;
        if over(self.store())?.keys(row).any(|it| self.queue.borrow().holds(it)) {
            self.flush()?;
        }
        self.store().unnoticed(|| self.look_at(row, None, None))
    }

    /// Finds one content row and takes it in, or forgets it.
    fn look_at(
        &self,
        row: i64,
        folder: Option<&Folder>,
        progress: Option<&Progress>,
    ) -> Result<()> {
        let store = self.store();
        let content = over(store)?;
        let rest = "WHERE {rowid} = ?1 LIMIT 2";
        let mut rows = content.prepare(store.db(), store.schema(), rest)?;
        rows.start(&[Value::Integer(row)])?;
        if !rows.step()? {
            return content.keys(row).try_for_each(|it| store.unsee(it).map(|_| ()));
        }
        self.look(content, row, &rows, folder, progress)?;
        if rows.step()? { Err(twice(content, row)) } else { Ok(()) }
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
                    sight::bytes(name, value, last)
                }
                (Ok(value), Some(PictureColumn::Path(name)), Kind::Image) => {
                    sight::file(name, value, last, folder)
                }
                (Ok(value), ..) => {
                    let name = content.sentence.as_deref().unwrap_or_default();
                    sight::sentence(name, value, last, || self.encoder())?
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
        let (mut skipped, mut forgotten) = (0, 0);
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
        let same = i64::from(known.is_some() && encoded + skipped + forgotten == 0);
        if let Some(progress) = progress {
            progress.count(|it| {
                it.same += same;
                it.skipped += skipped;
                it.forgotten += forgotten;
            });
        }
        if self.queue.borrow().is_full(self.store().room()) {
            let encoder = self.encoder()?;
            self.land_seen(encoder.under_way() - 1, progress)?;
            self.stop_if_interrupted()?;
            self.queue.borrow_mut().send(encoder)?;
        }
        Ok(encoded)
    }

    /// Encodes what waits or is under way, and notes what could not be.
    pub(super) fn settle(&self, progress: Option<&Progress>) -> Result<()> {
        self.land_seen(0, progress)?;
        let rows = self.queue.borrow_mut().take();
        if rows.is_empty() {
            return Ok(());
        }
        let outcomes = self.outcomes(&rows);
        self.keep(rows, outcomes, progress)
    }

    /// The same for batches that are under way, until so many are left.
    fn land_seen(&self, left: usize, progress: Option<&Progress>) -> Result<()> {
        loop {
            let landed = self.queue.borrow_mut().landed(left);
            let Some((rows, outcomes)) = landed else { return Ok(()) };
            self.keep(rows, outcomes, progress)?;
        }
    }

    fn keep(&self, rows: Vec<Row>, outcomes: Outcomes, progress: Option<&Progress>) -> Result<()> {
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(err) => {
                // They wait on: a commit without them would leave the index behind.
                let mut queue = self.queue.borrow_mut();
                rows.into_iter().for_each(|it| queue.push(it));
                return Err(err);
            }
        };
        let (store, content) = (self.store(), over(self.store())?);
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

    fn outcomes(&self, rows: &[Row]) -> Outcomes {
        self.stop_if_interrupted()?;
        queue::encoded(rows, &*self.encoder()?, &AtomicBool::new(false))
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
