"""Results item by item as the gate takes them: read from the store, one number a block."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tasks.adapters.store import Store
from tasks.compression.answers import Document
from tasks.compression.items import ITEMS, Floats, Item, read_items
from tasks.compression.paired_share import drop
from tasks.contracts import Scorecard
from tasks.errors import SlimlineError
from tasks.evidence_contracts import ItemsRef, TaskScore
from tasks.gate_checks import Held
from tasks.settings import settings

WEAKER = "more bits, a smaller group, less sparsity, or more distillation"


def items_of(scorecard: Scorecard | None) -> tuple[Item, ...]:
    """The held-out blocks' results; none where the scorecard has none."""
    if scorecard is None or scorecard.evidence is None:
        return ()
    return blocks_of(scorecard.evidence.items)


def blocks_of(items: ItemsRef) -> tuple[Item, ...]:
    return read_items(folder_of(items) / ITEMS)


def folder_of(items: ItemsRef) -> Path:
    """Of the results item by item, every byte checked."""
    return Store(settings().store).open(items.uri, items.digest)


def sums(items: Sequence[Item], form: str, name: str) -> Floats:
    """The figure ``name`` of ``form`` a block, (blocks,)."""
    return np.asarray([getattr(item.forms[form], name) for item in items], dtype=np.float64)


def counts_of(items: Sequence[Item]) -> Floats:
    """Positions a block, (blocks,)."""
    return np.asarray([item.positions for item in items], dtype=np.float64)


def hold_tasks(
    tasks: Sequence[TaskScore], documents: Sequence[Document], was: Callable[[Document], float], what: str,
    limit: float, remedy: str,
) -> list[Held]:  # fmt: skip
    """How much of each task the candidate has lost against what it ``was``, document by document; ``what`` stands
    behind the task's name.
    """
    held = []
    for task in tasks:
        ours = [each for each in documents if (each.task, each.metric) == (task.task, task.metric)]
        lost = drop([was(each) for each in ours], [each.candidate for each in ours])
        metric = f"{task.task} {task.metric}, {what}"
        held.append(Held(metric, lost.value, limit, "at most", remedy, lost, items="documents in the task's file"))
    return held


def require_same_blocks(whose: str, items: Sequence[Item], others: Sequence[Item], remedy: str) -> None:
    """Only results on the same blocks can be paired.

    Raises:
        SlimlineError: ``whose`` results, ``others``, are of other blocks, or there are none.
    """
    ours, theirs = ([(each.item, each.positions) for each in blocks] for blocks in (items, others))
    if not ours or ours != theirs:
        raise SlimlineError(
            f"{whose} was not measured on the same blocks",
            observed=f"{len(theirs)} blocks", limit=f"the candidate's {len(ours)}", remedy=remedy,
        )  # fmt: skip


def shown(value: float) -> float:
    """exp, of a number that may be too large for it."""
    return math.exp(min(value, 700.0))
