"""The peers: how each builds its table or index, and the settings that it is asked with.

A peer is a dict for an SQLite extension, or a class for a library that holds all in RAM. A limit stands in the statement as
people type it: SQLite plans a statement anew each time that one is bound.
"""

import glob
import os
import sysconfig

PACKAGES = sysconfig.get_paths()["purelib"]
MMAP = ["PRAGMA mmap_size = 8589934592"]


def lists(rows):
    """About the square root of the rows, as each project's own advice goes."""
    return max(32, int(rows**0.5))


def dualpath(library, options=""):
    ask = "SELECT rowid FROM t WHERE embedding MATCH ?1 AND recall = {} ORDER BY distance LIMIT {{k}}"
    recalls = ("0.8", "0.85", "0.9", "0.93", "0.95", "0.97", "0.99", "1")
    return {
        "extension": library,
        # One thread, as the others.
        "create": [
            "SELECT dualpath_threads(1)",
            "CREATE VIRTUAL TABLE t USING dualpath(dimensions = {dimension}" + options + ")",
        ],
        "insert": "INSERT INTO t(rowid, embedding) VALUES (?1, ?2)",
        "ask": {f"recall {it}": ask.format(it) for it in recalls},
    }


def sqlite_vec(_):
    return {
        "extension": PACKAGES + "/sqlite_vec/vec0.so",
        "create": ["CREATE VIRTUAL TABLE t USING vec0(embedding float[{dimension}])"],
        "insert": "INSERT INTO t(rowid, embedding) VALUES (?1, ?2)",
        "ask": {"exact": "SELECT rowid FROM t WHERE embedding MATCH ?1 AND k = ?2"},
    }


def sqlite_vec_bit(_):
    ask = (
        "WITH c AS (SELECT rowid AS id FROM t WHERE b MATCH vec_quantize_binary(vec_f32(?1)) AND k = {}) "
        "SELECT f.id FROM c JOIN f ON f.id = c.id ORDER BY vec_distance_L2(f.v, ?1) LIMIT {{k}}"
    )
    return {
        "extension": PACKAGES + "/sqlite_vec/vec0.so",
        "create": [
            "CREATE VIRTUAL TABLE t USING vec0(b bit[{dimension}])",
            "CREATE TABLE f(id INTEGER PRIMARY KEY, v BLOB)",
            "CREATE TRIGGER tr AFTER INSERT ON f BEGIN INSERT INTO t(rowid, b) VALUES (new.id, vec_quantize_binary(vec_f32(new.v))); END",
        ],
        "insert": "INSERT INTO f(id, v) VALUES (?1, ?2)",
        "ask": {f"rescore {it}": ask.format(it) for it in (100, 400, 1000)},
    }


def vec1_flat(_):
    return {
        "extension": PACKAGES + "/apsw/sqlite_extra_binaries/vec1.so",
        "pragmas": MMAP,
        "create": ["CREATE VIRTUAL TABLE t USING vec1(vector)"],
        "insert": "INSERT INTO t(rowid, vector) VALUES (?1, ?2)",
        "finish": ["""INSERT INTO t(cmd, arg) VALUES ('rebuild', '{{index:"flat",distance:"l2"}}')"""],
        "ask": {"exact, mmap": "SELECT rowid FROM t(?1, '{{K:{k}}}')"},
    }


def vec1_ivf(_):
    ask = "SELECT rowid FROM t(?1, '{{{{K:{},nprobe:{}}}}}') ORDER BY vec1_l2_distance(?1, vector) LIMIT {{k}}"
    train = """'{{nbucket:{lists},quantizer:"bq",distance:"l2"}}'"""
    return {
        "extension": PACKAGES + "/apsw/sqlite_extra_binaries/vec1.so",
        "pragmas": MMAP,
        "create": ["CREATE VIRTUAL TABLE t USING vec1(vector)", "CREATE TABLE m(x)"],
        "insert": "INSERT INTO t(rowid, vector) VALUES (?1, ?2)",
        "finish": [
            "SELECT vec1_config('nthread', 1)",
            f"INSERT INTO m SELECT vec1_train(vector, {train}) FROM (SELECT vector FROM t LIMIT 100000)",
            "INSERT INTO t(cmd, arg) SELECT 'rebuild', x FROM m",
        ],
        "ask": {
            f"nprobe {probes}, K {many}": ask.format(many, probes)
            for probes in (8, 16, 32, 64)
            for many in (50, 100, 200, 400, 800)
        },
    }


