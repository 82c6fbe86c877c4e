"""What `benches/gpu.sh run` measures: library, models and photographs lie in the folder that is named.

Each measurement is a process of its own, as a process encodes on one device; one that fails says so, and the
others go on.
"""

import argparse
import concurrent.futures
import io
import json
import pathlib
import pickle
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np

# Of the photographs, as most thumbnails are; the network's own is asked for.
SIDE = 224
PICTURES = 1024
# Times that all of them are inserted at once, where that takes no time.
MOST = 16
BATCHES = (1, 32, 128, 256)
COMPILED = 128
ROUNDS = 3
COSINE = 0.9995
STEPS = ("models", "pytorch")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def say(*words):
    print(*words, flush=True)


def given(model):
    """What the network takes of so many pictures."""
    image = json.loads((model / "dualpath.json").read_text())["image"]
    side = image["size"]
    takes_bytes = image.get("pixels") == "bytes"
    return lambda rows: np.ones((rows, side, side, 3), "u1") if takes_bytes else np.ones((rows, 3, side, side), "f4")


def connection(store, model, device):
    db = sqlite3.connect(":memory:", isolation_level=None)
    if not hasattr(db, "enable_load_extension"):
        sys.exit(f"benches/gpu.sh: {sys.executable} was built without loading of extensions (put another python3 first in PATH)")
    db.enable_load_extension(True)
    db.load_extension(str(store / "libdualpath.so"))
    db.execute("SELECT dualpath_device(?)", (device,)).fetchall()
    db.execute("INSERT INTO dualpath_models(name, path) VALUES ('carried', ?)", (str(model),))
    db.execute("CREATE VIRTUAL TABLE album USING dualpath(model = 'carried')")
    return db


def photographs(store):
    """JPEGs of about the network's size: crops of the photographs that were carried over."""
    from PIL import Image

    chance = np.random.default_rng(1)
    sources = []
    for file in sorted((store / "photos").iterdir()):
        with Image.open(file) as opened:
            sources.append(opened.convert("RGB"))

    def crop(number):
        whole = sources[number % len(sources)]
        wide, high = (int(it * share) for it, share in zip(whole.size, shares[number]))
        left, top = (int(share * (a - b)) for share, a, b in zip(places[number], whole.size, (wide, high)))
        buffer = io.BytesIO()
        whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + wide, top + high)).save(buffer, "jpeg", quality=90)
        return buffer.getvalue()

    shares, places = chance.uniform(0.5, 1, (PICTURES, 2)), chance.uniform(0, 1, (PICTURES, 2))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(crop, range(PICTURES)))


def sentences(count):
    who, what, where = ["a dog", "two men", "a child"], ["runs", "jumps", "sits", "plays"], ["snow", "grass", "water"]
    return [f"{who[n % 3]} {what[n // 3 % 4]} in the {where[n // 12 % 3]} number {n}" for n in range(count)]


def filled(db, column, rows):
    """Seconds that the rows take through INSERT, decoding included, and how many of them their COMMIT takes, which
    puts them into lists."""
    db.execute("BEGIN")
    started = time.perf_counter()
    db.executemany(f"INSERT INTO album({column}) VALUES (?)", ((it,) for it in rows))
    inserted = time.perf_counter()
    db.execute("COMMIT")
    ended = time.perf_counter()
    return ended - started, ended - inserted


def synced(db, rows):
    """Seconds that pictures of a table take through dualpath_sync, in its own transactions."""
    db.execute("CREATE TABLE photos(id INTEGER PRIMARY KEY, jpeg BLOB)")
    db.execute("BEGIN")
    db.executemany("INSERT INTO photos(jpeg) VALUES (?)", ((it,) for it in rows))
    db.execute("COMMIT")
    db.execute("CREATE VIRTUAL TABLE over USING dualpath(content = 'photos', content_rowid = 'id', image = 'jpeg', model = 'carried')")
    started = time.perf_counter()
    [report] = db.execute("SELECT dualpath_sync('over')").fetchone()
    ended = time.perf_counter()
    assert json.loads(report)["encoded"] == len(rows), report
    db.execute("DROP TABLE over")
    db.execute("DROP TABLE photos")
    return ended - started


