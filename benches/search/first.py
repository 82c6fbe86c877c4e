"""What the first query of a process takes: processes of dualpath and of its peers by turns, on files that lie in memory and on files that do not.

A process connects, loads the extension, asks for the nearest rows of one query, and asks again. The medians of all processes are printed,
in milliseconds; of files that are not in memory, what connecting and the first query take together.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

import measure
from measure import K, connect, machine, prepared
from peers import PEERS

# The setting of each peer that is asked with: those that find 0.95 or a little less of both sizes.
SETTINGS = {"dualpath": "recall 0.95", "vec1 ivf": "nprobe 8, K 100"}
PARTS = ("connected", "first", "second", "third")


def ask(peer, arguments):
    query = np.load(arguments.data + "/queries.npy")[arguments.query].tobytes()
    sql = peer["ask"][SETTINGS[arguments.child]].format(k=K)
    moments = [time.perf_counter()]
    connection = connect(peer, arguments.database)
    moments.append(time.perf_counter())
    for _ in PARTS[1:]:
        connection.execute(sql, (query,)).fetchall()
        moments.append(time.perf_counter())
    print(json.dumps(np.diff(np.array(moments)).tolist()))


def asked(name, database, query, arguments):
    """How long each part took in a process of its own, in milliseconds."""
    command = [sys.executable, __file__, "--child", name, "--database", database, "--query", str(query)]
    command += ["--extension", arguments.extension, "--data", arguments.data]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{name}: {run.stderr}")
    return np.array(json.loads(run.stdout)) * 1e3


def forget(file):
    """Lets the system drop what it keeps of a file in memory."""
    with open(file, "rb+") as it:
        os.fsync(it.fileno())
        os.posix_fadvise(it.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", choices=["first"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=20, help="processes of each peer on a file in memory; a fourth as many on one that is not")
    parser.add_argument("--extension", required=True)
    parser.add_argument("--cache")
    parser.add_argument("--child", choices=SETTINGS)
    parser.add_argument("--database")
    parser.add_argument("--query", type=int)
    parser.add_argument("--data")
    arguments = parser.parse_args()
    arguments.extension = os.path.abspath(arguments.extension)
    if arguments.child:
        ask(PEERS[arguments.child](arguments.extension), arguments)
        return
    arguments.sentences = arguments.metric = None
    arguments.data = prepared(arguments)
    print(f"{arguments.rows:,} x {arguments.dimension}, first queries of processes, ms; {machine()}")
    with tempfile.TemporaryDirectory() as folder:
        databases = {name: os.path.join(folder, f"{at}.db") for at, name in enumerate(SETTINGS)}
        for name, database in databases.items():
            measure.child(arguments, "build", name, database, arguments.data)
        warm, cold = ({name: [] for name in SETTINGS} for _ in range(2))
        for at in range(arguments.rounds):
            for name, database in databases.items():
                warm[name].append(asked(name, database, at, arguments))
        for at in range(max(1, arguments.rounds // 4)):
            for name, database in databases.items():
                forget(database)
                cold[name].append(asked(name, database, at, arguments)[:2].sum())
        for name in SETTINGS:
            parts = zip(PARTS, np.median(warm[name], axis=0))
            said = ", ".join(f"{part} {took:.2f}" for part, took in parts)
            whole = np.median([it[:2].sum() for it in warm[name]])
            print(f"  {name:9} {said}; connected and first {whole:.2f}, of a file not in memory {np.median(cold[name]):.0f}")


if __name__ == "__main__":
    main()
