"""What `benches/gpu.sh run` measures: library, model and photographs lie beside this file.

Each measurement is a process of its own, as a process encodes on one device.
"""

import argparse
import io
import json
import pathlib
import sqlite3
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
# Of the photographs, as most thumbnails are; the network's own is asked for.
SIDE = 224
BATCHES = (1, 8, 32, 64, 128)
COSINE = 0.9995
# As many as the extension hands to a graph.
OWN_BATCH = 32


def wanted():
    """Pixels a side that the network takes."""
    return json.loads((HERE / "model/dualpath.json").read_text())["image"]["size"]


def connection(device):
    db = sqlite3.connect(":memory:")
    if not hasattr(db, "enable_load_extension"):
        sys.exit(f"benches/gpu.sh: {sys.executable} was built without loading of extensions (put another python3 first in PATH)")
    db.enable_load_extension(True)
    db.load_extension(str(HERE / "libdualpath.so"))
    db.execute("SELECT dualpath_device(?)", (device,)).fetchall()
    db.execute("INSERT INTO dualpath_models(name, path) VALUES ('carried', ?)", (str(HERE / "model"),))
    return db


def photographs(count):
    """JPEGs of about the network's size: crops of the photographs that were carried over."""
    from PIL import Image

    chance = np.random.default_rng(1)
    sources = []
    for file in sorted((HERE / "photos").iterdir()):
        with Image.open(file) as opened:
            sources.append(opened.convert("RGB"))
    for number in range(count):
        whole = sources[number % len(sources)]
        wide, high = (int(it * chance.uniform(0.5, 1)) for it in whole.size)
        left, top = (int(chance.integers(0, a - b + 1)) for a, b in zip(whole.size, (wide, high)))
        buffer = io.BytesIO()
        whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + wide, top + high)).save(buffer, "jpeg", quality=90)
        yield buffer.getvalue()


def sentences(count):
    who, what, where = ["a dog", "two men", "a child"], ["runs", "jumps", "sits", "plays"], ["snow", "grass", "water"]
    return [f"{who[n % 3]} {what[n // 3 % 4]} in the {where[n // 12 % 3]} number {n}" for n in range(count)]


def embeddings(device):
    """For the comparison: a matrix of pictures and one of sentences, and what ran where."""
    db = connection(device)
    of = lambda sql, it: np.frombuffer(db.execute(sql, (it,)).fetchone()[0], "<f4")
    pictures = [of("SELECT embed_image(?, 'carried')", it) for it in photographs(64)]
    words = [of("SELECT embed_text(?, 'carried')", it) for it in sentences(64)]
    report = json.loads(db.execute("SELECT dualpath_debug()").fetchone()[0])
    [carried] = [it for it in report["models"] if it["name"] == "carried"]
    return {"pictures": np.array(pictures).tolist(), "sentences": np.array(words).tolist(), "report": carried}


def end_to_end(device):
    """Rows a second through INSERT, decoding included."""
    rates = {}
    for column, rows in (("image", list(photographs(2048))), ("text", sentences(8192))):
        db = connection(device)
        db.execute("CREATE VIRTUAL TABLE album USING dualpath(model = 'carried')")
        insert = f"INSERT INTO album({column}) VALUES (?)"
        for part in (rows[:256], rows[256:]):
            started = time.perf_counter()
            db.executemany(insert, [(it,) for it in part])
            db.commit()
        rates[column] = len(part) / (time.perf_counter() - started)
    return rates


def graphs(device):
    """Rows a second of the bare graphs, by batch, through Python's onnxruntime."""
    import onnxruntime

    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if provider not in onnxruntime.get_available_providers():
        return {"skipped": f"onnxruntime {onnxruntime.__version__} of this Python has no {provider}"}
    rates, side = {}, wanted()
    for kind, given in (("image", lambda n: {"pixels": np.ones((n, 3, side, side), "f4")}), ("text", lambda n: {"tokens": np.ones((n, 12), "i8")})):
        session = onnxruntime.InferenceSession(str(HERE / f"model/{kind}.onnx"), providers=[provider])
        rates[kind] = {n: rate(n, lambda: session.run(None, given(n))) for n in BATCHES}
    return rates