def vectorlite(_):
    return {
        "extension": PACKAGES + "/vectorlite_py/vectorlite.so",
        "create": [
            "CREATE VIRTUAL TABLE t USING vectorlite(v float32[{dimension}] l2, hnsw(max_elements={rows}, ef_construction=200, M=16), '{database}.hnsw')"
        ],
        "insert": "INSERT INTO t(rowid, v) VALUES (?1, ?2)",
        "ask": {
            f"ef {it}": f"SELECT rowid FROM t WHERE knn_search(v, knn_param(?1, ?2, {it}))"
            for it in (10, 50, 100, 200)
        },
    }


class Faiss:
    """An index of faiss, read into RAM."""

    def __init__(self, factory, settings, refined):
        self.factory, self.settings, self.refined = factory, settings, refined

    def build(self, blocks, rows, dimension, file):
        import faiss
        import numpy as np

        faiss.omp_set_num_threads(1)
        everything = np.concatenate(list(blocks))
        index = faiss.index_factory(dimension, self.factory.format(lists=lists(rows)))
        index.train(everything)
        index.add(everything)
        faiss.write_index(index, file)

    def open(self, file, dimension):
        import faiss

        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(file)

    def ask(self):
        import faiss

        def search(setting):
            probes, factor = setting

            def run(query, k):
                base = self.index.base_index if self.refined else self.index
                faiss.extract_index_ivf(base).nprobe = probes
                if self.refined:
                    self.index.k_factor = factor
                return self.index.search(query[None, :], k)[1][0] + 1

            return run

        if not self.settings:
            return {"exact": lambda query, k: self.index.search(query[None, :], k)[1][0] + 1}
        return {f"nprobe {it[0]}, factor {it[1]}": search(it) for it in self.settings}


class Usearch:
    """usearch's HNSW graph, mapped."""

    def build(self, blocks, rows, dimension, file):
        import numpy as np
        from usearch.index import Index

        index = Index(ndim=dimension, metric="l2sq", connectivity=16, expansion_add=200)
        start = 1
        for block in blocks:
            index.add(np.arange(start, start + len(block)), block, threads=1)
            start += len(block)
        index.save(file)

    def open(self, file, dimension):
        from usearch.index import Index

        self.index = Index(ndim=dimension, metric="l2sq", connectivity=16)
        self.index.view(file)

    def ask(self):
        def search(expansion):
            def run(query, k):
                self.index.expansion_search = expansion
                return self.index.search(query, k, threads=1).keys

            return run

        return {f"ef {it}": search(it) for it in (16, 64, 128)}


def faiss_settings():
    return [(probes, factor) for probes in (4, 8, 16, 32, 64) for factor in (5, 20, 40, 160)]


PEERS = {
    "dualpath": dualpath,
    # What other storages and metrics cost; all order the same rows alike.
    "dualpath f16": lambda library: dualpath(library, ", storage = 'f16'"),
    "dualpath int8": lambda library: dualpath(library, ", storage = 'int8'"),
    "dualpath l2": lambda library: dualpath(library, ", metric = 'l2'"),
    "dualpath dot": lambda library: dualpath(library, ", metric = 'dot'"),
    "vec1 flat": vec1_flat,
    "vec1 ivf": vec1_ivf,
    "sqlite-vec": sqlite_vec,
    "sqlite-vec bit": sqlite_vec_bit,
    "faiss flat": lambda _: Faiss("Flat", [], False),
    "faiss rabitq": lambda _: Faiss("IVF{lists},RaBitQfs,Refine(Flat)", faiss_settings(), True),
    # Graphs take minutes to build, so they come only when they are named, as other forms of ours do.
    "vectorlite": vectorlite,
    "usearch": lambda _: Usearch(),
}
SLOW = {"vectorlite", "usearch", "dualpath f16", "dualpath int8", "dualpath l2", "dualpath dot"}
