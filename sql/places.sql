-- What a table gets besides sql/paged.sql, in place of the entries of its rows; docs/format.md draws the bytes.

-- Where the rows of 256 rowids are, from 256 times the chunk on; count of them are there.
CREATE TABLE {t_places}(chunk INTEGER PRIMARY KEY, count INTEGER NOT NULL, places BLOB NOT NULL);
