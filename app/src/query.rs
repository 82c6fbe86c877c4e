//! What somebody looks for, and the rows that are nearest to it.

use anyhow::{Context, Result};
use dualpath::sqlite::quoted;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use crate::album::Album;

/// What is taken away of what is not wanted.
const AWAY: f64 = -0.5;

/// A sentence, a picture, both; less of something.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Query {
    pub text: Option<String>,
    pub not: Option<String>,
    pub like: Option<Like>,
}

/// A picture to start from.
#[derive(Debug, Clone, PartialEq)]
pub enum Like {
    /// A row of the table.
    Row(i64),
    /// The embedding of another picture.
    Embedding(Vec<u8>),
}

/// Which of the rows.
#[derive(Debug, Default)]
pub struct Page {
    pub count: u32,
    /// Behind this distance and rowid.
    pub after: Option<(f64, i64)>,
    /// Only nearer than this.
    pub within: Option<f64>,
    /// Files whose path starts like this.
    pub below: Option<String>,
}

/// A row and its distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    pub rowid: i64,
    pub distance: f64,
}

impl Query {
    /// Where it points; none where nothing is asked for.
    pub fn embedding(&self, db: &Connection, album: &Album) -> Result<Option<Vec<u8>>> {
        let mut at = match &self.like {
            None => None,
            Some(Like::Embedding(embedding)) => Some(embedding.clone()),
            Some(Like::Row(row)) => {
                let sql = format!("SELECT embedding FROM {} WHERE rowid = ?1", quoted(&album.name));
                let found = db.query_row(&sql, [row], |it| it.get::<_, Vec<u8>>(0)).optional()?;
                Some(found.with_context(|| format!("{} has no row {row}", album.name))?)
            }
        };
        let words = |it: &Option<String>| it.clone().filter(|it| !it.trim().is_empty());
        for (words, weight) in [(words(&self.text), 1.0), (words(&self.not), AWAY)] {
            let Some(words) = words else {
                continue;
            };
            let model = album.model(db)?;
            let sum = match &at {
                // There is nothing to go away from.
                None if weight < 0.0 => continue,
                None => db.query_row("SELECT embed_text(?1, ?2)", [&words, &model], |it| it.get(0)),
                Some(at) => db.query_row(
                    "SELECT embed_add(?1, embed_text(?2, ?3), ?4)",
                    params![at, words, model, weight],
                    |it| it.get(0),
                ),
            };
            at = Some(sum?);
        }
        Ok(at)
    }

    /// The nearest pictures, the one that it starts from aside; where nothing is asked for, all by rowid.
    pub fn hits(&self, db: &Connection, album: &Album, page: &Page) -> Result<Vec<Hit>> {
        let (name, only) = (quoted(&album.name), album.only_pictures());
        let mut bound: Vec<Value> = Vec::new();
        let mut sql = match self.embedding(db, album)? {
            None => format!("SELECT rowid, 0.0 AS distance FROM {name} WHERE true{only}"),
            Some(embedding) => {
                bound.push(embedding.into());
                format!("SELECT rowid, distance FROM {name} WHERE embedding MATCH ?{only}")
            }
        };
        let searches = !bound.is_empty();
        if let (true, Some(within)) = (searches, page.within) {
            sql += " AND distance < ?";
            bound.push(within.into());
        }
        if let Some((distance, rowid)) = page.after {
            sql += if searches { " AND (distance, rowid) > (?, ?)" } else { " AND rowid > ?" };
            bound.extend(searches.then_some(Value::Real(distance)));
            bound.push(rowid.into());
        }
        if let (Some(prefix), Some(below)) = (&page.below, album.below()) {
            sql += &format!(" AND rowid IN ({below})");
            bound.extend([prefix.clone().into(), prefix.clone().into()]);
        }
        if let Some(Like::Row(row)) = self.like {
            sql += " AND rowid <> ?";
            bound.push(row.into());
        }
        sql += if searches { " ORDER BY distance LIMIT ?" } else { " ORDER BY rowid LIMIT ?" };
        bound.push(i64::from(page.count).into());
        let mut select = db.prepare_cached(&sql)?;
        let hits = select.query_map(params_from_iter(bound), |row| {
            Ok(Hit { rowid: row.get(0)?, distance: row.get(1)? })
        })?;
        Ok(hits.collect::<rusqlite::Result<_>>()?)
    }
}
