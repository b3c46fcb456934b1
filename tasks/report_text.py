"""The report in plain sentences, for a person who was not there."""

from __future__ import annotations

from tasks.contracts import Compressed, Scorecard
from tasks.figures import megabytes
from tasks.reader_contracts import ReaderScorecard
from tasks.reader_recipes import ReaderRecipe
from tasks.recipes import Recipe
from tasks.report_contracts import ReleaseNote, Report
from tasks.require import said
from tasks.training_text import training_sentence

_ENDS = {
    "created": "was created with it and serves it",
    "promoted": "serves it with all its traffic",
    "restored": "took it back, and serves what it served before",
    "unchanged": "served it already; nothing was moved",
}
_WHY = {
    "inconclusive": " It was too few items to tell, not a bad model: the gate table says how many it takes.",
    "suspect": " It is better than compression can make it, so something is wrong with the comparison.",
}


def summary(report: Report) -> list[str]:
    """Sentences, most important first."""
    found = report.scorecard
    told = (
        _answers(found)
        if isinstance(found, ReaderScorecard)
        else [*filter(None, [training_sentence(found.training)]), *_quality(found)]
    )
    return [_size(report), *told, *_verdict(report), *map(_release, report.releases)]


def _size(report: Report) -> str:
    was, now = report.scorecard.baseline, report.scorecard.candidate
    done = [_did(stage, report.recipe) for stage in report.stages]
    done = [text for text in done if text]
    how = f": it {', '.join(done[:-1])}{' and ' if len(done) > 1 else ''}{done[-1]}" if done else ""
    return (
        f"This run made {report.original.name} smaller, from {megabytes(was.bytes)} to {megabytes(now.bytes)}, "
        f"{now.bytes / was.bytes:.0%} of what it was{how}."
    )


def _did(stage: Compressed, recipe: Recipe | ReaderRecipe) -> str:
    model = stage.model
    if isinstance(recipe, ReaderRecipe):
        return {
            "train-teacher": f"trained it as the teacher ({recipe.teacher_epochs} passes over its questions)",
            "drop-blocks": f"kept {recipe.blocks} of its blocks as the student",
            "teach-reader": f"taught the student from the teacher ({recipe.epochs} passes over its questions)",
        }.get(stage.stage, "")
    if stage.stage == "train":
        return f"trained the uncompressed model on {stage.tokens:,} tokens"
    if stage.stage == "prune":
        if recipe.prune.method == "structured":
            return f"removed whole heads, channels or blocks ({recipe.prune.amount})"
        return f"set {model.sparsity:.0%} of the decoder's weights to zero ({recipe.prune.method})"
    if stage.stage == "quantize":
        return f"stored the decoder's weights in {model.bits:g} bits ({recipe.quantize.method})"
    if stage.stage == "distill":
        return f"taught the small model from the original on {stage.tokens:,} tokens"
    return ""


def _answers(scorecard: ReaderScorecard) -> list[str]:
    was, now, before = scorecard.baseline, scorecard.candidate, scorecard.before
    sentences = [
        f"On {now.questions:,} held-out questions about contexts that it never saw, its answers share {now.f1:.1%} of "
        f"their words with the right ones (F1) where the teacher's share {was.f1:.1%}; before it was taught it was "
        f"{before.f1:.1%}. {now.exact_match:.1%} are exactly right, the teacher's {was.exact_match:.1%}.",
        f"With another draw of contexts the F1 lost would surely (95 %) be at most {scorecard.f1_drop_upper:.1%}.",
    ]
    if now.ms_per_question and was.ms_per_question:
        sentences.append(
            f"It computes an answer in {now.ms_per_question / was.ms_per_question:.0%} of the teacher's time on the "
            "machine of this run."
        )
    return sentences


def _quality(scorecard: Scorecard) -> list[str]:
    was, now = scorecard.baseline, scorecard.candidate
    worse = now.perplexity / was.perplexity - 1
    side = "higher, which is worse" if worse > 0 else "lower"
    sentences = [
        f"On {now.tokens:,} held-out positions that it never saw, its perplexity is {now.perplexity:.2f} where the "
        f"original has {was.perplexity:.2f} ({abs(worse):.1%} {side}), and "
        f"it would write the same next token as the original in {now.agreement:.1%} of them."
    ]
    if scorecard.decode_speedup:
        factor = scorecard.decode_speedup
        pace = f"{factor:.1f} times as fast as" if factor >= 1 else f"at {factor:.0%} of the speed of"
        sentences.append(f"After the first token it writes {pace} the original on the machine of this run.")
    return sentences


def _verdict(report: Report) -> list[str]:
    checks = report.scorecard.checks
    failed = [check for check in checks if not check.passed]
    if failed:
        told = "; ".join(
            f"{check.metric} is {said(check)} and may be {check.sense} {check.limit:g}" for check in failed
        )
        why = _WHY.get(report.scorecard.verdict, "")
        return [f"The gate did not let it through ({told}), so nothing was registered and nothing released.{why}"]
    if report.registered is None:
        return []
    name = f"{report.registered.name} version {report.registered.version}"
    asked = "one thing and it held" if len(checks) == 1 else f"{len(checks)} things and all of them held"
    return [f"The gate asked for {asked}, so it was registered as {name}."]


def _release(note: ReleaseNote) -> str:
    rollout = note.rollout
    why = f" Why: {rollout.reason.rstrip('.')}." if rollout.reason and rollout.phase == "restored" else ""
    rehearsal = " This was a rehearsal on the embedded stack, not on AWS." if rollout.rehearsal else ""
    kind = rollout.mode.replace("_", " ").lower()
    said = f"By a {kind} release that ended at {note.at}, endpoint {rollout.endpoint} {_ENDS[rollout.phase]}."
    return f"{said}{why}{rehearsal}"
