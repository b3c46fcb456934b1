"""The forward pass of a decoder, one block at a time, with transformers' own modules and weights read when needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.packing import PACKED_SUFFIXES
from tasks.compression.streaming import gather_rows
from tasks.errors import RefusedModel


class Decoder:
    """Blocks and rotary embedding of a causal model, built without memory (meta device) from config.json.

    Attributes:
        hidden: width of the hidden states.
        activation_bytes: what one token's activations inside a block take in float32, roughly.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        config = _plain_config(checkpoint.folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        backbone: Any = getattr(model.eval(), checkpoint.architecture.backbone)
        self._layers: nn.ModuleList = backbone.layers
        self._rotary: nn.Module = type(backbone.rotary_emb)(config=config)
        self.hidden = int(config.hidden_size)
        self.activation_bytes = 4 * (6 * self.hidden + 3 * int(config.intermediate_size))
        self.window: int | None = getattr(config, "sliding_window", None)
        self.vocabulary = int(config.vocab_size)

    def embed(self, tokens: Tensor) -> Tensor:
        """Hidden states (blocks, block_tokens, hidden) of token ids (blocks, block_tokens)."""
        return gather_rows(self._checkpoint, f"{self._checkpoint.architecture.embeddings}.weight", tokens)

    def positions(self, block_tokens: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine (1, block_tokens, head_dim) of the rotary embedding, the same for every decoder block."""
        cosine, sine = self._rotary(torch.empty(1, 0), torch.arange(block_tokens)[None])
        return cosine, sine

    def take_block(self, index: int) -> nn.Module:
        """Decoder block ``index`` with float32 weights from disk, packed layers dequantized. Drop it when done with it.

        Raises:
            RefusedModel: a tensor is missing, has the wrong shape, or is not finite.
        """
        checkpoint, prefix = self._checkpoint, self._checkpoint.architecture.block(index) + "."
        weights = {}
        for name in checkpoint.block_names(index):
            if name.endswith(".weight_packed"):
                linear = name.removesuffix(".weight_packed")
                weights[f"{linear}.weight".removeprefix(prefix)] = checkpoint.linear(linear)
            elif not name.endswith(PACKED_SUFFIXES):
                weights[name.removeprefix(prefix)] = checkpoint.values(name)
        layer = self._layers[index]
        # The list must not keep a second reference: a block's memory ends with its caller's.
        self._layers[index] = nn.Identity()
        try:
            # Old Llama folders carry rotary frequencies in each block; they are computed here, so extra names are fine.
            missing = layer.load_state_dict(weights, strict=False, assign=True).missing_keys
        except RuntimeError as error:
            raise _mismatch(prefix, str(error)) from error
        if missing:
            raise _mismatch(prefix, f"missing: {', '.join(missing)}")
        return layer.requires_grad_(False)


def _plain_config(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def _mismatch(prefix: str, observed: str) -> RefusedModel:
    return RefusedModel(
        f"the tensors of {prefix.rstrip('.')} do not fit config.json",
        observed=observed,
        limit="every tensor of the block, in the shape that config.json gives it",
        remedy="get the model again",
    )
