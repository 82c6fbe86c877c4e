"""Builds and queries each peer in processes of its own and prints what each took.

CPU time is the process's own, user and system; "private" is memory beyond the page cache (RssAnon),
above what the same process held before it opened the database. All distances are of unit vectors, so
L2 and cosine order them alike, but where a metric is named: those vectors have any length.

Each setting is asked all queries once, when it reads what it has not read before, and then again for two seconds, at least once:
what a query takes is the least of these times, as other guests of a machine slow it down by turns. What the first took is printed
behind it. In the end the cheapest settings of all are asked in one process, by turns: ratios are to be taken from these. Whoever
takes far longer than the others is not among them, as it reads what fills their caches.
"""

import argparse
import glob
import hashlib
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
import apsw
import numpy as np

from peers import PEERS, SLOW, lists

K = 10
QUERIES = 200
BLOCK = 10_000
SECONDS = 20
AGAIN_SECONDS = 2
TURNS_SECONDS = 10
AT_A_TURN = 50
FAR = 15


def draw(count, dimension, random, shape):
    centres, rotation, mean, weights, spread = shape
    own = centres[random.choice(len(centres), count, p=weights)]
    rows = (own + 0.8 * random.standard_normal((count, dimension), dtype="f4") * spread) @ rotation + mean
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def synthetic(rows, dimension, seed=1):
    """Unit vectors in 1,000 clusters with a decaying spectrum and a common offset, as embeddings have."""
    random = np.random.default_rng(seed)
    spread = np.sqrt((1 / np.arange(1, dimension + 1)) / np.sum(1 / np.arange(1, dimension + 1))).astype("f4")
    rotation = np.linalg.qr(random.standard_normal((dimension, dimension)))[0].astype("f4")
    centres = random.standard_normal((1000, dimension), dtype="f4") * spread
    mean = random.standard_normal(dimension, dtype="f4")
    weights = np.exp(0.7 * random.standard_normal(1000))
    shape = centres, rotation, 0.5 * mean / np.linalg.norm(mean), weights / weights.sum(), spread
    everything = [draw(min(BLOCK, rows - start), dimension, random, shape) for start in range(0, rows, BLOCK)]
    return np.concatenate(everything), draw(QUERIES, dimension, random, shape)


def stretched(rows, queries, metric):
    """The same with lengths of their own, which vary by a factor of two and more; about another point, where that is
    allowed to matter."""
    random = np.random.default_rng(7)
    lengths = lambda it: np.exp(random.normal(0, 0.5, (len(it), 1))).astype("f4")
    rows, queries = rows * lengths(rows), queries * lengths(queries)
    away = random.normal(0, 0.3, rows.shape[1]).astype("f4") if metric == "l2" else 0
    return rows + away, queries + away


def sentences(data, library):
    """Flickr8k's sentences as rows and photographs as queries, through the built-in model."""
    connection = apsw.Connection("")
    connection.enable_load_extension(True)
    connection.load_extension(library)
    runtime = glob.glob(sysconfig.get_paths()["purelib"] + "/onnxruntime/capi/libonnxruntime.so*")[0]
    connection.execute("SELECT dualpath_runtime(?1)", (runtime,))
    described = json.load(open(f"{data}/flickr8k/dataset_flickr8k.json"))["images"]
    texts = [it["raw"] for image in described for it in image["sentences"]]
    encode = lambda sql, it: np.frombuffer(next(connection.execute(sql, (it,)))[0], "f4")
    rows = np.stack([encode("SELECT embed_text(?1)", it) for it in texts])
    with tarfile.open(f"{data}/flickr8k/val.tar") as tar:
        files = [tar.extractfile(it).read() for it in tar if it.isfile()][:QUERIES]
    return rows, np.stack([encode("SELECT embed_image(?1)", it) for it in files])


def prepared(arguments):
    """The folder of rows, queries and exact answers, made once."""
    name = f"{arguments.rows}x{arguments.dimension}"
    if arguments.sentences:
        # Another model's are other rows.
        with open(os.path.join(os.path.dirname(__file__), "../../models/default/dualpath.json"), "rb") as manifest:
            name = f"sentences-{hashlib.sha256(manifest.read()).hexdigest()[:8]}"
    if arguments.metric:
        name += f"-{arguments.metric}"
    folder = os.path.join(arguments.cache, "data", name)
    if not os.path.exists(folder + "/truth.npy"):
        os.makedirs(folder, exist_ok=True)
        if arguments.sentences:
            rows, queries = sentences(arguments.sentences, arguments.extension)
        else:
            rows, queries = synthetic(arguments.rows, arguments.dimension)
        if arguments.metric:
            rows, queries = stretched(rows, queries, arguments.metric)
        np.save(folder + "/rows.npy", rows)
        np.save(folder + "/queries.npy", queries)
        np.save(folder + "/truth.npy", exact(rows, queries, arguments.metric))
    return folder


