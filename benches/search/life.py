"""How dualpath's costs grow with the table, what inserting into a built index costs, and how recall holds.

Each part is one command of less than four minutes; tables once built stay in the cache.
"""

import argparse
import multiprocessing
import os
import sqlite3
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor

import apsw
import numpy as np

import measure
from measure import K, clock, machine, prepared, synthetic

SIZES = (10_000, 100_000, 1_000_000)
DIMENSION = 128
RECALLS = ("0.95", "0.99", "1")
CREATE = f"CREATE VIRTUAL TABLE t USING dualpath(dimensions = {DIMENSION})"
INSERT = "INSERT INTO t(rowid, embedding) VALUES (?1, ?2)"
ASK = "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = {} ORDER BY distance LIMIT ?2"
TRANSACTION = 1_000


def opened(arguments, database):
    connection = apsw.Connection(database)
    connection.enable_load_extension(True)
    connection.load_extension(arguments.extension)
    connection.execute("SELECT dualpath_threads(1)").fetchall()
    return connection


def insert(connection, rows, first, before_commit=lambda: None):
    """Inserts in one transaction; the CPU seconds that it took."""
    values = [(first + at, row.tobytes()) for at, row in enumerate(rows)]
    started = clock()[0]
    connection.execute("BEGIN")
    connection.executemany(INSERT, values)
    inserting = clock()[0] - started
    before_commit()
    started = clock()[0]
    connection.execute("COMMIT")
    return inserting + clock()[0] - started


def built(arguments, rows):
    """A table of that many rows, built once for each version of the library, and its data's folder."""
    arguments.rows, arguments.dimension = rows, DIMENSION
    data = prepared(arguments)
    stamp = int(os.path.getmtime(arguments.extension))
    database = f"{data}/dualpath-{stamp}.db"
    if not os.path.exists(database):
        for old in os.listdir(data):
            if old.startswith("dualpath-"):
                os.remove(f"{data}/{old}")
        connection = opened(arguments, database + ".part")
        connection.execute(CREATE)
        seconds = insert(connection, np.load(data + "/rows.npy"), 1)
        connection.close()
        os.rename(database + ".part", database)
        size = os.path.getsize(database) / (4 * rows * DIMENSION)
        print(f"{rows:,} rows: built in {seconds:.1f} CPU s, peak {measure.status('VmHWM'):.0f} MB, file {size:.2f} x the vectors")
    return database, data


def asked(connection, queries, truth, recall):
    """Recall, and the median CPU milliseconds a query."""
    sql, took, found = ASK.format(recall), [], 0
    for query in queries:
        connection.execute(sql, (query.tobytes(), K)).fetchall()
    for at, query in enumerate(queries):
        started = clock()[0]
        answer = {it[0] for it in connection.execute(sql, (query.tobytes(), K))}
        took.append((clock()[0] - started) * 1e3)
        found += len(answer & set(truth[at].tolist()))
    return found / K / len(queries), float(np.median(took))


def growth(arguments):
    measured = {it: [] for it in RECALLS}
    for rows in SIZES:
        database, data = built(arguments, rows)
        queries, truth = np.load(data + "/queries.npy"), np.load(data + "/truth.npy")
        before = measure.status("RssAnon")
        connection = opened(arguments, database)
        for recall in RECALLS:
            found, cpu = asked(connection, queries, truth, recall)
            measured[recall].append(cpu)
            print(f"{rows:>9,} x {DIMENSION}, recall {recall:4}: found {found:.4f}, {cpu:.3f} ms CPU a query", flush=True)
        private = measure.status("RssAnon") - before
        print(f"{rows:>9,} x {DIMENSION}: {private:.0f} MB of private memory", flush=True)
    fits = {}
    for recall, cpu in measured.items():
        # The smallest table has no lists: it is searched exactly, whatever is asked.
        fits[recall] = float(np.polyfit(np.log(SIZES[1:]), np.log(cpu[1:]), 1)[0])
        print(f"recall {recall}: CPU grows as rows^{fits[recall]:.2f} from {SIZES[1]:,} rows on")
    picture = os.path.join(os.path.dirname(__file__), "../record/search-growth.svg")
    with open(picture, "w") as file:
        file.write(drawn(measured, fits))


