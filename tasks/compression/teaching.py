"""What a student is told about a part of its tokens: by the teacher at its side, or by what was kept of the teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from tasks.compression.checkpoint import Checkpoint
from tasks.compression.device import compute_device
from tasks.compression.divergences import DIVERGENCES, DivergenceName
from tasks.compression.heads import head_cap
from tasks.compression.hidden_matching import Taps, hidden_loss, matching_blocks
from tasks.compression.loading import head_weight, hidden_states, load_for_compute
from tasks.compression.losses import DistillationLoss, distillation_loss, distillation_loss_from_largest
from tasks.compression.resuming import Partial
from tasks.compression.teacher_cache import TeacherCache
from tasks.compression.training_loop import Lesson
from tasks.errors import RefusedRecipe


@dataclass(frozen=True)
class Terms:
    """What the loss is made of.

    Attributes:
        temperature, hard_share: see ``losses``.
        divergence: see ``divergences``.
        hidden_weight: what the loss of ``hidden_matching`` is multiplied by, 0 to leave it out.
        cached_top_k: tokens a position that are kept of the teacher's answers (``teacher_cache``), 0 to ask it anew.
    """

    temperature: float
    hard_share: float
    divergence: DivergenceName = "forward_kl"
    hidden_weight: float = 0.0
    cached_top_k: int = 0

    def check(self, student: Checkpoint, teacher: Checkpoint) -> None:
        """Refuse what cannot be done.

        Raises:
            RefusedRecipe: a number out of range, or options that exclude each other.
            RefusedModel: hidden states that cannot be compared.
        """
        vocabulary = int(teacher.config["vocab_size"])
        numbers = self.temperature > 0 and 0 <= self.hard_share <= 1 and self.hidden_weight >= 0
        if not numbers or self.divergence not in DIVERGENCES or not 0 <= self.cached_top_k < vocabulary:
            raise _refused(
                f"temperature {self.temperature}, hard_share {self.hard_share}, divergence {self.divergence}, "
                f"hidden_weight {self.hidden_weight}, cached_top_k {self.cached_top_k}",
                f"temperature above 0, hard_share 0 to 1, divergence one of {', '.join(DIVERGENCES)}, "
                f"hidden_weight at least 0, cached_top_k 0 to {vocabulary - 1}",
            )
        if self.hidden_weight > 0 and self.cached_top_k > 0:
            raise _refused(
                f"hidden_weight {self.hidden_weight} with cached_top_k {self.cached_top_k}",
                "one of the two at 0: only next-token probabilities are kept of the teacher, not its hidden states",
            )
        if self.hidden_weight > 0:
            matching_blocks(student.config, teacher.config)


def _refused(observed: str, limit: str) -> RefusedRecipe:
    return RefusedRecipe(
        "distillation cannot run with these numbers",
        observed=observed,
        limit=limit,
        remedy="correct the distill group of the recipe",
    )


@dataclass(frozen=True)
class Headed:
    """A model and its output head, (vocabulary, width)."""

    model: PreTrainedModel
    head: Tensor

    @property
    def cap(self) -> float | None:
        """Of its logits, see ``heads``."""
        return head_cap(self.model.config)

    @classmethod
    def load(cls, folder: Path) -> Headed:
        model = load_for_compute(folder, compute_device())
        return cls(model, head_weight(model))

    def states(self, tokens: Tensor) -> Tensor:
        """What the head reads where a next token is known, (blocks · (length - 1), width)."""
        return hidden_states(self.model, tokens)[:, :-1].flatten(0, 1)


class Teaching(Protocol):
    """Where the student's loss comes from."""

    def __call__(self, student: Headed, tokens: Tensor, blocks: Tensor) -> Lesson:
        """Mean loss over the positions of ``tokens``, int64 (some, length): rows ``blocks``, (some,), of all tokens."""


@contextmanager
def teaching(
    student: Headed, folders: tuple[Checkpoint, Checkpoint], tokens: Tensor, terms: Terms, partial: Partial | None
) -> Iterator[Teaching]:
    """Prepare what teaches ``student``.

    Args:
        student: will be taught; gets hooks where hidden states are compared.
        folders: student's and teacher's.
        tokens: (blocks, length), all that will be asked for.
        terms: checked ones.
        partial: whose folder keeps the teacher's answers for another process; without it they go at the end.
    """
    teacher = folders[1].folder
    if not terms.cached_top_k:
        yield _Beside(Headed.load(teacher), student, folders, terms)
        return
    with tempfile.TemporaryDirectory(prefix="slimline-teacher-") as passing:
        kept = Partial(Path(passing) if partial is None else partial.folder / "teacher")
        # The teacher is the student's origin or has its architecture; it is loaded only when answers are missing.
        cap = head_cap(AutoConfig.from_pretrained(teacher, local_files_only=True, trust_remote_code=False))
        cache = TeacherCache(kept, top_k=terms.cached_top_k, temperature=terms.temperature, cap=cap)
        cache.fill(tokens, lambda: _answers(Headed.load(teacher)))
        yield _Kept(cache, terms)


def _answers(teacher: Headed) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    @torch.inference_mode()
    def answer(tokens: Tensor) -> tuple[Tensor, Tensor]:
        return teacher.states(tokens), teacher.head

    return answer


class _Beside:
    """The teacher itself, asked about every part."""

    def __init__(self, teacher: Headed, student: Headed, folders: tuple[Checkpoint, Checkpoint], terms: Terms) -> None:
        self._teacher, self._terms = teacher, terms
        self._taps: tuple[Taps, Taps] | None = None
        if terms.hidden_weight > 0:
            numbers = matching_blocks(folders[0].config, folders[1].config)
            self._taps = (
                Taps(student.model, folders[0].architecture.blocks, range(len(numbers))),
                Taps(teacher.model, folders[1].architecture.blocks, numbers),
            )

    def __call__(self, student: Headed, tokens: Tensor, blocks: Tensor) -> Lesson:
        with torch.inference_mode():
            wanted = self._teacher.states(tokens)
        terms = self._terms
        loss = distillation_loss(
            student.states(tokens),
            student.head,
            wanted,
            self._teacher.head,
            tokens[:, 1:].flatten(),
            temperature=terms.temperature,
            hard_share=terms.hard_share,
            divergence=terms.divergence,
            caps=(student.cap, self._teacher.cap),
        )
        if self._taps is None:
            return _without_hidden(loss)
        hidden = hidden_loss(self._taps[0].take(), self._taps[1].take())
        return Lesson(loss.total + terms.hidden_weight * hidden, loss.soft, loss.hard, hidden.detach())


@dataclass(frozen=True)
class _Kept:
    """The teacher's answers, from disk."""

    cache: TeacherCache
    terms: Terms

    def __call__(self, student: Headed, tokens: Tensor, blocks: Tensor) -> Lesson:
        loss = distillation_loss_from_largest(
            student.states(tokens),
            student.head,
            self.cache.read(blocks).to(student.head.device),
            tokens[:, 1:].flatten(),
            temperature=self.terms.temperature,
            hard_share=self.terms.hard_share,
            divergence=self.terms.divergence,
            cap=student.cap,
        )
        return _without_hidden(loss)


def _without_hidden(loss: DistillationLoss) -> Lesson:
    return Lesson(*loss, torch.zeros(()))