def exact(rows, queries, metric=None):
    """The numbers of the nearest rows, from 1 on."""
    near, best = np.empty((len(queries), 0), "f4"), np.empty((len(queries), 0), "i8")
    for start in range(0, len(rows), BLOCK):
        block = queries @ rows[start : start + BLOCK].T
        if metric == "l2":
            these = rows[start : start + BLOCK].astype("f8")
            block = 2 * queries.astype("f8") @ these.T - (these**2).sum(1)
        near = np.concatenate([near, block], 1)
        numbers = np.arange(start + 1, start + 1 + block.shape[1])
        best = np.concatenate([best, np.broadcast_to(numbers, block.shape)], 1)
        order = np.argsort(-near, axis=1, kind="stable")[:, :K]
        near, best = np.take_along_axis(near, order, 1), np.take_along_axis(best, order, 1)
    return best


def blocks(folder):
    rows = np.load(folder + "/rows.npy", mmap_mode="r")
    for start in range(0, len(rows), BLOCK):
        yield np.array(rows[start : start + BLOCK])


def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0


def connect(peer, database):
    connection = apsw.Connection(database)
    connection.enable_load_extension(True)
    connection.load_extension(peer["extension"])
    for it in peer.get("pragmas", []):
        connection.execute(it)
    return connection


def clock():
    return np.array([time.process_time(), time.perf_counter()])


def build(peer, arguments):
    shape = np.load(arguments.data + "/rows.npy", mmap_mode="r").shape
    words = {"rows": shape[0], "dimension": shape[1], "lists": lists(shape[0]), "database": arguments.database}
    took = np.zeros(2)
    if isinstance(peer, dict):
        connection = connect(peer, arguments.database)
        for it in peer["create"]:
            connection.execute(it.format(**words))
        connection.execute("BEGIN")
        start = 1
        for block in blocks(arguments.data):
            rows = [(start + at, row.tobytes()) for at, row in enumerate(block)]
            started = clock()
            connection.executemany(peer["insert"], rows)
            took += clock() - started
            start += len(rows)
        started = clock()
        connection.execute("COMMIT")
        for it in peer.get("finish", []):
            connection.execute(it.format(**words))
        took += clock() - started
        connection.close()
    else:
        started = clock()
        peer.build(blocks(arguments.data), *shape, arguments.database)
        took += clock() - started
    files = [it for it in os.listdir(os.path.dirname(arguments.database))]
    base = os.path.basename(arguments.database)
    size = sum(os.path.getsize(os.path.join(os.path.dirname(arguments.database), it)) for it in files if it.startswith(base))
    return {"build_cpu_s": took[0], "build_s": took[1], "file": size / (4 * shape[0] * shape[1]), "peak_mb": status("VmHWM")}


def asked_once(search, queries, truth):
    """CPU and wall milliseconds of each query, as many as there is time for, and their recall."""
    took, found = [], 0
    begun = time.perf_counter()
    for it, right in zip(queries, truth):
        started = clock()
        answer = search(it, K)
        took.append((clock() - started) * 1e3)
        found += len(set(int(one) for one in answer) & set(right.tolist()))
        if SECONDS < time.perf_counter() - begun and 20 < len(took):
            break
    return np.array(took), found / K / len(took)


def asked_again(search, queries, truth):
    """The same, of each query the least of several times."""
    begun = time.perf_counter()
    took, recall = asked_once(search, queries, truth)
    while time.perf_counter() - begun < AGAIN_SECONDS:
        took = np.minimum(took, asked_once(search, queries, truth)[0])
    return took, recall


def opened(peer, database, dimension):
    """The settings of a peer, each a function of a query and how many rows it asks for."""
    if not isinstance(peer, dict):
        peer.open(database, dimension)
        return peer.ask()
    connection = connect(peer, database)

    def asked(sql):
        return lambda query, k: [it[0] for it in connection.execute(sql, (query.tobytes(), k)[: sql.count("?2") + 1])]

    return {key: asked(it.format(k=K) if "{" in it else it) for key, it in peer["ask"].items()}


def turns(arguments):
    """CPU milliseconds of a query for each of some settings of some peers, asked by turns: medians of each query's least."""
    queries = np.load(arguments.data + "/queries.npy")
    peers, searches = {}, []
    for name, database, setting in arguments.turns:
        if name not in peers:
            peers[name] = opened(PEERS[name](arguments.extension), database, queries.shape[1])
        searches.append(peers[name][setting])
    least = np.full((len(searches), len(queries)), np.inf)
    begun, rounds = time.perf_counter(), 0
    while rounds < 2 or time.perf_counter() - begun < TURNS_SECONDS:
        for start in range(0, len(queries), AT_A_TURN):
            for search, least_of in zip(searches, least):
                for at in range(start, min(start + AT_A_TURN, len(queries))):
                    started = time.process_time()
                    search(queries[at], K)
                    least_of[at] = min(least_of[at], time.process_time() - started)
        rounds += 1
    return (np.median(least, axis=1) * 1e3).tolist()


