"use strict";

const fs = require("node:fs");
const path = require("node:path");

const LIBRARY = { darwin: "libdualpath.dylib", win32: "dualpath.dll" }[process.platform] ?? "libdualpath.so";

function getLoadablePath() {
  const file = path.join(__dirname, LIBRARY);
  if (!fs.existsSync(file)) {
    throw new Error(`${file} is not there (install the package that scripts/npm builds)`);
  }
  return file;
}

function getRuntimePath() {
  let folder;
  try {
    folder = path.dirname(require.resolve("onnxruntime-node/package.json", { paths: [process.cwd(), __dirname] }));
  } catch {
    return undefined;
  }
  // bin/napi-v6/linux/x64/libonnxruntime.so.1 and the like.
  const bin = path.join(folder, "bin");
  for (const api of fs.readdirSync(bin)) {
    const place = path.join(bin, api, process.platform, process.arch);
    const files = fs.existsSync(place) ? fs.readdirSync(place) : [];
    const found = files.find((it) => /^(lib)?onnxruntime\.(so\.|dll$|.*dylib$)/.test(it));
    if (found) return path.join(place, found);
  }
  return undefined;
}

function load(database) {
  try {
    database.loadExtension(getLoadablePath());
  } catch (error) {
    if (/not authorized|not allowed/i.test(error.message)) {
      error.message += " (open it with new DatabaseSync(file, { allowExtension: true }))";
    }
    throw error;
  }
  const runtime = getRuntimePath();
  // A library that is open already stays open.
  const { open } = database.prepare("SELECT dualpath_debug() ->> '$.runtime.library' AS open").get();
  if (runtime && !open && !process.env.ORT_DYLIB_PATH) {
    database.prepare("SELECT dualpath_runtime(?)").get(runtime);
  }
}

module.exports = { getLoadablePath, getRuntimePath, load };
