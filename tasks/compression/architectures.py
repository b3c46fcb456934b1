"""Which model families can be compressed. Adding one is adding an entry (docs/architectures.md).

An entry says what things are called; the mathematics never asks for the family. Names follow the modelling files of
transformers 5 (``models/llama/modeling_llama.py`` and so on). What a block is given beside hidden states (masks,
positions) is asked of transformers itself (``decoder``), so it stands in no entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from tasks.errors import RefusedModel


@dataclass(frozen=True)
class Architecture:
    """The names of one family.

    Attributes:
        models: ``architectures`` entries of config.json that this entry serves.
        groups: linear layers of a block in the order they run; those of one group read the same input, so they share
            one set of statistics.
        heads: linear layers whose rows belong to heads: first those of query heads, then those of key-value heads; none
            where config.json cannot say another number of heads for the same width.
        heads_out: the layer that reads what the heads make.
        channels: linear layers whose rows are MLP channels.
        channels_out: the layer that reads the channels.
        blocks: prefix of the blocks; block ``i`` is ``<blocks>.<i>``.
        embeddings, norm, head: prefixes of the modules outside the blocks; ``norm`` is empty where nothing follows the
            last block, ``head`` where it is no matrix over the vocabulary.
        norm_optional: some models of the family have no ``norm``.
        tied: whether head and embeddings are one matrix when config.json does not say.
        transposed: linear weights are stored (columns, rows): transformers' ``Conv1D``.
        positions: the table of learned positions and how many of its rows stand for none; none without such a table.
        outside: linear layers outside the blocks, as compressed-tensors' ``ignore`` names them; never quantized.
        buffers: endings of stored tensors that are no weights and are made anew.
        sizes: what config.json calls the sizes of ``size_of``, where that is something else.
        encoder: whether every token sees all others; no next token is predicted.
    """

    models: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    heads: tuple[tuple[str, ...], tuple[str, ...]] | None
    heads_out: str
    channels: tuple[str, ...]
    channels_out: str
    blocks: str = "model.layers"
    embeddings: str = "model.embed_tokens"
    norm: str = "model.norm"
    head: str = "lm_head"
    norm_optional: bool = False
    tied: bool = False
    transposed: bool = False
    positions: tuple[str, int] | None = None
    outside: tuple[str, ...] = ("lm_head",)
    buffers: tuple[str, ...] = (".rotary_emb.inv_freq",)
    encoder: bool = False
    sizes: Mapping[str, str] = field(default_factory=dict)

    @property
    def linears(self) -> tuple[str, ...]:
        """Every linear layer of a block, relative to the block, in the order they run."""
        return tuple(name for group in self.groups for name in group)

    def block(self, index: int) -> str:
        """Prefix of block ``index``, without the last dot."""
        return f"{self.blocks}.{index}"

    def weight(self, linear: nn.Module) -> Tensor:
        """The weight of a linear layer of a block as (rows, columns), a view that can be written to."""
        weight = linear.get_parameter("weight")
        return weight.T if self.transposed else weight

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

GEMMA = replace(LLAMA, models=("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"), tied=True)

OPT = Architecture(
    models=("OPTForCausalLM",),
    groups=(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.out_proj",),
        ("fc1",),
        ("fc2",),
    ),
    heads=None,
    heads_out="self_attn.out_proj",
    channels=("fc1",),
    channels_out="fc2",
    blocks="model.decoder.layers",
    embeddings="model.decoder.embed_tokens",
    norm="model.decoder.final_layer_norm",
    norm_optional=True,  # the 350m model norms after each block instead
    tied=True,
    positions=("model.decoder.embed_positions", 2),
    outside=("lm_head", "model.decoder.project_in", "model.decoder.project_out"),
    sizes={"intermediate_size": "ffn_dim"},
)

GPT2 = Architecture(
    models=("GPT2LMHeadModel",),
    groups=(("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",)),
    heads=None,
    heads_out="attn.c_proj",
    channels=("mlp.c_fc",),
    channels_out="mlp.c_proj",
    blocks="transformer.h",
    embeddings="transformer.wte",
    norm="transformer.ln_f",
    tied=True,
    transposed=True,
    positions=("transformer.wpe", 0),
    buffers=(".attn.bias", ".attn.masked_bias"),
    sizes={
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
    },
)

BERT = Architecture(
    models=("BertForQuestionAnswering", "BertForSequenceClassification"),
    groups=(
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        ("attention.output.dense",),
        ("intermediate.dense",),
        ("output.dense",),
    ),
    heads=None,
    heads_out="attention.output.dense",
    channels=("intermediate.dense",),
    channels_out="output.dense",
    blocks="bert.encoder.layer",
    embeddings="bert.embeddings.word_embeddings",
    norm="",
    head="",
    positions=("bert.embeddings.position_embeddings", 0),
    outside=("qa_outputs", "classifier", "bert.pooler.dense"),
    buffers=(".position_ids",),
    encoder=True,
)

ROBERTA = replace(
    BERT,
    models=("RobertaForQuestionAnswering", "RobertaForSequenceClassification"),
    blocks="roberta.encoder.layer",
    embeddings="roberta.embeddings.word_embeddings",
    positions=("roberta.embeddings.position_embeddings", 2),
    outside=("qa_outputs", "classifier.dense", "classifier.out_proj"),
)

DISTILBERT = Architecture(
    models=("DistilBertForQuestionAnswering", "DistilBertForSequenceClassification"),
    groups=(
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        ("attention.out_lin",),
        ("ffn.lin1",),
        ("ffn.lin2",),
    ),
    heads=None,
    heads_out="attention.out_lin",
    channels=("ffn.lin1",),
    channels_out="ffn.lin2",
    blocks="distilbert.transformer.layer",
    embeddings="distilbert.embeddings.word_embeddings",
    norm="",
    head="",
    positions=("distilbert.embeddings.position_embeddings", 0),
    outside=("qa_outputs", "pre_classifier", "classifier"),
    buffers=(".position_ids",),
    encoder=True,
    sizes={
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
    },
)

ARCHITECTURES = (LLAMA, GEMMA, OPT, GPT2, BERT, ROBERTA, DISTILBERT)


def size_name(config: Mapping[str, Any], size: str) -> str:
    """What config.json of this family calls a size that most call ``size``."""
    entry = find_architecture(config)
    return size if entry is None else entry.sizes.get(size, size)


def size_of(config: Mapping[str, Any], size: str) -> int:
    """One of the sizes ``num_hidden_layers``, ``num_attention_heads``, ``hidden_size``, ``intermediate_size``."""
    value = config.get(size_name(config, size))
    if value is None and size == "intermediate_size":
        return 4 * size_of(config, "hidden_size")  # GPT-2's, where config.json leaves it open
    return int(config[size_name(config, size)])


def block_count(config: Mapping[str, Any]) -> int:
    """Blocks that config.json announces."""
    return size_of(config, "num_hidden_layers")


def supported() -> tuple[str, ...]:
    """Names of every architecture that can be compressed."""
    return tuple(model for entry in ARCHITECTURES for model in entry.models)


def architecture_name(config: Mapping[str, Any]) -> str:
    """``LlamaForCausalLM`` and the like, as config.json has it, or ``(none)``."""
    names = config.get("architectures") or ["(none)"]
    return str(names[0])


def find_architecture(config: Mapping[str, Any]) -> Architecture | None:
    """The entry for a config.json, or none."""
    name = architecture_name(config)
    return next((entry for entry in ARCHITECTURES if name in entry.models), None)


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The entry for a config.json.

    Raises:
        RefusedModel: no entry serves this architecture.
    """
    entry = find_architecture(config)
    if entry is None:
        raise RefusedModel(
            "this architecture cannot be compressed yet",
            observed=architecture_name(config),
            limit=", ".join(supported()),
            remedy="choose a model of a supported family, or add an entry to tasks/compression/architectures.py",
        )
    return entry
