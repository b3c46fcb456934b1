"""Which model families can be compressed. Adding one is adding an entry.

An entry says what things are called; the mathematics never asks for the family. Names follow the modelling files of
transformers 5 (``models/llama/modeling_llama.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.errors import RefusedModel


@dataclass(frozen=True)
class Architecture:
    """The names of one family.

    Attributes:
        models: ``architectures`` entries of config.json that this entry serves.
        groups: linear layers of a decoder block in the order they run; those of one group read the same input, so they
            share one set of statistics.
        heads: linear layers whose rows belong to heads: first those of query heads, then those of key-value heads.
        heads_out: the layer that reads what the heads make.
        channels: linear layers whose rows are MLP channels.
        channels_out: the layer that reads the channels.
        blocks: prefix of the decoder blocks; block ``i`` is ``<blocks>.<i>``.
        backbone: attribute of the causal model that holds blocks and rotary embedding.
        embeddings, norm, head: prefixes of the modules outside the blocks.
    """

    models: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    heads: tuple[tuple[str, ...], tuple[str, ...]]
    heads_out: str
    channels: tuple[str, ...]
    channels_out: str
    blocks: str = "model.layers"
    backbone: str = "model"
    embeddings: str = "model.embed_tokens"
    norm: str = "model.norm"
    head: str = "lm_head"

    @property
    def linears(self) -> tuple[str, ...]:
        """Every linear layer of a block, relative to the block, in the order they run."""
        return tuple(name for group in self.groups for name in group)

    def block(self, index: int) -> str:
        """Prefix of decoder block ``index``, without the last dot."""
        return f"{self.blocks}.{index}"

    def all_linears(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Full names, without ``.weight``, of every linear layer in every block."""
        count = block_count(config)
        return tuple(f"{self.block(index)}.{name}" for index in range(count) for name in self.linears)


LLAMA = Architecture(
    models=("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    groups=(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    ),
    heads=(("self_attn.q_proj",), ("self_attn.k_proj", "self_attn.v_proj")),
    heads_out="self_attn.o_proj",
    channels=("mlp.gate_proj", "mlp.up_proj"),
    channels_out="mlp.down_proj",
)

ARCHITECTURES = (LLAMA,)


def block_count(config: Mapping[str, Any]) -> int:
    """Decoder blocks that config.json announces."""
    return int(config["num_hidden_layers"])


def supported() -> tuple[str, ...]:
    """Names of every architecture that can be compressed."""
    return tuple(model for entry in ARCHITECTURES for model in entry.models)


def architecture_name(config: Mapping[str, Any]) -> str:
    """``LlamaForCausalLM`` and the like, as config.json has it, or ``(none)``."""
    names = config.get("architectures") or ["(none)"]
    return str(names[0])


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The entry for a config.json.

    Raises:
        RefusedModel: no entry serves this architecture.
    """
    name = architecture_name(config)
    for entry in ARCHITECTURES:
        if name in entry.models:
            return entry
    raise RefusedModel(
        "this architecture cannot be compressed yet",
        observed=name,
        limit=", ".join(supported()),
        remedy="choose a model of a supported family, or add an entry to tasks/compression/architectures.py",
    )
