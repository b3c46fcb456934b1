"""Folders in the GPTQ format → the pack-quantized folders of this package, code for code.

A symmetric layer of the GPTQ format has the zero point ``2^(bits-1)`` everywhere, so the same weights lie on the grid
of ``packing.py``, and nothing is rounded again. The way back is ``conversion.py``.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.gptq_layers import gptq_packing, read_gptq
from tasks.compression.limits import check_packable
from tasks.compression.packing import Packing
from tasks.compression.writing import FolderWriter
from tasks.errors import RefusedModel
from tasks.gptq_codes import GPTQ_SUFFIXES, stored_version


def repack_gptq(source: Path, destination: Path) -> Packing:
    """Write a folder in the GPTQ format again as pack-quantized, one decoder block at a time; codes and scales stay.

    Args:
        source: a folder in the GPTQ format, its columns in order. With zero points the new folder is one that plain
            transformers does not load (``docs/formats.md``).
        destination: absent, or an empty folder.

    Raises:
        RefusedModel: the folder is in no such format, or its tensors do not belong together.
    """
    checkpoint = Checkpoint(source)
    packing = gptq_packing(checkpoint.config)
    if packing is None:
        raise RefusedModel(
            "the folder is not in the GPTQ format",
            observed="no quant_method gptq in config.json",
            limit="a folder of GPTQModel, optimum, or Slimline's format gptq",
            remedy="use the folder as it is",
        )
    version = stored_version(checkpoint.config["quantization_config"])
    check_packable(checkpoint)
    architecture = checkpoint.architecture
    with FolderWriter(checkpoint, destination, packing) as writer:
        for index in range(checkpoint.blocks):
            tensors: dict[str, Tensor] = {}
            quantized = set()
            for linear in architecture.linears:
                prefix = f"{architecture.block(index)}.{linear}"
                quantized |= {f"{prefix}.{suffix}" for suffix in GPTQ_SUFFIXES}
                tensors |= read_gptq(checkpoint, prefix, packing, version).to_tensors(prefix)
            rest = [name for name in checkpoint.block_names(index) if name not in quantized]
            writer.write_block(index, tensors | {name: checkpoint.tensor(name) for name in rest})
        writer.write_outer({name: checkpoint.tensor(name) for name in checkpoint.outer_names()})
    return packing
