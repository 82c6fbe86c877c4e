-- What a table gets besides sql/lists.sql, for the vectors of blocks in lists; docs/format.md draws the bytes.

-- As much of a block's rows as fills a page of the file: of the block 2^30 + b, page n is b times the pages of a full
-- block, plus n.
CREATE TABLE {t_paged}(page INTEGER PRIMARY KEY, rows BLOB NOT NULL);
