"""One photograph and one sentence at a time: `embed_image` and `embed_text` beside the bare graphs.

Both sides take turns call by call in one process, so that a slower moment of the machine meets both;
each round is a new process, bound to all cores or to one. Medians of each round, then of the rounds.
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
PHOTO = "demo/photos/china.jpg"
SIZES = {"JPEG 224 x 224": (224, 224), "JPEG 640 x 427": (640, 427), "JPEG 4000 x 2669": (4000, 2669)}
TEXT = "sentence"


def photo(size):
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(PHOTO).convert("RGB").resize(size, Image.Resampling.LANCZOS).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def sentences():
    """All different: the extension remembers the last ones."""
    who, what, where = ["a dog", "two men", "a child"], ["runs", "jumps", "sits", "plays"], "snow grass water sand".split()
    return [f"{a} {b} in the {c} number {n}" for n in range(100) for a in who for b in what for c in where]


def graph(kind):
    """The bare graph with the extension's options: a call of it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(f"models/default/{kind}.onnx", options)
    if kind == "image":
        side = json.load(open("models/default/dualpath.json"))["image"]["size"]
        given = {"pixels": np.random.default_rng(1).standard_normal((1, 3, side, side), dtype="f4")}
    else:
        # As many words as the sentences above have: the extension cuts padding off.
        given = {"tokens": np.array([[*range(2, 10)]], dtype="i8")}
    return lambda: session.run(None, given)


def function(line, library):
    """The SQL function on its input: a call of it."""
    import apsw

    connection = apsw.Connection(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(library)
    if line == TEXT:
        supply = iter(sentences())
        return lambda: connection.execute("SELECT embed_text(?1)", (next(supply),)).fetchall()
    bytes_ = photo(SIZES[line])
    return lambda: connection.execute("SELECT embed_image(?1)", (bytes_,)).fetchall()


def by_turns(line, library):
    sides = [graph("text" if line == TEXT else "image"), function(line, library)]
    wall, cpu = ([], []), ([], [])
    for turn in range(5 + (20 if line == "JPEG 4000 x 2669" else 150)):
        for side, call in enumerate(sides):
            started = time.perf_counter(), time.process_time()
            call()
            if 5 <= turn:
                wall[side].append((time.perf_counter() - started[0]) * 1e3)
                cpu[side].append((time.process_time() - started[1]) * 1e3)
    medians = [float(np.median(it)) for it in (*wall, *cpu)]
    return dict(zip(("alone_ms", "ms", "alone_cpu_ms", "cpu_ms"), medians))


def child(arguments, line, cores):
    command = [sys.executable, __file__, "--extension", arguments.extension, "--line", line]
    command = ["taskset", "-c", cores, *command]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def machine():
    model = next((it.split(":")[1].strip() for it in open("/proc/cpuinfo") if "model name" in it), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--extension", required=True)
    parser.add_argument("--line")
    arguments = parser.parse_args()
    arguments.extension = os.path.abspath(arguments.extension)
    if arguments.line:
        print(json.dumps(by_turns(arguments.line, arguments.extension)))
        return
    bindings = {"all cores": f"0-{os.cpu_count() - 1}", "one core": "0"}
    lines = [(line, cores) for cores in bindings for line in (*SIZES, TEXT)]
    rounds = {it: [] for it in lines}
    for _ in range(ROUNDS):
        for line, cores in lines:
            rounds[line, cores].append(child(arguments, line, bindings[cores]))
    print(f"one at a time, by turns, median of {ROUNDS} rounds; {machine()}")
    print(f"{'':30}{'graph ms':>10}{'SQL ms':>10}{'ratio':>10}{'CPU ratio':>10}")
    measured = {}
    for (line, cores), each in rounds.items():
        here = {key: float(np.median([it[key] for it in each])) for key in each[0]}
        # The ratio of each round first: rounds differ more than their sides do.
        for ratio, top, bottom in (("ratio", "ms", "alone_ms"), ("cpu_ratio", "cpu_ms", "alone_cpu_ms")):
            here[ratio] = float(np.median([it[top] / it[bottom] for it in each]))
        measured[f"{line}, {cores}"] = here
        shown = (here["alone_ms"], here["ms"], here["ratio"], here["cpu_ratio"])
        print(f"{line + ', ' + cores:30}" + "".join(f"{it:10.2f}" for it in shown))
    print(json.dumps({"machine": machine(), "measured": measured}))


main()
