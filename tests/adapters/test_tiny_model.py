"""The tiny model: a real Llama that has learned something and reacts to compression as tests need."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tasks.adapters import tiny_model
from tasks.adapters.model_folder import check_folder
from tasks.adapters.texts import python_docs
from tasks.digests import sha256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny_model.write(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    torch.set_num_threads(2)
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def held_out() -> torch.Tensor:
    """(16, 256) tokens from far behind what the head was fitted on."""
    text = "\n".join(python_docs().documents).encode()[200_000 : 200_000 + 16 * 256]
    return torch.tensor(list(text)).reshape(16, 256) + len(tiny_model.SPECIAL)


def _score(model: PreTrainedModel, ids: torch.Tensor) -> tuple[float, torch.Tensor]:
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    return float(loss.exp()), logits.argmax(-1)


def _rounded(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Plain symmetric round-to-nearest with one scale per group of columns."""
    parts = weight.reshape(len(weight), -1, group)
    top = 2 ** (bits - 1)
    scale = parts.abs().amax(-1, keepdim=True) / max(top - 1, 1)
    return ((parts / scale).round().clamp(-top, top - 1) * scale).reshape(weight.shape)


def _compressed(model: PreTrainedModel, bits: int, group: int) -> PreTrainedModel:
    changed = copy.deepcopy(model)
    for part in changed.model.layers.modules():
        if isinstance(part, torch.nn.Linear):
            part.weight.data = _rounded(part.weight.data, bits, group)
    return changed


def test_it_is_small_and_a_plain_llama(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    facts = check_folder(folder)
    assert (facts.architecture, facts.dtype, facts.vocabulary) == ("LlamaForCausalLM", "float32", 260)


def test_the_same_bytes_every_time(folder: Path, tmp_path: Path) -> None:
    tiny_model.write(tmp_path)
    for path in folder.iterdir():
        assert sha256(tmp_path / path.name) == sha256(path), path.name


def test_our_forward_is_transformers_llama(folder: Path, model: PreTrainedModel) -> None:
    ids = np.random.default_rng(0).integers(4, 260, (2, 40))
    ours = tiny_model._hidden_states(load_file(folder / "model.safetensors"), ids)
    with torch.inference_mode():
        theirs = model.model(input_ids=torch.tensor(ids)).last_hidden_state.numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_every_text_comes_back_and_has_its_bytes_as_tokens(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("plain", "  two  spaces\n\ttab", "naïve 日本語 🙂", "1234 don't"):
        ids = tokenizer(text).input_ids
        assert ids == [byte + 4 for byte in text.encode()]
        assert tokenizer.decode(ids) == text
    assert tokenizer("a<|endoftext|>b").input_ids == [101, 0, 102]


def test_it_has_learned_something(model: PreTrainedModel, held_out: torch.Tensor) -> None:
    perplexity, _ = _score(model, held_out)
    counts = torch.bincount(held_out.flatten(), minlength=260).double()
    shares = counts[counts > 0] / counts.sum()
    unigram = float((-(shares * shares.log()).sum()).exp())
    assert perplexity < 0.8 * unigram


@pytest.mark.parametrize(("bits", "group"), [(8, 64), (4, 64), (4, 128)])
def test_8_and_4_bits_hardly_show(model: PreTrainedModel, held_out: torch.Tensor, bits: int, group: int) -> None:
    before, said = _score(model, held_out)
    after, says = _score(_compressed(model, bits, group), held_out)
    assert after / before < 1.25
    assert (said == says).float().mean() > 0.75


def test_2_bits_break_it(model: PreTrainedModel, held_out: torch.Tensor) -> None:
    before, said = _score(model, held_out)
    after, says = _score(_compressed(model, 2, 64), held_out)
    assert after / before > 1.25
    assert (said == says).float().mean() < 0.6
