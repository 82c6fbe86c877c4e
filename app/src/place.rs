//! Which database, and which folder its file names lead from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, OpenFlags};

/// The index of a folder, in that folder: it moves with its pictures, and goes with them.
pub const NAME: &str = ".dualpath.db";

/// How long another writer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database and its folder, without symbolic links.
pub struct Place {
    pub database: PathBuf,
    pub folder: PathBuf,
}

impl Place {
    /// Of a folder that is to be indexed.
    pub fn of(folder: &Path, database: Option<&Path>) -> Result<Place> {
        let folder = real(folder)?;
        if !folder.is_dir() {
            bail!(
                "{}: it is no folder (name the folder that holds the pictures)",
                folder.display()
            );
        }
        let database = match database {
            None => folder.join(NAME),
            Some(it) => std::path::absolute(it)?,
        };
        Ok(Place { database, folder })
    }

    /// Of a folder with an index, or inside one.
    pub fn around(folder: &Path) -> Result<Place> {
        let start = real(folder)?;
        let found = start.ancestors().find(|it| it.join(NAME).is_file());
        let folder = found.with_context(|| {
            let start = start.display();
            format!("{start}: there is no index here or above (make one: dualpath index {start})")
        })?;
        Ok(Place { database: folder.join(NAME), folder: folder.to_owned() })
    }

    /// Of a database, whose file names lead from `root`, or else from where it lies.
    pub fn at(database: &Path, root: Option<&Path>) -> Result<Place> {
        let database = real(database)?;
        let folder = match (root, database.parent()) {
            (Some(root), _) => real(root)?,
            (None, Some(parent)) => parent.to_owned(),
            (None, None) => bail!("{}: it is no database", database.display()),
        };
        Ok(Place { database, folder })
    }

    /// Opens the database, which is made where there is none.
    pub fn open(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let remedy = "(where its folder cannot be written, keep it elsewhere: --db FILE)";
        self.with(flags)
            .with_context(|| format!("{}: cannot be written {remedy}", self.database.display()))
    }

    /// Opens it for reading.
    pub fn read(&self) -> Result<Connection> {
        self.with(OpenFlags::SQLITE_OPEN_READ_ONLY)
            .with_context(|| format!("{}: cannot be read", self.database.display()))
    }

    fn with(&self, flags: OpenFlags) -> Result<Connection> {
        let db =
            Connection::open_with_flags(&self.database, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        db.busy_timeout(PATIENCE)?;
        // The first thing that looks into the file.
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(db)
    }
}

fn real(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| path.display().to_string())
}

/// Loads the model of a folder into this process; answers its name in SQL.
pub fn load(model: &Path) -> Result<String> {
    let folder = real(model)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let db = Connection::open_in_memory()?;
    db.execute(
        "INSERT INTO dualpath_models(name, path) VALUES (?1, ?2)",
        [&name, &folder.to_string_lossy().into_owned()],
    )?;
    Ok(name)
}

/// Sets the device that this process encodes on.
pub fn encode_on(device: &str) -> Result<()> {
    let db = Connection::open_in_memory()?;
    Ok(db.query_row("SELECT dualpath_device(?1)", [device], |_| Ok(()))?)
}
