"""What an engine wrote → a folder that may leave this machine: the weights, a known configuration, no calibration text.

optimum and transformers write the whole calibration text into config.json (optimum 2.3, transformers 5.17–5.23), so the
configuration is put together from the keys that are known here, and every file is then searched for the text all the
same, as text and as token ids.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from tasks.adapters.model_folder import WEIGHTS_INDEX, accepted_files
from tasks.errors import SlimlineError

# Text is cut into pieces of this many characters; whatever is twice as long holds a whole piece. Ids likewise.
_PIECE, _IDS = 32, 12
_LEAST_DIFFERENT = 6  # a piece of one repeated character or id says nothing

_GPTQ_KEYS = (
    "act_group_aware",
    "bits",
    "checkpoint_format",
    "damp_percent",
    "desc_act",
    "format",
    "group_size",
    "meta",
    "modules_in_block_to_quantize",
    "quant_method",
    "sym",
    "true_sequential",
)
_COMPRESSED_KEYS = (
    "config_groups",
    "format",
    "ignore",
    "quant_method",
    "quantization_status",
    "version",
)
_WEIGHTS = ("*.safetensors", WEIGHTS_INDEX)


def adopt(raw: Path, source: Path, clean: Path, tokens: NDArray[np.int64]) -> None:
    """Take over what an engine wrote.

    Args:
        raw: the engine's folder; its weights are moved out of it.
        source: the folder that it started from, whose configuration and tokenizer are kept.
        clean: an empty folder, which is a whole model folder afterwards.
        tokens: (blocks, block_tokens), the calibration text that must be in none of its files.

    Raises:
        SlimlineError: no safetensors weights, an unknown quantization, or a file holds calibration text.
    """
    weights = [path for pattern in _WEIGHTS for path in sorted(raw.glob(pattern))]
    if not any(path.suffix == ".safetensors" for path in weights) or not (raw / "config.json").exists():
        raise SlimlineError(
            "the engine wrote no model",
            observed=", ".join(sorted(path.name for path in raw.glob("*"))) or "nothing",
            limit="config.json and safetensors weights",
            remedy="run again; if it stays so, the engine's version and its script do not fit each other",
        )
    for path in weights:
        shutil.move(path, clean / path.name)
    for path in accepted_files(source):
        if path.name != "config.json" and not any(path.match(pattern) for pattern in _WEIGHTS):
            shutil.copyfile(path, clean / path.name)
    config = _config(json.loads((source / "config.json").read_text()), json.loads((raw / "config.json").read_text()))
    (clean / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    refuse_leaks(clean, source, tokens)


def refuse_leaks(folder: Path, source: Path, tokens: NDArray[np.int64]) -> None:
    """Refuse a folder in which calibration text stands.

    Every file that is not, byte for byte, the source's own is searched; of safetensors files the header. Found is what
    is about 64 characters or 24 token ids of the text in one piece.

    Args:
        folder: the model folder.
        source: the folder that it was made from, with the tokenizer.json that reads the tokens.
        tokens: (blocks, block_tokens), the calibration text.

    Raises:
        SlimlineError: with the names of the files, not with the text.
    """
    pieces, runs = _pieces(source, tokens), _runs(tokens)
    found = []
    for path, text in _searched(folder, source):
        windows = (text[start : start + _PIECE] for start in range(len(text) - _PIECE + 1))
        ids = [int(number) for number in re.findall(r"\d{1,9}", text)]
        if any(window in pieces for window in windows) or any(
            tuple(ids[start : start + _IDS]) in runs for start in range(len(ids) - _IDS + 1)
        ):
            found.append(path.relative_to(folder).as_posix())
    if found:
        raise SlimlineError(
            "the model folder holds calibration text",
            observed=", ".join(found),
            limit="none of the text in any file: it may be private, and the folder is published",
            remedy="do not publish it; the engine's script must drop what it writes there",
        )


def _config(source: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """The source's configuration with the new quantization and type of values."""
    config = {key: value for key, value in source.items() if key not in ("torch_dtype", "quantization_config")}
    for key in ("dtype", "tie_word_embeddings"):
        if key in written:
            config[key] = written[key]
    quantized = written.get("quantization_config")
    if quantized:
        config["quantization_config"] = _quantization(quantized)
    return config


def _quantization(written: dict[str, Any]) -> dict[str, Any]:
    method = written.get("quant_method")
    keys = {"gptq": _GPTQ_KEYS, "compressed-tensors": _COMPRESSED_KEYS}.get(str(method))
    if keys is None:
        raise SlimlineError(
            "the engine wrote a quantization that is not known here",
            observed=f"quant_method {method}",
            limit="gptq, compressed-tensors",
            remedy="choose another engine or recipe",
        )
    kept = {key: written[key] for key in keys if key in written}
    for group in kept.get("config_groups", {}).values():
        weights = group.get("weights") or {}
        # "static" is the order in which the engine chose the codes. They are stored in the columns' own order and read
        # like any other; loaders that do not know the word take them for columns that must be gathered.
        if weights.get("actorder") == "static":
            weights["actorder"] = None
    return kept


def _searched(folder: Path, source: Path) -> Iterator[tuple[Path, str]]:
    """Every file's text: of safetensors the header, nothing of the source's own files."""
    for path in sorted(folder.rglob("*")):
        original = source / path.relative_to(folder)
        if not path.is_file() or (original.is_file() and _same(path, original)):
            continue
        yield path, _header(path) if path.suffix == ".safetensors" else path.read_text("utf-8", errors="replace")


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _header(path: Path) -> str:
    """The metadata and names of a safetensors file."""
    try:
        with safe_open(path, framework="np") as file:
            return json.dumps({"metadata": file.metadata(), "names": list(file.keys())}, ensure_ascii=False)
    except (SafetensorError, OSError) as error:
        raise SlimlineError(
            "the engine wrote weights that cannot be read",
            observed=f"{path.name}: {error}",
            limit="safetensors",
            remedy="run again; look for a full disk",
        ) from error


def _pieces(source: Path, tokens: NDArray[np.int64]) -> set[str]:
    """The text in pieces, as it is and as JSON writes it with and without escapes."""
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    texts = tokenizer.decode_batch(tokens.tolist(), skip_special_tokens=False)
    forms = {
        form for text in texts for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    }
    cut = (form[start : start + _PIECE] for form in forms for start in range(0, len(form) - _PIECE + 1, _PIECE))
    return {piece for piece in cut if len(set(piece)) >= _LEAST_DIFFERENT}


def _runs(tokens: NDArray[np.int64]) -> set[tuple[int, ...]]:
    rows = tokens.tolist()
    cut = (tuple(row[start : start + _IDS]) for row in rows for start in range(0, len(row) - _IDS + 1, _IDS))
    return {run for run in cut if len(set(run)) >= _LEAST_DIFFERENT}
