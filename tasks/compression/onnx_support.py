"""What the ONNX graph does not know, refused by name before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from tasks.compression.architectures import architecture_name
from tasks.compression.checkpoint import Checkpoint, check_supported
from tasks.compression.packing import PACKED_SUFFIXES
from tasks.errors import RefusedModel

EXPORTED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
ROTARY = ("default", "linear", "llama3")
_PROBES = ("Hello", " The capital of France is", "Größe  42\n\nx=1;\t§ 你好 🙂", "a " * 40)
_PARTS = ("weight", "bias", *PACKED_SUFFIXES)


def check_exportable(folder: Path) -> None:
    """Refuse a folder that ``export_onnx`` would refuse, from its configuration, tensor names and tokenizer alone.

    Raises:
        RefusedModel: what the graph does not know.
    """
    checkpoint = check_supported(folder)
    refuse_unknown(checkpoint, AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    refuse_other_tokens(folder)


def refuse_unknown(checkpoint: Checkpoint, config: Any) -> None:
    """Everything that would make the graph compute something else than the model does."""
    name = architecture_name(checkpoint.config)
    if name not in EXPORTED:  # before anything else: other families' configurations have other names
        raise _unknown("architecture", name, EXPORTED)
    positions = getattr(config, "rope_parameters", None) or {}
    turned = positions.get("partial_rotary_factor", 1.0)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sliding = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    for what, observed, known in (
        # W8A8 rounds activations with one scale a token, the graph's operator with one a group.
        ("weight format", checkpoint.layout or "dense", ("dense", "pack-quantized", "gptq", "gptq_v2")),
        ("activation", config.hidden_act, ("silu",)),
        ("position encoding", positions.get("rope_type", "default"), ROTARY),
        ("share of a head that positions turn", turned, (1.0,)),
        ("head size", head_size if head_size % 16 else "a multiple of 16", ("a multiple of 16",)),
        ("attention window", f"{sliding} tokens" if sliding else "whole context", ("whole context",)),
    ):
        if observed not in known:
            raise _unknown(what, observed, known)
    entry = checkpoint.architecture
    norms = {"input_layernorm.weight", "post_attention_layernorm.weight"}
    for index in range(checkpoint.blocks):
        prefix = f"{entry.block(index)}."
        names = {stored.removeprefix(prefix) for stored in checkpoint.block_names(index)}
        if extra := sorted(names - norms - {f"{linear}.{part}" for linear in entry.linears for part in _PARTS}):
            raise RefusedModel(
                "the model has tensors that the ONNX graph does not know",
                observed=f"{prefix}{extra[0]}",
                limit="linear layers, their biases and two norms a block",
                remedy="serve the folder with torch, or add the case to tasks/compression/onnx_decoder.py",
            )


def _unknown(what: str, observed: object, known: tuple[object, ...]) -> RefusedModel:
    return RefusedModel(
        f"this {what} cannot be exported to ONNX",
        observed=observed,
        limit=", ".join(map(str, known)),
        remedy="serve the folder with torch (recipe.cpu_export = auto or none), or take another model",
    )


def refuse_other_tokens(folder: Path) -> None:
    """The ONNX folder is served with ``tokenizers`` alone, so tokenizer.json has to say everything."""
    whole = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    alone.no_padding()
    alone.no_truncation()
    for text in _PROBES:
        expected, observed = whole(text)["input_ids"], alone.encode(text).ids
        if expected != observed:
            raise RefusedModel(
                "tokenizer.json alone does not cut text as the model's tokenizer does",
                observed=f"{text!r} as {observed}",
                limit=f"{expected}",
                remedy="write the tokenizer again with save_pretrained of transformers, or serve the folder with torch",
            )
