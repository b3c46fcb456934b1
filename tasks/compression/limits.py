"""What some architectures cannot do, refused by name before any work."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tasks.compression.architectures import ARCHITECTURES, architecture_name, find_architecture
from tasks.compression.checkpoint import Checkpoint
from tasks.errors import RefusedData, RefusedModel, RefusedRecipe


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


def check_tokens(tokens: Tensor, vocabulary: int, least: int = 2) -> None:
    """Refuse token blocks that this model cannot read.

    Args:
        tokens: (blocks, length) integers.
        vocabulary: rows of the model's embedding.
        least: tokens that a block needs; two where the next one is predicted.

    Raises:
        RefusedData: none, too short for a next token, or ids outside the vocabulary.
    """
    if tokens.dim() != 2 or tokens.shape[0] == 0 or tokens.shape[1] < least:
        raise RefusedData(
            "there are no tokens to work on",
            observed=f"blocks of shape {tuple(tokens.shape)}",
            limit=f"at least one block of {least} tokens",
            remedy="give more text, or ask for fewer and shorter blocks",
        )
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0 or highest >= vocabulary:
        raise RefusedData(
            "the tokens are not of this model's tokenizer",
            observed=f"ids from {lowest} to {highest}",
            limit=f"0 to {vocabulary - 1}",
            remedy="cut the text again with the tokenizer of the model's own folder",
        )
