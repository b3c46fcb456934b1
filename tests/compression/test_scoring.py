"""Scores against plain formulas, and against each other."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.folder_facts import describe
from tasks.compression.loading import head_weight, load_for_compute
from tasks.compression.scoring import TorchScored, sample, score_pair
from tasks.errors import RefusedData, RefusedModel, SlimlineError
from tests.compression.small import LINEARS, blocks, perturb, quantize, write_llama

PROMPT = torch.arange(3, 11)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("score")
    write_llama(home / "teacher")
    quantize(home / "teacher", home / "packed")
    return home


def test_against_plain_formulas(home: Path) -> None:
    tokens = blocks(3, 150, seed=2)  # more than one chunk a block
    shares: list[float] = []
    candidate, baseline = score_pair(
        home / "packed", home / "teacher", tokens, prompt=PROMPT, new_tokens=4, repeats=1, on_progress=shares.append
    )
    with torch.inference_mode():
        log_q, log_p = (
            AutoModelForCausalLM.from_pretrained(home / name, dtype=torch.float32)(input_ids=tokens)
            .logits[:, :-1]
            .double()
            .log_softmax(-1)
            for name in ("packed", "teacher")
        )
    for score, log in ((candidate, log_q), (baseline, log_p)):
        wanted = functional.nll_loss(log.flatten(0, 1), tokens[:, 1:].flatten()).exp().item()
        # A tenth of a percent: the library rounds each weight to float16 once when it is asked for dense ones.
        assert score.perplexity == pytest.approx(wanted, rel=1e-3)
        assert score.tokens == 3 * 149
    assert baseline.perplexity == pytest.approx(
        functional.nll_loss(log_p.flatten(0, 1), tokens[:, 1:].flatten()).exp().item(), rel=1e-5
    )
    assert candidate.kl == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-2)
    assert candidate.agreement == pytest.approx((log_q.argmax(-1) == log_p.argmax(-1)).double().mean().item(), abs=5e-3)
    assert 0 < candidate.agreement < 1
    assert candidate.bytes == describe(home / "packed").bytes < baseline.bytes
    assert min(candidate.first_token_ms, candidate.per_token_ms, baseline.first_token_ms, baseline.per_token_ms) > 0
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_model_against_itself(home: Path) -> None:
    candidate, baseline = score_pair(
        home / "packed", home / "packed", blocks(2), prompt=PROMPT, new_tokens=2, repeats=1
    )
    assert candidate.agreement == baseline.agreement == 1
    assert candidate.kl < 1e-9
    assert candidate.perplexity == baseline.perplexity


def test_packed_folder_loads_as_dense_layers_with_its_own_values(home: Path) -> None:
    model, checkpoint = load_for_compute(home / "packed"), Checkpoint(home / "packed")
    for name in LINEARS:
        layer = model.get_submodule(name)
        assert type(layer) is torch.nn.Linear
        assert layer.weight.dtype == torch.float32
        torch.testing.assert_close(layer.weight.data, checkpoint.linear(name), rtol=5e-4, atol=1e-6)


def test_a_folder_with_a_missing_tensor_is_refused(home: Path, tmp_path: Path) -> None:
    """transformers alone would fill it with random numbers."""
    perturb(home / "teacher", tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RefusedModel, match="up_proj"):
        load_for_compute(tmp_path / "broken")


def test_a_head_that_is_not_a_matrix_is_refused(home: Path) -> None:
    model = load_for_compute(home / "teacher")
    model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, logits: logits.tanh())
    with pytest.raises(RefusedModel, match="head"):
        head_weight(model)


def test_a_perplexity_that_is_no_number_is_an_error(home: Path, tmp_path: Path) -> None:
    perturb(home / "teacher", tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][:] = math.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(SlimlineError, match="the candidate's perplexity"):
        score_pair(tmp_path / "broken", home / "teacher", blocks(1), prompt=PROMPT, new_tokens=2, repeats=1)


@pytest.mark.parametrize(
    ("tokens", "prompt", "words"),
    [
        (blocks(0), PROMPT, "no tokens"),
        (blocks(2, 1), PROMPT, "no tokens"),
        (blocks(2) + 90, PROMPT, "tokenizer"),
        (blocks(2), PROMPT[:0], "no tokens"),
        (blocks(2), PROMPT - 4, "tokenizer"),
    ],
)
def test_bad_tokens_are_refused(home: Path, tokens: torch.Tensor, prompt: torch.Tensor, words: str) -> None:
    with pytest.raises(RefusedData, match=words):
        score_pair(home / "packed", home / "teacher", tokens, prompt=prompt, new_tokens=2, repeats=1)


def test_models_of_different_vocabularies_are_refused(home: Path, tmp_path: Path) -> None:
    other = write_llama(tmp_path / "other", vocabulary=50)
    with pytest.raises(RefusedModel, match="vocabulary"):
        score_pair(other, home / "teacher", blocks(1, vocabulary=50), prompt=PROMPT, new_tokens=2, repeats=1)


def test_sample_is_what_generate_writes(home: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(home / "teacher", dtype=torch.float32)
    generated = model.generate(PROMPT.unsqueeze(0), max_new_tokens=6, do_sample=False)[0, len(PROMPT) :]
    words = " ".join(f"w{token}" for token in PROMPT.tolist())
    written = generated.tolist()
    until_end = written[: written.index(2)] if 2 in written else written
    assert until_end
    text = sample(TorchScored(load_for_compute(home / "teacher")), home / "teacher", words, new_tokens=6)
    assert text.split() == [f"w{token}" for token in until_end if token > 2]
