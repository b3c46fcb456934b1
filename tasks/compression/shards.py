"""The files of a Hugging Face folder: JSON objects, and which safetensors shard holds which tensor.

Only safetensors are read. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tasks.errors import RefusedModel

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' name: torch's


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RefusedModel: it is absent, damaged, or something else.
    """
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(loaded, dict):
        raise damaged(path, f"a JSON {type(loaded).__name__}")
    return loaded


def damaged(path: Path, observed: str) -> RefusedModel:
    """What to raise where ``path`` is not as it should be."""
    return RefusedModel(
        f"{path.name} cannot be read",
        observed=observed,
        limit="a whole Hugging Face folder: config.json, tokenizer.json, safetensors weights, finite values",
        remedy="get the model again, or convert it with save_pretrained of transformers",
    )


def find_shards(folder: Path) -> dict[str, Path]:
    """Tensor name to the file that holds it; every shard is opened once, so a missing or cut one shows here."""
    if (folder / INDEX).exists():
        listed: Mapping[str, str] = read_json(folder / INDEX).get("weight_map", {})
        files = sorted({folder / Path(name).name for name in listed.values()})
    elif (folder / SINGLE).exists():
        listed, files = {}, [folder / SINGLE]
    else:
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        raise RefusedModel(
            "the folder has no safetensors weights",
            observed=f"pickled weights: {', '.join(pickled)}" if pickled else f"neither {SINGLE} nor {INDEX}",
            limit="safetensors; pickled files can run code and are never opened",
            remedy="convert the model once with save_pretrained of transformers and use that folder",
        )
    held: dict[str, Path] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                held.update(dict.fromkeys(opened.keys(), file))
        except (SafetensorError, OSError) as error:
            raise damaged(file, str(error)) from error
    lost = sorted(set(listed) - set(held))
    if lost:
        raise damaged(folder / INDEX, f"{len(lost)} listed tensors are in no shard, first {lost[0]}")
    return held
