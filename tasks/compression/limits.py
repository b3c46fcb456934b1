"""What some architectures cannot do, refused by name before any work."""

from __future__ import annotations

from pathlib import Path

from tasks.compression.architectures import ARCHITECTURES, architecture_name, find_architecture
from tasks.compression.checkpoint import Checkpoint
from tasks.errors import RefusedModel, RefusedRecipe


def position_count(checkpoint: Checkpoint) -> int | None:
    """Tokens that the model's learned positions reach for, or none where positions are computed."""
    if checkpoint.architecture.positions is None:
        return None
    table, unused = checkpoint.architecture.positions
    return checkpoint.shape(f"{table}.weight")[0] - unused


def check_packable(checkpoint: Checkpoint) -> None:
    """Refuse to quantize what nobody could load.

    Raises:
        RefusedRecipe: the architecture's linear layers are transformers' ``Conv1D``.
    """
    if checkpoint.architecture.transposed:
        # compressed_tensors 0.20, quantization/lifecycle/initialize.py: Linear and Embedding, nothing else.
        raise RefusedRecipe(
            "this architecture cannot be quantized: its layers are transformers' Conv1D, for which compressed-tensors "
            "has no packed form, so that no plain loader would read the folder",
            observed=architecture_name(checkpoint.config),
            limit="architectures of nn.Linear layers: "
            + ", ".join(name for entry in ARCHITECTURES if not entry.transposed for name in entry.models),
            remedy="take quantize out of the recipe: pruning and distillation work",
        )


def check_language_model(folder: Path) -> None:
    """Refuse an encoder where next tokens are predicted (distillation by them, perplexity).

    Raises:
        RefusedModel: it is one.
    """
    config = Checkpoint(folder).config
    entry = find_architecture(config)
    if entry is not None and entry.encoder:
        raise RefusedModel(
            "an encoder predicts no next token, so it cannot be distilled or measured as a language model",
            observed=architecture_name(config),
            limit=", ".join(name for entry in ARCHITECTURES if not entry.encoder for name in entry.models),
            remedy="take the question-answering flow, or a language model",
        )
