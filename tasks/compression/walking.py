"""The way through a model that its passes share: hidden states in batches, and a block at a time, saving each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from tasks.compression import blocks, spilling
from tasks.compression.decoder import Decoder
from tasks.compression.device import HOST, compute_device
from tasks.compression.resuming import Partial, Saved
from tasks.compression.spilling import HiddenStates
from tasks.compression.writing import FolderWriter
from tasks.contracts import LayerReport

Finding = TypeVar("Finding")

# Activations of a batch inside one decoder block stay below this. More is not faster on a CPU: much of them should stay
# in its cache. A GPU wants large matrices.
_BATCH_BYTES = 64 << 20
_CUDA_BATCHES = 16


def use_less_memory(halvings: int) -> None:
    """From now on, in this process, batches are ``2 ** -halvings`` as large, and fewer of them wait inside a block.

    Statistics are then summed in another order, so results differ in the last bits. For a process of one's own.
    """
    global _BATCH_BYTES
    _BATCH_BYTES >>= halvings
    blocks.HELD_BYTES >>= 3 * halvings


def fit(batches: HiddenStates, decoder: Decoder) -> None:
    """Cut batches, those of an earlier process too, to the size that this one takes."""
    most = _BATCH_BYTES * (1 if compute_device() == HOST else _CUDA_BATCHES)
    batches.cut(max(1, most // (decoder.activation_bytes * batches[0].shape[1])))


def batches_of(decoder: Decoder, tokens: Tensor, folder: Path | None = None) -> HiddenStates:
    """Hidden states that enter the first block, (blocks, block_tokens, hidden), in batches that memory allows.

    Many of them lie in a file below ``folder``.
    """
    states = decoder.embed(tokens, folder)
    batches = HiddenStates([states], on_disk=folder is not None and states.nbytes > spilling.SPILL_BYTES)
    fit(batches, decoder)
    return batches


def walk(
    writer: FolderWriter,
    blocks: int,
    start: Callable[[], HiddenStates],
    work: Callable[[int, HiddenStates], list[LayerReport]],
) -> Iterator[LayerReport]:
    """Work on ``blocks`` blocks in turn, saving each, after those that an earlier process finished.

    Args:
        writer: of the new folder; ``work`` writes block ``index`` with it.
        blocks: of the new folder.
        start: the hidden states that enter the first block, in batches; asked for only when nothing is finished.
        work: replaces each batch by the block's output for it; the block's reports.

    Yields:
        The reports of every block, those that were finished before first.
    """
    saved = writer.resume()
    if saved is None:
        done, told, batches = 0, [], start()
    else:
        done, told = saved.done, [LayerReport.model_validate(note) for note in saved.notes["layers"]]
        batches = _unpacked(saved, writer.scratch)
        del saved
    yield from told
    for index in range(done, blocks):
        reports = work(index, batches)
        told += reports
        writer.save(index + 1, _packed(batches), {"layers": [report.model_dump() for report in told]})
        yield from reports


def measure(
    partial: Partial | None,
    blocks: int,
    start: Callable[[], HiddenStates],
    work: Callable[[int, HiddenStates], Finding],
) -> list[Finding]:
    """As ``walk``, of a pass that writes no folder: what ``work`` found in each block, JSON.

    With ``partial``, its own, each block's is kept there; what is complete is returned without work.
    """
    saved = None if partial is None else partial.read()
    found: list[Finding] = [] if saved is None else saved.notes["found"]
    if len(found) == blocks:
        return found
    batches = start() if saved is None or partial is None else _unpacked(saved, partial.files)
    del saved
    for index in range(len(found), blocks):
        found.append(work(index, batches))
        if partial is not None:
            left = _packed(batches) if index + 1 < blocks else {}
            partial.write(index + 1, left, {"found": found}, [])
    return found


def _packed(batches: HiddenStates) -> dict[str, Tensor]:
    return {f"{number}": batch for number, batch in enumerate(batches)}


def _unpacked(saved: Saved, folder: Path) -> HiddenStates:
    return HiddenStates.kept([saved.tensors[f"{number}"] for number in range(len(saved.tensors))], folder)
