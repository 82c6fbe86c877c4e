"""Runs `train fit` and its PyTorch twin by turns and prints steps a second and peak memory."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading

ROUNDS = int(os.environ.get("ROUNDS", 3))
DEVICE = os.environ.get("DEVICE", "cpu")
PRECISION = os.environ.get("PRECISION", "full")
# A GPU is through with few pictures before it has begun.
PICTURES, BATCH = (6000, 128) if DEVICE == "cuda" else (256, 32)
RUN = "training/runs/dualpath-flickr8k.toml"

train, data, python = sys.argv[1:]
here = pathlib.Path(__file__).parent


def held(process):
    """What a process and those it started hold now, in MB; what several hold counts once."""
    total, waiting = 0, [process]
    while waiting:
        at = pathlib.Path("/proc") / str(waiting.pop())
        try:
            waiting += [child for task in (at / "task").iterdir() for child in (task / "children").read_text().split()]
            total += int((at / "smaps_rollup").read_text().split("Pss:")[1].split()[0])
        except (FileNotFoundError, ProcessLookupError, IndexError):
            pass
    return total / 1024


def on_device():
    """MB that are taken on the GPU."""
    if DEVICE != "cuda":
        return 0
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.split()[0])


def measured(command):
    """The command's output, and the most memory it held, here and on the GPU, in MB."""
    before, most, device, ended = on_device(), 0, 0, threading.Event()
    said = tempfile.TemporaryFile()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)

    def watch():
        nonlocal most, device
        while not ended.wait(0.3):
            most, device = max(most, held(process.pid)), max(device, on_device() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.stdout.read()
    ended.set()
    watcher.join()
    if process.wait():
        said.seek(0)
        sys.exit(f"{command[0]} failed: {said.read().decode(errors='replace')[-2000:]}")
    return output.decode(), most, device


def ours(folder):
    changes = {
        "name": "speed",
        "data.held_out": f"[0,{6000 - PICTURES}]",
        "augment.sentences": 1,
        "stage.0.weights": "{ranking=1.0,image=0.25,text=0.25}",
        "stage.0.train_from": "stem",
        "stage.0.cache": "false",
        "stage.0.batch": BATCH,
        "stage.0.epochs": 3,
        "stage.0.rate": 1e-4,
        "stage.0.precision": PRECISION,
    }
    place = [RUN, "--data", data, "--out", folder]
    for key, value in changes.items():
        place += ["--set", f"{key}={value}"]
    measured([train, "prepare", *place])
    _, *memory = measured([train, "fit", *place, "--device", DEVICE])
    log = [json.loads(line) for line in (pathlib.Path(folder) / "speed/log.jsonl").read_text().splitlines()]
    # The first epoch pays for what is set up once.
    steps = PICTURES // BATCH
    return statistics.median(steps / it["training"] for it in log[1:]), *memory, log[-1]["waited"]


def theirs(folder):
    pictures = pathlib.Path(folder) / "speed/pictures.json"
    tokenizer = pathlib.Path(folder) / "speed/tokenizer.json"
    output, *memory = measured([python, here / "twin.py", data, pictures, tokenizer, str(BATCH), DEVICE, PRECISION])
    return float(output.split()[-1]), *memory


rows = []
for _ in range(ROUNDS):
    with tempfile.TemporaryDirectory() as folder:
        rows.append((*ours(folder), *theirs(folder)))
    print(*(f"{it:.3f}" for it in rows[-1]), file=sys.stderr)
steps, memory, device, waited, twin_steps, twin_memory, twin_device = (statistics.median(it) for it in zip(*rows))
shown = lambda here, there: f"{here:.0f}" + (f" + {there:.0f}" if DEVICE == "cuda" else "")
print(f"MobileNetV2 and text path, all moving, {BATCH} pictures of 224 pixels a step, {PICTURES} pictures, {os.cpu_count()} cores, {DEVICE}, {PRECISION} precision")
print(f"| | steps/s | pictures/s | peak memory{' + on the GPU' if DEVICE == 'cuda' else ''}, MB | waited for data |")
print("| --- | --- | --- | --- | --- |")
print(f"| PyTorch 2.11 | {twin_steps:.3f} | {BATCH * twin_steps:.1f} | {shown(twin_memory, twin_device)} | |")
print(f"| train fit | {steps:.3f} | {BATCH * steps:.1f} | {shown(memory, device)} | {100 * waited:.1f} % |")
ratio = f"{memory / twin_memory:.2f}" + (f" + {device / twin_device:.2f}" if twin_device else "")
print(f"| ratio | {steps / twin_steps:.2f} | | {ratio} | |")
