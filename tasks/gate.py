"""Hold a measured scorecard against the gate: is the candidate as good as its baseline, within the margins?

Applied apart from measuring, so that moving a limit measures nothing again. ``gate_checks`` says how a figure becomes a
verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.adapters.store import Store
from tasks.compression.answers import read_answers, read_documents
from tasks.compression.items import BASELINE, CANDIDATE, ITEMS, PACKED, Floats, Item, read_items
from tasks.compression.paired import ClusteredShare, PairedMean
from tasks.contracts import GateCheck, Quality, Scorecard
from tasks.errors import SlimlineError
from tasks.evidence_contracts import ItemsRef
from tasks.gate_checks import Held, decide
from tasks.recipes import Gate
from tasks.settings import settings

WEAKER = "more bits, a smaller group, less sparsity, or more distillation"


def judge(scorecard: Scorecard, gate: Gate, champion: Scorecard | None = None) -> Scorecard:
    """Apply the gate: to what a CPU serves, and to the compressed folder that a GPU serves.

    ``champion``: the current version's scorecard on the same blocks, where the gate asks for it. Without one, and
    where a scorecard has no results item by item, there is nothing to be sure with: figures alone are compared.
    """
    items = _items(scorecard)
    held: list[Held] = []
    forms = ((CANDIDATE, scorecard.candidate, ""), (PACKED, scorecard.packed, "compressed folder, "))
    for form, observed, of in forms:
        if observed is None:
            continue
        if champion is None or gate.baseline != "champion":
            held += _against_original(scorecard, observed, items, form, gate, of)
        if champion is not None:
            held += _against_champion(items, _items(champion), form, gate, of)
        held.append(_bytes(scorecard, observed, gate, of))
    held += _speed(scorecard, gate) + _answers(scorecard, gate) + _tasks(scorecard, gate)
    checks = decide(held, gate.confidence)
    if items:
        checks += (_gain(scorecard, items, gate),)
    return scorecard.model_copy(update={"checks": checks, "champion": champion.champion if champion else ""})


def _items(scorecard: Scorecard) -> tuple[Item, ...]:
    return () if scorecard.evidence is None else read_items(_folder(scorecard.evidence.items) / ITEMS)


def _folder(items: ItemsRef) -> Path:
    """Of the results item by item, every byte checked."""
    return Store(settings().store).open(items.uri, items.digest)


def _sums(items: Sequence[Item], form: str, name: str) -> Floats:
    return np.asarray([getattr(item.forms[form], name) for item in items], dtype=np.float64)


def _counts(items: Sequence[Item]) -> Floats:
    return np.asarray([item.positions for item in items], dtype=np.float64)


def _against_original(
    scorecard: Scorecard, observed: Quality, items: Sequence[Item], form: str, gate: Gate, of: str
) -> list[Held]:
    """``of`` says whose figures they are, before each metric's name."""
    counts = _counts(items)
    worse = _sums(items, form, "nll") - _sums(items, BASELINE, "nll") if items else counts
    held = [
        Held(
            f"{of}perplexity ratio",
            observed.perplexity / scorecard.baseline.perplexity,
            gate.max_perplexity_ratio,
            "at most",
            WEAKER,
            PairedMean(worse, counts) if items else None,
            math.log,
            _exp,
        ),
        Held(
            f"{of}next-token agreement",
            observed.agreement,
            gate.min_agreement,
            "at least",
            WEAKER,
            ClusteredShare(_sums(items, form, "agreed"), counts) if items else None,
        ),
    ]
    if gate.max_kl:
        kl = PairedMean(_sums(items, form, "kl"), counts) if items else None
        held.append(Held(f"{of}KL, nats a token", observed.kl, gate.max_kl, "at most", WEAKER, kl))
    if gate.max_flip_rate:
        flips = ClusteredShare(_sums(items, form, "lost") + _sums(items, form, "won"), counts) if items else None
        rate = math.nan if observed.flip_rate is None else observed.flip_rate
        held.append(Held(f"{of}flip rate", rate, gate.max_flip_rate, "at most", WEAKER, flips))
    return held


def _against_champion(items: Sequence[Item], before: Sequence[Item], form: str, gate: Gate, of: str) -> list[Held]:
    """Both on the same blocks; the champion by what serves it."""
    if not items or [(each.item, each.positions) for each in items] != [(each.item, each.positions) for each in before]:
        raise SlimlineError(
            "the champion was not measured on the same blocks",
            observed=f"{len(before)} blocks",
            limit=f"the candidate's {len(items)}",
            remedy="set gate.baseline to original",
        )
    counts = _counts(items)
    worse = PairedMean(_sums(items, form, "nll") - _sums(before, CANDIDATE, "nll"), counts)
    drop = PairedMean(_sums(before, CANDIDATE, "agreed") - _sums(items, form, "agreed"), counts)
    better = f"{WEAKER}; or keep the champion"
    return [
        Held(
            f"{of}perplexity ratio to the champion", _exp(worse.value), gate.max_champion_ratio, "at most", better,
            worse, math.log, _exp,
        ),
        Held(
            f"{of}agreement lost against the champion", drop.value, gate.max_champion_agreement_drop, "at most",
            better, drop,
        ),
    ]  # fmt: skip


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
            _exp,
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
    answers = read_answers(_folder(evidence.items))
    rise = PairedMean([each.candidate.degenerate - each.baseline.degenerate for each in answers])
    what = "prompts (evaluation.prompts, up to 32)"
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
    what, drops = "documents in the task's file", read_documents(_folder(evidence.documents))
    return [
        Held(
            f"{task.task} {task.metric}, drop", task.baseline - task.candidate, gate.max_task_drop, "at most", WEAKER,
            PairedMean([each.drop for each in drops if (each.task, each.metric) == (task.task, task.metric)]),
            items=what,
        )
        for task in evidence.tasks
    ]  # fmt: skip


def _gain(scorecard: Scorecard, items: Sequence[Item], gate: Gate) -> GateCheck:
    """Compression loses; a candidate that is surely much better than its original says something else is wrong."""
    ratio = scorecard.candidate.perplexity / scorecard.baseline.perplexity
    worse = PairedMean(_sums(items, CANDIDATE, "nll") - _sums(items, BASELINE, "nll"), _counts(items))
    highest = worse.upper(gate.confidence)
    limit = 1 - gate.max_gain
    surely = highest is not None and _exp(highest) < limit
    return GateCheck(
        metric="perplexity ratio, plausible",
        observed=ratio,
        limit=limit,
        sense="at least",
        passed=not surely,
        remedy="look for held-out text among the training text, and for damage to the original; where distillation on "
        "text of the same kind is what made it better, raise gate.max_gain",
        verdict="suspect" if surely else "passed",
        bound=None if highest is None else _exp(highest),
        confidence=gate.confidence,
        items=worse.items,
    )


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
