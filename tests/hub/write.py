"""Writes tiny models in the layouts of the Hugging Face hub and of immich: real names, types and
shapes, a few numbers inside. `write.py FOLDER` writes clip, siglip and immich there.

A picture's embedding is its pixels, averaged to 2 x 2 or as they are; a sentence's is the sum of its
tokens' rows, of those that count.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h

WORDS = ["[PAD]", "<s>", "</s>", "a", "red", "green", "blue", "picture"]
OPSET = [h.make_opsetid("", 17)]


def graph(path, nodes, inputs, outputs, constants=()):
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants]
    path.parent.mkdir(parents=True, exist_ok=True)
    model = h.make_model(h.make_graph(nodes, "tiny", inputs, outputs, tensors), opset_imports=OPSET, ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def images(path, name, output, side, batch="batch", pooled=True):
    dimension = 12 if pooled else 3 * side * side
    nodes = [h.make_node("Flatten", ["small" if pooled else name], [output])]
    if pooled:
        half = side // 2
        nodes.insert(0, h.make_node("AveragePool", [name], ["small"], kernel_shape=[half, half], strides=[half, half]))
    graph(
        path, nodes,
        [h.make_tensor_value_info(name, T.FLOAT, [batch, 3, side, side])],
        [h.make_tensor_value_info(output, T.FLOAT, [batch, dimension])],
    )
    return dimension


def rows(dimension):
    """Red, green and blue are pictures of that colour; other words point elsewhere."""
    table = np.random.default_rng(1).normal(0, 0.1, (len(WORDS), dimension)).astype("f4")
    for channel, word in enumerate(["red", "green", "blue"]):
        colour = -np.ones((3, dimension // 3), "f4")
        colour[channel] = 1
        table[WORDS.index(word)] = colour.ravel()
    return table


def texts(path, name, output, dimension, element=T.INT64, length="sequence", mask=False):
    inputs = [h.make_tensor_value_info(name, element, ["batch", length])]
    nodes = [h.make_node("Gather", ["rows", name], ["each"])]
    if mask:
        inputs.append(h.make_tensor_value_info("attention_mask", element, ["batch", length]))
        nodes += [
            h.make_node("Cast", ["attention_mask"], ["counts"], to=T.FLOAT),
            h.make_node("Unsqueeze", ["counts", "last"], ["column"]),
            h.make_node("Mul", ["each", "column"], ["counted"]),
        ]
    nodes.append(h.make_node("ReduceSum", ["counted" if mask else "each", "middle"], [output], keepdims=0))
    graph(
        path, nodes, inputs, [h.make_tensor_value_info(output, T.FLOAT, ["batch", dimension])],
        [("rows", rows(dimension)), ("last", np.array([2])), ("middle", np.array([1]))],
    )


def tokenizer():
    special = lambda token: {"SpecialToken": {"id": token, "type_id": 0}}
    ids = {token: {"id": token, "ids": [WORDS.index(token)], "tokens": [token]} for token in ("<s>", "</s>")}
    sentence = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": at, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for at, token in enumerate(WORDS[:3])
        ],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "decoder": None,
        "post_processor": {"type": "TemplateProcessing", "single": [special("<s>"), sentence, special("</s>")], "pair": [sentence], "special_tokens": ids},
        "model": {"type": "WordLevel", "unk_token": "a", "vocab": {word: at for at, word in enumerate(WORDS)}},
    }


def write(folder, files):
    for name, value in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value, indent=1) + "\n")


HALF = [0.5, 0.5, 0.5]


def clip(folder, side=8, pooled=True, edge=None):
    dimension = images(folder / "onnx/vision_model.onnx", "pixel_values", "image_embeds", side, pooled=pooled)
    texts(folder / "onnx/text_model.onnx", "input_ids", "text_embeds", dimension, mask=True)
    write(folder, {
        "config.json": {"model_type": "clip", "_name_or_path": "tiny/clip", "text_config": {"max_position_embeddings": 6}},
        "preprocessor_config.json": {
            "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_resize": True, "resample": 3,
            "size": {"shortest_edge": edge or side}, "crop_size": {"height": side, "width": side},
            "image_mean": HALF, "image_std": HALF, "rescale_factor": 1 / 255, "image_processor_type": "CLIPImageProcessor",
        },
        "tokenizer.json": tokenizer(), "tokenizer_config.json": {"model_max_length": 6, "pad_token": "[PAD]"},
    })


def siglip(folder, side=8, pooled=True):
    dimension = images(folder / "onnx/vision_model.onnx", "pixel_values", "pooler_output", side, pooled=pooled)
    texts(folder / "onnx/text_model.onnx", "input_ids", "pooler_output", dimension, length=6)
    write(folder, {
        "config.json": {"model_type": "siglip"},
        "preprocessor_config.json": {
            "do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3, "size": {"height": side, "width": side},
            "image_mean": HALF, "image_std": HALF, "rescale_factor": 1 / 255, "image_processor_type": "SiglipImageProcessor",
        },
        "tokenizer.json": tokenizer(), "tokenizer_config.json": {"model_max_length": 6, "pad_token": "[PAD]"},
    })


def immich(folder, side=8):
    dimension = images(folder / "visual/model.onnx", "image", "embedding", side, batch=1)
    texts(folder / "textual/model.onnx", "text", "embedding", dimension, element=T.INT32, length=6)
    write(folder, {
        "config.json": {"embed_dim": dimension, "vision_cfg": {"image_size": side}, "text_cfg": {"context_length": 6}},
        "visual/preprocess_cfg.json": {
            "size": [side, side], "mode": "RGB", "mean": HALF, "std": HALF, "interpolation": "bicubic",
            "resize_mode": "shortest", "fill_color": 0,
        },
        "textual/tokenizer.json": tokenizer(), "textual/tokenizer_config.json": {"pad_token": "[PAD]"},
    })


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    for layout in (clip, siglip, immich):
        layout(target / layout.__name__)
