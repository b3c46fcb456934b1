"""One Llama-type decoder as an ONNX graph, its multiplications on packed integers.

The decoder is written block by block, with ONNX Runtime's own operators: MatMulNBits multiplies packed
integers as they are, GroupQueryAttention does rotary embedding, causal attention and the key-value cache. Projections
with the same input (query, key, value; gate, up) become one multiplication, their rows under one another.

Interface of the graph (S tokens of B rows, C of them in the cache's buffers):

=========================  ================================  =============================================
``input_ids``              int64 (B, S)
``seqlens_k``              int32 (B,)                        tokens of each row after this call, less 1
``total_sequence_length``  int32 ()                          the largest of those, plus 1
``logit_positions``        int64 (P,)                        which of the S positions get logits
``past_key_values.*``      float32 (B, heads, C, head size)  ``<block>.key`` and ``<block>.value``
``present.*``              as those                          bound to the same buffers: written in place
``logits``                 float32 (B, P, vocabulary)
=========================  ================================  =============================================

Source of the operators' meaning: ONNX Runtime, ``docs/ContribOperators.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from onnx import TensorProto
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.onnx_graph import MICROSOFT, GraphWriter, stored_bits
from tasks.compression.packing import PackedLinear, Packing
from tasks.compression.quantization import round_to_nearest

HEAD_GROUP = 32

Head = Literal["int8", "float32"]


class DecoderGraph:
    """The graph of one Llama-type decoder, in the order that it runs."""

    def __init__(
        self, graph: GraphWriter, checkpoint: Checkpoint, config: Any, head: Head, accuracy_level: int
    ) -> None:
        self.graph, self.checkpoint, self.config, self.head, self.level = (
            graph,
            checkpoint,
            config,
            head,
            accuracy_level,
        )
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(getattr(config, "num_key_value_heads", None) or self.heads)
        self.head_size = int(getattr(config, "head_dim", None) or config.hidden_size // self.heads)
        self.epsilon = float(config.rms_norm_eps)
        self.shared = checkpoint.tied and head == "int8"
        self.grids: set[str] = set()  # of the linear layers that were written

    def write(self, on_progress: Callable[[float], None]) -> None:
        graph, entry = self.graph, self.checkpoint.architecture
        graph.input("input_ids", TensorProto.INT64, ["batch", "sequence"])
        graph.input("seqlens_k", TensorProto.INT32, ["batch"])
        graph.input("total_sequence_length", TensorProto.INT32, [])
        graph.input("logit_positions", TensorProto.INT64, ["positions"])
        graph.output("logits", TensorProto.FLOAT, ["batch", "positions", int(self.config.vocab_size)])
        self._rotary()
        hidden = self._embed()
        normed = self._norm(f"{entry.block(0)}.input_layernorm", hidden, None)[0]
        for index in range(self.checkpoint.blocks):
            last = index + 1 == self.checkpoint.blocks
            following = entry.norm if last else f"{entry.block(index + 1)}.input_layernorm"
            normed, hidden = self._block(index, normed, hidden, following)
            on_progress((index + 1) / self.checkpoint.blocks)
        kept = graph.node("Gather", [normed, "logit_positions"], "kept", axis=1)
        graph.node("Identity", [self._multiply("head", kept, self._head(), None)], "logits")

    def _rotary(self) -> None:
        """Cosines and sines of every position, (context, head size / 2), scaled as the model's own code does.

        The file holds what they are made of; ONNX Runtime computes the tables once, when it loads the graph.
        """
        rotary = LlamaRotaryEmbedding(self.config)
        graph, context = self.graph, int(self.config.max_position_embeddings)
        graph.constant("rotary.frequencies", rotary.inv_freq.float()[None])
        graph.constant("rotary.scale", torch.tensor(float(rotary.attention_scaling)))
        limits = [
            graph.constant(f"rotary.{name}", torch.tensor(value, dtype=torch.int64))
            for name, value in (("first", 0), ("end", context), ("step", 1), ("columns", [1]))
        ]
        whole = graph.node("Range", limits[:3], "rotary.positions")
        positions = graph.node("Cast", [whole], "rotary.floating", to=TensorProto.FLOAT)
        column = graph.node("Unsqueeze", [positions, limits[3]], "rotary.column")
        angles = graph.node("Mul", [column, "rotary.frequencies"], "rotary.angles")
        for operator, name in (("Cos", "cos_cache"), ("Sin", "sin_cache")):
            turned = graph.node(operator, [angles], f"{name}.unscaled")
            graph.node("Mul", [turned, "rotary.scale"], name)

    def _embed(self) -> str:
        # As stored: half the bytes of float32 where the folder holds float16, and the same values.
        name = f"{self.checkpoint.architecture.embeddings}.weight"
        if self.shared:
            return self.graph.rows("head", self._rounded_head, "input_ids", "hidden")
        self.checkpoint.values(name)  # refuses NaN and infinity
        table = self.graph.constant(name, self.checkpoint.tensor(name))
        rows = self.graph.node("Gather", [table, "input_ids"], "embedded")
        return self.graph.node("Cast", [rows], "hidden", to=TensorProto.FLOAT)

    def _norm(self, prefix: str, source: str, skip: str | None) -> tuple[str, str]:
        """(normed, sum): RMS norm of ``source``, or of ``source + skip``, and that sum."""
        scale = self.graph.constant(f"{prefix}.weight", self.checkpoint.values(f"{prefix}.weight"))
        out = f"{prefix}.out"
        if skip is None:
            self.graph.node("SimplifiedLayerNormalization", [source, scale], out, axis=-1, epsilon=self.epsilon)
            return out, source
        self.graph.node(
            "SkipSimplifiedLayerNormalization", [source, skip, scale], [out, "", "", f"{prefix}.sum"], MICROSOFT,
            epsilon=self.epsilon,
        )  # fmt: skip
        return out, f"{prefix}.sum"

    def _block(self, index: int, normed: str, hidden: str, following: str) -> tuple[str, str]:
        """Attention and MLP of block ``index``, then the norm named ``following``."""
        block = self.checkpoint.architecture.block(index)
        attended = self._attention(index, self._linear(f"{block}.self_attn", ("q_proj", "k_proj", "v_proj"), normed))
        attended = self._linear(f"{block}.self_attn", ("o_proj",), attended)
        normed, hidden = self._norm(f"{block}.post_attention_layernorm", attended, hidden)
        both = self._linear(f"{block}.mlp", ("gate_proj", "up_proj"), normed)
        halves = [f"{block}.mlp.gate", f"{block}.mlp.up"]
        self.graph.node("Split", [both], halves, axis=-1, num_outputs=2)
        # x · sigmoid(1 · x) is SiLU.
        gate = self.graph.node("QuickGelu", [halves[0]], f"{block}.mlp.silu", MICROSOFT, alpha=1.0)
        product = self.graph.node("Mul", [gate, halves[1]], f"{block}.mlp.product")
        return self._norm(following, self._linear(f"{block}.mlp", ("down_proj",), product), hidden)

    def _attention(self, index: int, projected: str) -> str:
        """Causal attention over the cache; ``projected`` is query, key and value side by side."""
        shape: list[str | int] = ["batch", self.kv_heads, "cache", self.head_size]
        past = [self.graph.input(f"past_key_values.{index}.{kind}", TensorProto.FLOAT, shape) for kind in _CACHE]
        present = [self.graph.output(f"present.{index}.{kind}", TensorProto.FLOAT, shape) for kind in _CACHE]
        return self.graph.node(
            "GroupQueryAttention",
            [projected, "", "", *past, "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"],
            [f"{self.checkpoint.architecture.block(index)}.attended", *present],
            MICROSOFT,
            num_heads=self.heads,
            kv_num_heads=self.kv_heads,
            scale=self.head_size**-0.5,
            do_rotary=1,
        )

    def _linear(self, module: str, names: tuple[str, ...], source: str) -> str:
        """The layers ``module.name`` for all ``names`` on one input, their outputs side by side."""
        prefixes = [f"{module}.{name}" for name in names]
        layers = [self.checkpoint.packed(prefix) or self.checkpoint.values(f"{prefix}.weight") for prefix in prefixes]
        rows = [self.checkpoint.linear_shape(prefix)[0] for prefix in prefixes]
        biases = list(self._biases(prefixes, rows))
        self.grids |= {_grid(layer) for layer in layers}
        bias, name = torch.cat(biases) if biases else None, f"{module}.{'+'.join(names)}"
        if len({_kind(layer) for layer in layers}) == 1:
            return self._multiply(name, source, _stacked(layers), bias)
        parts = [self._multiply(prefix, source, layer, None) for prefix, layer in zip(prefixes, layers, strict=True)]
        return self._biased(name, self.graph.node("Concat", parts, f"{name}.out", axis=-1), bias)

    def _biases(self, prefixes: list[str], rows: list[int]) -> Iterator[Tensor]:
        if any(f"{prefix}.bias" in self.checkpoint for prefix in prefixes):
            for prefix, count in zip(prefixes, rows, strict=True):
                name = f"{prefix}.bias"
                yield self.checkpoint.values(name) if name in self.checkpoint else torch.zeros(count)

    def _multiply(self, name: str, source: str, weight: PackedLinear | Tensor, bias: Tensor | None) -> str:
        return self._biased(name, self.graph.linear(name, source, weight, self.level), bias)

    def _biased(self, name: str, product: str, bias: Tensor | None) -> str:
        if bias is None:
            return product
        return self.graph.node("Add", [product, self.graph.constant(f"{name}.bias", bias)], f"{name}.biased")

    def _head(self) -> PackedLinear | Tensor:
        return self._rounded_head if self.head == "int8" else self._head_values()

    def _head_values(self) -> Tensor:
        entry = self.checkpoint.architecture
        return self.checkpoint.values(f"{entry.embeddings if self.checkpoint.tied else entry.head}.weight")

    @cached_property
    def _rounded_head(self) -> PackedLinear:
        return round_to_nearest(self._head_values(), Packing(8, HEAD_GROUP, True))


_CACHE = ("key", "value")


def _kind(layer: PackedLinear | Tensor) -> object:
    """Layers of one input and one kind can be one multiplication."""
    return (stored_bits(layer.bits), layer.group_size, layer.symmetric) if isinstance(layer, PackedLinear) else None


def _grid(layer: PackedLinear | Tensor) -> str:
    """What ``onnx.json`` says of a layer."""
    if isinstance(layer, Tensor):
        return "float32"
    return f"int{layer.bits}, groups of {layer.group_size}{'' if layer.symmetric else ' with zero points'}"


def _stacked(layers: list[PackedLinear | Tensor]) -> PackedLinear | Tensor:
    """Layers of one kind and one input as one, rows under rows."""
    packed = [layer for layer in layers if isinstance(layer, PackedLinear)]
    if not packed:
        return torch.cat([layer for layer in layers if isinstance(layer, Tensor)])
    points = [layer.zero_point for layer in packed if layer.zero_point is not None]
    return replace(
        packed[0],
        codes=torch.cat([layer.codes for layer in packed]),
        scale=torch.cat([layer.scale for layer in packed]),
        zero_point=torch.cat(points) if points else None,
        bits=max(layer.bits for layer in packed),  # a narrower grid lies inside a wider one, around the same zero
    )
