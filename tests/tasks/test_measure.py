"""The evaluation as a flow runs it: in one part and in several, with its items in the store, and from the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from tasks.adapters.store import Store, Stored
from tasks.adapters.texts import Text
from tasks.adapters.tokens import TokenSplits, write_dataset
from tasks.compression.answers import read_answers
from tasks.compression.items import BASELINE, CANDIDATE, read_scores
from tasks.contracts import Champion, DatasetRef, ModelRef, Scorecard
from tasks.errors import RefusedModel
from tasks.evaluate import evaluate
from tasks.evaluation_recipes import EvaluationChoice
from tasks.gate import judge
from tasks.measure import measure, require_same_tokens
from tasks.recipes import Gate
from tasks.reporting import verdict_markdown
from tasks.score_alone import with_start
from tasks.score_blocks import Shards, score_in_shards
from tasks.settings import settings
from tasks.workbench import describe_model
from tests.compression.small import blocks, quantize, write_llama

EVALUATION = EvaluationChoice(prompts=3, answer_tokens=6, timed_repeats=2)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("measure")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIMLINE_HOME", str(home))
        patch.setenv("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(home / "results"))
        patch.setenv("SLIMLINE_THREADS", "1")
        with prefect_test_harness(server_startup_timeout=240):
            yield home


def put(folder: Path) -> Stored:
    with Store(settings().store).draft("models") as draft:
        for path in folder.iterdir():
            (draft.path / path.name).write_bytes(path.read_bytes())
    return draft.stored


@pytest.fixture(scope="module")
def pair(home: Path) -> tuple[ModelRef, ModelRef]:
    """The original and the packed one."""
    write_llama(home / "dense")
    quantize(home / "dense", home / "packed")
    dense, packed = (describe_model(put(home / name), name=name, licence="") for name in ("dense", "packed"))
    return dense, packed


@pytest.fixture(scope="module")
def data(home: Path) -> DatasetRef:
    cut = {name: blocks(count, 40, seed=count).numpy().astype(np.int32) for name, count in
           (("calibration", 2), ("training", 3), ("evaluation", 10))}  # fmt: skip
    labels = (("birds", 100), ("frogs | toads", 300))
    splits = TokenSplits(**cut, prompts=("w5 w6 w7", "w8 w9", "w10 w11"), labels=labels)
    with Store(settings().store).draft("datasets") as draft:
        write_dataset(draft.path, splits, Text(("a",), "words", "CC0", "t" * 64), seed=0)
    return DatasetRef(
        uri=draft.stored.uri, digest=draft.stored.digest, name="words", licence="CC0", block_tokens=40,
        calibration_blocks=2, training_blocks=3, evaluation_blocks=10,
    )  # fmt: skip


@flow
def measured(pair: tuple[ModelRef, ModelRef], data: DatasetRef, choice: EvaluationChoice) -> Scorecard:
    return measure(pair[1], None, pair[0], data, choice)


@flow
def in_parts(pair: tuple[ModelRef, ModelRef], data: DatasetRef, shards: int) -> tuple[Shards, Scorecard]:
    """Not from the cache: parts enter no key, so the scorecard of one part would answer for them."""
    found = score_in_shards(pair[1], None, pair[0], data, shards)
    return found, evaluate.with_options(refresh_cache=True)(pair[1], None, pair[0], data, EVALUATION, found)


def test_results_item_by_item_and_answers_are_kept(pair: tuple[ModelRef, ModelRef], data: DatasetRef) -> None:
    card = measured(pair, data, EVALUATION)
    assert card.evidence is not None and card.evidence.generation is not None
    folder = Store(settings().store).open(card.evidence.items.uri, card.evidence.items.digest)
    scores = read_scores(folder)
    assert [item.item for item in scores.items] == list(range(10)) and card.evidence.items.positions == 390
    assert len(read_answers(folder)) == card.evidence.generation.prompts == 3
    assert card.candidate.kl_p99 is not None and len(card.candidate.repeats_ms) == 2
    judged = judge(card, Gate(max_perplexity_ratio=3, min_agreement=0.2, max_bytes_ratio=2))
    assert judged.passed and all(check.items == 10 for check in judged.checks if check.bound is not None)
    text = verdict_markdown(judged)
    for said in (
        "# Gate: PASSED",
        "one-sided at 95.0%",
        "Slices of the held-out text",
        "By label of the documents, the worst first",
        "Answers to 3 held-out prompts",
    ):
        assert said in text
    # 39 positions a block predict its second token to its last: of the third block 19 and 20
    by_label = {each.name: each for each in card.evidence.slices if each.by == "label"}
    assert {name: (each.positions, each.blocks) for name, each in by_label.items()} == {
        "birds": (97, 3), "frogs | toads": (293, 8),
    }  # fmt: skip


def test_three_parts_give_what_one_gives(pair: tuple[ModelRef, ModelRef], data: DatasetRef) -> None:
    whole = measured(pair, data, EVALUATION)
    parts, card = in_parts(pair, data, 3)
    assert [part.items for part in parts.parts] == [3, 3, 4]
    assert card.evidence is not None and whole.evidence is not None
    assert card.evidence.items.digest == whole.evidence.items.digest, "the files are the same, byte by byte"
    assert card.evidence.slices == whole.evidence.slices and card.evidence.generation == whole.evidence.generation
    for name in ("perplexity", "kl", "kl_p99", "agreement", "flip_rate", "bytes"):
        assert getattr(card.candidate, name) == getattr(whole.candidate, name)


def test_what_is_measured_beside_enters_the_key_of_its_own_stage_only(
    pair: tuple[ModelRef, ModelRef], data: DatasetRef
) -> None:
    first = measured(pair, data, EVALUATION)
    loaded = measured(pair, data, EVALUATION.model_copy(update={"concurrency": (1, 2), "load_requests": 2}))
    assert loaded.candidate == first.candidate, "times and all: the evaluation came from the cache"
    assert loaded.evidence is not None
    levels = [(level.concurrency, level.side) for level in loaded.evidence.load]
    assert levels == [(1, "original"), (1, "candidate"), (2, "original"), (2, "candidate")]
    assert all(level.failed == 0 and level.tokens_per_second > 0 for level in loaded.evidence.load)
    assert "Served on this machine" in verdict_markdown(judge(loaded, Gate()))
    other = measured(pair, data, EVALUATION.model_copy(update={"answer_tokens": 4}))
    assert other.evidence is not None and other.evidence.generation is not None
    assert other.evidence.generation.new_tokens == 4


@flow
def from_a_start(pair: tuple[ModelRef, ModelRef], data: DatasetRef) -> Scorecard:
    """The packed model as what was trained: the original is what the training made of it."""
    return with_start(measure(pair[1], None, pair[0], data, EVALUATION), pair[1], data, 0.0)


def test_the_model_before_training_is_scored_alone_as_it_is_scored_beside_another(
    pair: tuple[ModelRef, ModelRef], data: DatasetRef
) -> None:
    card = from_a_start(pair, data)
    assert card.training is not None and card.evidence is not None and card.training.start == "packed"
    alone, beside = (
        read_scores(Store(settings().store).open(ref.uri, ref.digest)).items
        for ref in (card.training.items, card.evidence.items)
    )
    assert [each.forms[BASELINE].nll for each in alone] == [each.forms[CANDIDATE].nll for each in beside]
    assert [each.forms[BASELINE].right for each in alone] == [each.forms[CANDIDATE].right for each in beside]
    judged = judge(card, Gate(max_perplexity_ratio=3, min_agreement=0.2, max_bytes_ratio=2))
    assert judged.training is not None
    start, trained, served = judged.training.rows
    assert (start.perplexity, trained.perplexity) == (
        pytest.approx(card.candidate.perplexity), pytest.approx(card.baseline.perplexity),
    )  # fmt: skip
    assert served.ratio == pytest.approx(1) and served.accuracy == pytest.approx(card.candidate.accuracy)


def test_a_champion_that_reads_other_tokens_is_not_compared_with(
    pair: tuple[ModelRef, ModelRef], data: DatasetRef, home: Path
) -> None:
    dense, _ = pair
    champion = Champion(label="words 1", run_id="", scorecard=measured(pair, data, EVALUATION))
    store = Store(settings().store)
    require_same_tokens(champion, store, dense)
    write_llama(home / "other")
    text = (home / "other" / "tokenizer.json").read_text()
    (home / "other" / "tokenizer.json").write_text(text.replace('"w5"', '"v5"'))
    other = describe_model(put(home / "other"), name="other", licence="")
    with pytest.raises(RefusedModel, match="words 1, reads other tokens"):
        require_same_tokens(champion, store, other)
