// The installed package in node:sqlite. Run by scripts/test-node.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { test } from "node:test";

import dualpath from "dualpath";

const loaded = () => {
  const database = new DatabaseSync(":memory:", { allowExtension: true });
  dualpath.load(database);
  return database;
};

test("a sentence finds a sentence", () => {
  const database = loaded();
  database.exec("CREATE VIRTUAL TABLE album USING dualpath");
  const insert = database.prepare("INSERT INTO album(rowid, text) VALUES (?, ?)");
  insert.run(1, "two dogs in the snow");
  insert.run(2, "a man on a motorcycle");
  const ask = database.prepare("SELECT rowid FROM album WHERE text MATCH ? ORDER BY distance LIMIT 1");
  assert.equal(ask.get("dogs play in the snow").rowid, 1);
});

test("the page runs", () => {
  const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
  const block = read("node_modules/dualpath/README.md").split("```js\n")[1].split("```")[0];
  const page = new URL("page.mjs", import.meta.url);
  const folder = mkdtempSync(join(tmpdir(), "dualpath-"));
  copyFileSync(join(process.env.PHOTOS, "flower.jpg"), join(folder, "dog.jpg"));
  // What the last line answers.
  writeFileSync(page, block.replace(/^(?=db\.prepare\("SELECT)/m, "export const found = ") + "console.log(found.length, found[0].rowid);");
  const { stdout, stderr } = spawnSync(process.execPath, [page.pathname], { cwd: folder, encoding: "utf8" });
  rmSync(folder, { recursive: true });
  rmSync(page);
  assert.equal(stdout, "1 1\n", stderr);
});

test("the runtime is that of onnxruntime-node", () => {
  const database = loaded();
  database.prepare("SELECT embed_text('a dog')").get();
  const { library } = database.prepare("SELECT dualpath_debug() ->> '$.runtime.library' AS library").get();
  assert.equal(library, dualpath.getRuntimePath());
  loaded();
});

test("embeddings are blobs of float32", () => {
  const { embedding } = loaded().prepare("SELECT embed_text('a dog') AS embedding").get();
  const numbers = new Float32Array(embedding.buffer, embedding.byteOffset, embedding.byteLength / 4);
  assert.ok(Math.abs(Math.hypot(...numbers) - 1) < 1e-5);
});

test("a database that was not opened for extensions says what to do", () => {
  assert.throws(() => dualpath.load(new DatabaseSync(":memory:")), /allowExtension: true/);
});