def encode(store, model, device, seconds):
    """Embeddings for the comparison, what ran where, and rows a second."""
    kinds = [("pictures", "image"), ("sentences", "text")]
    db = connection(store, model, device)
    pictures = pickle.loads((store / "pictures.pickle").read_bytes())
    of = lambda sql, it: np.frombuffer(db.execute(sql, (it,)).fetchone()[0], "<f4").tolist()
    result = {}
    # One by one, then in batches of which the last is not whole.
    one = {"pictures": [of("SELECT embed_image(?, 'carried')", it) for it in pictures[:8]], "sentences": [of("SELECT embed_text(?, 'carried')", it) for it in sentences(8)]}
    for kind, column in kinds:
        rows = {"pictures": pictures, "sentences": sentences(200)}[kind][:200]
        filled(db, column, rows)
        stored = [np.frombuffer(it, "<f4").tolist() for it, in db.execute("SELECT embedding FROM album ORDER BY rowid")]
        db.execute("DELETE FROM album")
        result[kind] = one[kind] + stored
    say(json.dumps(result))
    if seconds:
        for kind, column in kinds:
            rows = {"pictures": pictures, "sentences": sentences(PICTURES)}[kind]
            # The first time kernels are chosen; how many rows there are to be is known then.
            filled(db, column, rows[:700])
            few, _ = filled(db, column, rows)
            db.execute("DELETE FROM album")
            # Of few rows their COMMIT would be too large a part.
            times = MOST if few < seconds else 1
            taken = []
            for _ in range(ROUNDS):
                taken.append(filled(db, column, rows * times))
                db.execute("DELETE FROM album")
            whole, commit = sorted(taken)[ROUNDS // 2]
            result[f"{kind}/s"] = times * len(rows) / whole
            result[f"{kind}, commit"] = commit
            result[f"{kind}, by round"] = [round(times * len(rows) / it) for it, _ in taken]
            if kind == "pictures":
                by_sync = [times * len(rows) / synced(db, rows * times) for _ in range(ROUNDS)]
                result["by sync/s"], result["by sync, by round"] = sorted(by_sync)[ROUNDS // 2], list(map(round, by_sync))
    report = json.loads(db.execute("SELECT dualpath_debug()").fetchone()[0])
    [carried] = [it for it in report["models"] if it["name"] == "carried"]
    return result | {"report": {it: carried[it] for it in ("image", "text")}, "runtime": report["runtime"]}


def graphs(store, model, device, seconds):
    """Rows a second of the bare graphs, by batch: input and output stay on the device."""
    import onnxruntime

    say(f"onnxruntime {onnxruntime.__version__}, {onnxruntime.get_available_providers()}")
    rates, pixels = {}, given(model)
    # As the extension asks for it.
    options = {"prefer_nhwc": "1", "fuse_conv_bias": "1"} if device == "cuda" else {}
    for kind, rows_of in (("image", lambda n: {"pixels": pixels(n)}), ("text", lambda n: {"tokens": np.ones((n, 16), "i8")})):
        session = onnxruntime.InferenceSession(str(model / f"{kind}.onnx"), providers=[(PROVIDERS[device], options)])
        if session.get_providers()[0] != PROVIDERS[device]:
            raise RuntimeError(f"{PROVIDERS[device]} was passed over")
        each = rates[kind] = {}
        for n in BATCHES if model.name == "half" else (32, 128):
            binding = session.io_binding()
            for name, rows in rows_of(n).items():
                value = onnxruntime.OrtValue.ortvalue_from_numpy(rows, device, 0)
                binding.bind_ortvalue_input(name, value)
            binding.bind_output("embedding", device, 0)
            each[n] = rate(n, lambda: session.run_with_iobinding(binding), seconds)
            say(f"  {kind} {n}: {each[n]:.0f}/s")
            say(json.dumps(rates))
    return rates


def network(file):
    """The graph of a file as PyTorch computes it."""
    import onnx
    import torch
    import torch.nn.functional as F

    graph = onnx.load(str(file)).graph
    take = lambda it: {a.name: onnx.helper.get_attribute_value(a) for a in it.attribute}

    def conv(x, weight, bias, pads, strides, group, kernel_shape):
        top, left, bottom, right = pads
        if (top, left) != (bottom, right):
            x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
        return F.conv2d(x, weight, bias, strides, (top, left), 1, group)

    kinds = {1: torch.float32, 10: torch.float16, 7: torch.int64}
    listed = lambda it: [int(n) for n in it]
    does = {
        "Conv": conv,
        "Clip": lambda x, low, high: torch.clamp(x, float(low), float(high)),
        # Of slope 1, as they are written.
        "HardSigmoid": lambda x, alpha, beta: torch.clamp(x, 0, 1),
        "Relu": F.relu, "Identity": lambda x: x, "Sqrt": torch.sqrt, "Add": torch.add, "Mul": torch.mul, "Sub": torch.sub, "Div": torch.div,
        "Max": torch.maximum, "Greater": torch.gt,
        "Cast": lambda x, to: x.to(kinds[to]),
        "Concat": lambda *x, axis: torch.cat(x, axis),
        "Flatten": lambda x, axis: x.flatten(axis),
        "Gemm": lambda x, weight, bias, transB: F.linear(x, weight, bias),
        "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
        "GlobalMaxPool": lambda x: x.amax((2, 3), keepdim=True),
        "ReduceL2": lambda x, axes, keepdims: torch.linalg.vector_norm(x, dim=axes, keepdim=bool(keepdims)),
        "ReduceLogSumExp": lambda x, axes, keepdims: torch.logsumexp(x, axes, bool(keepdims)),
        "ReduceMax": lambda x, axes, keepdims: x.amax(axes, bool(keepdims)),
        "ReduceSum": lambda x, axes, keepdims: x.sum(listed(axes), bool(keepdims)),
        "Gather": lambda table, at: F.embedding(at, table),
        "Transpose": lambda x, perm: x.permute(perm),
        "Unsqueeze": lambda x, axes: x.unsqueeze(listed(axes)[0]) if len(axes) == 1 else x[(...,) + (None,) * len(axes)] if min(listed(axes)) == x.dim() else x.reshape([x.shape[0], *([1] * len(axes)), *x.shape[1:]]),
    }

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.kept, self.numbers = {}, {}
            # What shapes and bounds are made of stays a number.
            whole = {name for it in graph.node for at, name in enumerate(it.input) if at and it.op_type in ("Clip", "Unsqueeze", "ReduceSum")}
            for at, it in enumerate(graph.initializer):
                numbers = onnx.numpy_helper.to_array(it).copy()
                if it.name in whole:
                    self.numbers[it.name] = numbers.reshape(-1).tolist() if numbers.shape else numbers.item()
                else:
                    self.register_buffer(f"constant_{at}", torch.from_numpy(numbers))
                    self.kept[it.name] = f"constant_{at}"
            self.steps = [(it.op_type, list(it.input), it.output[0], take(it)) for it in graph.node]

        def forward(self, x):
            values = {graph_input: x, **self.numbers, **{name: getattr(self, at) for name, at in self.kept.items()}}
            for kind, inputs, output, attributes in self.steps:
                values[output] = does[kind](*(values[it] for it in inputs), **attributes)
            return values["embedding"]

    graph_input = graph.input[0].name
    return Network().eval()


def pytorch(store, model, device, seconds):
    """The same networks with the same weights in PyTorch: eager, and compiled for one shape."""
    import torch

    say(f"PyTorch {torch.__version__}")
    torch.backends.cudnn.benchmark = True
    rates = {}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for kind, rows in (("image", torch.from_numpy(given(model)(COMPILED))), ("text", torch.ones(COMPILED, 16, dtype=torch.long))):
        net = network(model / f"{kind}.onnx").to(device)
        rows = rows.to(device)
        if kind == "image":
            net = net.to(memory_format=torch.channels_last)
            # Bytes lie so already.
            rows = rows if rows.dtype == torch.uint8 else rows.to(memory_format=torch.channels_last)
        for form in ("eager", "compiled"):
            try:
                way = net if form == "eager" else torch.compile(net, dynamic=False)

                def call():
                    with torch.inference_mode():
                        way(rows)
                    wait()

                rates[f"{kind}, {form}"] = rate(COMPILED, call, seconds)
                say(f"  PyTorch, {kind}, {form}, {COMPILED}: {rates[f'{kind}, {form}']:.0f}/s")
                say(json.dumps(rates))
            except Exception as err:
                say(f"  PyTorch, {kind}, {form}: {type(err).__name__}: {str(err)[:600]}")
    return rates


def rate(rows, call, seconds):
    for _ in range(3):
        call()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        call()
        calls += 1
    return rows * calls / (time.perf_counter() - started)


MEASURED = {it.__name__: it for it in (encode, graphs, pytorch)}


def child(what, store, model, device, seconds, most):
    """What a process of its own measures: all, or what it had before it failed, or nothing for want of time."""
    if most < 5:
        say(f"{what} of {model.name} on {device}: no time left (LIMIT=SECONDS)")
        return {}
    command = [sys.executable, __file__, "--device", device, "--only", what, "--store", store, "--model", model, "--seconds", seconds]
    started = time.perf_counter()
    last = "{}"
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(most, process.kill)
        timer.start()
        for line in process.stdout:
            # What is known so far.
            if line.startswith("{"):
                last = line
            else:
                say(line.rstrip())
        timer.cancel()
    took = time.perf_counter() - started
    if process.returncode:
        say(f"{what} of {model.name} on {device}: failed with {process.returncode} after {took:.0f} s (limit {most})")
    else:
        say(f"({what} of {model.name} on {device}: {took:.1f} s)")
    return json.loads(last)


def compared(name, here, there):
    least = {}
    for kind in ("pictures", "sentences"):
        if kind in here and kind in there:
            cosines = (np.array(here[kind]) * np.array(there[kind])).sum(1)
            least[kind] = float(cosines.min())
            say(f"{name}, {kind}: least cosine to the CPU {least[kind]:.6f} of {len(cosines)}")
    return least


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--store", type=pathlib.Path, required=True)
    parser.add_argument("--only", choices=MEASURED)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--steps", default=" ".join(STEPS))
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    arguments.steps = arguments.steps.split()
    store, device, seconds = arguments.store, arguments.device, arguments.seconds
    if arguments.only:
        say(json.dumps(MEASURED[arguments.only](store, arguments.model, device, seconds)))
        return
    begun = time.perf_counter()
    left = lambda most: min(most, arguments.limit - (time.perf_counter() - begun))
    (store / "pictures.pickle").write_bytes(pickle.dumps(photographs(store)))
    say(f"({PICTURES} photographs: {time.perf_counter() - begun:.1f} s)")
    models = sorted((store / "models").iterdir())
    result = {"device": device}
    first = {} if arguments.steps == ["pytorch"] else child("encode", store, models[0], "cpu", 0, left(40))
    if "models" in arguments.steps:
        for model in models:
            here = first if model == models[0] else child("encode", store, model, "cpu", 0, left(40))
            result[model.name] = of_model(store, model, device, seconds, left, here)
    if "pytorch" in arguments.steps:
        result["pytorch"] = child("pytorch", store, models[0], device, seconds / 2, left(90))
    say(f"({time.perf_counter() - begun:.0f} s in all)")
    say(json.dumps(result))
    least = result.get("half", {}).get("least cosine")
    if least is not None and not (least and min(least.values()) >= COSINE):
        sys.exit(f"benches/gpu.sh: an embedding is further from the CPU's than {COSINE}, or was not computed")


def of_model(store, model, device, seconds, left, here):
    """All that is measured of one model."""
    there = child("encode", store, model, device, seconds, left(120))
    of = {"least cosine": compared(model.name, here, there)}
    for path, report in there.get("report", {}).items():
        say(f"{model.name}, {path} path: {json.dumps(report)}")
    of["bare"] = bare = child("graphs", store, model, device, seconds / 2, left(120))
    for kind, path in (("pictures", "image"), ("sentences", "text")):
        whole = there.get(f"{kind}/s")
        if not whole:
            continue
        of[kind], of[f"{kind}, commit"] = whole, there[f"{kind}, commit"]
        rounds = ", ".join(map(str, there[f"{kind}, by round"]))
        say(f"{model.name}, {kind} through INSERT: {whole:.0f}/s (COMMIT {there[f'{kind}, commit']:.2f} s of it; by round {rounds})")
        best = max(bare.get(path, {}).values(), default=0)
        is_other = there["report"][path]["precision"] == "float16"
        if best and is_other:
            say(f"  computed in float16; the graph as it is written, {best:.0f}/s")
        elif best:
            of[f"share, {kind}"] = whole / best
            say(f"  of the bare graph's best, {best:.0f}/s: {100 * whole / best:.0f} %; the device waits {100 * max(0, 1 - whole / best):.0f} % of the time")
        if kind == "pictures":
            of["by sync"] = by_sync = there["by sync/s"]
            share = f", {100 * by_sync / best:.0f} % of the bare graph's best" if best and not is_other else ""
            say(f"{model.name}, {kind} through dualpath_sync: {by_sync:.0f}/s (by round {', '.join(map(str, there['by sync, by round']))}){share}")
    return of


main()
