"""A dense folder in float16 or bfloat16: every tensor rounded to the nearest value, nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tasks.compression.checkpoint import Checkpoint, check_supported
from tasks.compression.resuming import Partial
from tasks.compression.writing import FolderWriter, as_stored, fits
from tasks.contracts import LayerReport
from tasks.errors import RefusedRecipe

CASTS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def cast_folder(
    source: Path, destination: Path, dtype: torch.dtype, partial: Partial | None = None
) -> Iterator[LayerReport]:
    """Write ``source`` in ``dtype``, a decoder block at a time. No token is run.

    A tensor with a value that the type cannot hold (float16 ends at 65,504) stays float32 and is reported as a
    fallback; config.json then says float32, so that no loader rounds it after all. Zeros stay zero; weights below the
    type's smallest value become zero, which the reported share of zeros shows.

    Args:
        source: a dense Hugging Face folder.
        destination: absent, or an empty folder.
        dtype: ``torch.float16`` or ``torch.bfloat16``.
        partial: where finished blocks wait for another process, see ``layerwise.compress_folder``.

    Yields:
        One report for each linear layer of the decoder blocks, its ``error`` that of the weights (Σ (w' - w)² ÷ Σ w²),
        and one for each other tensor that stayed float32. Leaving early or failing removes what was written.

    Raises:
        RefusedModel: the folder cannot be read, or holds NaN or infinity.
        RefusedRecipe: the folder is quantized already.
    """
    checkpoint = check_supported(source)
    if checkpoint.packing is not None:
        raise RefusedRecipe(
            "a quantized model is not cast: its integers are smaller already",
            observed=str(checkpoint.packing),
            limit="a dense source",
            remedy="cast the original model",
        )
    return _cast(checkpoint, destination, dtype, partial)


def _cast(
    checkpoint: Checkpoint, destination: Path, dtype: torch.dtype, partial: Partial | None
) -> Iterator[LayerReport]:
    linears = {f"{name}.weight" for name in checkpoint.architecture.all_linears(checkpoint.config)}
    with FolderWriter(checkpoint, destination, partial=partial) as writer:
        # Not ``walking.walk``, with which transformers would be imported for nothing.
        saved = writer.resume()
        told = [] if saved is None else [LayerReport.model_validate(note) for note in saved.notes["layers"]]
        yield from told
        for index in range(saved.done if saved else 0, checkpoint.blocks):
            tensors, reports = _stored(checkpoint, checkpoint.block_names(index), dtype, linears)
            writer.write_block(index, tensors)
            told += reports
            writer.save(index + 1, {}, {"layers": [report.model_dump() for report in told]})
            yield from reports
        tensors, reports = _stored(checkpoint, checkpoint.outer_names(), dtype, linears)
        writer.write_outer(tensors)
        yield from reports


def _stored(
    checkpoint: Checkpoint, names: tuple[str, ...], dtype: torch.dtype, linears: set[str]
) -> tuple[dict[str, Tensor], list[LayerReport]]:
    tensors, reports = {}, []
    for name in names:
        began = time.perf_counter()
        value = checkpoint.values(name)
        tensors[name] = as_stored(value, dtype)
        wide = not fits(value, dtype)
        if name not in linears and not wide:
            continue
        kept = tensors[name].to(torch.float32)
        rows, columns = (*value.shape, 1)[:2]
        reports.append(
            LayerReport(
                layer=name.removesuffix(".weight") if name in linears else name,
                method=str(dtype).removeprefix("torch."),
                rows=rows,
                columns=columns,
                sparsity=float((kept == 0).sum()) / kept.numel(),
                bits=8.0 * tensors[name].element_size(),
                error=float((kept - value).square().sum() / value.square().sum().clamp_min(1e-30)),
                seconds=time.perf_counter() - began,
                fallback=f"stored as float32: {float(value.abs().max()):g} is beyond {dtype}" if wide else None,
            )
        )
    return tensors, reports
