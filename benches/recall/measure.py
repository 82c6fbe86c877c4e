"""A sentence finds its photograph, a photograph one of its sentences: recall@k as people would get it."""

import json
import os
import sys
import tarfile
import time

import apsw

library, data = sys.argv[1:]
connection = apsw.Connection(":memory:")
connection.enable_load_extension(True)
connection.load_extension(os.path.abspath(library))
connection.execute("CREATE VIRTUAL TABLE photos USING dualpath; CREATE VIRTUAL TABLE sentences USING dualpath")

captions = json.load(open(f"{data}/dataset_flickr8k.json"))["images"]
captions = {it["filename"]: [s["raw"] for s in it["sentences"]] for it in captions if it["split"] == "val"}
started = time.perf_counter()
names = []
with connection, tarfile.open(f"{data}/val.tar") as tar:
    for member in tar:
        name = os.path.basename(member.name)
        if name in captions:
            names.append(name)
            bytes_ = tar.extractfile(member).read()
            connection.execute("INSERT INTO photos(rowid, image) VALUES (?, ?)", (len(names), bytes_))
print(f"{len(names)} photographs in {time.perf_counter() - started:.1f} s")
started = time.perf_counter()
asked = [(photo, sentence) for photo, name in enumerate(names, 1) for sentence in captions[name]]
with connection:
    for row, (photo, sentence) in enumerate(asked, 1):
        connection.execute("INSERT INTO sentences(rowid, text) VALUES (?, ?)", (row, sentence))
print(f"{len(asked)} sentences in {time.perf_counter() - started:.1f} s")
owner = {row: photo for row, (photo, _) in enumerate(asked, 1)}


def ranks(questions, sql, owner_of):
    """Where the first right row of ten stands; 11 where none does."""
    for own, question in questions:
        found = [owner_of(row[0]) for row in connection.execute(sql, (question,))]
        yield found.index(own) + 1 if own in found else 11


def recall(ranks):
    ranks = list(ranks)
    return {k: 100 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}


by_text = "SELECT rowid FROM photos WHERE text MATCH ? ORDER BY distance LIMIT 10"
by_photo = "SELECT rowid FROM sentences WHERE embedding MATCH ? ORDER BY distance LIMIT 10"
photos = connection.execute("SELECT rowid, embedding FROM photos").fetchall()
measured = {
    "text to image": recall(ranks(asked, by_text, int)),
    "image to text": recall(ranks(photos, by_photo, owner.get)),
}
for way, at in measured.items():
    print(f"{way}: " + ", ".join(f"R@{k} {value:.1f}" for k, value in at.items()))
