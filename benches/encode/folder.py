"""A folder of photographs, indexed from the `sqlite3` shell, beside a loop in Python and beside each half alone.

Every side is a process of its own, bound to the same cores, with the same ONNX Runtime, model and batch.
`all but the model` indexes with a graph that averages pixels; `the model alone` runs the graph on ready numbers.
"""

import argparse
import io
import json
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "dualpath"
MODEL = ROOT / "models/default"
BATCH = 32
# What the network takes, and what small photographs have.
SIDE = json.loads((MODEL / "dualpath.json").read_text())["image"]["size"]
SMALL = 224
# Different enough to be other work; files beyond them are the same pictures with another comment.
PICTURES = 24


def photographs(count, width, height):
    """`count` files: crops of the demo's photographs, enlarged. No two have the same bytes."""
    from PIL import Image

    folder = CACHE / f"bench-photographs/{width}x{height}"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{count - 1:06}.jpg").exists():
        return folder
    chance, encoded = random.Random(1), []
    sources = sorted(it for it in (ROOT / "demo/photos").iterdir() if it.suffix in (".jpg", ".png"))
    for at in range(PICTURES):
        with Image.open(sources[at % len(sources)]) as opened:
            whole = opened.convert("RGB")
        side = [chance.uniform(0.5, 1) * it for it in whole.size]
        left, top = (chance.uniform(0, a - b) for a, b in zip(whole.size, side))
        part = whole.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + side[0], top + side[1]))
        buffer = io.BytesIO()
        part.save(buffer, "jpeg", quality=90)
        encoded.append(buffer.getvalue())
    for number in range(count):
        bytes_ = encoded[number % PICTURES]
        comment = b"\xff\xfe\x00\x08" + f"{number:06}".encode()
        (folder / f"{number:06}.jpg").write_bytes(bytes_[:2] + comment + bytes_[2:])
    return folder


def files(folder, count):
    return [str(folder / f"{it:06}.jpg") for it in range(count)]


def averaging(folder):
    """A model folder whose image path costs nothing, with the same preprocessing."""
    sys.path.insert(0, str(ROOT / "tests/hub"))
    import write

    write.siglip(folder, side=SIDE)
    preprocessing = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing | {"resample": 2}))
    return folder


def shell(arguments, folder, count, model=None):
    """Indexed by the shell; what it printed must say that all were encoded."""
    with tempfile.TemporaryDirectory() as place:
        option = load = ""
        if model:
            load = f"INSERT INTO dualpath_models(name, path) VALUES ('averaging', '{averaging(pathlib.Path(place) / 'model')}');"
            option = ", model = 'averaging'"
        script = f"""
.load {arguments.extension}
{load}
CREATE TABLE photos(id INTEGER PRIMARY KEY, file TEXT);
WITH numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count - 1})
INSERT INTO photos SELECT n, printf('%06d.jpg', n) FROM numbers;
CREATE VIRTUAL TABLE album USING dualpath(content = 'photos', content_rowid = 'id', path = 'file'{option});
SELECT dualpath_sync('album', '{folder}') ->> '$.encoded';
"""
        said = subprocess.run(
            ["sqlite3", f"{place}/album.db"], input=script, capture_output=True, text=True, check=True
        )
    assert said.stdout.split() == [str(count)], said


def loop(arguments, folder, count, draft=False):
    """What one would write without dualpath."""
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession(str(MODEL / "image.onnx"), options(onnxruntime))
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE album(id INTEGER PRIMARY KEY, embedding BLOB)")
    names = files(folder, count)
    for first in range(0, count, BATCH):
        batch = []
        for name in names[first : first + BATCH]:
            with Image.open(name) as picture:
                if draft:
                    picture.draft("RGB", (2 * SIDE, 2 * SIDE))
                small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            batch.append((np.asarray(small, "f4") / 127.5 - 1).transpose(2, 0, 1))
        [embeddings] = session.run(None, {"pixels": np.stack(batch)})
        db.executemany("INSERT INTO album(embedding) VALUES (?)", [(it.tobytes(),) for it in embeddings])
    db.commit()


def options(onnxruntime):
    """As the extension's graphs have them; without, the loop is no faster and takes a fifth more CPU time."""
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = len(os.sched_getaffinity(0))
    chosen.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    chosen.add_session_config_entry("session.force_spinning_stop", "1")
    return chosen


