"""What the files of a model folder say of it: size, sparsity, bits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tasks.compression.architectures import architecture_name
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.packing import PACKED_SUFFIXES
from tasks.compression.shards import DTYPES


@dataclass(frozen=True)
class FolderFacts:
    """What the files of a folder say; the fields of ``ModelRef`` that are measured.

    Attributes:
        architecture: as in config.json.
        parameters: weights of the dense model, tied ones once.
        bytes: all files of the model; not calibration statistics that lie beside it.
        dtype: of most unquantized values: float32, float16, bfloat16.
        sparsity: zero share of the decoder blocks' linear weights, 0 to 1.
        bits: bits a weight in those, scales not counted.
    """

    architecture: str
    parameters: int
    bytes: int
    dtype: str
    sparsity: float
    bits: float


def describe(folder: Path) -> FolderFacts:
    """Read a folder's facts from its files; every linear layer is read once, one at a time."""
    checkpoint = Checkpoint(folder)
    zeros = weights = 0
    bits = 0.0
    for linear in checkpoint.architecture.all_linears(checkpoint.config):
        packed = checkpoint.packed(linear)
        stored = checkpoint.tensor(f"{linear}.weight") if packed is None else packed.codes
        zero = stored == 0 if packed is None else packed.zeros
        zeros += int(zero.sum())
        weights += stored.numel()
        bits += stored.numel() * (8.0 * stored.element_size() if packed is None else packed.bits)
    values: Counter[str] = Counter()
    for name, dtype, count in checkpoint.headers():
        twice = checkpoint.tied and name.startswith(f"{checkpoint.architecture.head}.")
        weighs = dtype in DTYPES.values() and not name.endswith((*PACKED_SUFFIXES, *checkpoint.made))
        if weighs and not twice:
            values[dtype] += count
    parameters = sum(values.values()) + (weights if checkpoint.packing else 0)
    dtype = values.most_common(1)[0][0]
    beside = ("manifest.json", "statistics")
    total = sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in beside
    )
    return FolderFacts(architecture_name(checkpoint.config), parameters, total, dtype, zeros / weights, bits / weights)
