-- A folder of pictures in one database, searched from SQLite's shell:
--
--     scripts/photos && sqlite3 photos.db < examples/photos.sql
--
-- The pictures are kept in the database itself; run it again when there are new ones.
.bail on
.load target/release/libdualpath

CREATE TABLE IF NOT EXISTS photos(id INTEGER PRIMARY KEY, file TEXT UNIQUE, picture BLOB);
CREATE VIRTUAL TABLE IF NOT EXISTS album
  USING dualpath(content = 'photos', content_rowid = 'id', image = 'picture');

-- `fsdir` and its files are the shell's.
INSERT INTO photos(file, picture)
  SELECT name, data FROM fsdir('demo/photos') WHERE name LIKE '%.jpg' OR name LIKE '%.png'
  ON CONFLICT(file) DO UPDATE SET picture = excluded.picture WHERE picture <> excluded.picture;

-- Encodes what is new; Ctrl-C loses nothing.
SELECT dualpath_sync('album') ->> 'encoded' || ' encoded';
SELECT file || ' is left out: ' || reason FROM album_skipped JOIN photos ON photos.id = content_rowid;

-- Ask.
SELECT file, round(distance, 3) FROM album JOIN photos ON photos.id = album.rowid
WHERE text MATCH 'an orange flower' ORDER BY distance LIMIT 3;

-- More like the nearest of them, without encoding anything.
SELECT file FROM album JOIN photos ON photos.id = album.rowid
WHERE embedding MATCH (SELECT embedding FROM album WHERE text MATCH 'an orange flower' AND k = 1)
ORDER BY distance LIMIT 3;
