"""What the files of an exported ONNX folder say: the same facts as ``folder_facts.describe`` reads from safetensors."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.compression.architectures import architecture_name
from tasks.compression.folder_facts import FolderFacts
from tasks.compression.onnx_graph import DATA, MODEL

HEAD = "head"  # the output head's constants are named head.*, the embedding made of them head.rows
_TABLES = "rotary."
_DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}


def describe_onnx(folder: Path) -> FolderFacts:
    """Read an exported folder's facts; every linear layer is read once, one at a time.

    Bits are those that the file stores: a grid of 2 or 3 bits lies in 4.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    graph = onnx.load(folder / MODEL, load_external_data=False).graph
    constants = {item.name: item for item in graph.initializer}
    tied = bool(config.get("tie_word_embeddings", False))
    zeros = weights = 0
    bits = 0.0
    parameters, values = 0, Counter[str]()
    counted: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("MatMulNBits", "FusedMatMul"):
            continue
        name = node.input[1]
        counted |= set(node.input[1:])
        if name.startswith(f"{HEAD}."):
            parameters += 0 if tied else _size(node, constants[name])
            continue
        zero, count, width = _linear(folder, node, constants)
        zeros, weights, bits = zeros + zero, weights + count, bits + width * count
    for name, constant in constants.items():
        if name in counted or name.startswith(_TABLES) or constant.data_type not in (*_DTYPES, onnx.TensorProto.UINT8):
            continue
        parameters += math.prod(constant.dims)
        values[_DTYPES.get(constant.data_type, "float32")] += math.prod(constant.dims)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    dtype = values.most_common(1)[0][0]
    return FolderFacts(architecture_name(config), parameters + weights, total, dtype, zeros / weights, bits / weights)


def _size(node: Any, constant: Any) -> int:
    said = {item.name: item.i for item in node.attribute}
    return said["N"] * said["K"] if "N" in said else math.prod(constant.dims)


def _linear(folder: Path, node: Any, constants: dict[str, Any]) -> tuple[int, int, int]:
    """(zeros, weights, bits a weight) of one multiplication."""
    stored = _array(folder, constants[node.input[1]])
    if node.op_type == "FusedMatMul":
        return int((stored == 0).sum()), stored.size, 32
    said = {item.name: item.i for item in node.attribute}
    width, groups = said["bits"], said["K"] // said["block_size"]
    codes = _unpacked(stored, width)  # (rows, groups, columns a group)
    if len(node.input) > 3:
        points = _unpacked(_array(folder, constants[node.input[3]]), width)[:, :groups, None]
    else:
        points = np.full((1, 1, 1), 1 << (width - 1), np.uint8)
    return int((codes == points).sum()), codes.size, width


def _array(folder: Path, constant: Any) -> NDArray[Any]:
    where = {entry.key: entry.value for entry in constant.external_data}
    if not where:
        return onnx.numpy_helper.to_array(constant)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(constant.data_type)
    return np.memmap(folder / DATA, dtype, "r", int(where["offset"]), tuple(constant.dims))


def _unpacked(stored: NDArray[Any], width: int) -> NDArray[Any]:
    if width == 8:
        return stored
    return np.stack([stored & 15, stored >> 4], axis=-1).reshape(*stored.shape[:-1], -1)
