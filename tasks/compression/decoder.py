"""The forward pass of a model, one block at a time, with transformers' own modules and weights read when needed.

What surrounds the blocks is transformers' own code too: its forward pass is run with blocks that only pass their input
on, and what arrives at each (the embedded tokens; masks and positions, which differ from block to block in models with
two kinds of attention) is what a block is given here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from tasks.compression.architectures import architecture_name
from tasks.compression.checkpoint import Checkpoint
from tasks.compression.device import compute_device, on_device
from tasks.compression.packing import PACKED_SUFFIXES
from tasks.compression.spilling import allocate
from tasks.compression.streaming import gather_rows
from tasks.errors import RefusedModel

_ROWS = 16
"""Token blocks that are embedded at once."""


@dataclass(frozen=True)
class Call:
    """What transformers gives a block beside the hidden states, for one row of tokens: it serves any number of them."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self, block: nn.Module, states: Tensor) -> Tensor:
        """What ``block`` makes of hidden states (rows, block_tokens, hidden): the same shape."""
        output: Any = block(states, *self.arguments, **self.options)
        made: Tensor = output[0] if isinstance(output, tuple) else output
        return made


class Decoder:
    """Blocks of a model and what surrounds them, built without memory (meta device) from config.json.

    Attributes:
        hidden: width of the hidden states.
        activation_bytes: what one token's activations inside a block take in float32, roughly.
        layer_types: the kind of attention of each block, where config.json or its defaults tell them apart.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        entry, config = checkpoint.architecture, _plain_config(checkpoint.folder)
        with torch.device("meta"):
            # As from_pretrained chooses the attention, or logits would differ: Gemma 2 has none but "eager".
            model = _auto_class(architecture_name(checkpoint.config)).from_config(config, dtype=torch.float32)
        self._model: Any = model.eval()
        _make_buffers(self._model)
        self._layers: Any = self._model.get_submodule(entry.blocks)
        self.hidden = int(config.hidden_size)
        channels = checkpoint.linear_shape(f"{entry.block(0)}.{entry.channels_out}")[1]
        self.activation_bytes = 4 * (6 * self.hidden + 3 * channels)
        self.layer_types: list[str] | None = getattr(config, "layer_types", None)

    @torch.no_grad()
    def embed(self, tokens: Tensor, folder: Path | None = None) -> Tensor:
        """Hidden states (blocks, block_tokens, hidden) that enter the first block; token ids (blocks, block_tokens).

        Many of them lie in a file below ``folder`` (``spilling.allocate``).

        Raises:
            RefusedModel: a tensor outside the blocks is missing or not finite.
        """
        used = tokens.unique()
        # By the piece: it is the largest matrix of a small model.
        rows = _Rows(used, gather_rows(self._checkpoint, f"{self._checkpoint.architecture.embeddings}.weight", used))
        states = allocate((*tokens.shape, self.hidden), folder)
        for first in range(0, len(tokens), _ROWS):
            states[first : first + _ROWS] = self._run(tokens[first : first + _ROWS], rows)[0]
        return states

    @torch.no_grad()
    def calls(self, block_tokens: int) -> tuple[Call, ...]:
        """What each block is given beside hidden states of ``block_tokens`` tokens, on the compute device."""
        # The states are not looked at, so any row will do as an embedding.
        token = torch.zeros(1, dtype=torch.int64)
        rows = _Rows(token, torch.zeros(1, self._model.get_input_embeddings().embedding_dim))
        calls, moved = self._run(token.expand(1, block_tokens), rows)[1], dict[int, Tensor]()
        return tuple(Call(*on_device((call.arguments, call.options), moved)) for call in calls)

    def _run(self, tokens: Tensor, rows: _Rows) -> tuple[Tensor, tuple[Call, ...]]:
        self._read_outer()
        given = self._model.get_input_embeddings()
        rows.scale = getattr(given, "scalar_embed_scale", 1.0)  # Gemma's
        self._model.set_input_embeddings(rows)
        try:
            with _caught(self._layers) as arrived:
                options = {} if self._checkpoint.architecture.encoder else {"use_cache": False}
                self._model.base_model(input_ids=tokens, **options)
        except _Through:
            pass
        finally:
            self._model.set_input_embeddings(given)
        return arrived[0][0], tuple(call for _, call in arrived)

    def _read_outer(self) -> None:
        """Small tensors outside the blocks (positions, norms), once; not the embeddings, which are large."""
        entry, model = self._checkpoint.architecture, self._model
        inside = f"{model.base_model_prefix}."
        for name, parameter in list(model.named_parameters()):
            elsewhere = not name.startswith(inside) or name.startswith(f"{entry.blocks}.")
            if not parameter.is_meta or elsewhere or name == f"{entry.embeddings}.weight":
                continue
            value = self._checkpoint.values(name)
            if value.shape != parameter.shape:
                raise _mismatch(name, f"{tuple(value.shape)} instead of {tuple(parameter.shape)}")
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, nn.Parameter(value, requires_grad=False))

    def take_block(self, index: int) -> nn.Module:
        """Block ``index`` on the compute device, float32 weights from disk, packed layers dequantized. Drop it when
        done with it.

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
        layer: nn.Module = self._layers[index]
        # The list must not keep a second reference: a block's memory ends with its caller's.
        self._layers[index] = nn.Identity()
        try:
            missing = layer.load_state_dict(weights, strict=False, assign=True).missing_keys
        except RuntimeError as error:
            raise _mismatch(prefix, str(error)) from error
        if missing:
            raise _mismatch(prefix, f"missing: {', '.join(missing)}")
        return layer.requires_grad_(False).to(compute_device())


