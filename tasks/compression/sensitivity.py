"""What each linear layer's error costs the model: measured, not assumed, at each candidate sparsity or number of bits.

A change ΔW of a layer changes its outputs by Δy = ΔW x. To second order, and taking tokens and outputs as independent,
the model's distribution of the next token moves away from its own by

    KL ≈ ½ · Σ_r E[g_r²] · E[Δy_r²]   nats a token,

with g_r the gradient of the loss by output r. That is the Fisher information's diagonal over outputs: gradients are of
labels that the model itself draws, so that they tell of its own distribution and not of the text (Kunstner et al. 2019,
arXiv:1905.12558, equation 4; the same approximation with inputs kept whole: K-FAC, Martens & Grosse 2015,
arXiv:1503.05671). E[Δy_r²] is the diagonal of ΔW H ΔWᵀ over the number of tokens, from the statistics that pruning and
quantization gather anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.device import HOST, compute_device
from tasks.compression.hessian import InputStatistics
from tasks.compression.loading import load_for_compute
from tasks.compression.resuming import Partial
from tasks.compression.transforms import Transform
from tasks.errors import SlimlineError

_GENERATOR = "generator"


def output_gradients(
    folder: Path, tokens: Tensor, *, seed: int = 0, partial: Partial | None = None
) -> dict[str, Tensor]:
    """The mean square of the loss's gradient by each output of each linear layer in the blocks.

    The whole model is in memory, as in distillation, and one token block's activations.

    Args:
        folder: the model, dense or packed.
        tokens: int64 (blocks, block_tokens).
        seed: of the labels that the model draws.
        partial: its own; sums are kept there after each token block, and another process goes on with the same.

    Returns:
        float32 (rows,) by the layer's full name, on the compute device: of a token's loss summed over the block, a
        mean over tokens.

    Raises:
        RefusedModel: the folder cannot be read.
        SlimlineError: a gradient is not finite.
    """
    sums: dict[str, Tensor] = {}
    generator, done = torch.Generator().manual_seed(seed), 0
    saved = None if partial is None else partial.read()
    if saved is not None:
        done = saved.done
        generator.set_state(saved.tensors.pop(_GENERATOR))
        sums |= {name: tensor.to(compute_device()) for name, tensor in saved.tensors.items()}
    if done < len(tokens):
        _add_gradients(folder, tokens, done, sums, generator, partial)
    for name, squares in sums.items():
        _check_finite(name, squares)
    return {name: squares / tokens.numel() for name, squares in sums.items()}


def _add_gradients(
    folder: Path,
    tokens: Tensor,
    done: int,
    sums: dict[str, Tensor],
    generator: torch.Generator,
    partial: Partial | None,
) -> None:
    """Add the squares of token blocks from ``done`` on to ``sums``."""
    checkpoint, device = Checkpoint(folder), compute_device()
    model = load_for_compute(folder, device)
    hooks = [
        model.get_submodule(name).register_forward_hook(_adding(name, sums))
        for name in checkpoint.architecture.all_linears(checkpoint.config)
    ]
    embed = model.get_input_embeddings()
    try:
        for number, block in enumerate(tokens[done:], start=done + 1):
            with torch.no_grad():
                embedded = embed(block.unsqueeze(0).to(device))
            # Weights ask for no gradient; the input does, so that gradients reach every layer's output.
            logits = model(inputs_embeds=embedded.requires_grad_(True), use_cache=False).logits[0]
            with torch.no_grad():
                drawn = torch.multinomial(functional.softmax(logits, dim=-1).to(HOST), 1, generator=generator)
                labels = drawn.squeeze(1).to(device)
            functional.cross_entropy(logits, labels, reduction="sum").backward()
            if partial is not None:
                state = {name: squares.to(HOST) for name, squares in sums.items()}
                partial.write(number, state | {_GENERATOR: generator.get_state()}, {}, [])
    finally:
        for hook in hooks:
            hook.remove()


def _adding(name: str, sums: dict[str, Tensor]) -> Any:
    def add(gradient: Tensor) -> None:
        squares = gradient.detach().square().sum(dim=tuple(range(gradient.dim() - 1)))
        sums[name] = sums[name] + squares if name in sums else squares

    def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(add)

    return hook


def _check_finite(name: str, squares: Tensor) -> None:
    if not bool(torch.isfinite(squares).all()):
        raise SlimlineError(
            f"the gradients at the outputs of {name} are not finite",
            observed="NaN or infinity in float32",
            limit="finite gradients on every calibration token",
            remedy="look for damaged weights in the source, or choose one value for all layers",
        )


@torch.no_grad()
def errors(
    prefix: str, weight: Tensor, statistics: InputStatistics, squares: Tensor, candidates: Sequence[Transform]
) -> tuple[float, ...]:
    """KL in nats a token that each candidate is expected to cost in this layer; see the module's first lines.

    Args:
        prefix: the layer's full name.
        weight: float32 (rows, columns), before the change.
        statistics: of the layer's inputs.
        squares: (rows,), ``output_gradients`` of the layer.
        candidates: what might be done to it.
    """
    found = []
    for candidate in candidates:
        lost = weight - candidate.apply(prefix, weight, statistics, torch.float32).weight
        moved = ((lost @ statistics.gram) * lost).sum(dim=1).clamp_(min=0) / statistics.tokens
        found.append(0.5 * float(torch.dot(moved, squares)))
    return tuple(found)


Errors = Mapping[str, tuple[float, ...]]
"""For each linear layer, by full name, the expected loss at each candidate."""
