"""The way through a model that its passes share: hidden states in batches, and a block at a time, saving each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from tasks.compression import blocks, spilling
from tasks.compression.decoder import Decoder
from tasks.compression.device import HOST, compute_device
from tasks.compression.spilling import HiddenStates
from tasks.compression.writing import FolderWriter
from tasks.contracts import LayerReport

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
        left = [saved.tensors[f"{number}"] for number in range(len(saved.tensors))]
        batches = HiddenStates.kept(left, writer.scratch)
        del saved, left
    yield from told
    for index in range(done, blocks):
        reports = work(index, batches)
        told += reports
        states = {f"{number}": batch for number, batch in enumerate(batches)}
        writer.save(index + 1, states, {"layers": [report.model_dump() for report in told]})
        yield from reports
