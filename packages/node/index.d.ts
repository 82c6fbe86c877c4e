/** The extension's path, for `loadExtension`. */
export function getLoadablePath(): string;

/** ONNX Runtime's shared library in the package `onnxruntime-node`; undefined where that is not installed. */
export function getRuntimePath(): string | undefined;

/** Loads the extension into a database of better-sqlite3 or node:sqlite, and names it its ONNX Runtime. */
export function load(database: { loadExtension(path: string): unknown; prepare(sql: string): { get(...values: unknown[]): unknown } }): void;
