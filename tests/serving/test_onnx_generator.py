"""The ONNX folder answers as the torch one does, and serving it never loads torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tasks.compression.layerwise import quantize_folder
from tasks.compression.onnx_export import export_onnx
from tasks.serving.generator import Generator
from tasks.serving.onnx_generator import OnnxGenerator, choose
from tasks.serving.onnx_session import Cache
from tasks.serving.payload import BadRequest, Interrupted, Request
from tasks.serving.worker import open_model
from tests.compression.small import blocks
from tests.serving.tiny_folder import CONTEXT, write_tiny_folder

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("hello", "a longer prompt, of more than one word", "x")


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokens = blocks(4, vocabulary=256)
    dense = write_tiny_folder(folder / "tiny", heads=2)  # ONNX Runtime wants heads of 16
    list(
        quantize_folder(
            dense, folder / "packed", tokens, method="rtn", bits=4, group_size=32, symmetric=True, damping=0.01
        )
    )
    return folder / "packed"


@pytest.fixture(scope="module")
def exact(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With float32 activations and head, so that greedy choices are the packed folder's."""
    folder = tmp_path_factory.mktemp("exact") / "onnx"
    export_onnx(packed, folder, head="float32", accuracy_level=0)
    return folder


def test_greedy_answers_are_those_of_the_packed_folder(packed: Path, exact: Path) -> None:
    generator, reference = OnnxGenerator(exact), Generator(packed)
    generator.check()
    for full in (True, False):
        request = Request(prompts=PROMPTS, max_new_tokens=24, return_full_text=full)
        answers = generator.generate(request, never)
        assert answers == reference.generate(request, never)

        alone = [
            generator.generate(Request(prompts=(p,), max_new_tokens=24, return_full_text=full), never)[0]
            for p in PROMPTS
        ]
        assert answers == alone
    text = reference.generate(Request(prompts=("hello",), max_new_tokens=24, return_full_text=False), never)[0]
    stop = (text[5:8], "never said")
    request = Request(prompts=("hello",), max_new_tokens=24, stop=stop, return_full_text=False)
    assert generator.generate(request, never) == reference.generate(request, never) == [text[: text.find(stop[0])]]


def test_both_tell_the_same_pieces_of_a_growing_answer(packed: Path, exact: Path) -> None:
    request = Request(prompts=PROMPTS[:1], max_new_tokens=24, return_full_text=False, stream=True)
    told: list[list[tuple[int, str]]] = []
    for generator in (OnnxGenerator(exact), Generator(packed)):
        pieces: list[tuple[int, str]] = []
        answer = generator.generate(request, never, lambda token, text, pieces=pieces: pieces.append((token, text)))
        assert answer[0].startswith("".join(text for _, text in pieces))
        told.append(pieces)
    assert told[0] == told[1]
    assert len(told[0]) == 24


def test_the_end_token_ends_an_answer(packed: Path, exact: Path, tmp_path: Path) -> None:
    generator = OnnxGenerator(exact)
    request = Request(prompts=("hello",), max_new_tokens=12, return_full_text=False)
    whole = generator.generate(request, never)[0]
    prompt = generator.tokenizer.encode("hello").ids
    cache = Cache(generator.decoder, 1, 32)
    token, ends = int(list(cache.prefill(0, np.array(prompt)))[-1].argmax()), []
    for _ in range(4):
        ends.append(token)
        token = int(cache.step(np.array([token]), np.array([True]))[0].argmax())
    for source, name in ((exact, "onnx"), (packed, "torch")):
        shutil.copytree(source, tmp_path / name)
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"eos_token_id": [ends[3], 256]}))
    answer = OnnxGenerator(tmp_path / "onnx").generate(request, never)
    assert answer == Generator(tmp_path / "torch").generate(request, never)
    assert len(answer[0]) < len(whole)


def test_a_seed_decides_what_is_drawn(exact: Path) -> None:
    generator = OnnxGenerator(exact)

    def drawn(seed: int) -> list[str]:
        return generator.generate(
            Request(prompts=PROMPTS, max_new_tokens=16, do_sample=True, temperature=1.5, top_p=0.9, seed=seed), never
        )

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_draws_follow_temperature_and_top_p() -> None:
    weights = np.array([0.1, 0.4, 0.3, 0.2])
    logits = (2 * np.log(weights)).astype(np.float32)  # at temperature 2 the weights themselves

    def shares(top_p: float) -> list[float]:
        request = Request(prompts=("x",), do_sample=True, temperature=2.0, top_p=top_p)
        random = np.random.default_rng(0)
        counts = Counter(choose(logits, request, random) for _ in range(5_000))
        return [counts[index] / 5_000 for index in range(4)]

    assert np.allclose(shares(1.0), weights, atol=0.03)
    assert np.allclose(shares(0.65), [0, 4 / 7, 3 / 7, 0], atol=0.03)
    assert shares(0.3) == [0, 1, 0, 0]


def test_it_stops_when_asked_and_refuses_what_does_not_fit(exact: Path) -> None:
    generator = OnnxGenerator(exact)
    asked = 0

    def after_three() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Interrupted):
        generator.generate(Request(prompts=("hello",), max_new_tokens=1000), after_three)
    assert asked < 10
    with pytest.raises(BadRequest, match="inputs"):
        generator.generate(Request(prompts=("a" * CONTEXT,), max_new_tokens=1), never)
    with pytest.raises(BadRequest, match="at most 1: the context"):
        generator.generate(Request(prompts=("a" * (CONTEXT - 1),), max_new_tokens=2), never)


def test_a_graph_without_its_weights_is_not_served(exact: Path, tmp_path: Path) -> None:
    shutil.copytree(exact, tmp_path / "model")
    (tmp_path / "model" / "model.onnx.data").unlink()
    with pytest.raises(Exception, match=r"model\.onnx\.data"):
        OnnxGenerator(tmp_path / "model")


def test_the_worker_takes_the_graph_where_there_is_one(packed: Path, exact: Path) -> None:
    assert isinstance(open_model(exact, 1), OnnxGenerator)
    assert isinstance(open_model(packed, 1), Generator)


def test_serving_an_onnx_folder_loads_neither_torch_nor_transformers(exact: Path) -> None:
    program = """
import sys
from pathlib import Path
from tasks.serving import container
from tasks.serving.payload import Request
from tasks.serving.worker import open_model
model = open_model(Path(sys.argv[1]), 1)
model.check()
assert len(model.generate(Request(prompts=("hello", "x"), max_new_tokens=3), lambda: False)) == 2
print(sorted({"torch", "transformers", "compressed_tensors", "onnx"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program, str(exact)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
