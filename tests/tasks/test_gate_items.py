"""The gate with results item by item: margins held by intervals, verdicts, what to do, and the champion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.adapters.store import Store
from tasks.compression.answers import Answer, AnswerPair, Document, write_answers, write_documents
from tasks.compression.items import BASELINE, CANDIDATE, FormSums, Item, Scores, write_scores
from tasks.contracts import GateCheck, Scorecard
from tasks.errors import GateFailed, SlimlineError
from tasks.evidence_contracts import Evidence, ItemsRef, TaskScore, TrainingGain
from tasks.evidence_tables import gate_table
from tasks.figures import metrics
from tasks.gate import judge
from tasks.recipes import Gate
from tasks.reporting import verdict_markdown
from tasks.require import require_passed, said
from tasks.training_text import training_sentence
from tests.tasks.test_gate import scorecard

TOKENS = 255


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    return tmp_path


def stored(scores: Scores, *, answers: list[AnswerPair] = [], documents: list[Document] = []) -> ItemsRef:  # noqa: B006
    from tasks.settings import settings

    with Store(settings().store).draft("evaluations") as draft:
        write_scores(draft.path, scores)
        if answers:
            write_answers(draft.path, answers)
        if documents:
            write_documents(draft.path, documents)
    return ItemsRef(
        uri=draft.stored.uri, digest=draft.stored.digest, items=len(scores.items), positions=TOKENS * len(scores.items)
    )


def measured(loss: NDArray[np.float64], agreed: float = 0.9, seed: int = 0, right: int = 95) -> Scorecard:
    """A scorecard whose blocks lose ``loss`` in log likelihood a token each, and its items in the store."""
    random, items = np.random.default_rng(seed), []
    for number, each in enumerate(loss):
        same = int(random.binomial(TOKENS, agreed))
        was = FormSums(nll=2.3 * TOKENS, kl=0.0, agreed=TOKENS, right=100, lost=0, won=0)
        now = FormSums(nll=(2.3 + each) * TOKENS, kl=0.1 * TOKENS, agreed=same, right=right, lost=8, won=3)
        items.append(Item(number, TOKENS, {BASELINE: was, CANDIDATE: now}))
    token_kl = {CANDIDATE: np.full((len(items), TOKENS), 0.1, dtype=np.float32)}
    card = scorecard(perplexity=float(10 * np.exp(loss.mean())), agreement=agreed)
    scores = Scores(tuple(items), token_kl)
    return card.model_copy(update={"evidence": Evidence(items=stored(scores))})


def check(card: Scorecard, metric: str) -> GateCheck:
    return next(each for each in card.checks if each.metric == metric)


def losses(mean: float, spread: float, items: int) -> NDArray[np.float64]:
    drawn = np.random.default_rng(7).standard_normal(items)
    return np.asarray(mean + spread * (drawn - drawn.mean()) / drawn.std())


def test_the_same_figure_passes_with_many_blocks_and_proves_nothing_with_few() -> None:
    """Inside the limit both times: the figure alone would let both through."""
    gate = Gate(max_perplexity_ratio=1.1, min_agreement=0.7)
    few, many = (judge(measured(losses(0.05, 0.15, items)), gate) for items in (8, 200))
    was, now = check(few, "perplexity ratio"), check(many, "perplexity ratio")
    assert was.observed == pytest.approx(now.observed) and was.observed < 1.1
    assert (was.verdict, few.verdict, now.verdict) == ("inconclusive", "inconclusive", "passed")
    assert was.bound is not None and now.bound is not None and now.bound < 1.1 < was.bound
    assert many.passed and not few.passed
    with pytest.raises(GateFailed, match="too few items") as stopped:
        require_passed(few)
    assert was.needed_items is not None and was.needed_items > 8
    assert f"about {was.needed_items} held-out blocks (data.evaluation_blocks), 8 were compared" in stopped.value.remedy
    assert "95% sure: at most" in str(stopped.value.observed)
    enough = judge(measured(losses(0.05, 0.15, was.needed_items)), gate)
    assert check(enough, "perplexity ratio").verdict == "passed"


def test_outside_the_limit_fails_and_says_whether_that_is_shown() -> None:
    gate = Gate(max_perplexity_ratio=1.1, min_agreement=0.7)
    surely, perhaps = (judge(measured(losses(mean, 0.1, 16)), gate) for mean in (0.3, 0.11))
    for card in (surely, perhaps):
        failed = check(card, "perplexity ratio")
        assert failed.verdict == card.verdict == "failed" and failed.needed_items is None
        assert "more bits" in failed.remedy
    shown, not_shown = (check(card, "perplexity ratio").worse_p for card in (surely, perhaps))
    assert shown is not None and not_shown is not None and shown < 0.05 < not_shown
    text = "\n".join(gate_table(perhaps.checks).markdown())
    assert "not shown, it may be these items" in text and "shown" in "\n".join(gate_table(surely.checks).markdown())


def test_one_block_proves_nothing() -> None:
    only = judge(measured(np.array([0.01])), Gate())
    assert only.verdict == "inconclusive"
    with pytest.raises(GateFailed, match="1 say nothing of their spread"):
        require_passed(only)


def test_a_candidate_that_is_the_original_passes_the_narrowest_margin() -> None:
    assert judge(measured(np.zeros(16), agreed=1.0), Gate(max_perplexity_ratio=1.0, min_agreement=0.99)).passed


def test_a_gain_that_compression_cannot_make_is_suspect_and_stops() -> None:
    better = judge(measured(losses(-0.3, 0.05, 16)), Gate())
    assert better.verdict == "suspect" and check(better, "perplexity ratio").passed
    with pytest.raises(GateFailed, match="better than compression can make it") as stopped:
        require_passed(better)
    assert "held-out text among the training text" in stopped.value.remedy
    assert judge(measured(losses(-0.3, 0.05, 16)), Gate(max_gain=0.5)).passed, "where a person says it is right"
    assert judge(measured(losses(-0.12, 0.2, 16)), Gate()).passed, "by accident: not surely more than a tenth"


def test_a_confidence_of_a_half_holds_the_figures_themselves() -> None:
    card = judge(measured(losses(0.05, 0.15, 8)), Gate(max_perplexity_ratio=1.1, min_agreement=0.7, confidence=0.5))
    assert check(card, "perplexity ratio").passed and said(check(card, "perplexity ratio")) == "1.051"


def test_kl_and_flips_are_held_where_they_are_asked_for() -> None:
    card = measured(losses(0.02, 0.02, 16))
    assert {each.metric for each in judge(card, Gate(max_kl=0.2)).checks} >= {"KL, nats a token"}
    card = card.model_copy(update={"candidate": card.candidate.model_copy(update={"flip_rate": 11 / 255, "kl": 0.1})})
    judged = judge(card, Gate(max_kl=0.05, max_flip_rate=0.06))
    assert check(judged, "KL, nats a token").verdict == "failed"
    assert check(judged, "flip rate").verdict == "passed"


def as_champion(card: Scorecard, original: str = "b") -> Scorecard:
    """As ``measure_champion`` gives it; ``b`` is the digest of the other scorecards' original."""
    return card.model_copy(update={"champion": "slimline 4", "champion_original": original})