def alone(arguments, folder, count):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(MODEL / "image.onnx"), options(onnxruntime))
    pixels = np.random.default_rng(1).standard_normal((BATCH, 3, SIDE, SIDE), dtype="f4")
    for _ in range(count // BATCH):
        session.run(None, {"pixels": pixels})


SIDES = {
    "the shell with dualpath": shell,
    "a loop in Python": loop,
    "the same, decoding at a part of the size": lambda *given: loop(*given, draft=True),
    "all but the model": lambda *given: shell(*given, model="averaging"),
    "the model alone": alone,
}


def measured(arguments, side, folder, count, cores):
    """Seconds and CPU seconds of a process and its children."""
    command = [sys.executable, __file__, "--extension", arguments.extension, "--side", side, "--folder", str(folder), "--count", str(count)]
    started = time.perf_counter()
    child = subprocess.Popen(["taskset", "-c", cores, *command])
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, side
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def table(arguments):
    sizes = {"12 megapixels": (4000, 3000, arguments.large), "224 x 224": (SMALL, SMALL, arguments.small)}
    for cores in arguments.cores:
        bound = f"0-{cores - 1}" if 1 < cores else "0"
        for name, (width, height, count) in sizes.items():
            if not count:
                continue
            folder = photographs(count, width, height)
            print(f"{count} photographs of {name}, {cores} cores: ms a photograph, CPU ms")
            each = {}
            for side in SIDES:
                wall, cpu = measured(arguments, side, folder, count, bound)
                # Starting Python and opening the graph are not what is asked about.
                idle, idle_cpu = measured(arguments, side, folder, BATCH, bound)
                rest = count - BATCH
                each[side] = (wall - idle) / rest * 1e3
                print(f"  {side:42}{each[side]:8.2f}{(cpu - idle_cpu) / rest * 1e3:8.2f}", flush=True)
            ours, python, drafted, decoding, model = each.values()
            print(f"  Python takes {python / ours:.2f} times as long, {drafted / ours:.2f} at a part of the size")
            print(f"  of the slower half alone: {max(decoding, model) / ours:.2f}; of both, one after the other: {(decoding + model) / ours:.2f}")


def memory(arguments):
    """Peak memory of the shell itself: what a parent reads of a child's begins with the parent's own."""
    folder = photographs(PICTURES, SMALL, SMALL)
    one = (folder / "000000.jpg").read_bytes()
    for count, model in ((2000, None), (2000, "averaging"), (10_000, "averaging"), (30_000, "averaging"), (100_000, "averaging")):
        with tempfile.TemporaryDirectory() as place:
            db = sqlite3.connect(f"{place}/album.db")
            db.execute("CREATE TABLE photos(id INTEGER PRIMARY KEY, jpeg BLOB)")
            rows = ((n, one[:6] + f"{n:06}".encode() + one[12:]) for n in range(count))
            db.executemany("INSERT INTO photos VALUES (?, ?)", rows)
            db.commit()
            db.close()
            load = option = ""
            if model:
                load = f"INSERT INTO dualpath_models(name, path) VALUES ('averaging', '{averaging(pathlib.Path(place) / 'model')}');"
                option = ", model = 'averaging'"
            script = f""".load {arguments.extension}
{load}
CREATE VIRTUAL TABLE album USING dualpath(content = 'photos', content_rowid = 'id', image = 'jpeg'{option});
SELECT dualpath_sync('album') ->> '$.encoded';
.shell grep VmHWM /proc/$PPID/status
"""
            started = time.perf_counter()
            said = subprocess.run(["sqlite3", f"{place}/album.db"], input=script, capture_output=True, text=True, check=True).stdout.split()
            assert {str(count), "VmHWM:"} <= {*said}, said
            peak = int(said[said.index("VmHWM:") + 1]) / 1024
            print(f"{count:7} photographs of 224 x 224, {model or 'built-in'} model: peak {peak:.0f} MB, {time.perf_counter() - started:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extension", required=True)
    parser.add_argument("--large", type=int, default=400, help="photographs of 12 megapixels")
    parser.add_argument("--small", type=int, default=2000, help="photographs of 224 x 224")
    parser.add_argument("--cores", type=int, nargs="*", default=[2, 1])
    parser.add_argument("--memory", action="store_true", help="peak memory by the number of photographs instead")
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--count", type=int)
    arguments = parser.parse_args()
    arguments.extension = os.path.abspath(arguments.extension)
    if arguments.side:
        SIDES[arguments.side](arguments, arguments.folder, arguments.count)
    elif not shutil.which("sqlite3"):
        sys.exit("benches/encode/run folder: there is no sqlite3 (apt-get install sqlite3)")
    elif arguments.memory:
        memory(arguments)
    else:
        table(arguments)


main()
