//! A dualpath table of a database, and where its pictures are.

use std::path::Path;

use anyhow::{Context, Result, bail};
use dualpath::folder::Folder;
use dualpath::sqlite::quoted;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

/// Columns that are shown as a picture's title, the first that is there.
const TITLES: [&str; 6] = ["title", "name", "caption", "file", "filename", "path"];

/// The table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Album {
    pub name: String,
    /// Its encoders, by name and digest; none where it takes ready vectors.
    model: Option<(String, String)>,
    pub content: Option<Content>,
}

/// The table that it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    table: String,
    rowid: String,
    pictures: Option<Pictures>,
    sentence: Option<String>,
    title: Option<String>,
}

/// The column of its pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pictures {
    Bytes(String),
    Path(String),
}

/// How much of the content is in the index.
#[derive(Debug, Serialize)]
pub struct State {
    /// Pictures (or sentences, or vectors) in the index.
    pub indexed: i64,
    /// Those that cannot be.
    pub skipped: i64,
    /// Those that there are.
    pub of: i64,
    /// A sync is under way or was stopped.
    pub unfinished: bool,
}

/// One that is not in the index, and why.
#[derive(Debug, Serialize)]
pub struct Skipped {
    pub row: i64,
    pub title: Option<String>,
    pub reason: String,
}