def test_the_champion_is_held_against_on_the_same_blocks() -> None:
    """Each is far from the original, and blocks differ more than the two do: only the pairing can tell."""
    gate = Gate(max_perplexity_ratio=2, min_agreement=0.5, baseline="both", max_champion_ratio=1.02)
    hard = losses(0.3, 0.2, 16)
    champion = as_champion(measured(hard, seed=1))
    as_good = judge(measured(hard + losses(0.0, 0.01, 16)), gate, champion)
    assert as_good.passed and as_good.champion == "slimline 4"
    worse = judge(measured(hard + 0.1), gate, champion)
    assert [each.metric for each in worse.checks if not each.passed] == ["perplexity ratio to the champion"]
    with pytest.raises(GateFailed, match="the candidate is worse than the champion"):
        require_passed(worse)
    alone = judge(measured(hard), gate.model_copy(update={"baseline": "champion"}), champion)
    assert "perplexity ratio" not in {each.metric for each in alone.checks}
    assert judge(measured(hard), gate, None).passed, "without a champion it is the original"
    with pytest.raises(SlimlineError, match="not measured on the same blocks"):
        judge(measured(hard[:8]), gate, champion)


def test_agreement_is_held_against_the_champion_only_where_both_have_the_same_original() -> None:
    """A champion that never saw this original agrees with it less; that is not a fault of either."""
    gate = Gate(max_perplexity_ratio=2, min_agreement=0.5, baseline="both", max_champion_agreement_drop=0.02)
    card, better = measured(losses(0.1, 0.05, 16), agreed=0.7), measured(losses(0.1, 0.05, 16), agreed=0.9, seed=1)
    same = judge(card, gate, as_champion(better))
    assert [each.metric for each in same.checks if not each.passed] == ["agreement lost against the champion"]
    assert "another original" not in verdict_markdown(same)

    other = judge(card, gate, as_champion(better, original="another"))
    assert other.passed and "agreement lost against the champion" not in {each.metric for each in other.checks}
    assert {"perplexity ratio to the champion", "true next tokens lost against the champion"} <= {
        each.metric for each in other.checks
    }
    assert "It was made from another original (another, this one from b)" in verdict_markdown(other)