class _Rows(nn.Module):
    """An embedding with the rows of some tokens only: ids ``used`` (n,), ascending, and float32 ``rows`` (n, width)."""

    def __init__(self, used: Tensor, rows: Tensor) -> None:
        super().__init__()
        self._used, self._rows, self.scale = used, rows, 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        """(…) token ids → (…, width)."""
        rows = self._rows[torch.searchsorted(self._used, tokens.contiguous())]
        return rows if self.scale == 1 else rows * torch.tensor(self.scale)


class _Through(Exception):
    """Not an error: the last block is reached, and what follows the blocks is not wanted."""


@contextmanager
def _caught(layers: nn.ModuleList) -> Iterator[list[tuple[Tensor, Call]]]:
    """While this lasts, blocks pass hidden states on unchanged and note what they were given."""
    arrived: list[tuple[Tensor, Call]] = []

    def pass_on(states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        arrived.append((states, Call(arguments, options)))
        if len(arrived) == len(layers):
            raise _Through
        return states

    for layer in layers:
        layer.forward = pass_on
    try:
        yield arrived
    finally:
        for layer in layers:
            del layer.forward


def _make_buffers(model: Any) -> None:
    """Fill what is computed and never stored (rotary frequencies, position numbers), as transformers does on loading.

    ``PreTrainedModel._init_weights`` knows how for every module with such buffers (transformers 5.23,
    ``_move_missing_keys_from_meta_to_device``); weights stay without memory.
    """
    for module in model.modules():
        empty = {name: buffer for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta}
        for name, buffer in empty.items():
            module._buffers[name] = torch.empty_like(buffer, device="cpu")
        if empty:
            model._init_weights(module)


def _auto_class(architecture: str) -> Any:
    """Who in transformers builds this architecture, with its own head."""
    if architecture.endswith("ForQuestionAnswering"):
        return AutoModelForQuestionAnswering
    if architecture.endswith("ForSequenceClassification"):
        return AutoModelForSequenceClassification
    return AutoModelForCausalLM


def _plain_config(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def _mismatch(prefix: str, observed: str) -> RefusedModel:
    return RefusedModel(
        f"the tensors of {prefix.rstrip('.')} do not fit config.json",
        observed=observed,
        limit="every tensor, in the shape that config.json gives it",
        remedy="get the model again",
    )
