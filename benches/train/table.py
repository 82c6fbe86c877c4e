"""Rows of `benches/train/run` as a table: the mean over seeds, and how far seeds lie apart."""

import json
import pathlib
import sys

folder, rows = pathlib.Path(sys.argv[1]), sys.argv[2:]
by_name = {}
for row in rows:
    name, _, seed = row.rpartition(".")
    by_name.setdefault(name, []).append(json.loads((folder / f"{row}.json").read_text())["recall"])

print("| | seeds | text to image R@1 / 5 / 10 | image to text R@1 / 5 / 10 | mean R@1 | ratio |")
print("| --- | --- | --- | --- | --- | --- |")
first = None
for name, recalls in by_name.items():
    def mean(way, k):
        return sum(it[way][f"at_{k}"] for it in recalls) / len(recalls)

    scores = [(it["text_to_image"]["at_1"] + it["image_to_text"]["at_1"]) / 2 for it in recalls]
    score = sum(scores) / len(scores)
    first = first or score
    apart = f" ± {(max(scores) - min(scores)) / 2:.2f}" if 1 < len(scores) else ""
    ways = [" / ".join(f"{mean(way, k):.1f}" for k in (1, 5, 10)) for way in ("text_to_image", "image_to_text")]
    print(f"| {name} | {len(recalls)} | {ways[0]} | {ways[1]} | {score:.2f}{apart} | {first / score:.2f} |")