def test_a_candidate_that_finds_fewer_true_tokens_than_the_champion_does_not_pass() -> None:
    card = measured(losses(0.1, 0.05, 16))
    champion = as_champion(measured(losses(0.1, 0.05, 16), right=120), original="another")
    judged = judge(card, Gate(max_perplexity_ratio=2, min_agreement=0.5, baseline="both"), champion)
    lost = check(judged, "true next tokens lost against the champion")
    assert (
        lost.observed == pytest.approx(25 / TOKENS) and lost.verdict == "failed" and "keep the champion" in lost.remedy
    )


def test_what_training_changed_is_weighed_on_the_same_blocks_and_held_where_it_is_asked_for() -> None:
    """The trained model is the original here, at 2.3 nats a token in every block."""
    card = measured(losses(0.1, 0.05, 16))
    gate = Gate(max_perplexity_ratio=2, min_agreement=0.5, baseline="both")

    def judged(more: NDArray[np.float64], min_gain: float = 0.0) -> Scorecard:
        gain = TrainingGain(start="base", digest="s", items=before(more), min_gain=min_gain)
        champion = as_champion(measured(losses(0.2, 0.05, 16)), original="s")
        return judge(card.model_copy(update={"training": gain}), gate, champion)

    better = judged(losses(0.1, 0.02, 16))
    assert better.training is not None and [each.role for each in better.training.rows] == [
        "start", "trained", "served", "champion",
    ]  # fmt: skip
    trained = better.training.row("trained")
    assert trained is not None and trained.perplexity == pytest.approx(np.exp(2.3))
    assert trained.ratio == pytest.approx(np.exp(-0.1)) and trained.rise == pytest.approx(10 / TOKENS)
    assert trained.ratio_lower is not None and trained.ratio_upper is not None
    assert trained.ratio_lower < trained.ratio < trained.ratio_upper < 1
    page = verdict_markdown(better)
    assert "Training lowered the perplexity by 9.52% (95% sure: by at least" in page
    assert "| champion: slimline 4 | 12.18 |" in page and "| before training: base | 11.02 |" in page
    assert metrics(better)["training_perplexity_fall"] == pytest.approx(1 - np.exp(-0.1))
    assert better.passed and "perplexity fall by training" not in {each.metric for each in better.checks}

    enough, too_little = judged(losses(0.1, 0.02, 16), 0.05), judged(losses(0.1, 0.02, 16), 0.2)
    assert check(enough, "perplexity fall by training").verdict == "passed" and enough.passed
    fall = check(too_little, "perplexity fall by training")
    assert (fall.verdict, round(fall.observed, 4)) == ("failed", 0.0952) and "retraining.min_gain" in fall.remedy
    with pytest.raises(GateFailed, match="the training did not lower the perplexity as far as was asked"):
        require_passed(too_little)
    few = check(judged(losses(0.1, 0.3, 16), 0.05), "perplexity fall by training")
    assert few.verdict == "inconclusive" and few.bound is not None and few.bound < 0.05 < few.observed

    assert "No better than before" in training_sentence(judged(losses(0.0, 0.1, 16)).training)
    assert "Training made the model worse" in training_sentence(judged(losses(-0.1, 0.02, 16)).training)
    with pytest.raises(SlimlineError, match="the model before training was not measured on the same blocks"):
        judged(losses(0.1, 0.02, 8))


def before(more: NDArray[np.float64]) -> ItemsRef:
    """Results of a start model that loses ``more`` in log likelihood a token than the trained one."""
    items = [
        Item(number, TOKENS, {BASELINE: FormSums((2.3 + each) * TOKENS, 0.0, TOKENS, 90, 0, 0)})
        for number, each in enumerate(more)
    ]
    return stored(Scores(tuple(items), {}))


