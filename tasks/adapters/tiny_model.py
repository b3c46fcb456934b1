"""A seeded two-block Llama over bytes, made in seconds with numpy, for tests that compress something.

Random networks tell nothing when they are compressed, and training one takes minutes. This one is in between:
embeddings and both blocks are random (seeded), and only the head is fitted, by multinomial logistic regression on the
final hidden states over the Python documentation that ships with CPython (Huang et al. 2006, "Extreme learning
machine", Neurocomputing 70, is the same idea). The residual stream is dominated by what the blocks write, so errors
in their weights reach the prediction: 8 and 4 bits hardly show, 2 bits break it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from tasks.adapters.texts import python_docs

Float = NDArray[np.float32]

#: Raised whenever the folder written changes.
VERSION = 1
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
HIDDEN, MLP, HEADS, KV_HEADS, BLOCKS = 128, 384, 4, 2, 2
HEAD_SIZE = HIDDEN // HEADS
THETA = 10_000.0
EPSILON = 1e-5
_SEED = 20_261_122
_EMBEDDING = 0.5  # RMS of an embedding row: small, so that the residual stream is mostly what the blocks write
_TEXT_BYTES, _BLOCK_BYTES, _FIT_STEPS = 24_576, 64, 40
_DECAY = 1e-2  # penalty on the head's weights: without it the head leans on directions that 4-bit noise already fills


def identity() -> str:
    """What the folder is made from: this recipe and the text that the head is fitted on."""
    return hashlib.sha256(json.dumps([VERSION, python_docs().digest]).encode()).hexdigest()


def write(folder: Path) -> dict[str, Any]:
    """Write the model into the existing ``folder``; return what it was made from."""
    tokenizer = byte_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = _random_weights(np.random.default_rng(_SEED))
    text = "\n".join(python_docs().documents).encode()[:_TEXT_BYTES]
    ids = np.frombuffer(text, dtype=np.uint8).astype(np.int64) + len(SPECIAL)
    # One thread: the order of sums, and so the digest, does not depend on the number of cores.
    with threadpool_limits(1):
        weights["lm_head.weight"] = _fit_head(weights, ids.reshape(-1, _BLOCK_BYTES))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    special = dict(
        zip(
            ("eos_token", "bos_token", "unk_token", "pad_token"),
            (SPECIAL[0], SPECIAL[1], SPECIAL[0], SPECIAL[3]),
            strict=True,
        )
    )
    _write(folder / "config.json", _config())
    _write(folder / "special_tokens_map.json", special)
    _write(
        folder / "tokenizer_config.json",
        {"model_max_length": 2048, "tokenizer_class": "PreTrainedTokenizerFast", **special},
    )
    _write(folder / "generation_config.json", {"eos_token_id": 0, "bos_token_id": 1, "pad_token_id": 3})
    return {"seed": _SEED, "version": VERSION, "head_fitted_on": python_docs().digest}


def byte_tokenizer() -> Tokenizer:
    """Ids 0–3 are special, 4 + b is byte b: every text has exactly its UTF-8 bytes as tokens."""
    alphabet = _byte_alphabet()
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte value: printable Latin-1 as itself, the others moved up to U+0100."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256))
    return [chr(byte) if byte in printable else chr(256 + next(others)) for byte in range(256)]


def _random_weights(generator: np.random.Generator) -> dict[str, Float]:
    def normal(rows: int, columns: int, rms_out: float) -> Float:
        # Inputs are RMS-normalized, so outputs have this RMS.
        drawn = generator.standard_normal((rows, columns)) * rms_out / np.sqrt(columns)
        return np.asarray(drawn, dtype=np.float32)

    kv = KV_HEADS * HEAD_SIZE
    vocabulary = len(SPECIAL) + 256
    ones = np.ones(HIDDEN, dtype=np.float32)
    weights: dict[str, Float] = {
        "model.embed_tokens.weight": (generator.standard_normal((vocabulary, HIDDEN)) * _EMBEDDING).astype(np.float32),
        "model.norm.weight": ones,
    }
    for block in range(BLOCKS):
        prefix = f"model.layers.{block}."
        weights |= {
            f"{prefix}input_layernorm.weight": ones,
            f"{prefix}post_attention_layernorm.weight": ones,
            f"{prefix}self_attn.q_proj.weight": normal(HIDDEN, HIDDEN, 1.0),
            f"{prefix}self_attn.k_proj.weight": normal(kv, HIDDEN, 1.0),
            f"{prefix}self_attn.v_proj.weight": normal(kv, HIDDEN, 1.0),
            f"{prefix}self_attn.o_proj.weight": normal(HIDDEN, HIDDEN, 0.7),
            f"{prefix}mlp.gate_proj.weight": normal(MLP, HIDDEN, 1.0),
            f"{prefix}mlp.up_proj.weight": normal(MLP, HIDDEN, 1.0),
            f"{prefix}mlp.down_proj.weight": normal(HIDDEN, MLP, 0.5),
        }
    return weights


def _hidden_states(weights: dict[str, Float], ids: NDArray[np.int64]) -> Float:
    """Llama's forward pass (Touvron et al. 2023): ids (blocks, tokens) → normed states (blocks, tokens, hidden)."""
    state: Float = weights["model.embed_tokens.weight"][ids]
    for block in range(BLOCKS):
        part = {
            name.split(".", 3)[3]: value for name, value in weights.items() if name.startswith(f"model.layers.{block}.")
        }
        state = state + _attention(part, _rms_norm(state))
        inner = _rms_norm(state)
        gate = inner @ part["mlp.gate_proj.weight"].T
        inner = gate / (1 + np.exp(-gate)) * (inner @ part["mlp.up_proj.weight"].T)
        state = state + inner @ part["mlp.down_proj.weight"].T
    return _rms_norm(state)