def pytorch(device):
    """The same networks as one writes them in PyTorch, with weights of chance: only speed is asked for."""
    import torch

    sys.path.insert(0, str(HERE))
    import twin

    class Chance(dict):
        def __missing__(self, name):
            return torch.tensor(0.01)

    rates, side = {}, wanted()
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for kind, net, given in (
        ("image", twin.ImagePath(Chance()).to(memory_format=torch.channels_last), lambda n: torch.zeros(n, 3, side, side).to(memory_format=torch.channels_last)),
        ("text", twin.TextPath(4000), lambda n: torch.ones(n, 12, dtype=torch.long)),
    ):
        net = net.eval().to(device)
        for form, way in (("eager", net), ("compiled", torch.compile(net, dynamic=False))):
            for half in (False, True) if device == "cuda" else (False,):
                rates[f"{kind}, {form}{', half' if half else ''}"] = each = {}
                for n in (OWN_BATCH, BATCHES[-1]):
                    rows = given(n)

                    def call():
                        with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=half):
                            way(rows.to(device, non_blocking=True))
                        wait()

                    each[n] = rate(n, call)
    return rates


def rate(rows, call):
    for _ in range(3):
        call()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < 2:
        call()
        calls += 1
    return rows * calls / (time.perf_counter() - started)


MEASURED = {it.__name__: it for it in (embeddings, end_to_end, graphs, pytorch)}


def child(what, device):
    said = subprocess.run([sys.executable, __file__, "--device", device, "--only", what], stdout=subprocess.PIPE, text=True)
    if said.returncode:
        return None
    return json.loads(said.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--only", choices=MEASURED)
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.only:
        print(json.dumps(MEASURED[arguments.only](device)))
        return
    here, there = child("embeddings", "cpu"), child("embeddings", device)
    if not (here and there):
        sys.exit("benches/gpu.sh: nothing was encoded (the error is above)")
    report = there["report"]
    result = {"device": device, "image": report["image"], "text": report["text"]}
    for kind in ("pictures", "sentences"):
        cosines = (np.array(here[kind]) * np.array(there[kind])).sum(1)
        result[f"cosine of {kind}"] = least = float(cosines.min())
        print(f"{kind}: least cosine to the CPU {least:.6f} of {len(cosines)}")
    for path in ("image", "text"):
        print(f"{path} path: ran on {report[path]['nodes'] or report[path]['device']}")
    result |= {it: child(it, device) for it in ("end_to_end", "graphs", "pytorch")}
    whole, bare = result["end_to_end"], result["graphs"] or {}
    if not whole:
        sys.exit("benches/gpu.sh: not all was encoded (the error is above)")
    for kind in ("image", "text"):
        print(f"{kind}, through INSERT: {whole[kind]:.0f}/s")
        if kind in bare:
            print("  the graph alone, by batch: " + ", ".join(f"{n}: {it:.0f}/s" for n, it in bare[kind].items()))
            alone = bare[kind][str(OWN_BATCH)]
            result[f"waiting, {kind}"] = waiting = max(0.0, 1 - whole[kind] / alone)
            print(f"  share of the time that the device waits: {100 * waiting:.0f} %")
    for name, each in (result["pytorch"] or {}).items():
        print(f"PyTorch, {name}: " + ", ".join(f"{n}: {it:.0f}/s" for n, it in each.items()))
    print(json.dumps(result))
    if min(result["cosine of pictures"], result["cosine of sentences"]) < COSINE:
        sys.exit(f"benches/gpu.sh: an embedding is further from the CPU's than {COSINE}")


main()
