"""Which decoder blocks a model can spare: those that change their input least go whole.

Block Influence, ``1 − E[cos(in, out)]`` (Men et al. 2024, ShortGPT, arXiv:2403.03853).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.decoder import Decoder
from tasks.compression.device import HOST, compute_device
from tasks.compression.resuming import Partial
from tasks.compression.spilling import HiddenStates
from tasks.compression.walking import batches_of, fit, measure


@torch.no_grad()
def influential_blocks(checkpoint: Checkpoint, tokens: Tensor, keep: int, partial: Partial | None = None) -> list[int]:
    """Numbers, ascending, of the ``keep`` decoder blocks with the largest Block Influence on ``tokens``.

    Args:
        checkpoint: a dense or packed folder; read once, a block at a time.
        tokens: int64 (blocks, block_tokens).
        keep: at least 1.
        partial: of the pass that wants to know; what was measured waits there for another process.
    """
    if keep == checkpoint.blocks:
        return list(range(keep))
    place = None if partial is None else partial.first("influence", checkpoint.blocks)
    decoder = Decoder(checkpoint)
    calls, device = decoder.calls(tokens.shape[1]), compute_device()

    def influence(index: int, batches: HiddenStates) -> float:
        layer, cosine = decoder.take_block(index), 0.0
        fit(batches, decoder)
        for number, states in enumerate(batches):
            before = states.to(device)
            after = calls[index](layer, before)
            cosine += float(functional.cosine_similarity(before, after, dim=-1).double().sum())
            batches.replace(number, after.to(HOST))
        return 1 - cosine / tokens.numel()

    def start() -> HiddenStates:
        return batches_of(decoder, tokens, None if place is None else place.files)

    found = measure(place, checkpoint.blocks, start, influence)
    return sorted(torch.tensor(found).topk(keep).indices.tolist())
