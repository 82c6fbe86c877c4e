-- The database of `dualpath index`.

-- Picture files, by their path from the folder.
CREATE TABLE IF NOT EXISTS photos(id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE);

-- What is searched: the embeddings of those files.
CREATE VIRTUAL TABLE IF NOT EXISTS album USING dualpath(content = 'photos', content_rowid = 'id', path = 'file'{model});

-- Where the folder was when it was indexed.
CREATE TABLE IF NOT EXISTS folder(path TEXT NOT NULL);
