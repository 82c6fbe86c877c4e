-- What a table gets besides sql/schema.sql when it has grown enough to be searched approximately.

-- Lists of rows that are near each other: their centre, and the mean square of how far they are from it.
CREATE TABLE {t_lists}(
    list INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    spread REAL NOT NULL,
    centre BLOB NOT NULL
);

-- Codes of the rows of a list's block, from which a search estimates how near they are.
CREATE TABLE {t_codes}(block INTEGER PRIMARY KEY, codes BLOB NOT NULL);
