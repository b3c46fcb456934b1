"""Generated answers and task documents of both models, item by item, and what can be seen wrong with an answer.

No torch. The files lie beside the block results (``items``): ``answers.jsonl``, ``documents.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

ANSWERS, DOCUMENTS = "answers.jsonl", "documents.jsonl"
REPEATS = 3  # so often in a row at an answer's end, and it is a loop


@dataclass(frozen=True)
class Answer:
    """What one model wrote after a prompt.

    Attributes:
        tokens: without the one that ends it.
        empty: it has no visible character.
        loop: its end is the same tokens ``REPEATS`` times or more.
        distinct: different pairs of neighbouring tokens ÷ all pairs (Li et al. 2016, "A Diversity-Promoting Objective
            Function", distinct-2); 1 where there is no pair.
    """

    text: str
    tokens: tuple[int, ...]
    empty: bool
    loop: bool
    distinct: float

    @classmethod
    def of(cls, text: str, tokens: Sequence[int]) -> Answer:
        pairs = list(pairwise(tokens))
        distinct = len(set(pairs)) / len(pairs) if pairs else 1.0
        return cls(text, tuple(tokens), not text.strip(), loops(tokens), distinct)

    @property
    def degenerate(self) -> bool:
        return self.empty or self.loop


@dataclass(frozen=True)
class AnswerPair:
    """Both models' answers to one prompt."""

    prompt: str
    baseline: Answer
    candidate: Answer

    @property
    def same_start(self) -> float:
        """Leading tokens that are equal ÷ tokens of the longer answer; 1 where both are empty."""
        was, now = self.baseline.tokens, self.candidate.tokens
        longer = max(len(was), len(now))
        equal = next(
            (place for place, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now))
        )
        return equal / longer if longer else 1.0


@dataclass(frozen=True)
class Document:
    """One document of a task of lm-evaluation-harness, as both models did on it."""

    task: str
    metric: str
    document: int
    baseline: float
    candidate: float

    @property
    def drop(self) -> float:
        return self.baseline - self.candidate


def loops(tokens: Sequence[int]) -> bool:
    """Whether ``tokens`` end in one stretch, of any length, ``REPEATS`` times in a row."""
    return any(
        all(tokens[-place] == tokens[-place - size] for place in range(1, (REPEATS - 1) * size + 1))
        for size in range(1, len(tokens) // REPEATS + 1)
    )


def mean(pairs: Sequence[AnswerPair], of: Callable[[AnswerPair], float]) -> float:
    return sum(of(pair) for pair in pairs) / len(pairs)


def write_answers(folder: Path, pairs: Iterable[AnswerPair]) -> None:
    _write(folder / ANSWERS, pairs)


def read_answers(folder: Path) -> list[AnswerPair]:
    """Raises ``FileNotFoundError`` where no prompt was continued."""
    lines = (json.loads(line) for line in (folder / ANSWERS).read_text(encoding="utf-8").splitlines())
    return [AnswerPair(line["prompt"], *(_answer(line[side]) for side in ("baseline", "candidate"))) for line in lines]


def write_documents(folder: Path, documents: Iterable[Document]) -> None:
    _write(folder / DOCUMENTS, documents)


def read_documents(folder: Path) -> list[Document]:
    """Raises ``FileNotFoundError`` where no task was run."""
    return [Document(**json.loads(line)) for line in (folder / DOCUMENTS).read_text(encoding="utf-8").splitlines()]


def _answer(said: dict[str, object]) -> Answer:
    tokens = said.pop("tokens")
    assert isinstance(tokens, list)
    return Answer(tokens=tuple(tokens), **said)  # type: ignore[arg-type]


def _write(path: Path, rows: Iterable[AnswerPair | Document]) -> None:
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(asdict(row), ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
