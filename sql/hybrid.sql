-- Words and meaning together: FTS5 finds what is said, dualpath what is meant, and reciprocal rank fusion adds
-- 1 / (60 + rank) of both (Cormack, Clarke, Büttcher, SIGIR 2009). `titles` is an FTS5 table over photos, `album` a
-- dualpath table with the same rowids; docs/recipes.md makes both. The five of each are what is fused.
WITH meant AS (
  SELECT rowid AS id, row_number() OVER (ORDER BY distance) AS place
  FROM album WHERE text MATCH 'a dog plays' AND k = 5
), said AS (
  SELECT rowid AS id, row_number() OVER (ORDER BY rank) AS place
  FROM titles WHERE titles MATCH 'ball' LIMIT 5
)
SELECT title FROM (SELECT * FROM meant UNION ALL SELECT * FROM said) JOIN photos USING (id)
GROUP BY id ORDER BY sum(1.0 / (60 + place)) DESC, id LIMIT 2;
