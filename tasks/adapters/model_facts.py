"""What a container needs to know of a model folder, read from config.json, headers and one layer's zeros.

Nothing is judged here: a format that no container reads is told as it is (``other``), and ``serveability`` refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from tasks.adapters.model_folder import WEIGHTS_INDEX, read_json
from tasks.adapters.store import MANIFEST
from tasks.contracts import ModelRef
from tasks.errors import RefusedModel
from tasks.hosted import Format, ModelFacts

_ROWS = 64  # of one layer, to see how its zeros lie
_ELEMENT = {"float32": 4, "float16": 2, "bfloat16": 2}


def read_facts(folder: Path, ref: ModelRef | None = None) -> ModelFacts:
    """The facts of ``folder``. ``ref`` adds what was counted when it was made.

    Raises:
        RefusedModel: the folder has no config.json that is a JSON object.
    """
    if not (folder / "config.json").is_file():
        raise RefusedModel(
            f"{folder} is no model folder", observed="no config.json", limit="a Hugging Face model folder",
            remedy="name the folder that holds config.json and the weights",
        )  # fmt: skip
    config = read_json(folder / "config.json")
    quantization = config.get("quantization_config") or {}
    form = _format(folder, quantization)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or (ref.dtype if ref else ""))
    parameters = ref.parameters if ref else size // _ELEMENT[dtype] if form == "dense" and dtype in _ELEMENT else 0
    grids = _grids(quantization)
    return ModelFacts(
        format=form,
        bytes=size,
        parameters=parameters,
        dtype=dtype,
        bits=tuple(sorted({float(grid["bits"]) for grid in grids})),
        group_sizes=tuple(sorted({int(grid["group_size"]) for grid in grids})),
        symmetric=all(grid["symmetric"] for grid in grids),
        act_order=any(grid["act_order"] for grid in grids),
        activations=_activations(quantization),
        pattern="2:4" if form in ("dense", "compressed-tensors") and _two_of_four(folder) else "",
        neuron="neuron" in config or (folder / "neuron_config.json").is_file(),
        **_shape(config),
    )


def _shape(config: Mapping[str, Any]) -> dict[str, int]:
    """Layers, widths and heads, by the names that transformers' architectures have for them."""

    def first(*names: str) -> int:
        return next((int(config[name]) for name in names if isinstance(config.get(name), int)), 0)

    hidden, heads = first("hidden_size", "n_embd", "dim"), first("num_attention_heads", "n_head", "n_heads")
    return {
        "layers": first("num_hidden_layers", "n_layer", "n_layers"),
        "hidden": hidden,
        "intermediate": first("intermediate_size", "ffn_dim", "n_inner", "hidden_dim") or 4 * hidden,
        "heads": heads,
        "kv_heads": first("num_key_value_heads") or heads,
        "head_dim": first("head_dim") or (hidden // heads if heads else 0),
        "context": first("max_position_embeddings", "n_positions"),
    }


def _format(folder: Path, quantization: Mapping[str, Any]) -> Format:
    if (folder / "model.onnx").is_file():
        return "onnx"
    if not quantization:
        return "dense"
    method = quantization.get("quant_method")
    return method if method in ("gptq", "compressed-tensors") else "other"


def _grids(quantization: Mapping[str, Any]) -> list[dict[str, Any]]:
    """bits, group_size, symmetric, act_order of every grid that the folder has."""
    if quantization.get("quant_method") == "gptq":
        return [
            {
                "bits": quantization.get("bits", 0),
                "group_size": quantization.get("group_size", -1),
                "symmetric": bool(quantization.get("sym", True)),
                "act_order": bool(quantization.get("desc_act", False)),
            }
        ]
    weights = [group.get("weights") or {} for group in (quantization.get("config_groups") or {}).values()]
    return [
        {
            "bits": each.get("num_bits", 0),
            "group_size": each.get("group_size") or -1,
            "symmetric": bool(each.get("symmetric", True)),
            "act_order": bool(each.get("actorder")),
        }
        for each in weights
    ]


def _activations(quantization: Mapping[str, Any]) -> Literal["", "int8", "fp8"]:
    for group in (quantization.get("config_groups") or {}).values():
        inputs = group.get("input_activations") or {}
        if inputs:
            return "fp8" if inputs.get("type") == "float" else "int8"
    return ""


def _two_of_four(folder: Path) -> bool:
    """Whether two of every four weights in a row of one MLP layer are zero."""
    index = folder / WEIGHTS_INDEX
    files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else []
    for name in files or ["model.safetensors"]:
        if (folder / name).is_file():
            with safe_open(folder / name, framework="pt") as weights:
                for key in sorted(weights.keys()):
                    if key.endswith(("down_proj.weight", "fc2.weight", "down_proj.weight_packed")):
                        return _is_two_of_four(_zeros(weights.get_slice(key)[:_ROWS], key))
    return False


def _zeros(rows: Any, key: str) -> npt.NDArray[np.bool_]:
    """Where a layer's rows are zero: of floats the zeros, of packed 4-bit codes the middle of the symmetric grid."""
    if key.endswith("_packed"):
        codes = rows.numpy()[..., None] >> (4 * np.arange(8, dtype=np.int32)) & 15
        return np.asarray(codes.reshape(len(codes), -1) == 8)
    return np.asarray((rows == 0).numpy())


def _is_two_of_four(zeros: npt.NDArray[np.bool_]) -> bool:
    columns = zeros.shape[1] // 4 * 4
    return columns > 0 and bool((zeros[:, :columns].reshape(-1, 4).sum(axis=1) >= 2).all())
