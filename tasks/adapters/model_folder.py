"""What a Hugging Face model folder must be: complete, safetensors, and without code of its own.

Only headers and JSON are read, so these checks cost milliseconds whatever the size of the weights.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tasks.errors import RefusedModel

WEIGHTS_INDEX = "model.safetensors.index.json"
SOURCE = "SOURCE.json"
#: The files of a folder that belong to the model; optimizer states, logs, .bin and code are left behind.
FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "model.safetensors",
    "model-*-of-*.safetensors",
    WEIGHTS_INDEX,
    "README.md",
    "LICENSE*",
    "NOTICE*",
    SOURCE,
)
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@dataclass(frozen=True)
class FolderFacts:
    """Read from a folder's files. ``parameters`` counts tied weights once; ``dtype`` is what most weights have."""

    architecture: str
    model_type: str
    parameters: int
    dtype: str
    vocabulary: int
    licence: str


def accepted_files(folder: Path) -> list[Path]:
    """The files directly in ``folder`` that belong to the model, sorted by name."""
    return sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})


def check_folder(folder: Path) -> FolderFacts:
    """Refuse a folder that cannot be worked on; return what it is.

    Raises:
        RefusedModel: a file is missing or damaged, weights are not safetensors, the model asks for code of its own,
        is an adapter, or is quantized already.
    """
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise _refused(
                folder,
                f"{name} is missing",
                f"a folder with {name}",
                "write both there with save_pretrained (model and fast tokenizer)",
            )
    config = read_json(folder / "config.json")
    _check_no_code(folder, config)
    architectures = config.get("architectures") or []
    if len(architectures) != 1:
        raise _refused(folder, f"architectures: {architectures}", "one architecture", "complete config.json")
    if config.get("quantization_config"):
        raise _refused(folder, "quantization_config is set", "dense weights", "give the unquantized original")
    counted = _count_weights(folder)
    return FolderFacts(
        architecture=str(architectures[0]),
        model_type=str(config.get("model_type", "")),
        parameters=sum(counted.values()),
        dtype=_DTYPES.get(max(counted, key=lambda kind: counted[kind]), "other"),
        vocabulary=int(config.get("vocab_size", 0)),
        licence=_licence(folder),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Load a JSON object; RefusedModel if it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _refused(
            path.parent, f"{path.name}: {error}", "a JSON object in UTF-8", "save the folder again"
        ) from error
    if not isinstance(value, dict):
        raise _refused(
            path.parent, f"{path.name} is a {type(value).__name__}", "a JSON object", "save the folder again"
        )
    return value


def _check_no_code(folder: Path, config: dict[str, Any]) -> None:
    settings = [("config.json", config)]
    if (folder / "tokenizer_config.json").is_file():
        settings.append(("tokenizer_config.json", read_json(folder / "tokenizer_config.json")))
    for name, values in settings:
        if values.get("auto_map"):
            raise _refused(
                folder,
                f"auto_map in {name}: {values['auto_map']}",
                "no code of its own",
                "use a model whose architecture transformers has itself; code from a model folder is never run",
            )
    if (folder / "adapter_config.json").exists():
        raise _refused(
            folder, "adapter_config.json", "a full model", "merge the adapter into its base model and save that"
        )


def _count_weights(folder: Path) -> dict[str, int]:
    counted: dict[str, int] = {}
    found: set[str] = set()
    for shard in _shards(folder):
        try:
            with safe_open(shard, framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118  safe_open is no mapping
                    part = weights.get_slice(name)
                    counted[part.get_dtype()] = counted.get(part.get_dtype(), 0) + math.prod(part.get_shape())
                    found.add(name)
        except (SafetensorError, OSError) as error:
            remedy = "copy the file again: it is incomplete or was changed"
            raise _refused(folder, f"{shard.name}: {error}", "a whole safetensors file", remedy) from error
    missing = set(_weight_map(folder)) - found
    if missing or not counted:
        observed = f"{len(missing)} tensors missing, {sorted(missing)[:1]}" if missing else "no tensors"
        raise _refused(folder, observed, "every tensor of the index", "copy the shards again")
    return counted


def _shards(folder: Path) -> list[Path]:
    names = sorted(set(_weight_map(folder).values())) or ["model.safetensors"]
    for name in names:
        if Path(name).name != name:
            raise _refused(
                folder, f"{WEIGHTS_INDEX} points to {name}", "a file of the same folder", "save the folder again"
            )
        if not (folder / name).is_file():
            others = [path.name for pattern in ("*.bin", "*.pth", "*.pt") for path in sorted(folder.glob(pattern))]
            observed = f"{name} is missing" + (f"; there is {others[0]}" if others else "")
            remedy = "save with save_pretrained, which writes safetensors; pickled weights are never loaded"
            raise _refused(folder, observed, "weights as safetensors", remedy)
    return [folder / name for name in names]


def _weight_map(folder: Path) -> dict[str, str]:
    path = folder / WEIGHTS_INDEX
    if not path.is_file():
        return {}
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise _refused(folder, f"{WEIGHTS_INDEX} has no weight_map", "tensor name → file", "save the folder again")
    return index


def _licence(folder: Path) -> str:
    """As SOURCE.json says, or the model card's front matter, or 'not stated'."""
    if (folder / SOURCE).is_file():
        return str(read_json(folder / SOURCE).get("licence", "not stated"))
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines() if card.is_file() else []
    if lines[:1] == ["---"]:
        for line in lines[1:]:
            if line == "---":
                break
            if line.startswith("license:"):
                return line.removeprefix("license:").strip().strip("'\"") or "not stated"
    return "not stated"


def _refused(folder: Path, observed: str, limit: str, remedy: str) -> RefusedModel:
    return RefusedModel(f"model folder {folder} cannot be used", observed=observed, limit=limit, remedy=remedy)
