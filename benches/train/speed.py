"""Runs `train fit` and its PyTorch twin by turns and prints steps a second and peak memory."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROUNDS = int(os.environ.get("ROUNDS", 3))
DEVICE = os.environ.get("DEVICE", "cpu")
# A GPU is through with few pictures before it has begun.
PICTURES, BATCH = (6000, 128) if DEVICE == "cuda" else (256, 32)
RUN = "training/runs/dualpath-flickr8k.toml"

train, data, python = sys.argv[1:]
here = pathlib.Path(__file__).parent


def measured(command):
    """The command's output and the most memory it held, in MB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed")
    return output.decode(), usage.ru_maxrss / 1024


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
    }
    place = [RUN, "--data", data, "--out", folder]
    for key, value in changes.items():
        place += ["--set", f"{key}={value}"]
    subprocess.run([train, "prepare", *place], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, memory = measured([train, "fit", *place, "--device", DEVICE])
    log = [json.loads(line) for line in (pathlib.Path(folder) / "speed/log.jsonl").read_text().splitlines()]
    # The first epoch pays for what is set up once.
    steps = PICTURES // BATCH
    return statistics.median(steps / it["training"] for it in log[1:]), memory, log[-1]["waited"]


def theirs(folder):
    pictures = pathlib.Path(folder) / "speed/pictures.json"
    tokenizer = pathlib.Path(folder) / "speed/tokenizer.json"
    output, memory = measured([python, here / "twin.py", data, pictures, tokenizer, str(BATCH), DEVICE])
    return float(output.split()[-1]), memory


rows = []
for _ in range(ROUNDS):
    with tempfile.TemporaryDirectory() as folder:
        rows.append((*ours(folder), *theirs(folder)))
    print(*(f"{it:.3f}" for it in rows[-1]), file=sys.stderr)
steps, memory, waited, twin_steps, twin_memory = (statistics.median(it) for it in zip(*rows))
print(f"MobileNetV2 and text path, all moving, {BATCH} pictures of 224 pixels a step, {PICTURES} pictures, {os.cpu_count()} cores, {DEVICE}")
print("| | steps/s | pictures/s | peak memory, MB | waited for data |")
print("| --- | --- | --- | --- | --- |")
print(f"| PyTorch 2.11 | {twin_steps:.3f} | {BATCH * twin_steps:.1f} | {twin_memory:.0f} | |")
print(f"| train fit | {steps:.3f} | {BATCH * steps:.1f} | {memory:.0f} | {100 * waited:.1f} % |")
print(f"| ratio | {steps / twin_steps:.2f} | | {memory / twin_memory:.2f} | |")
