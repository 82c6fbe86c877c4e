-- What CREATE VIRTUAL TABLE makes beside the table; docs/format.md draws the bytes.
-- {t_blocks} stands for the quoted "schema"."table_blocks", {full} for the vectors of a full block.

-- format, dimension, identity; model and digest where an encoder belongs to the table.
CREATE TABLE {t_config}(key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- Rowids and high planes of up to {full} vectors; the scan reads these.
CREATE TABLE {t_blocks}(
    block INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    rowids BLOB NOT NULL,
    high BLOB NOT NULL
);

-- Their low planes, which only rows in question need.
CREATE TABLE {t_low}(block INTEGER PRIMARY KEY, low BLOB NOT NULL);

-- Where a row is: its block times 65,536, plus its slot.
CREATE TABLE {t_rows}(rowid INTEGER PRIMARY KEY, place INTEGER NOT NULL);