def test_answers_and_tasks_are_held_where_they_are_asked_for() -> None:
    card = measured(losses(0.02, 0.02, 16))
    assert card.evidence is not None
    for gate in (Gate(max_degenerate_rise=0.2), Gate(max_task_drop=0.1)):
        with pytest.raises(SlimlineError, match=r"none was run|there are none"):
            judge(card, gate)
    scores = Scores(card_items(card), {CANDIDATE: np.zeros((16, TOKENS), dtype=np.float32)})
    fine, loop = Answer.of("a b c", (1, 2, 3)), Answer.of("a a a", (1, 1, 1))
    pairs = [AnswerPair(f"p{number}", fine, loop if number < 8 else fine) for number in range(16)]
    documents = [Document("capitals", "acc", number, 1.0, float(number % 10 > 0)) for number in range(200)]
    where = stored(scores, answers=pairs, documents=documents)
    task = TaskScore(task="capitals", metric="acc", items=200, baseline=1, candidate=0.9, drop_upper=0.14, p=0.001)
    evidence = card.evidence.model_copy(
        update={"items": where, "documents": where, "tasks": (task,), "generation": generation()}
    )
    judged = judge(card.model_copy(update={"evidence": evidence}), Gate(max_degenerate_rise=0.2, max_task_drop=0.15))
    rise, drop = check(judged, "answers that are empty or loop, rise"), check(judged, "capitals acc, drop")
    assert (rise.observed, rise.verdict) == (0.5, "failed")
    assert drop.observed == pytest.approx(0.1) and drop.verdict == "passed" and drop.items == 200

    asked = Gate(
        max_degenerate_rise=0.2, max_task_drop=0.15, max_perplexity_ratio=2, min_agreement=0.5, baseline="champion"
    )
    card = card.model_copy(update={"evidence": evidence})
    as_bad = judge(card, asked, as_champion(card, original="another"))
    assert as_bad.passed, "it is the champion that the candidate is held against, and that one loops as often"
    fine_ones = [AnswerPair(each.prompt, fine, fine) for each in pairs]
    right = [Document(each.task, each.metric, each.document, 1.0, 1.0) for each in documents]
    good = stored(scores, answers=fine_ones, documents=right)
    theirs = evidence.model_copy(update={"items": good, "documents": good})
    against = judge(card, asked, as_champion(card.model_copy(update={"evidence": theirs}), original="another"))
    assert check(against, "answers that are empty or loop, rise over the champion").verdict == "failed"
    assert check(against, "capitals acc, drop from the champion").observed == pytest.approx(0.1)
    for missing in ({"generation": None}, {"documents": None}):
        silent = as_champion(card.model_copy(update={"evidence": theirs.model_copy(update=missing)}))
        with pytest.raises(SlimlineError, match="the champion was not asked"):
            judge(card, asked, silent)


def card_items(card: Scorecard) -> tuple[Item, ...]:
    from tasks.compression.items import ITEMS, read_items
    from tasks.settings import settings

    assert card.evidence is not None
    where = card.evidence.items
    return read_items(Store(settings().store).open(where.uri, where.digest) / ITEMS)


def generation() -> object:
    from tasks.evidence_contracts import AnswerFigures, Generation

    side = AnswerFigures(empty=0, loops=0, distinct=1, tokens=3)
    return Generation(prompts=16, new_tokens=3, baseline=side, candidate=side, same=0.5, same_start=0.5)


def test_a_speed_up_is_held_by_its_repeats() -> None:
    card = measured(losses(0.02, 0.02, 16))

    def timed(now: tuple[float, ...]) -> Scorecard:
        was = card.baseline.model_copy(update={"per_token_ms": 3.0, "repeats_ms": (3.0, 3.1, 2.9, 3.0)})
        mine = card.candidate.model_copy(update={"per_token_ms": 1.0, "repeats_ms": now})
        return judge(card.model_copy(update={"baseline": was, "candidate": mine}), Gate(min_decode_speedup=2.5))

    steady, shaky = timed((1.0, 1.0, 1.02, 0.99)), timed((0.7, 1.6, 0.9, 1.1))
    assert check(steady, "decode speed-up").verdict == "passed"
    assert check(shaky, "decode speed-up").verdict == "inconclusive"
    assert "evaluation.timed_repeats" in check(shaky, "decode speed-up").remedy
