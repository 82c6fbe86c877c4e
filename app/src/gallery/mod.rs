//! `dualpath gallery`: a page on this machine that shows what a sentence finds.
//!
//! ```text
//! guard    who may ask: this machine alone, or who has the token
//! pages    the page's own files, with the headers that keep it to itself
//! answers  what the page asks for: albums, state, searches
//! shelf    small pictures, made once
//! ```

mod guard;
mod pages;
mod answers;
mod shelf;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::extract::{DefaultBodyLimit, State};
use axum::middleware;
use axum::routing::{get, post};
use rusqlite::Connection;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::guard::Guard;
use self::shelf::Shelf;
use crate::album::Album;
use crate::place::{self, Place};
use crate::{command, search};

/// Most bytes of a picture that somebody drops: that of a file in the index.
const MOST_BYTES: usize = dualpath::image::MOST_FILE_BYTES as usize;

/// What every request sees.
struct Gallery {
    place: Place,
    guard: Guard,
    /// The table that was named; all without it.
    table: Option<String>,
    /// Connections that nobody uses just now.
    idle: Mutex<Vec<Connection>>,
    shelf: Shelf,
    /// Pictures decoded at a time: each may take half a gigabyte.
    decoders: Semaphore,
}

type Shared = State<Arc<Gallery>>;

/// Serves until the process ends.
pub fn gallery(command: &command::Gallery) -> Result<()> {
    let place = place(command)?;
    if let Some(model) = &command.album.model {
        place::load(model)?;
    }
    let db = place.read()?;
    Album::albums(&db, command.album.table.as_deref())
        .with_context(|| place.database.display().to_string())?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_io().build()?;
    runtime.block_on(async {
        let address = SocketAddr::new(command.listen, command.port);
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen at {address} (choose a port with --port; 0 is any free one)")
        })?;
        let guard = Guard::of(listener.local_addr()?)?;
        let address = guard.address();
        let gallery = Gallery {
            place,
            guard,
            table: command.album.table.clone(),
            idle: Mutex::new(vec![db]),
            shelf: Shelf::default(),
            decoders: Semaphore::new(cores),
        };
        let mut out = std::io::stdout();
        writeln!(out, "{address}")?;
        out.flush()?;
        eprintln!("serving {} until Ctrl-C", gallery.place.database.display());
        if command.open {
            search::open(address.as_ref());
        }
        Ok(axum::serve(listener, router(Arc::new(gallery))).await?)
    })
}

/// A database, a folder with an index, or the folder around here.
fn place(command: &command::Gallery) -> Result<Place> {
    let root = command.album.root.as_deref();
    let named = command.album.db.as_deref().or(command.place.as_deref());
    match named {
        Some(file) if !file.is_dir() => Place::at(file, root),
        folder => {
            let found = Place::around(folder.unwrap_or(".".as_ref()))?;
            Place::at(&found.database, root)
        }
    }
}

fn router(gallery: Arc<Gallery>) -> axum::Router {
    axum::Router::new()
        .route("/", get(pages::index))
        .route("/{file}", get(pages::file))
        .route("/api/albums", get(answers::albums))
        .route("/api/state", get(answers::state))
        .route("/api/title", get(answers::title))
        .route("/api/search", post(answers::search))
        .route("/api/picture", post(answers::embed))
        .route("/picture/{album}/{row}", get(answers::picture))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(middleware::from_fn_with_state(gallery.clone(), guard::check))
        .with_state(gallery)
}

impl Gallery {
    /// Runs `work` with a connection of its own, on a thread that may wait.
    async fn with<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Gallery, &Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let run = move || {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let db = match idle {
                Some(db) => db,
                None => self.place.read()?,
            };
            let outcome = work(&self, &db);
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
            outcome
        };
        tokio::task::spawn_blocking(run).await.context("internal error, please report")?
    }

    /// The table that a request names.
    fn album(&self, db: &Connection, name: &str) -> Result<Album> {
        let albums = Album::albums(db, self.table.as_deref())?;
        let found = albums.into_iter().find(|it| it.name == name);
        found.with_context(|| format!("there is no table '{name}'"))
    }
}
