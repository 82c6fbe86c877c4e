// The installed package in node:sqlite. Run by scripts/test-node.
import assert from "node:assert/strict";
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
