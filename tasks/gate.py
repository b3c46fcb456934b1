"""Hold a measured scorecard against the gate: is the candidate as good as its baseline, within the margins?

Applied apart from measuring, so that moving a limit measures nothing again. ``gate_checks`` says how a figure becomes a
verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.compression.answers import read_answers, read_documents
from tasks.compression.items import BASELINE, CANDIDATE, PACKED, Item
from tasks.compression.paired import ClusteredShare, PairedMean
from tasks.compression.paired_share import PairedShare
from tasks.contracts import GateCheck, Quality, Scorecard
from tasks.errors import SlimlineError
from tasks.gate_champion import against_champion, answers_against_champion, same_original, tasks_against_champion
from tasks.gate_checks import Held, decide
from tasks.gate_items import WEAKER, counts_of, folder_of, hold_tasks, items_of, shown, sums
from tasks.gate_training import hold_training, weigh
from tasks.recipes import Gate


def judge(scorecard: Scorecard, gate: Gate, champion: Scorecard | None = None) -> Scorecard:
    """Apply the gate: to what a CPU serves, and to the compressed folder that a GPU serves.

    ``champion``: the current version's scorecard on the same blocks, where the gate asks for it. Without one, and
    where a scorecard has no results item by item, there is nothing to be sure with: figures alone are compared.
    """
    items, before = items_of(scorecard), items_of(champion)
    alone = champion is not None and gate.baseline == "champion"
    held: list[Held] = []
    forms = ((CANDIDATE, scorecard.candidate, ""), (PACKED, scorecard.packed, "compressed folder, "))
    for form, observed, of in forms:
        if observed is None:
            continue
        if not alone:
            held += _against_original(scorecard, observed, items, form, gate, of)
        if champion is not None:
            alike = same_original(scorecard, champion)
            held += against_champion(items, before, form, gate, of, alike=alike)
        held.append(_bytes(scorecard, observed, gate, of))
    held += _speed(scorecard, gate)
    held += [] if alone else _answers(scorecard, gate) + _tasks(scorecard, gate)
    if champion is not None:
        held += answers_against_champion(scorecard, champion, gate) + tasks_against_champion(scorecard, champion, gate)
    training = weigh(scorecard, champion, gate.confidence)
    held += hold_training(scorecard, training)
    checks = decide(held, gate.confidence)
    if items:
        checks += (_gain(scorecard, items, gate),)
    told = {"champion": champion.champion, "champion_original": champion.champion_original} if champion else {}
    return scorecard.model_copy(update={"checks": checks, "champion": "", "training": training, **told})


def _against_original(
    scorecard: Scorecard, observed: Quality, items: Sequence[Item], form: str, gate: Gate, of: str
) -> list[Held]:
    """``of`` says whose figures they are, before each metric's name."""
    counts = counts_of(items)
    worse = sums(items, form, "nll") - sums(items, BASELINE, "nll") if items else counts
    held = [
        Held(
            f"{of}perplexity ratio",
            observed.perplexity / scorecard.baseline.perplexity,
            gate.max_perplexity_ratio,
            "at most",
            WEAKER,
            PairedMean(worse, counts) if items else None,
            math.log,
            shown,
        ),
        Held(
            f"{of}next-token agreement",
            observed.agreement,
            gate.min_agreement,
            "at least",
            WEAKER,
            ClusteredShare(sums(items, form, "agreed"), counts) if items else None,
        ),
    ]
    if gate.max_kl:
        kl = PairedMean(sums(items, form, "kl"), counts) if items else None
        held.append(Held(f"{of}KL, nats a token", observed.kl, gate.max_kl, "at most", WEAKER, kl))
    if gate.max_flip_rate:
        flips = ClusteredShare(sums(items, form, "lost") + sums(items, form, "won"), counts) if items else None
        rate = math.nan if observed.flip_rate is None else observed.flip_rate
        held.append(Held(f"{of}flip rate", rate, gate.max_flip_rate, "at most", WEAKER, flips))
    return held


def _bytes(scorecard: Scorecard, observed: Quality, gate: Gate, of: str) -> Held:
    return Held(
        f"{of}bytes ratio",
        observed.bytes / (4 * scorecard.baseline_model.parameters),
        gate.max_bytes_ratio,
        "at most",
        "fewer bits or a larger group; pruning alone does not shrink the file",
    )


def _speed(scorecard: Scorecard, gate: Gate) -> list[Held]:
    if not gate.min_decode_speedup:
        return []
    now, was = scorecard.candidate.repeats_ms, scorecard.baseline.repeats_ms
    ratios = [math.log(before / after) for before, after in zip(was, now, strict=True) if before > 0 and after > 0]
    return [
        Held(
            "decode speed-up",
            scorecard.decode_speedup,
            gate.min_decode_speedup,
            "at least",
            "export to ONNX (recipe.cpu_export), fewer bits, or structured pruning",
            PairedMean(ratios) if ratios else None,
            math.log,
            shown,
            "timed repeats (evaluation.timed_repeats)",
        )
    ]


def _answers(scorecard: Scorecard, gate: Gate) -> list[Held]:
    if gate.max_degenerate_rise >= 1:
        return []
    evidence = scorecard.evidence
    if evidence is None or evidence.generation is None:
        raise SlimlineError(
            "the gate asks for generated answers and there are none",
            observed="no prompt was continued",
            limit="at least 2 prompts",
            remedy="raise evaluation.prompts, or set gate.max_degenerate_rise to 1",
        )
    answers = read_answers(folder_of(evidence.items))
    rise = PairedShare([each.candidate.degenerate - each.baseline.degenerate for each in answers])
    what = "prompts (evaluation.prompts, up to 256)"
    metric = "answers that are empty or loop, rise"
    return [Held(metric, rise.value, gate.max_degenerate_rise, "at most", WEAKER, rise, items=what)]


def _tasks(scorecard: Scorecard, gate: Gate) -> list[Held]:
    if gate.max_task_drop >= 1:
        return []
    evidence = scorecard.evidence
    if evidence is None or evidence.documents is None:
        raise SlimlineError(
            "the gate asks for tasks and none was run",
            observed="evaluation.tasks is empty",
            limit="at least one task of lm-evaluation-harness",
            remedy="name a folder of tasks, or set gate.max_task_drop to 1",
        )
    documents = read_documents(folder_of(evidence.documents))
    return hold_tasks(evidence.tasks, documents, lambda each: each.baseline, "drop", gate.max_task_drop, WEAKER)


def _gain(scorecard: Scorecard, items: Sequence[Item], gate: Gate) -> GateCheck:
    """Compression loses; a candidate that is surely much better than its original says something else is wrong."""
    ratio = scorecard.candidate.perplexity / scorecard.baseline.perplexity
    worse = PairedMean(sums(items, CANDIDATE, "nll") - sums(items, BASELINE, "nll"), counts_of(items))
    highest = worse.upper(gate.confidence)
    limit = 1 - gate.max_gain
    surely = highest is not None and shown(highest) < limit
    return GateCheck(
        metric="perplexity ratio, plausible",
        observed=ratio,
        limit=limit,
        sense="at least",
        passed=not surely,
        remedy="look for held-out text among the training text, and for damage to the original; where distillation on "
        "text of the same kind is what made it better, raise gate.max_gain",
        verdict="suspect" if surely else "passed",
        bound=None if highest is None else shown(highest),
        confidence=gate.confidence,
        items=worse.items,
    )
