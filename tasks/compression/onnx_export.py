"""A packed folder as an ONNX file that a CPU decodes fast: the integers that GPTQ chose, carried over exactly.

``onnx_decoder`` writes the graph; here are the folder around it and the choices that it records. Memory is about one
block and the embedding. Nothing is traced, no code of the model's own runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from tasks.compression.checkpoint import Checkpoint, check_supported
from tasks.compression.onnx_decoder import DecoderGraph, Head
from tasks.compression.onnx_graph import GraphWriter
from tasks.compression.onnx_support import refuse_other_tokens, refuse_unknown
from tasks.compression.writing import COMPANIONS, discard

RECORD = "onnx.json"
ACCURACY_LEVEL = 4  # activations become int8 block by block before they are multiplied; 0 keeps them float32


def export_onnx(
    source: Path,
    destination: Path,
    *,
    head: Head = "int8",
    accuracy_level: int = ACCURACY_LEVEL,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Write ``source`` as an ONNX folder: model.onnx, model.onnx.data, tokenizer, config.json, and ``onnx.json``.

    Args:
        source: a folder of this house, packed or dense; a dense one becomes float32 multiplications.
        destination: absent, or an empty folder.
        head: what the output head is, whatever ``source`` holds: ``int8`` rounds each row in groups of 32 to the
            nearest of 256 values, ``float32`` keeps it exact. The head of a small model is read whole for every token,
            so it is most of the time that is left. Where head and embedding are one matrix, the rounded one serves as
            both and is in the file once; otherwise the embedding stays as it is stored.
        accuracy_level: of MatMulNBits: 4 rounds activations to int8, 0 keeps them in float32.
        on_progress: told the share of the decoder blocks that are written, 0 to 1.

    Returns:
        What ``onnx.json`` says: every choice that decides what the file computes.

    Raises:
        RefusedModel: an architecture, activation, position encoding or tensor that the graph does not know; nothing is
            left in ``destination``.
        FileExistsError: ``destination`` is not empty.
    """
    checkpoint = check_supported(source)
    config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    refuse_unknown(checkpoint, config)
    refuse_other_tokens(source)
    made = not destination.exists()
    destination.mkdir(parents=True, exist_ok=True)
    if any(destination.iterdir()):
        raise FileExistsError(f"{destination} is not empty")
    record: dict[str, Any] = {
        "format": "onnx",
        "head": head,
        "embedding": "the head's" if checkpoint.tied and head == "int8" else "as stored",
        "accuracy_level": accuracy_level,
        "context": int(config.max_position_embeddings),
    }
    with ExitStack() as undo:
        undo.callback(discard, destination, whole=made)
        with GraphWriter(destination) as graph:
            decoder = DecoderGraph(graph, checkpoint, config, head, accuracy_level)
            decoder.write(on_progress or (lambda share: None))
            record["weights"] = "; ".join(sorted(decoder.grids))
            graph.save({name: str(value) for name, value in record.items()})
        _write_companions(checkpoint, destination, record)
        undo.pop_all()  # it is whole, and stays
    return record


def _write_companions(checkpoint: Checkpoint, destination: Path, record: dict[str, Any]) -> None:
    for pattern in COMPANIONS:
        for path in sorted(checkpoint.folder.glob(pattern)):
            target = destination / path.relative_to(checkpoint.folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    # What it says of packed safetensors is not true of this folder.
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    for name, value in ((RECORD, record), ("config.json", config)):
        (destination / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
