"""Builds and queries each table in a process of its own, by turns, and prints what each took.

CPU time is the process's own, user and system; "private" is memory beyond the page cache (RssAnon),
above what the same process held before it opened the database.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
import apsw
import numpy as np

K = 10
QUERIES = 40
ROUNDS = 3

PEERS = {
    "sqlite-vec 0.1.9": {
        "create": "CREATE VIRTUAL TABLE t USING vec0(embedding float[{dimension}] distance_metric=cosine)",
        "insert": "INSERT INTO t(rowid, embedding) VALUES (?1, ?2)",
        "search": "SELECT rowid FROM t WHERE embedding MATCH ?1 AND k = ?2",
    },
    "dualpath": {
        "create": "CREATE VIRTUAL TABLE t USING dualpath(dimensions = {dimension})",
        "insert": "INSERT INTO t(rowid, embedding) VALUES (?1, ?2)",
        "search": "SELECT rowid FROM t WHERE embedding MATCH ?1 ORDER BY distance LIMIT ?2",
    },
}


def vectors(rows, dimension, seed):
    """Unit vectors in 1,000 clusters with a decaying spectrum, as embeddings of photographs have."""
    random = np.random.default_rng(seed)
    spread = np.sqrt(1 / np.arange(1, dimension + 1)).astype("f4")
    centres = np.random.default_rng(0).standard_normal((1000, dimension), dtype="f4") * spread
    for start in range(0, rows, 10_000):
        count = min(10_000, rows - start)
        own = centres[random.integers(0, len(centres), count)]
        block = own + 0.8 * random.standard_normal((count, dimension), dtype="f4") * spread
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def connect(arguments, peer):
    connection = apsw.Connection(arguments.database)
    connection.enable_load_extension(True)
    if peer == "dualpath":
        connection.load_extension(arguments.library)
    else:
        import sqlite_vec

        connection.load_extension(sqlite_vec.loadable_path())
    return connection


def private():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def build(arguments, peer):
    connection = connect(arguments, peer)
    spec = PEERS[peer]
    connection.execute(spec["create"].format(dimension=arguments.dimension))
    cpu = wall = 0.0
    connection.execute("BEGIN")
    start = 1
    for block in vectors(arguments.rows, arguments.dimension, 1):
        rows = [(start + at, row.tobytes()) for at, row in enumerate(block)]
        started = time.process_time(), time.perf_counter()
        connection.executemany(spec["insert"], rows)
        cpu, wall = cpu + time.process_time() - started[0], wall + time.perf_counter() - started[1]
        start += len(rows)
    started = time.process_time(), time.perf_counter()
    connection.execute("COMMIT")
    cpu, wall = cpu + time.process_time() - started[0], wall + time.perf_counter() - started[1]
    connection.close()
    return {"insert_cpu_s": cpu, "insert_s": wall, "file_mb": os.path.getsize(arguments.database) / 1e6}


def query(arguments, peer):
    questions = [row.tobytes() for row in next(vectors(QUERIES, arguments.dimension, 2))]
    before = private()
    started = time.perf_counter()
    connection = connect(arguments, peer)
    ask = PEERS[peer]["search"]
    answers = [[row[0] for row in connection.execute(ask, (questions[0], K))]]
    first = time.perf_counter() - started
    cpu, wall = [], []
    for question in questions[1:]:
        started = time.process_time(), time.perf_counter()
        answers.append([row[0] for row in connection.execute(ask, (question, K))])
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    return {
        "first_ms": first * 1e3,
        "cpu_ms": float(np.median(cpu)) * 1e3,
        "p50_ms": float(np.median(wall)) * 1e3,
        "p95_ms": float(np.percentile(wall, 95)) * 1e3,
        "private_mb": private() - before,
        "answers": answers,
    }


def child(arguments, phase, peer, database):
    command = [sys.executable, __file__, "--phase", phase, "--peer", peer, "--database", database]
    command += ["--library", arguments.library, "--rows", str(arguments.rows)]
    command += ["--dimension", str(arguments.dimension)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def machine():
    model = next((it.split(":")[1].strip() for it in open("/proc/cpuinfo") if "model name" in it), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--library", required=True)
    parser.add_argument("--phase", choices=["build", "query"])
    parser.add_argument("--peer")
    parser.add_argument("--database")
    arguments = parser.parse_args()
    arguments.library = os.path.abspath(arguments.library)
    if arguments.phase:
        phase = build if arguments.phase == "build" else query
        print(json.dumps(phase(arguments, arguments.peer)))
        return
    with tempfile.TemporaryDirectory() as folder:
        database = {peer: os.path.join(folder, f"{at}.db") for at, peer in enumerate(PEERS)}
        measured = {peer: child(arguments, "build", peer, database[peer]) for peer in PEERS}
        rounds = {peer: [] for peer in PEERS}
        for _ in range(ROUNDS):
            for peer in PEERS:
                rounds[peer].append(child(arguments, "query", peer, database[peer]))
    answers = {peer: rounds[peer][0].pop("answers") for peer in PEERS}
    for peer in PEERS:
        measured[peer] |= {
            key: float(np.median([it[key] for it in rounds[peer]])) for key in rounds[peer][0]
        }
    print(f"{arguments.rows:,} x {arguments.dimension}, top {K}, one thread, warm file; {machine()}")
    keys = list(measured["dualpath"])
    print(f"{'':18}" + "".join(f"{key:>14}" for key in keys))
    for peer in PEERS:
        print(f"{peer:18}" + "".join(f"{measured[peer][key]:14.2f}" for key in keys))
    ours, theirs = measured["dualpath"], measured["sqlite-vec 0.1.9"]
    print(f"{'ratio':18}" + "".join(f"{ours[key] / theirs[key]:14.3f}" for key in keys))
    same = sum(a == b for a, b in zip(answers["dualpath"], answers["sqlite-vec 0.1.9"]))
    print(f"same answers in the same order: {same} of {QUERIES} queries")
    print(json.dumps({"rows": arguments.rows, "dimension": arguments.dimension, "machine": machine(), "measured": measured}))


main()