def _attention(part: dict[str, Float], inner: Float) -> Float:
    blocks, tokens, _ = inner.shape

    def heads(kind: str, count: int) -> Float:
        projected: Float = inner @ part[f"self_attn.{kind}_proj.weight"].T
        split: Float = projected.reshape(blocks, tokens, count, HEAD_SIZE).swapaxes(1, 2)
        return split

    q = _rotate(heads("q", HEADS))
    k, v = (
        np.repeat(value, HEADS // KV_HEADS, axis=1) for value in (_rotate(heads("k", KV_HEADS)), heads("v", KV_HEADS))
    )
    scores = q @ k.swapaxes(2, 3) / np.float32(np.sqrt(HEAD_SIZE))
    scores = np.where(np.tri(tokens, dtype=bool), scores, np.float32(-np.inf))
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
    joined: Float = mixed.swapaxes(1, 2).reshape(blocks, tokens, HIDDEN)
    out: Float = joined @ part["self_attn.o_proj.weight"].T
    return out


def _rotate(value: Float) -> Float:
    """Rotary position embedding, Hugging Face's halves: (…, tokens, head size) → the same."""
    half = HEAD_SIZE // 2
    angles = np.outer(np.arange(value.shape[-2]), THETA ** (-np.arange(half) / half))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    first, second = value[..., :half], value[..., half:]
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


def _rms_norm(value: Float) -> Float:
    scale: Float = value / np.sqrt((value * value).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
    return scale


def _fit_head(weights: dict[str, Float], ids: NDArray[np.int64]) -> Float:
    """Multinomial logistic regression by Böhning's bound (1992, Ann. Inst. Stat. Math. 44) with Nesterov's momentum.

    The Hessian is at most ½ XᵀX for every class, so its inverse is one fixed step matrix and the loss falls
    monotonically without a step size. Returns the head, (vocabulary, hidden), rounded to 2⁻¹² so that differences
    between BLAS libraries mostly vanish.
    """
    states = _hidden_states(weights, ids)[:, :-1].reshape(-1, HIDDEN)
    seen, targets = np.unique(ids[:, 1:].reshape(-1), return_inverse=True)
    # Tokens that never occur all get the same row, so one row stands for them: the same fit, a third of the work.
    vocabulary = len(SPECIAL) + 256
    copies = np.ones(len(seen) + 1, dtype=np.float32)
    copies[-1] = vocabulary - len(seen)
    hessian = states.T @ states / (2 * len(states)) + _DECAY * np.eye(HIDDEN)
    step = np.linalg.inv(hessian).astype(np.float32)
    head = previous = np.zeros((len(seen) + 1, HIDDEN), dtype=np.float32)
    rows = np.arange(len(targets))
    for index in range(_FIT_STEPS):
        ahead = head + np.float32(index / (index + 3)) * (head - previous)
        logits = states @ ahead.T
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= (shares @ copies)[:, None]
        shares[rows, targets] -= 1
        gradient = shares.T @ states / np.float32(len(states)) + np.float32(_DECAY) * ahead
        previous, head = head, ahead - gradient @ step
    full = np.tile(head[-1], (vocabulary, 1))
    full[seen] = head[:-1]
    return np.asarray(np.round(full * 4096) / 4096, dtype=np.float32)


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "dtype": "float32",
        "eos_token_id": 0,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "max_position_embeddings": 2048,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": BLOCKS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": 3,
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_theta": THETA, "rope_type": "default"},
        "rope_theta": THETA,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": len(SPECIAL) + 256,
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
