"""The installed wheel, as scripts/test-python runs it: once with each kind of Python connection,
in a process of its own, for a process that holds two copies of SQLite loads the extension in one."""

import importlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys

import dualpath
import pytest

KIND = os.environ["CONNECT"]
VERSION = importlib.metadata.version("dualpath")


def connect():
    module = importlib.import_module(KIND)
    return module.Connection(":memory:") if KIND == "apsw" else module.connect(":memory:")


@pytest.fixture
def db():
    connection = connect()
    dualpath.load(connection)
    return connection


def test_a_sentence_finds_a_sentence(db):
    db.execute("CREATE VIRTUAL TABLE album USING dualpath")
    for rowid, text in [(1, "two dogs in the snow"), (2, "a man on a motorcycle")]:
        db.execute("INSERT INTO album(rowid, text) VALUES (?, ?)", (rowid, text))
    asked = "SELECT rowid FROM album WHERE text MATCH 'dogs play in the snow' ORDER BY distance LIMIT 1"
    assert db.execute(asked).fetchall() == [(1,)]


@pytest.mark.skipif(KIND != "sqlite3", reason="it imports sqlite3")
def test_the_page_runs(tmp_path, monkeypatch):
    root = pathlib.Path(__file__).parents[3]
    shutil.copy(root / "demo" / "photos" / "flower.jpg", tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    block = (root / "packages" / "python" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    *lines, last = block.strip().splitlines()
    names = {}
    exec("\n".join(lines), names)
    [(rowid, distance)] = eval(last, names)
    assert rowid == 1 and 0 < distance < 2


def test_loading_of_extensions_is_off_afterwards(db):
    with pytest.raises(Exception, match="not authorized"):
        db.execute("SELECT load_extension('nothing')").fetchall()


def test_onnx_runtime_is_the_packages_own(db):
    db.execute("SELECT embed_text('a dog')").fetchall()
    dualpath.load(connect())
    [(debug,)] = db.execute("SELECT dualpath_debug()").fetchall()
    assert json.loads(debug)["runtime"]["library"] == dualpath.runtime_path()


def test_the_wheel_has_the_version_of_the_library(db):
    assert db.execute("SELECT dualpath_version()").fetchall() == [(VERSION,)]


def test_a_python_that_cannot_load_says_what_to_do():
    class Closed:
        pass

    with pytest.raises(dualpath.LoadError, match="pip install pysqlite3-binary"):
        dualpath.load(Closed())


def test_a_second_copy_of_sqlite_is_told_why_not(db):
    other = "pysqlite3" if KIND == "apsw" else "apsw"
    second = importlib.import_module(other)
    connection = second.Connection(":memory:") if other == "apsw" else second.connect(":memory:")
    with pytest.raises(Exception, match="two copies of SQLite"):
        dualpath.load(connection)
    assert db.execute("SELECT dualpath_version()").fetchall() == [(VERSION,)]


@pytest.mark.parametrize(
    "command",
    [
        ["sqlite_utils", "memory", "SELECT dualpath_version() AS version"],
        ["datasette", "--memory", "--get", "/_memory.json?sql=SELECT+dualpath_version()+AS+version&_shape=array"],
    ],
    ids=["sqlite-utils", "datasette"],
)
def test_plugins_load_it_by_themselves(command, tmp_path):
    said = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == [{"version": VERSION}]
