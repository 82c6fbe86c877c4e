"""Preprocessing as the reference does it: a tiny model whose embedding is its pixels, beside the image
processors of `transformers` reading the same folder."""

import importlib
import importlib.util
import io
import os
import pathlib

import dualpath
import numpy as np
import pytest
from PIL import Image

transformers = pytest.importorskip("transformers")
HERE = pathlib.Path(__file__).resolve()
SIDE = 24
SHAPES = [(24, 24), (25, 24), (48, 48), (97, 31), (31, 97), (640, 427), (427, 640), (1000, 333), (20, 13), (300, 299)]
# Of 255: both add up the same weights, in fixed-point numbers of their own.
MOST = 1


def writer():
    spec = importlib.util.spec_from_file_location("write", HERE.parents[3] / "tests/hub/write.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def connect():
    kind = os.environ["CONNECT"]
    module = importlib.import_module(kind)
    return module.Connection(":memory:") if kind == "apsw" else module.connect(":memory:")


def picture(shape):
    """Soft shapes and hard edges, whose overshoot bicubic filters must clip alike."""
    rng = np.random.default_rng(shape[0] * 1000 + shape[1])
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype="u1"))
    pixels = np.array(small.resize(shape, Image.Resampling.BICUBIC))
    pixels[shape[1] // 3 : shape[1] // 2, shape[0] // 4 :] = [255, 0, 255]
    pixels[::5, ::3] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("layout", "edge", "processor"),
    [("clip", SIDE, "CLIPImageProcessor"), ("clip", SIDE + 7, "CLIPImageProcessor"), ("siglip", None, "SiglipImageProcessor")],
)
def test_pixels_are_those_of_transformers(layout, edge, processor, tmp_path):
    write = getattr(writer(), layout)
    write(tmp_path, side=SIDE, pooled=False, **({"edge": edge} if edge else {}))
    db = connect()
    dualpath.load(db)
    name = f"{layout}-{edge}"
    db.execute("INSERT INTO dualpath_models(name, path) VALUES (?, ?)", (name, str(tmp_path)))
    reference = getattr(transformers, processor).from_pretrained(tmp_path)
    worst = 0
    for shape in SHAPES:
        png = io.BytesIO()
        picture(shape).save(png, "png")
        [(blob,)] = db.execute("SELECT embed_image(?, ?)", (png.getvalue(), name)).fetchall()
        expected = reference(picture(shape), return_tensors="np")["pixel_values"][0]
        # The embedding has length one.
        ours = np.frombuffer(blob, "<f4").reshape(expected.shape) * np.linalg.norm(expected)
        apart = np.abs(ours - expected).max() * 0.5 * 255
        print(f"{name} {shape}: at most {apart:.2f} of 255 apart")
        worst = max(worst, apart)
    assert round(worst) <= MOST
