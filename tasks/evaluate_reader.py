"""Score student and teacher on the same held-out questions, and hold the result against the gate."""

from __future__ import annotations

import numpy as np

from tasks.adapters.questions import read_questions
from tasks.adapters.store import Store
from tasks.caching import StageKey
from tasks.compression.paired import Estimate, by_group, needed_items, sign_test
from tasks.contracts import GateCheck, ModelRef
from tasks.evidence_contracts import Verdict
from tasks.gate_checks import Held, decide, more_items
from tasks.reader_contracts import QuestionsRef, ReaderScore, ReaderScorecard
from tasks.reader_recipes import ReaderGate, ReaderRecipe
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.workbench import Progress, open_model, use_threads

MODULES = ("tasks.evaluate_reader", "tasks.compression.question_answering", "tasks.compression.paired_share")
CONFIDENCE = 0.95
MORE = "more training questions or epochs, or more blocks"


@compute_task("evaluate-{student.name}", cache_policy=StageKey(stage="evaluate-reader", modules=MODULES))
def evaluate_reader(
    student: ModelRef, untaught: ModelRef, teacher: ModelRef, data: QuestionsRef, recipe: ReaderRecipe
) -> ReaderScorecard:
    """Reload the three folders and let each answer every held-out question. The gate is applied separately."""
    from tasks.compression.paired_share import drop
    from tasks.compression.question_answering import evaluate_reader as answer

    use_threads()
    questions = read_questions(Store(settings().store).open(data.uri, data.digest), "evaluation")
    progress = Progress("evaluate-reader")
    scores = []
    for done, model in enumerate((teacher, untaught, student), start=1):
        scores.append(answer(open_model(model), questions, length=recipe.window, stride=recipe.stride))
        progress.show(done / 3, f"{done} of 3 readers")
    measured = [
        ReaderScore(
            exact_match=score.exact_match,
            f1=score.f1,
            bytes=model.bytes,
            ms_per_question=1000 * score.seconds / score.questions,
            questions=score.questions,
        )
        for score, model in zip(scores, (teacher, untaught, student), strict=True)
    ]
    was, _, now = scores
    contexts = [question.context for question in questions]
    f1, exact = drop(was.each_f1, now.each_f1, contexts), drop(was.each_exact, now.each_exact, contexts)
    lost, _ = by_group(np.subtract(was.each_exact, now.each_exact), contexts)
    return ReaderScorecard(
        candidate_model=student,
        baseline_model=teacher,
        dataset_digest=data.digest,
        baseline=measured[0],
        before=measured[1],
        candidate=measured[2],
        f1_drop=f1.value,
        f1_drop_upper=_upper(f1),
        f1_drop_error=f1.error,
        exact_drop=exact.value,
        exact_drop_upper=_upper(exact),
        exact_drop_error=exact.error,
        exact_p=sign_test(lost),
        contexts=f1.items,
        checks=(),
        sample=f"{questions[0].question} → {scores[2].answers[0]}",
    )


def _upper(estimate: Estimate) -> float:
    """Upper end of the one-sided interval; all that is possible where one context says nothing of the spread."""
    found = estimate.upper(CONFIDENCE)
    return 1.0 if found is None else found


def judge_reader(scorecard: ReaderScorecard, gate: ReaderGate) -> ReaderScorecard:
    """Apply the gate to a measured scorecard."""
    candidate, card = scorecard.candidate, scorecard
    checks = [_drop_check("F1", card.f1_drop, card.f1_drop_upper, card.f1_drop_error, card.contexts, gate.max_f1_drop)]
    if gate.max_exact_drop < 1:
        drop, upper, error = card.exact_drop, card.exact_drop_upper, card.exact_drop_error
        checks.append(_drop_check("exact match", drop, upper, error, card.contexts, gate.max_exact_drop))
    ratio, smaller = candidate.bytes / card.baseline.bytes, "fewer blocks; embeddings are not made smaller"
    exact = (
        Held("F1", candidate.f1, gate.min_f1, "at least", f"{MORE}; a better teacher"),
        Held("bytes ratio", ratio, gate.max_bytes_ratio, "at most", smaller),
    )
    return scorecard.model_copy(update={"checks": (*checks, *decide(exact, CONFIDENCE))})


def _drop_check(what: str, drop: float, upper: float, error: float, contexts: int, limit: float) -> GateCheck:
    """The upper end within the limit passes; the drop itself outside fails; between, contexts are too few."""
    verdict: Verdict = "passed" if upper <= limit else "failed" if drop > limit else "inconclusive"
    needed = needed_items(drop, error, contexts, limit, CONFIDENCE, upper) if drop <= limit else None
    return GateCheck(
        metric=f"{what} drop, 95 % upper end",
        observed=upper,
        limit=limit,
        sense="at most",
        passed=verdict == "passed",
        remedy=more_items("contexts with questions (data.evaluation)", contexts, needed)
        if verdict == "inconclusive"
        else f"{MORE}; more held-out questions make the interval narrower",
        verdict=verdict,
        items=contexts,
        needed_items=needed,
    )