def drawn(measured, fits):
    """Milliseconds over rows, both logarithmic; legible on white and on black."""
    everything = [one for cpu in measured.values() for one in cpu]
    low, high = np.floor(np.log10(min(everything))), np.ceil(np.log10(max(everything)))
    across = lambda rows: 70 + 400 * (np.log10(rows) - 4) / 2
    up = lambda cpu: 270 - 230 * (np.log10(cpu) - low) / (high - low)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 320" font-family="sans-serif" font-size="13">',
        "<style>text{fill:#24292f}.axis{stroke:#8c959f}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}</style>",
        '<text x="70" y="22">CPU milliseconds a query, ten nearest of clustered rows of 128 dimensions</text>',
    ]
    for power in range(int(low), int(high) + 1):
        y = up(10.0**power)
        parts.append(f'<line class="axis" stroke-opacity="0.4" x1="70" y1="{y:.0f}" x2="470" y2="{y:.0f}"/>')
        parts.append(f'<text x="62" y="{y + 4:.0f}" text-anchor="end">{10.0**power:g}</text>')
    for rows in SIZES:
        parts.append(f'<text x="{across(rows):.0f}" y="292" text-anchor="middle">{rows:,}</text>')
    parts.append('<text x="270" y="312" text-anchor="middle">rows</text>')
    above = 320.0
    for (recall, cpu), colour in zip(measured.items(), ("#2da44e", "#0f7fd6", "#cf7a12")):
        points = [(across(rows), up(one)) for rows, one in zip(SIZES, cpu)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{line}"/>')
        parts += [f'<circle fill="{colour}" r="3.5" cx="{x:.1f}" cy="{y:.1f}"/>' for x, y in points]
        name = "exact" if recall == "1" else f"recall {recall}"
        words = f"{name}: rows^{fits[recall]:.2f}"
        # More is asked from line to line, so each ends above the one before.
        above = min(above - 16, points[-1][1] + 4)
        parts.append(f'<text x="480" y="{above:.0f}">{words}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def inserts(arguments):
    database, _ = built(arguments, SIZES[-1])
    rows, _ = synthetic(20 * TRANSACTION, DIMENSION, seed=2)
    with tempfile.TemporaryDirectory(dir=arguments.cache) as folder:
        copy = folder + "/t.db"
        with sqlite3.connect(database) as old, sqlite3.connect(copy) as new:
            old.backup(new)
        connection = opened(arguments, copy)
        took = []
        for start in range(0, len(rows), TRANSACTION):
            first = SIZES[-1] + 1 + start
            nearest = lambda recall, at: next(connection.execute(ASK.format(recall), (rows[at].tobytes(), 1)))[0]

            def found_before_the_commit():
                assert nearest("0.99", start) == first, first

            transaction = rows[start : start + TRANSACTION]
            took.append(insert(connection, transaction, first, found_before_the_commit) / TRANSACTION * 1e6)
        asked = range(0, len(rows), 20)
        found = sum(nearest("0.99", at) == SIZES[-1] + 1 + at for at in asked)
        print(f"of rows of another kind, {found / len(asked):.3f} find themselves first where 0.99 is asked")
        print(
            f"{len(rows):,} rows into {SIZES[-1]:,} x {DIMENSION}, {TRANSACTION:,} a transaction: "
            f"{np.mean(took):.0f} us CPU a row, median {np.median(took):.0f}, largest {max(took):.0f}"
        )


def drift(arguments):
    """A table that doubles, and one of which half is replaced by other data, beside fresh ones."""
    half = 50_000
    old, old_queries = synthetic(2 * half, DIMENSION)
    new, new_queries = synthetic(half, DIMENSION, seed=3)
    for name, rows, queries in (
        ("doubled", old, old_queries),
        ("half of it replaced", np.concatenate([old[:half], new]), np.concatenate([old_queries[:100], new_queries[:100]])),
    ):
        truth = measure.exact(rows, queries)
        with tempfile.TemporaryDirectory(dir=arguments.cache) as folder:
            fresh = opened(arguments, folder + "/fresh.db")
            fresh.execute(CREATE)
            insert(fresh, rows, 1)
            grown = opened(arguments, folder + "/grown.db")
            grown.execute(CREATE)
            first = rows[:half] if name == "doubled" else old
            insert(grown, first, 1)
            for start in range(half, 2 * half, TRANSACTION):
                if name != "doubled":
                    span = (start + 1, start + TRANSACTION)
                    grown.execute("DELETE FROM t WHERE rowid BETWEEN ?1 AND ?2", span)
                insert(grown, rows[start : start + TRANSACTION], start + 1)
            for recall in ("0.9", "0.95", "0.99"):
                (one, one_cpu), (two, two_cpu) = (asked(it, queries, truth, recall) for it in (fresh, grown))
                print(
                    f"{name}, recall {recall}: found {two:.4f} in {two_cpu:.3f} ms CPU; fresh {one:.4f} in {one_cpu:.3f}",
                    flush=True,
                )


def commits(arguments):
    """What the commit of a transaction takes that fills a table, by turns on one thread and on all that it would take."""
    for count, dimension, rounds in ((16_384, 512, 5), (100_000, 512, 3), (1_000_000, 128, 1)):
        arguments.rows, arguments.dimension = max(count, 100_000), dimension
        rows = np.load(prepared(arguments) + "/rows.npy", mmap_mode="r")[:count]
        took = {1: [], min(8, os.cpu_count()): []}
        for threads in rounds * list(took):
            took[threads].append(commit(arguments, rows, threads))
        for threads, times in took.items():
            cpu, wall = np.median(times, axis=0)
            print(f"{count:9,} x {dimension}, threads {threads}: {wall:6.3f} s, {cpu:6.3f} s of CPU", flush=True)


def commit(arguments, rows, threads):
    with tempfile.TemporaryDirectory(dir=arguments.cache) as folder:
        connection = opened(arguments, folder + "/t.db")
        connection.execute(f"SELECT dualpath_threads({threads})").fetchall()
        connection.execute(f"CREATE VIRTUAL TABLE t USING dualpath(dimensions = {rows.shape[1]})")
        connection.execute("BEGIN")
        connection.executemany(INSERT, ((at + 1, row.tobytes()) for at, row in enumerate(rows)))
        started = clock()
        connection.execute("COMMIT")
        return clock() - started


def memory(arguments):
    """The memory of its own that a process takes beside what it held with the table still empty, at most, while it fills it at once."""
    for count, dimension in ((100_000, 512), (1_000_000, 128)):
        for threads in (1, min(8, os.cpu_count())):
            arguments.rows, arguments.dimension = count, dimension
            # In a process of its own, as memory that was given back stays with this one.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                took, left = pool.submit(filled, arguments, prepared(arguments), threads).result()
            print(f"{count:9,} x {dimension}, threads {threads}: {took:.0f} MiB at most, {left:.0f} when done", flush=True)


def filled(arguments, data, threads):
    rows = np.load(data + "/rows.npy", mmap_mode="r")
    with tempfile.TemporaryDirectory(dir=arguments.cache) as folder:
        connection = opened(arguments, folder + "/t.db")
        connection.execute(f"SELECT dualpath_threads({threads})").fetchall()
        connection.execute(f"CREATE VIRTUAL TABLE t USING dualpath(dimensions = {rows.shape[1]})")
        before, most, done = measure.status("RssAnon"), [0.0], threading.Event()

        def watch():
            while not done.wait(0.02):
                most.append(measure.status("RssAnon") - before)

        watching = threading.Thread(target=watch)
        watching.start()
        connection.execute("BEGIN")
        connection.executemany(INSERT, ((at + 1, row.tobytes()) for at, row in enumerate(rows)))
        connection.execute("COMMIT")
        done.set()
        watching.join()
        return max(most), measure.status("RssAnon") - before


def main():
    parts = {"growth": growth, "insert": inserts, "drift": drift, "commit": commits, "memory": memory}
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=parts)
    parser.add_argument("--extension", required=True)
    parser.add_argument("--cache", required=True)
    arguments = parser.parse_args()
    arguments.extension = os.path.abspath(arguments.extension)
    arguments.sentences = arguments.metric = None
    print(f"{arguments.part}: searches on one thread, warm file; {machine()}")
    parts[arguments.part](arguments)


if __name__ == "__main__":
    main()
