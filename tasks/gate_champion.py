"""The candidate against the champion, by figures that are fair to both.

Agreement, KL and flips say how far a model is from its original. A champion that was made from another original, such
as the model before a retraining, never was to answer like this one: by those figures every successor would win. So
between the two stand only figures that are held against something outside both: the held-out text (perplexity, the true
next token), a task's right answers, and what makes an answer degenerate. Agreement takes part where both were made from
the same original, and then it is fair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.compression.answers import read_answers, read_documents
from tasks.compression.items import CANDIDATE, Item
from tasks.compression.paired import PairedMean
from tasks.compression.paired_share import PairedShare
from tasks.contracts import Scorecard
from tasks.errors import SlimlineError
from tasks.gate_checks import Held
from tasks.gate_items import WEAKER, counts_of, folder_of, hold_tasks, require_same_blocks, shown, sums
from tasks.recipes import Gate

BETTER = f"{WEAKER}; or keep the champion"


def same_original(scorecard: Scorecard, champion: Scorecard) -> bool:
    """Whether the champion was compressed from what the candidate was compressed from."""
    return champion.champion_original == scorecard.baseline_model.digest


def against_champion(
    items: Sequence[Item], before: Sequence[Item], form: str, gate: Gate, of: str, *, alike: bool
) -> list[Held]:
    """Both on the same blocks; the champion by what serves it. ``alike``: both have the same original.

    Raises:
        SlimlineError: they are of other blocks.
    """
    require_same_blocks("the champion", items, before, "set gate.baseline to original")
    counts = counts_of(items)
    worse = PairedMean(sums(items, form, "nll") - sums(before, CANDIDATE, "nll"), counts)
    wrong = PairedMean(sums(before, CANDIDATE, "right") - sums(items, form, "right"), counts)
    held = [
        Held(
            f"{of}perplexity ratio to the champion", shown(worse.value), gate.max_champion_ratio, "at most", BETTER,
            worse, math.log, shown,
        ),
        Held(
            f"{of}true next tokens lost against the champion", wrong.value, gate.max_champion_accuracy_drop, "at most",
            BETTER, wrong,
        ),
    ]  # fmt: skip
    if alike:
        less = PairedMean(sums(before, CANDIDATE, "agreed") - sums(items, form, "agreed"), counts)
        metric = f"{of}agreement lost against the champion"
        held.append(Held(metric, less.value, gate.max_champion_agreement_drop, "at most", BETTER, less))
    return held


def answers_against_champion(scorecard: Scorecard, champion: Scorecard, gate: Gate) -> list[Held]:
    """Of the same prompts, where the gate asks for answers.

    Raises:
        SlimlineError: the champion has not continued them.
    """
    evidence, theirs = scorecard.evidence, champion.evidence
    if gate.max_degenerate_rise >= 1 or evidence is None or evidence.generation is None:
        return []
    found = [] if theirs is None or theirs.generation is None else read_answers(folder_of(theirs.items))
    before, now = {each.prompt: each.candidate for each in found}, read_answers(folder_of(evidence.items))
    if not {each.prompt for each in now} <= before.keys():
        raise SlimlineError(
            "the champion was not asked the same prompts",
            observed=f"{len(before)} prompts", limit=f"the candidate's {len(now)}",
            remedy="set gate.baseline to original, or gate.max_degenerate_rise to 1",
        )  # fmt: skip
    rise = PairedShare([float(each.candidate.degenerate) - before[each.prompt].degenerate for each in now])
    metric, what = "answers that are empty or loop, rise over the champion", "prompts (evaluation.prompts, up to 256)"
    return [Held(metric, rise.value, gate.max_degenerate_rise, "at most", BETTER, rise, items=what)]


def tasks_against_champion(scorecard: Scorecard, champion: Scorecard, gate: Gate) -> list[Held]:
    """On the same documents, where the gate asks for tasks.

    Raises:
        SlimlineError: the champion has not been asked them.
    """
    evidence, theirs = scorecard.evidence, champion.evidence
    if gate.max_task_drop >= 1 or evidence is None or evidence.documents is None:
        return []
    if theirs is None or theirs.documents is None:
        raise SlimlineError(
            "the champion was not asked the tasks",
            observed="no documents of a task", limit=f"the candidate's {len(evidence.tasks)} scores",
            remedy="set gate.baseline to original, or gate.max_task_drop to 1",
        )  # fmt: skip
    found = read_documents(folder_of(theirs.documents))
    before = {(each.task, each.metric, each.document): each.candidate for each in found}
    return hold_tasks(
        evidence.tasks,
        read_documents(folder_of(evidence.documents)),
        lambda each: before[each.task, each.metric, each.document],
        "drop from the champion",
        gate.max_task_drop,
        BETTER,
    )
