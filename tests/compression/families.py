"""A seeded two-block folder of every architecture that can be compressed; biases are not 0 and norms not 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from tests.compression.small import VOCABULARY, write_tokenizer

LLAMA_SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
}  # fmt: skip
OPT_SIZES: dict[str, Any] = {
    "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
BERT_SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 130, "pad_token_id": 0,
}  # fmt: skip
GEMMA3 = LLAMA_SIZES | {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "llama", LLAMA_SIZES | {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralForCausalLM", "mistral", LLAMA_SIZES | {"sliding_window": 8, "tie_word_embeddings": True}),
    "qwen2": (
        "Qwen2ForCausalLM",
        "qwen2",
        LLAMA_SIZES | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3ForCausalLM", "qwen3", LLAMA_SIZES),
    "gemma": ("GemmaForCausalLM", "gemma", LLAMA_SIZES),
    "gemma2": ("Gemma2ForCausalLM", "gemma2", LLAMA_SIZES | {"query_pre_attn_scalar": 16, "sliding_window": 8}),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text", GEMMA3 | {"sliding_window": 8}),
    "gemma3 wide": ("Gemma3ForCausalLM", "gemma3_text", GEMMA3 | {"sliding_window": 512, "tie_word_embeddings": False}),
    "opt": ("OPTForCausalLM", "opt", OPT_SIZES),
    "opt 350m": ("OPTForCausalLM", "opt", OPT_SIZES | {"word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    "gpt2": (
        "GPT2LMHeadModel",
        "gpt2",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "scale_attn_by_inverse_layer_idx": True},
    ),
    "bert": ("BertForQuestionAnswering", "bert", BERT_SIZES),
    "bert classes": ("BertForSequenceClassification", "bert", BERT_SIZES | {"hidden_act": "relu"}),
    "roberta": ("RobertaForQuestionAnswering", "roberta", BERT_SIZES | {"pad_token_id": 1}),
    "roberta classes": ("RobertaForSequenceClassification", "roberta", BERT_SIZES | {"pad_token_id": 1}),
    "distilbert": (
        "DistilBertForQuestionAnswering",
        "distilbert",
        {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128},
    ),
    "distilbert classes": (
        "DistilBertForSequenceClassification",
        "distilbert",
        {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128},
    ),
}
"""Name → class in transformers, ``model_type``, and the sizes and options that its config gets."""

ENCODERS = tuple(name for name in FAMILIES if name.startswith(("bert", "roberta", "distilbert")))


def model_of(folder: Path) -> Any:
    """The folder as plain transformers loads it, with the class that its config.json names."""
    name = AutoConfig.from_pretrained(folder).architectures[0]
    return getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()


def write_family(family: str, folder: Path, **save: Any) -> Path:
    """``save``: for ``save_pretrained``."""
    name, kind, sizes = FAMILIES[family]
    common = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "init_std": 0.2, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(kind, **(common | sizes))
    torch.manual_seed(3)
    model = getattr(transformers, name)(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder, **save)
    write_tokenizer(folder, VOCABULARY)
    return folder