impl Album {
    /// The dualpath tables of a database.
    fn all(db: &Connection) -> Result<Vec<Album>> {
        let mut select = db.prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%USING%dualpath%' ORDER BY name",
        )?;
        let names = select.query_map([], |row| row.get::<_, String>(0))?;
        let names = names.collect::<rusqlite::Result<Vec<_>>>()?;
        // Another module's table may have the word among its arguments.
        Ok(names.into_iter().filter_map(|it| Album::read(db, it).ok()).collect())
    }

    /// The one of that name, or all of them.
    pub fn albums(db: &Connection, name: Option<&str>) -> Result<Vec<Album>> {
        let mut all = Album::all(db)?;
        if all.is_empty() {
            bail!("the database has no dualpath table (`dualpath index` makes one)");
        }
        if let Some(name) = name {
            let known = names(&all);
            all.retain(|it| it.name.eq_ignore_ascii_case(name));
            if all.is_empty() {
                bail!("there is no table '{name}' (there is {known})");
            }
        }
        Ok(all)
    }

    /// The one of that name, or the only one.
    pub fn find(db: &Connection, name: Option<&str>) -> Result<Album> {
        let mut albums = Album::albums(db, name)?;
        match albums.len() {
            1 => Ok(albums.remove(0)),
            _ => bail!(
                "the database has several tables (choose with --table one of {})",
                names(&albums)
            ),
        }
    }

    fn read(db: &Connection, name: String) -> Result<Album> {
        let config = quoted(&format!("{name}_config"));
        let get = |key: &str| {
            let sql = format!("SELECT CAST(value AS TEXT) FROM {config} WHERE key = ?1");
            db.query_row(&sql, [key], |row| row.get::<_, String>(0)).optional()
        };
        get("dimension")?.context("no table of ours")?;
        let model = get("model")?.zip(get("digest")?);
        let content = match get("content")? {
            None => None,
            Some(table) => {
                let pictures = match (get("image")?, get("path")?) {
                    (Some(column), _) => Some(Pictures::Bytes(column)),
                    (None, column) => column.map(Pictures::Path),
                };
                let title = match &pictures {
                    Some(Pictures::Path(column)) => Some(column.clone()),
                    _ => title_of(db, &table)?,
                };
                let rowid = get("content_rowid")?.unwrap_or_else(|| "rowid".to_owned());
                Some(Content { table, rowid, pictures, sentence: get("text")?, title })
            }
        };
        Ok(Album { name, model, content })
    }

    /// What its model is called in this process.
    pub fn model(&self, db: &Connection) -> Result<String> {
        let Some((name, digest)) = &self.model else {
            bail!("the table takes ready vectors, so it has no words (start from a picture of it)");
        };
        db.query_row("SELECT name FROM dualpath_models WHERE digest = ?1", [digest], |row| {
            row.get(0)
        })
        .optional()?
        .with_context(|| {
            format!("the table's model '{name}' is not loaded (name its folder with --model)")
        })
    }

    /// ` AND kind = 'image'` where sentences stand beside pictures.
    pub fn only_pictures(&self) -> &'static str {
        match &self.content {
            Some(Content { pictures: Some(_), sentence: Some(_), .. }) => " AND kind = 'image'",
            _ => "",
        }
    }

    /// Whether it has pictures to show.
    pub fn has_pictures(&self) -> bool {
        self.content.as_ref().is_some_and(|it| it.pictures.is_some())
    }

    /// Whether its rows are sentences.
    pub fn is_of_sentences(&self) -> bool {
        self.content.as_ref().is_some_and(|it| it.pictures.is_none())
    }

    /// Whether its rows are files.
    pub fn is_of_files(&self) -> bool {
        self.content.as_ref().is_some_and(|it| matches!(it.pictures, Some(Pictures::Path(_))))
    }

    /// A SELECT of the rows whose files lie below `?`; none where they are no files.
    pub fn below(&self) -> Option<String> {
        let content = self.content.as_ref()?;
        let Some(Pictures::Path(column)) = &content.pictures else {
            return None;
        };
        let (row, table, column) = (quoted(&content.rowid), quoted(&content.table), quoted(column));
        Some(format!("SELECT {row} FROM {table} WHERE substr({column}, 1, length(?)) = ?"))
    }

    /// What a row is called: the path of its file, its title or its sentence.
    pub fn title(&self, db: &Connection, row: i64) -> Result<Option<String>> {
        let Some(content) = &self.content else {
            return Ok(None);
        };
        let column = match &content.pictures {
            None => content.sentence.as_ref(),
            Some(_) => content.title.as_ref().or(content.sentence.as_ref()),
        };
        let Some(column) = column else {
            return Ok(None);
        };
        let sql = format!("SELECT CAST({} AS TEXT) {}", quoted(column), content.row());
        Ok(db.prepare_cached(&sql)?.query_row([row], |it| it.get(0)).optional()?.flatten())
    }

    /// The bytes of a row's picture file.
    ///
    /// # Errors
    /// There is none: each error says why, for the person who looks at the gap.
    pub fn picture(&self, db: &Connection, folder: &Path, row: i64) -> Result<Vec<u8>> {
        let Some(content) = &self.content else {
            bail!("{} keeps embeddings, not pictures", self.name);
        };
        let column = match &content.pictures {
            Some(Pictures::Bytes(column) | Pictures::Path(column)) => column,
            None => bail!("{} is over sentences", self.name),
        };
        let sql = format!("SELECT {} {}", quoted(column), content.row());
        let mut select = db.prepare_cached(&sql)?;
        let mut rows = select.query([row])?;
        let Some(found) = rows.next()? else {
            bail!("row {row} of {} is gone", content.table);
        };
        match (&content.pictures, found.get_ref(0)?) {
            (Some(Pictures::Bytes(_)), ValueRef::Blob(bytes)) => Ok(bytes.to_owned()),
            (Some(Pictures::Path(_)), ValueRef::Text(path)) => {
                let path = std::str::from_utf8(path).context("the file's name is no UTF-8")?;
                Ok(Folder::open(folder)?.find(path)?.read()?)
            }
            (_, other) => bail!("{}.{column} of row {row} is {}", content.table, other.data_type()),
        }
    }

    /// How much of the content is in the index.
    pub fn state(&self, db: &Connection) -> Result<State> {
        let count =
            |sql: String| db.prepare_cached(&sql)?.query_row([], |row| row.get::<_, i64>(0));
        let (name, only) = (quoted(&self.name), self.only_pictures());
        let indexed = count(format!("SELECT count(*) FROM {name} WHERE true{only}"))?;
        let Some(content) = &self.content else {
            return Ok(State { indexed, skipped: 0, of: indexed, unfinished: false });
        };
        let skipped = quoted(&format!("{}_skipped", self.name));
        let config = quoted(&format!("{}_config", self.name));
        let column = match &content.pictures {
            Some(Pictures::Bytes(column) | Pictures::Path(column)) => column,
            None => content.sentence.as_ref().unwrap_or(&content.rowid),
        };
        Ok(State {
            indexed,
            skipped: count(format!("SELECT count(*) FROM {skipped} WHERE true{only}"))?,
            of: count(format!(
                "SELECT count(*) FROM {} WHERE {} IS NOT NULL",
                quoted(&content.table),
                quoted(column)
            ))?,
            unfinished: count(format!("SELECT count(*) FROM {config} WHERE key = 'stopped'"))? != 0,
        })
    }

    /// What could not be encoded, at most so many.
    pub fn skipped(&self, db: &Connection, most: i64) -> Result<Vec<Skipped>> {
        if self.content.is_none() {
            return Ok(Vec::new());
        }
        let skipped = quoted(&format!("{}_skipped", self.name));
        let sql = format!("SELECT content_rowid, reason FROM {skipped} ORDER BY rowid LIMIT ?1");
        let mut select = db.prepare(&sql)?;
        let rows = select.query_map([most], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows = rows.collect::<rusqlite::Result<Vec<(i64, String)>>>()?;
        rows.into_iter()
            .map(|(row, reason)| Ok(Skipped { row, title: self.title(db, row)?, reason }))
            .collect()
    }
}

impl Content {
    fn row(&self) -> String {
        format!("FROM {} WHERE {} = ?1", quoted(&self.table), quoted(&self.rowid))
    }
}

fn names(albums: &[Album]) -> String {
    let names: Vec<&str> = albums.iter().map(|it| it.name.as_str()).collect();
    names.join(", ")
}

fn title_of(db: &Connection, table: &str) -> Result<Option<String>> {
    let mut select = db.prepare("SELECT name FROM pragma_table_xinfo(?1)")?;
    let columns = select.query_map([table], |row| row.get::<_, String>(0))?;
    let columns = columns.collect::<rusqlite::Result<Vec<_>>>()?;
    let named = |title: &&str| columns.iter().find(|it| it.eq_ignore_ascii_case(title)).cloned();
    Ok(TITLES.iter().find_map(named))
}
