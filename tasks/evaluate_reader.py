"""Score student and teacher on the same held-out questions, and hold the result against the gate."""

from __future__ import annotations

from tasks.adapters.questions import read_questions
from tasks.adapters.store import Store
from tasks.caching import StageKey
from tasks.contracts import GateCheck, ModelRef
from tasks.reader_contracts import QuestionsRef, ReaderScore, ReaderScorecard
from tasks.reader_recipes import ReaderGate, ReaderRecipe
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.workbench import Progress, open_model, use_threads

MODULES = ("tasks.evaluate_reader", "tasks.compression.question_answering", "tasks.compression.bootstrap")


@compute_task("evaluate-{student.name}", cache_policy=StageKey(stage="evaluate-reader", modules=MODULES))
def evaluate_reader(
    student: ModelRef, untaught: ModelRef, teacher: ModelRef, data: QuestionsRef, recipe: ReaderRecipe
) -> ReaderScorecard:
    """Reload the three folders and let each answer every held-out question. The gate is applied separately."""
    from tasks.compression.bootstrap import upper_drop
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
    return ReaderScorecard(
        candidate_model=student,
        baseline_model=teacher,
        dataset_digest=data.digest,
        baseline=measured[0],
        before=measured[1],
        candidate=measured[2],
        f1_drop=scores[0].f1 - scores[2].f1,
        f1_drop_upper=upper_drop(scores[0].each_f1, scores[2].each_f1),
        checks=(),
        sample=f"{questions[0].question} → {scores[2].answers[0]}",
    )


def judge_reader(scorecard: ReaderScorecard, gate: ReaderGate) -> ReaderScorecard:
    """Apply the gate to a measured scorecard."""
    candidate, baseline = scorecard.candidate, scorecard.baseline
    ratio = candidate.bytes / baseline.bytes
    more = "more training questions or epochs, or more blocks"
    checks = (
        GateCheck(
            metric="F1 drop, 95 % upper end",
            observed=scorecard.f1_drop_upper,
            limit=gate.max_f1_drop,
            sense="at most",
            passed=scorecard.f1_drop_upper <= gate.max_f1_drop,
            remedy=f"{more}; more held-out questions make the interval narrower",
        ),
        GateCheck(
            metric="F1",
            observed=candidate.f1,
            limit=gate.min_f1,
            sense="at least",
            passed=candidate.f1 >= gate.min_f1,
            remedy=f"{more}; a better teacher",
        ),
        GateCheck(
            metric="bytes ratio",
            observed=ratio,
            limit=gate.max_bytes_ratio,
            sense="at most",
            passed=ratio <= gate.max_bytes_ratio,
            remedy="fewer blocks; embeddings are not made smaller",
        ),
    )
    return scorecard.model_copy(update={"checks": checks})
