"""Make a student's hidden states like its teacher's: for shallower or narrower-MLP students, and for compressed ones.

    loss = mean over positions and matched blocks of  |s − t|² / |t|²

with s and t the hidden states (the residual stream) after a student's block and after the teacher's block that it came
from (TinyBERT, Jiao et al. 2020, arXiv:1909.10351, equation 8, without its projection: widths are the same). Dividing
by the teacher's own square at each position makes the number a relative error, and keeps the few positions whose states
are hundreds of times larger than others' ("attention sinks") from being all that the loss sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.compression.architectures import block_count, size_of
from tasks.errors import RefusedModel

KEPT_BLOCKS = "kept_blocks"
"""Where a shallower student's config.json may say which of its source's blocks it kept, ascending."""


def matching_blocks(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> tuple[int, ...]:
    """For each block of the student the number of the teacher's block that it is compared with.

    ``kept_blocks`` of the student's config.json when it is there, the same number when both have as many blocks, and
    otherwise evenly spaced ones that end with the teacher's last (TinyBERT's uniform mapping).

    Args:
        student, teacher: what their config.json say.

    Raises:
        RefusedModel: widths differ, the student is deeper, or ``kept_blocks`` does not fit.
    """
    widths = size_of(student, "hidden_size"), size_of(teacher, "hidden_size")
    if widths[0] != widths[1]:
        raise _refused(f"widths {widths[0]} and {widths[1]}", "students of the teacher's own width")
    blocks, depth = block_count(student), block_count(teacher)
    if blocks > depth:
        raise _refused(f"{blocks} blocks against the teacher's {depth}", "no more blocks than the teacher has")
    kept = student.get(KEPT_BLOCKS)
    if kept is None or blocks == depth:
        return tuple((index + 1) * depth // blocks - 1 for index in range(blocks))
    numbers = tuple(int(number) for number in kept)
    ascending = list(numbers) == sorted(set(numbers)) and numbers[0] >= 0 and numbers[-1] < depth
    if len(numbers) != blocks or not ascending:
        raise _refused(f"{KEPT_BLOCKS} {list(kept)}", f"{blocks} different blocks of {depth}, ascending")
    return numbers


def _refused(observed: str, limit: str) -> RefusedModel:
    return RefusedModel(
        "hidden states of student and teacher cannot be compared",
        observed=observed,
        limit=limit,
        remedy="set hidden_weight to 0, or use the model that the student was made from as its teacher",
    )


class Taps:
    """Hidden states after some blocks of a model, caught while its forward pass runs.

    Args:
        model: its blocks stay the same objects from now on.
        blocks: their prefix, ``Architecture.blocks``.
        numbers: which, in the order that ``take`` returns them.
    """

    def __init__(self, model: nn.Module, blocks: str, numbers: Sequence[int]) -> None:
        self._numbers, self._caught = tuple(numbers), dict[int, Tensor]()
        for number in self._numbers:
            model.get_submodule(f"{blocks}.{number}").register_forward_hook(self._catch(number))

    def _catch(self, number: int) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            self._caught[number] = output[0] if isinstance(output, tuple) else output

        return hook

    def take(self) -> list[Tensor]:
        """States of the last forward pass, (blocks, length, width) each; they are not kept here any longer."""
        caught, self._caught = self._caught, {}
        return [caught[number] for number in self._numbers]


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean relative square error, a scalar. Pairs of (…, width); the gradient flows into the student's."""
    each = [
        ((ours - theirs).square().sum(-1) / theirs.square().sum(-1)).mean()
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(each).mean()