def query(peer, arguments):
    queries = np.load(arguments.data + "/queries.npy")
    truth = np.load(arguments.data + "/truth.npy")
    rows = np.load(arguments.data + "/rows.npy", mmap_mode="r")
    warming = np.array(rows[:: max(1, len(rows) // 500)])
    before = status("RssAnon")
    started = time.perf_counter()
    settings = opened(peer, arguments.database, queries.shape[1])
    outcomes, first = [], None
    for name, search in settings.items():
        if first is None:
            search(queries[-1], K)
            first = (time.perf_counter() - started) * 1e3
            # Everyone's pages, codes and mappings are warm before the first setting is measured.
            begun = time.perf_counter()
            for it in warming:
                search(it, K)
                if SECONDS / 4 < time.perf_counter() - begun:
                    break
        unread, _ = asked_once(search, queries, truth)
        took, recall = asked_again(search, queries[: len(unread)], truth)
        cpu, wall = took.T
        outcomes.append({
            "setting": name, "recall": recall, "cpu_ms": float(np.median(cpu)), "before_ms": float(np.median(unread[:, 0])),
            "p50_ms": float(np.median(wall)), "p95_ms": float(np.percentile(wall, 95)),
        })
    return {"first_ms": first, "private_mb": status("RssAnon") - before, "outcomes": outcomes}


def child(arguments, data, phase, *more):
    command = [sys.executable, __file__, "--phase", phase, *more]
    command += ["--extension", arguments.extension, "--data", data, "--cache", arguments.cache]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(more)}: {run.stderr}")
    return json.loads(run.stdout)


def machine():
    model = next((it.split(":")[1].strip() for it in open("/proc/cpuinfo") if "model name" in it), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def best(measured, recall):
    """The cheapest setting of each peer that reaches a recall."""
    for name, it in measured.items():
        reached = [one for one in it["outcomes"] if recall <= one["recall"]]
        if reached:
            yield name, min(reached, key=lambda one: one["cpu_ms"])


def compared(arguments, data, measured, databases):
    """Prints the cheapest settings that reach a recall; those that are not far dearer than the cheapest are asked by turns."""
    for recall in (0.95, 0.99, 1.0):
        level = dict(best(measured, recall))
        least = min(it["cpu_ms"] for it in level.values())
        near = {name: it for name, it in level.items() if it["cpu_ms"] <= FAR * least}
        chosen = [(name, databases[name], it["setting"]) for name, it in near.items()]
        for it, ms in zip(near.values(), child(arguments, data, "turns", "--turns", json.dumps(chosen))):
            it["cpu_ms"] = ms
        print(f"\nrecall {recall} and more, cheapest setting, by turns")
        for name, it in sorted(level.items(), key=lambda it: it[1]["cpu_ms"]):
            how = "" if name in near else ", measured alone"
            print(f"  {name:16} {it['setting']:24} {it['cpu_ms']:8.3f} ms CPU, recall {it['recall']:.4f}{how}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--metric", choices=["l2", "dot"], help="vectors of any length, compared by it: for --only 'dualpath l2,vec1 ivf' or 'dualpath dot'")
    parser.add_argument("--sentences", help="the folder that holds flickr8k/: its sentences as rows, photographs as queries")
    parser.add_argument("--only", default=",".join(it for it in PEERS if it not in SLOW))
    parser.add_argument("--extension", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("--phase", choices=["build", "query", "turns"])
    parser.add_argument("--turns", type=json.loads)
    parser.add_argument("--database")
    parser.add_argument("--data")
    arguments = parser.parse_args()
    arguments.extension = os.path.abspath(arguments.extension)
    if arguments.phase == "turns":
        print(json.dumps(turns(arguments)))
        return
    if arguments.phase:
        phase = build if arguments.phase == "build" else query
        print(json.dumps(phase(PEERS[arguments.only](arguments.extension), arguments)))
        return
    data = prepared(arguments)
    shape = np.load(data + "/rows.npy", mmap_mode="r").shape
    print(f"{os.path.basename(data)}: {shape[0]:,} x {shape[1]}, top {K}, one thread, warm file; {machine()}")
    measured, databases = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for at, peer in enumerate(arguments.only.split(",")):
            database = os.path.join(folder, f"{at}.db")
            of_peer = ["--only", peer, "--database", database]
            it = measured[peer] = child(arguments, data, "build", *of_peer) | child(arguments, data, "query", *of_peer)
            databases[peer] = database
            print(
                f"\n{peer}: built in {it['build_cpu_s']:.1f} CPU s ({it['build_s']:.1f} s, peak {it['peak_mb']:.0f} MB), "
                f"file {it['file']:.2f} x the vectors, first query {it['first_ms']:.1f} ms, private {it['private_mb']:.0f} MB"
            )
            for one in it["outcomes"]:
                print(
                    f"  {one['setting']:24} recall {one['recall']:.4f}  CPU {one['cpu_ms']:8.3f} ms  "
                    f"p50 {one['p50_ms']:8.3f}  p95 {one['p95_ms']:8.3f}  CPU the first time {one['before_ms']:8.3f}", flush=True
                )
        compared(arguments, data, measured, databases)
    print(json.dumps({"rows": shape[0], "dimension": shape[1], "machine": machine(), "measured": measured}))


if __name__ == "__main__":
    main()
