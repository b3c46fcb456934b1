"""A pack-quantized folder written in another format, code for code: nothing is rounded again.

The stages read and write pack-quantized (``packing.py``): there the scales can still be taught. What a GPU server or
another library wants is written once, after the last of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from tasks.compression.checkpoint import Checkpoint, check_supported
from tasks.compression.gptq_layers import STEP, to_gptq
from tasks.compression.layouts import ROW_INT8, Layout, quantization_config
from tasks.compression.packing import PackedLinear, Packing
from tasks.compression.writing import FolderWriter, write_json
from tasks.contracts import LayerReport
from tasks.errors import RefusedModel, RefusedRecipe


def check_shapes(folder: Path, layout: Layout) -> None:
    """Refuse a model whose layers the GPTQ format cannot hold, from config.json and shard headers alone.

    Raises:
        RefusedRecipe: rows or columns that are no multiple of 32.
    """
    checkpoint = check_supported(folder)
    if layout not in ("gptq", "gptq_v2"):
        return
    for name in checkpoint.architecture.all_linears(checkpoint.config):
        rows, columns = checkpoint.linear_shape(name)
        if rows % STEP or columns % STEP:
            raise RefusedRecipe(
                "the GPTQ format cannot hold this model's layers",
                observed=f"{name} has {rows} rows and {columns} columns",
                limit=f"multiples of {STEP}",
                remedy="set recipe.quantize.format to compressed-tensors",
            )


def convert_folder(source: Path, destination: Path, layout: Layout) -> Iterator[LayerReport]:
    """Write ``source`` with its linear layers stored as ``layout``; codes, scales and every other tensor stay.

    Args:
        source: a pack-quantized folder, one grid for all its layers.
        destination: absent, or an empty folder.
        layout: ``int-quantized``, ``gptq`` or ``gptq_v2``.

    Yields:
        One report a layer as it is written. Leaving early or failing removes what was written.

    Raises:
        RefusedModel: the folder is stored otherwise, a layer of it is on another grid or dense, or the layout cannot
            hold it.
    """
    checkpoint = check_supported(source)
    packing = checkpoint.packing
    if packing is None or checkpoint.layout != "pack-quantized":
        raise _refused(f"the folder is {checkpoint.layout or 'dense'}", "a pack-quantized folder")
    if layout == "int-quantized" and packing != ROW_INT8:
        raise _refused(str(packing), "8 bits, symmetric, one scale a row")
    return _convert(checkpoint, packing, destination, layout)


def _convert(checkpoint: Checkpoint, packing: Packing, destination: Path, layout: Layout) -> Iterator[LayerReport]:
    architecture = checkpoint.architecture
    quantization = quantization_config(packing, layout, architecture.outside)
    with FolderWriter(checkpoint, destination, quantization=quantization) as writer:
        for index in range(checkpoint.blocks):
            tensors: dict[str, Tensor] = {}
            replaced: set[str] = set()
            for linear in architecture.linears:
                prefix = f"{architecture.block(index)}.{linear}"
                layer = _uniform(checkpoint, prefix, packing)
                tensors |= _stored(layer, prefix, layout)
                replaced |= set(layer.to_tensors(prefix))
                yield _report(layer, prefix, layout)
            rest = [name for name in checkpoint.block_names(index) if name not in replaced]
            writer.write_block(index, tensors | {name: checkpoint.tensor(name) for name in rest})
        writer.write_outer({name: checkpoint.tensor(name) for name in checkpoint.outer_names()})
        if layout in ("gptq", "gptq_v2"):
            write_json(destination / "quantize_config.json", quantization)


def _uniform(checkpoint: Checkpoint, prefix: str, packing: Packing) -> PackedLinear:
    layer = checkpoint.packed(prefix)
    if layer is None:
        raise _refused(f"{prefix} is dense", "integers in every linear layer of every decoder block")
    found = (layer.bits, layer.group_size, layer.symmetric)
    if found != (packing.bits, packing.columns_a_group(layer.codes.shape[1]), packing.symmetric):
        raise _refused(f"{prefix} has {layer.bits} bits in groups of {layer.group_size}", f"all as {packing}")
    return layer


def _stored(layer: PackedLinear, prefix: str, layout: Layout) -> dict[str, Tensor]:
    if layout == "int-quantized":
        return {f"{prefix}.weight": layer.codes, f"{prefix}.weight_scale": layer.scale.contiguous()}
    return to_gptq(layer, prefix, 2 if layout == "gptq_v2" else 1)


def _report(layer: PackedLinear, prefix: str, layout: Layout) -> LayerReport:
    rows, columns = layer.codes.shape
    return LayerReport(
        layer=prefix,
        method=layout,
        rows=rows,
        columns=columns,
        sparsity=float(layer.zeros.sum()) / layer.codes.numel(),
        bits=float(layer.bits),
        error=0.0,
        seconds=0.0,
    )


def _refused(observed: str, limit: str) -> RefusedModel:
    return RefusedModel(
        "the folder cannot be written in this format",
        observed=observed,
        limit=limit,
        remedy="quantize the original model with the format that you want",
    )
