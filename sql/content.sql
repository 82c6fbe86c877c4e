-- What CREATE VIRTUAL TABLE makes besides sql/schema.sql where the table is over another (content = ...).

-- What was seen last of each picture and sentence, by its rowid here; path and modified of files alone.
CREATE TABLE {t_seen}(
    rowid INTEGER PRIMARY KEY,
    path TEXT,
    size INTEGER,
    modified INTEGER,
    digest BLOB
);

-- Those that cannot be encoded, and why.
CREATE TABLE {t_skipped}(
    rowid INTEGER PRIMARY KEY,
    content_rowid INTEGER NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT NOT NULL
);
