"""A Llama in llama.cpp's GGUF format → a Hugging Face folder in float32.

Only what one needs for Llama is done, with numpy alone; the format is described at
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and its blocks are decoded by the ``gguf`` package. Two
things differ between the formats: llama.cpp interleaves the rows of q and k for its rotary kernel (undone in
``unpermute``), and its tokenizer is a list of tokens and merges plus the *name* of a splitting rule, which is spelled
out here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence

from tasks.errors import RefusedModel

Float = NDArray[np.float32]

#: Raised whenever the folder written for the same file changes.
VERSION = 1

_CONTROL_TOKEN = 3  # gguf.TokenType.CONTROL
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(gguf: Path, folder: Path) -> dict[str, str]:
    """Write config, weights and tokenizer of ``gguf`` into the existing ``folder``.

    Returns what the file says of itself: ``name``, ``licence``, ``storage`` (the formats its weights were stored in).

    Raises:
        RefusedModel: not a Llama, or a tokenizer rule that is not known here. Nothing is written then.
    """
    reader = GGUFReader(gguf)
    facts = {key: field.contents() for key, field in reader.fields.items()}
    _check(facts)
    tokenizer = _tokenizer(facts)
    weights = dict(_weights(reader, facts))
    config = _config(facts, tied="lm_head.weight" not in weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "config.json", config)
    special = _special_tokens(facts)
    _write(folder / "special_tokens_map.json", special)
    _write(folder / "tokenizer_config.json", _tokenizer_config(facts, special))
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write(folder / "generation_config.json", {"_from_model_config": True, **ids})
    return {
        "name": str(facts.get("general.name", gguf.stem)),
        "licence": str(facts.get("general.license", "not stated")),
        "storage": ", ".join(sorted({tensor.tensor_type.name for tensor in reader.tensors})),
    }


def unpermute(weight: Float, heads: int) -> Float:
    """Undo llama.cpp's row order of q and k: (heads · head size, columns) → the same shape.

    llama.cpp pairs rotary components (2i, 2i+1), Hugging Face pairs (i, i + head size / 2): its converter's
    ``permute`` reshapes each head's rows (2, head size / 2) → (head size / 2, 2), and this is the inverse.
    """
    rows, columns = weight.shape
    split = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows, columns)


def _check(facts: dict[str, Any]) -> None:
    architecture = facts.get("general.architecture")
    if architecture != "llama":
        raise RefusedModel(
            "this GGUF file is not a Llama",
            observed=architecture,
            limit="llama",
            remedy="import a Hugging Face folder instead",
        )
    rule = (facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre"))
    if rule not in {("gpt2", "smollm"), ("gpt2", "gpt-2")}:
        raise RefusedModel(
            "the tokenizer's splitting rule is not known",
            observed="/".join(map(str, rule)),
            limit="gpt2/smollm or gpt2/gpt-2",
            remedy="import a Hugging Face folder, which carries its own tokenizer.json",
        )


def _weights(reader: GGUFReader, facts: dict[str, Any]) -> Iterator[tuple[str, Float]]:
    heads = {"attn_q": facts["llama.attention.head_count"], "attn_k": facts["llama.attention.head_count_kv"]}
    for tensor in reader.tensors:
        name, _, _ = tensor.name.rpartition(".weight")
        if name in _TOP_NAMES:
            full, kind = _TOP_NAMES[name], name
        elif name.startswith("blk.") and name.split(".")[2] in _BLOCK_NAMES:
            _, block, kind = name.split(".")
            full = f"model.layers.{block}.{_BLOCK_NAMES[kind]}"
        else:
            raise RefusedModel(
                "a tensor of this file has no place in a Llama",
                observed=tensor.name,
                limit=sorted({*_TOP_NAMES, *_BLOCK_NAMES}),
                remedy="import a Hugging Face folder instead",
            )
        value = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        yield f"{full}.weight", unpermute(value, heads[kind]) if kind in heads else value


def _config(facts: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    theta = _short(facts["llama.rope.freq_base"])
    heads = facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "dtype": "float32",
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "head_dim": facts["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "max_position_embeddings": facts["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": facts["llama.block_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "rms_norm_eps": _short(facts["llama.attention.layer_norm_rms_epsilon"]),
        # transformers 5 reads rope_parameters; servers that still stand on transformers 4 read rope_theta.
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "rope_theta": theta,
        "tie_word_embeddings": tied,
        "use_cache": True,
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
    }


def _tokenizer(facts: dict[str, Any]) -> Tokenizer:
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    words: PreTokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    digits = facts["tokenizer.ggml.pre"] == "smollm"
    tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), words]) if digits else words
    tokenizer.decoder = ByteLevelDecoder()
    kinds = facts["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    return tokenizer


def _special_tokens(facts: dict[str, Any]) -> dict[str, str]:
    tokens = facts["tokenizer.ggml.tokens"]
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    return {role: tokens[facts[f"tokenizer.ggml.{key}_token_id"]] for role, key in roles.items()}


def _tokenizer_config(facts: dict[str, Any], special: dict[str, str]) -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "chat_template": facts["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": facts["llama.context_length"],
        # The plain class: named ones rebuild the splitting rule in code and would lose the digits (as transformers'
        # own GGUF reader does in 5.23: it tokenizes a digit after two or more spaces differently from llama.cpp).
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
    }


def _short(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
