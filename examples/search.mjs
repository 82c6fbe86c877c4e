// A folder of pictures searched from Node, with the package of scripts/npm installed.
//
//     node search.mjs FOLDER 'a sentence'

import { readdirSync } from "node:fs";
import { resolve } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { load } from "dualpath";

const [folder, sentence] = process.argv.slice(2);
const db = new DatabaseSync(":memory:", { allowExtension: true });
load(db);
db.exec(`
  CREATE TABLE photos(id INTEGER PRIMARY KEY, file TEXT);
  CREATE VIRTUAL TABLE album USING dualpath(content = 'photos', content_rowid = 'id', path = 'file');
`);
const insert = db.prepare("INSERT INTO photos(file) VALUES (?)");
for (const name of readdirSync(folder).sort()) insert.run(name);

// Whatever is no picture is skipped, and listed in album_skipped.
db.prepare("SELECT dualpath_sync('album', ?)").get(resolve(folder));
const nearest = db.prepare(`
  SELECT file, distance FROM album JOIN photos ON photos.id = album.rowid
  WHERE text MATCH ? ORDER BY distance LIMIT 3
`);
for (const { file, distance } of nearest.all(sentence)) {
  console.log(`${distance.toFixed(3)}  ${file}`);
}
