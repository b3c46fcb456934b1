"""Costs where people read them: on the scorecard, before a rollout, and after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.contracts import Compressed, FleetShare, Observation, Rollout
from tasks.errors import Refused
from tasks.figures import figures, metrics
from tasks.plans import ReleasePlan
from tasks.pricing import check_prices, costed, planned_cost, planned_markdown, priced
from tasks.reporting import release_markdown, verdict_markdown
from tests.adapters.packages import package
from tests.tasks.test_gate import scorecard


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SLIMLINE_PRICES", "SLIMLINE_PRICED", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return tmp_path


def measured(stages: bool = True) -> str:
    """The verdict of a model that became four times as fast, on a machine with a name."""
    card = scorecard().model_copy(update={"machine": "Laptop 9000, 2 of 2 threads"})
    card = card.model_copy(update={"baseline": card.baseline.model_copy(update={"per_token_ms": 4.0})})
    took = Compressed(stage="quantize", model=card.candidate_model, seconds=1800.0)
    return verdict_markdown(priced(card, (took, took) if stages else ()))


def test_the_scorecard_says_dollars_at_whose_rate_of_which_day() -> None:
    """250 and 1,000 tokens a second for $0.23: $0.256 and $0.0639 a million; an hour's run after 1.2 million."""
    text = measured()
    assert "| $ per million tokens, ml.m5.xlarge | $0.26 | $0.0639 | 0.25 |" in text
    assert "| compression run paid back, ml.m5.xlarge |  | 1,200,000 tokens |" in text
    assert "decode rate of Laptop 9000, 2 of 2 threads, one request at a time" in text
    assert "ml.m5.xlarge in us-east-1: $0.23 an hour on demand, AWS's Price List as of 2026-09-28" in text
    assert "paid back" not in measured(stages=False)


def test_mlflow_gets_the_same_as_numbers() -> None:
    found = metrics(priced(scorecard()))
    assert found["candidate_usd_per_million_tokens.ml.c5.2xlarge"] == pytest.approx(0.408 / 3.6)
    assert "break_even_tokens.ml.c5.2xlarge" not in found, "both are as fast"


def test_types_without_a_price_and_scores_without_a_time_show_no_dollars(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLIMLINE_PRICED", "ml.x9.huge, ml.c5.xlarge")
    assert [cost.price.instance_type for cost in priced(scorecard()).costs] == ["ml.c5.xlarge"]
    assert "no price for ml.x9.huge" in caplog.text
    untimed = scorecard().candidate.model_copy(update={"per_token_ms": 0.0})
    card = priced(scorecard().model_copy(update={"candidate": untimed}))
    assert not card.costs and not [line for line in figures(card) if "$" in line.name]


def test_before_a_rollout_its_cost_is_a_page_or_that_there_is_no_price() -> None:
    plan = ReleasePlan(bake_seconds=600)
    text = planned_markdown(plan, planned_cost(plan))
    assert "the plan adds $0.15 to $0.61 to the bill: the new fleet of 2 beside the old one, 2 bakes of 600 s" in text
    dear = plan.model_copy(update={"instance_type": "ml.x9.huge"})
    assert "There is no price for `ml.x9.huge`" in planned_markdown(dear, planned_cost(dear))


def test_a_table_that_cannot_be_read_is_refused_before_work(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("SLIMLINE_PRICES", str(home / "absent.yaml"))
    with pytest.raises(Refused, match=r"absent\.yaml"):
        check_prices()


def rollout(phase: str) -> Rollout:
    def look(at: float, old: int, new: int) -> Observation:
        blue, green = (
            FleetShare(config=name, weight=0.5, instances=count, requests=0, errors=0)
            for name, count in (("b", old), ("g", new))
        )
        return Observation(at=at, status="Updating", blue=blue, green=green, alarms={})

    return Rollout.model_validate(
        {
            "endpoint": "e", "phase": phase, "config": "g", "previous_config": "b", "asked_config": "g",
            "registered": package("2").registered, "observations": (look(0, 2, 2), look(1800, 0, 2)), "probe": "p",
        }
    )  # fmt: skip


def test_after_a_rollout_what_it_cost_stands_in_its_report() -> None:
    done = costed(rollout("promoted"), ReleasePlan())
    assert "this rollout added $0.23: 1.00 instance-hours seen beside the old fleet" in release_markdown(done)
    assert costed(rollout("unchanged"), ReleasePlan()).cost is None
    assert "added" not in release_markdown(costed(rollout("created"), ReleasePlan()))
