//! What the page asks for.

use std::sync::Arc;

use anyhow::Context;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query as Asked, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Shared, shelf};
use crate::album::{self, Skipped};
use crate::picture;
use crate::query::{Like, Page, Query};

/// Pixels a side of pictures in the grid, and of the one that is looked at.
const SMALL: u32 = 512;
const LARGE: u32 = 1920;
/// Most pictures of one answer.
const MOST_HITS: u32 = 500;
/// Left-out pictures that are listed.
const LISTED: i64 = 100;

/// What goes wrong is said in words, which the page shows.
pub struct Refusal(StatusCode, String);

impl From<anyhow::Error> for Refusal {
    fn from(err: anyhow::Error) -> Refusal {
        Refusal(StatusCode::UNPROCESSABLE_ENTITY, crate::words(&err))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

type Answer<T> = Result<Json<T>, Refusal>;

/// A table, for the page.
#[derive(Serialize)]
pub struct Album {
    name: String,
    pictures: bool,
    sentences: bool,
    /// Why there are no pictures.
    why: Option<String>,
}

/// Which table.
#[derive(Deserialize)]
pub struct Which {
    album: String,
}

pub async fn albums(State(gallery): Shared) -> Answer<Vec<Album>> {
    let albums =
        gallery.with(|gallery, db| album::Album::albums(db, gallery.table.as_deref())).await?;
    let shown = albums.into_iter().map(|it| Album {
        pictures: it.has_pictures(),
        sentences: it.is_of_sentences(),
        why: (it.content.is_none()).then(|| {
            let name = &it.name;
            format!("{name} keeps embeddings and no pictures, so its rows are numbers here. CREATE VIRTUAL TABLE ... USING dualpath(content = 'photos', image = 'jpeg') makes a table over pictures, which are shown.")
        }),
        name: it.name,
    });
    Ok(Json(shown.collect()))
}

/// What is indexed.
#[derive(Serialize)]
pub struct Known {
    #[serde(flatten)]
    state: album::State,
    database: String,
    left_out: Vec<Skipped>,
}

pub async fn state(State(gallery): Shared, Asked(which): Asked<Which>) -> Answer<Known> {
    let known = gallery.with(move |gallery, db| {
        let album = gallery.album(db, &which.album)?;
        let database = gallery.place.database.display().to_string();
        Ok(Known { state: album.state(db)?, database, left_out: album.skipped(db, LISTED)? })
    });
    Ok(Json(known.await?))
}

/// A row of a table.
#[derive(Deserialize)]
pub struct Row {
    album: String,
    row: i64,
}

/// What it is called.
#[derive(Serialize)]
pub struct Title {
    title: Option<String>,
}

pub async fn title(State(gallery): Shared, Asked(Row { album, row }): Asked<Row>) -> Answer<Title> {
    let title = gallery.with(move |gallery, db| gallery.album(db, &album)?.title(db, row));
    Ok(Json(Title { title: title.await? }))
}

/// A search as the page states it.
#[derive(Deserialize)]
pub struct Search {
    album: String,
    text: Option<String>,
    not: Option<String>,
    like: Option<i64>,
    /// Base64, as `api/picture` answers it.
    embedding: Option<String>,
    within: Option<f64>,
    after: Option<(f64, i64)>,
    count: u32,
}

#[derive(Serialize)]
pub struct Hit {
    rowid: i64,
    /// None where nothing was asked for.
    distance: Option<f64>,
    title: Option<String>,
}

#[derive(Serialize)]
pub struct Hits {
    hits: Vec<Hit>,
    more: bool,
}

pub async fn search(State(gallery): Shared, Json(asked): Json<Search>) -> Answer<Hits> {
    let hits = gallery.with(move |gallery, db| {
        let album = gallery.album(db, &asked.album)?;
        let like = match (&asked.embedding, asked.like) {
            (Some(embedding), _) => Some(Like::Embedding(
                STANDARD.decode(embedding).context("the embedding is no base64")?,
            )),
            (None, row) => row.map(Like::Row),
        };
        let query = Query { text: asked.text, not: asked.not, like };
        let asks = query.embedding(db, &album)?.is_some();
        let count = asked.count.clamp(1, MOST_HITS);
        // One more tells whether there are more.
        let page = Page { count: count + 1, after: asked.after, within: asked.within, below: None };
        let found = query.hits(db, &album, &page)?;
        let more = count < found.len() as u32;
        let hits = found.into_iter().take(count as usize).map(|it| {
            let title = album.title(db, it.rowid)?;
            Ok(Hit { rowid: it.rowid, distance: asks.then_some(it.distance), title })
        });
        Ok(Hits { hits: hits.collect::<anyhow::Result<_>>()?, more })
    });
    Ok(Json(hits.await?))
}

/// Where a picture points.
#[derive(Serialize)]
pub struct Embedding {
    embedding: String,
}

pub async fn embed(
    State(gallery): Shared,
    Asked(which): Asked<Which>,
    bytes: Bytes,
) -> Answer<Embedding> {
    let _turn = gallery.decoders.acquire().await.context("the gallery ends")?;
    let embedding = gallery.clone().with(move |gallery, db| {
        let model = gallery.album(db, &which.album)?.model(db)?;
        let sql = "SELECT embed_image(?1, ?2)";
        Ok(db
            .query_row(sql, rusqlite::params![&bytes[..], model], |row| row.get::<_, Vec<u8>>(0))?)
    });
    Ok(Json(Embedding { embedding: STANDARD.encode(embedding.await?) }))
}

/// How large.
#[derive(Deserialize)]
pub struct Size {
    side: Side,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Side {
    Small,
    Large,
}

/// Always made anew from the pixels, so that nothing but pixels reaches the browser.
pub async fn picture(
    State(gallery): Shared,
    Path((album, row)): Path<(String, i64)>,
    Asked(Size { side }): Asked<Size>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let side = match side {
        Side::Small => SMALL,
        Side::Large => LARGE,
    };
    let read = Arc::clone(&gallery).with(move |gallery, db| {
        let album = gallery.album(db, &album)?;
        album.picture(db, &gallery.place.folder, row)
    });
    let bytes = read.await?;
    let mark = shelf::mark(&bytes, side);
    let tag = format!("\"{mark:016x}\"");
    let kept =
        [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, "private, max-age=60".to_owned())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|it| it.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, kept).into_response());
    }
    let jpeg = match gallery.shelf.get(mark) {
        Some(jpeg) => jpeg,
        None => {
            let _turn = gallery.decoders.acquire().await.context("the gallery ends")?;
            let made = tokio::task::spawn_blocking(move || picture::jpeg(&bytes, side));
            let jpeg = Bytes::from(made.await.context("internal error, please report")??);
            gallery.shelf.put(mark, jpeg.clone());
            jpeg
        }
    };
    Ok((kept, [(header::CONTENT_TYPE, "image/jpeg")], jpeg).into_response())
}
