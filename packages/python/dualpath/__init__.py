"""Search your pictures with sentences, inside SQLite.

    import sqlite3, dualpath

    db = sqlite3.connect("album.db")
    dualpath.load(db)
    db.execute("SELECT embed_text('two dogs in the snow')")
"""

import glob
import importlib.util
import os
import sys

__all__ = ["LoadError", "load", "loadable_path", "runtime_path"]


class LoadError(RuntimeError):
    """The extension could not be loaded; the message says what to do."""


def loadable_path():
    """The extension's path as `load_extension` takes it: without the ending."""
    ending = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libdualpath")
    if not os.path.exists(path + ending):
        raise LoadError(f"{path}{ending} is not there (install the wheel that scripts/wheel builds)")
    return path


def runtime_path():
    """ONNX Runtime's shared library in the `onnxruntime` package; None where that is not installed."""
    # Found without an import, which would take a second and start threads.
    found = importlib.util.find_spec("onnxruntime")
    for folder in found.submodule_search_locations if found else []:
        for name in ("libonnxruntime.so.*", "libonnxruntime.*.dylib", "onnxruntime.dll"):
            for path in glob.glob(os.path.join(folder, "capi", name)):
                return os.path.abspath(path)
    return None


def load(connection):
    """Loads the extension into a connection of `sqlite3`, `apsw` or `pysqlite3`.

    Every connection needs a load of its own. Loading of extensions is off again afterwards, as
    Python has it from the start.
    """
    if not hasattr(connection, "enable_load_extension"):
        raise LoadError(
            f"the sqlite3 module of {sys.executable} was built without loading of extensions "
            "(use the system's python3, or connect by pysqlite3: pip install pysqlite3-binary, "
            "or by apsw: pip install apsw)"
        )
    path = loadable_path()
    connection.enable_load_extension(True)
    try:
        connection.load_extension(path)
    finally:
        connection.enable_load_extension(False)
    runtime = runtime_path()
    if runtime and not os.environ.get("ORT_DYLIB_PATH") and not _is_open(connection):
        connection.execute("SELECT dualpath_runtime(?)", (runtime,)).fetchall()


def _is_open(connection):
    """Whether this process runs an ONNX Runtime already, which then stays."""
    [(found,)] = connection.execute("SELECT dualpath_debug() ->> '$.runtime.library'").fetchall()
    return bool(found)
