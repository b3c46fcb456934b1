"""Small folders for tests: a seeded two-block Llama and what the real stages make of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.compression.layerwise import prune_folder, quantize_folder

VOCABULARY = 97
LINEARS = tuple(
    f"model.layers.{block}.{name}_proj"
    for block in range(2)
    for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
)


def write_llama(folder: Path, *, seed: int = 0, vocabulary: int = VOCABULARY, blocks: int = 2) -> Path:
    """Two blocks unless told, hidden 64, tied embeddings; weights large enough that it has opinions."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, vocabulary)
    return folder


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{index}": index for index in range(3, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)


def blocks(count: int, length: int = 24, *, seed: int = 0, vocabulary: int = VOCABULARY) -> Tensor:
    return torch.randint(3, vocabulary, (count, length), generator=torch.Generator().manual_seed(seed))


def prune(source: Path, destination: Path, sparsity: float = 0.5) -> Path:
    list(prune_folder(source, destination, blocks(4), method="magnitude", sparsity=sparsity))
    return destination


def quantize(source: Path, destination: Path, bits: int = 4) -> Path:
    list(
        quantize_folder(
            source, destination, blocks(4), method="rtn", bits=bits, group_size=32, symmetric=True, damping=0.01
        )
    )
    return destination


def perturb(source: Path, destination: Path, share: float = 0.2) -> Path:
    """A copy whose linear weights carry noise of ``share`` of their spread."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, destination)
    tensors = load_file(source / "model.safetensors")
    generator = torch.Generator().manual_seed(7)
    for name in LINEARS:
        weight = tensors[f"{name}.weight"]
        weight += share * weight.std() * torch.randn(weight.shape, generator=generator)
    save_file(tensors, destination / "model.safetensors", metadata={"format": "pt"})
    return destination
