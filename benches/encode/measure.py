"""One photograph and one sentence at a time: `embed_image` and `embed_text` beside the bare graphs.

Each side runs in a process of its own, by turns; medians of each round, then of the rounds.
Pictures use all cores on both sides, sentences one core (the process is bound to it).
"""

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np

ROUNDS = 5
RUNS = 60
PHOTO = "demo/photos/china.jpg"
SIZES = {"224 x 224": (224, 224), "640 x 427": (640, 427), "4000 x 2669": (4000, 2669)}


def photo(size):
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(PHOTO).convert("RGB").resize(size, Image.Resampling.LANCZOS).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def sentences():
    """All different: the extension remembers the last ones."""
    who, what, where = ["a dog", "two men", "a child"], ["runs", "jumps", "sits", "plays"], "snow grass water sand".split()
    return [f"{a} {b} in the {c} number {n}" for n in range(100) for a in who for b in what for c in where]


def timed(work, runs):
    for _ in range(5):
        work()
    wall, cpu = [], []
    for _ in range(runs):
        started = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
    return {"ms": float(np.median(wall)) * 1e3, "cpu_ms": float(np.median(cpu)) * 1e3}


def bare(kind):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(f"models/default/{kind}.onnx", options)
    if kind == "image":
        given = {"pixels": np.random.default_rng(1).standard_normal((1, 3, 224, 224), dtype="f4")}
    else:
        given = {"tokens": np.array([[*range(2, 14), *[0] * 20]], dtype="i8")}
    return timed(lambda: session.run(None, given), RUNS)


def ours(kind, size, library):
    import apsw

    connection = apsw.Connection(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(library)
    if kind == "image":
        bytes_ = photo(SIZES[size])
        runs = RUNS if size != "4000 x 2669" else 10
        return timed(lambda: connection.execute("SELECT embed_image(?1)", (bytes_,)).fetchall(), runs)
    supply = iter(sentences())
    return timed(lambda: connection.execute("SELECT embed_text(?1)", (next(supply),)).fetchall(), RUNS)


def child(arguments, side, kind, size=""):
    command = [sys.executable, __file__, "--library", arguments.library]
    command += ["--side", side, "--kind", kind, "--size", size]
    if kind == "text":
        command = ["taskset", "-c", "0", *command]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def machine():
    model = next((it.split(":")[1].strip() for it in open("/proc/cpuinfo") if "model name" in it), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--side", choices=["bare", "ours"])
    parser.add_argument("--kind")
    parser.add_argument("--size")
    arguments = parser.parse_args()
    arguments.library = os.path.abspath(arguments.library)
    if arguments.side:
        side = bare(arguments.kind) if arguments.side == "bare" else ours(arguments.kind, arguments.size, arguments.library)
        print(json.dumps(side))
        return
    lines = {"image.onnx alone": ("bare", "image", "")}
    lines |= {f"embed_image, JPEG {size}": ("ours", "image", size) for size in SIZES}
    lines |= {"text.onnx alone, one core": ("bare", "text", ""), "embed_text, one core": ("ours", "text", "")}
    rounds = {name: [] for name in lines}
    for _ in range(ROUNDS):
        for name, line in lines.items():
            rounds[name].append(child(arguments, *line))
    print(f"one at a time, median of {ROUNDS} rounds of {RUNS}; {machine()}")
    print(f"{'':28}{'ms':>10}{'cpu ms':>10}{'x alone':>10}{'x cpu':>10}")
    measured, alone = {}, None
    for name in lines:
        measured[name] = {key: float(np.median([it[key] for it in rounds[name]])) for key in ("ms", "cpu_ms")}
        alone = measured[name] if "alone" in name else alone
        ratios = "".join(f"{measured[name][key] / alone[key]:10.2f}" for key in ("ms", "cpu_ms"))
        print(f"{name:28}{measured[name]['ms']:10.2f}{measured[name]['cpu_ms']:10.2f}{ratios}")
    print(json.dumps({"machine": machine(), "measured": measured}))


main()
