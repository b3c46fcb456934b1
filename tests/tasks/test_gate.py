"""The gate: each metric against its limit, and a message that says what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks import gate as gate_module
from tasks.contracts import Compressed, LayerReport, ModelRef, Quality, Score, Scorecard
from tasks.errors import GateFailed, SlimlineError
from tasks.evaluation_recipes import EvaluationChoice
from tasks.gate import judge
from tasks.recipes import DataChoice, Gate, Recipe
from tasks.require import require_passed, require_sound
from tasks.retrain_plan import Retraining, Training


def scorecard(perplexity: float = 11.0, agreement: float = 0.9, size: int = 100) -> Scorecard:
    def ref(digest: str) -> ModelRef:
        return ModelRef(
            uri="models/x", digest=digest, name="m", licence="", architecture="LlamaForCausalLM",
            parameters=100, bytes=400, dtype="float32",
        )  # fmt: skip

    def score(perplexity: float, agreement: float, size: int) -> Score:
        return Score(
            perplexity=perplexity, agreement=agreement, kl=0.0, bytes=size, first_token_ms=1, per_token_ms=1, tokens=10
        )

    return Scorecard(
        candidate_model=ref("c"), baseline_model=ref("b"), dataset_digest="d",
        candidate=score(perplexity, agreement, size), baseline=score(10.0, 1.0, 400), checks=(),
    )  # fmt: skip


def test_inside_every_limit_passes() -> None:
    judged = judge(scorecard(), Gate(max_perplexity_ratio=1.1, min_agreement=0.9, max_bytes_ratio=0.25))
    assert judged.passed
    require_passed(judged)


@pytest.mark.parametrize(
    ("changed", "metric"),
    [
        ({"perplexity": 11.01}, "perplexity ratio"),
        ({"agreement": 0.89}, "next-token agreement"),
        ({"size": 101}, "bytes ratio"),
    ],
)
def test_one_metric_outside_stops_and_is_named(changed: dict[str, float], metric: str) -> None:
    judged = judge(scorecard(**changed), Gate(max_perplexity_ratio=1.1, min_agreement=0.9, max_bytes_ratio=0.25))
    with pytest.raises(GateFailed) as stopped:
        require_passed(judged)
    assert metric in str(stopped.value.observed) and metric in str(stopped.value.limit)
    assert stopped.value.remedy


def test_the_compressed_folder_must_hold_too_where_the_exported_one_was_scored() -> None:
    exported = scorecard().candidate_model.model_copy(update={"digest": "e", "runtime": "onnx"})
    packed = Quality(perplexity=12.0, agreement=0.9, kl=0.0, bytes=90, tokens=10)
    both = scorecard().model_copy(update={"exported_model": exported, "packed": packed})
    judged = judge(both, Gate(max_perplexity_ratio=1.1, min_agreement=0.9, max_bytes_ratio=0.25))
    assert [check.metric for check in judged.checks if not check.passed] == ["compressed folder, perplexity ratio"]
    assert both.served_model is exported


@pytest.mark.parametrize(("least", "checks", "passes"), [(0.0, 3, True), (2.9, 4, True), (3.1, 4, False)])
def test_a_decode_speed_up_is_asked_for_only_where_the_gate_says_so(least: float, checks: int, passes: bool) -> None:
    card = scorecard(perplexity=10.0, agreement=1.0)
    card = card.model_copy(update={"baseline": card.baseline.model_copy(update={"per_token_ms": 3.0})})
    judged = judge(card, Gate(min_decode_speedup=least))
    assert (card.decode_speedup, len(judged.checks), judged.passed) == (3.0, checks, passes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_does_not_pass(value: float) -> None:
    assert not judge(scorecard(perplexity=value), Gate()).passed


def test_no_check_is_not_a_pass() -> None:
    with pytest.raises(GateFailed):
        require_passed(scorecard())


def _layer(number: int, fallback: str | None) -> LayerReport:
    return LayerReport(
        layer=f"layer{number}", method="gptq", rows=1, columns=1, sparsity=0, bits=4, error=0.1, seconds=0,
        fallback=fallback,
    )  # fmt: skip


@pytest.mark.parametrize(("needed", "limit", "fails"), [(0, 0.0, False), (1, 0.25, False), (2, 0.25, True)])
def test_a_stage_that_fell_back_in_too_many_layers_stops_the_line(needed: int, limit: float, fails: bool) -> None:
    layers = tuple(_layer(number, "damping raised" if number < needed else None) for number in range(4))
    done = Compressed(stage="quantize", model=scorecard().candidate_model, layers=layers)
    if not fails:
        require_sound(done, limit)
        return
    with pytest.raises(SlimlineError, match=r"(?s)50% of 4 layers; layer0: damping raised.*25%"):
        require_sound(done, limit)


def test_a_remedy_names_fields_that_the_form_has() -> None:
    groups = {
        "data": DataChoice, "evaluation": EvaluationChoice, "gate": Gate, "recipe": Recipe, "retraining": Retraining,
        "training": Training,
    }  # fmt: skip
    named = re.compile(rf"\b({'|'.join(groups)})\.([a-z_]+)")
    texts = (
        text
        for file in Path(gate_module.__file__).parent.glob("gate*.py")
        for text in re.findall(r'"[^"\n]*"', file.read_text())
    )
    found = [match for text in texts for match in named.findall(text)]
    assert ("recipe", "cpu_export") in found
    assert [f"{group}.{name}" for group, name in found if name not in groups[group].model_fields] == []
