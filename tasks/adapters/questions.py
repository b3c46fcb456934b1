"""Questions from a file, their splits, and the folder that keeps them.

A file is SQuAD's: a ``.json`` with ``data`` → ``paragraphs`` → ``qas`` (Rajpurkar et al. 2016, arXiv:1606.05250), or a
``.jsonl`` with one question a line as the datasets library has them: ``question``, ``context``, and ``answers`` with
lists ``text`` and ``answer_start``. A context is the unit that is never divided between splits.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import RefusedData
from tasks.reader_contracts import QUESTION_SPLITS, Question

_SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True)
class QuestionFile:
    """Questions of one source. ``digest`` is SHA-256 over them in order."""

    name: str
    licence: str
    questions: tuple[Question, ...] = field(repr=False)
    digest: str


def check_question_file(source: str) -> None:
    """Refuse a file that cannot work, cheaply: wrong suffix, missing or empty. Reads no question.

    Raises:
        RefusedData: with the accepted forms.
    """
    path = Path(source).expanduser()
    if path.suffix not in _SUFFIXES:
        raise _refused(source, "no such name, and not a .json or .jsonl file")
    if not path.is_file():
        raise _refused(source, "no such file")
    if path.stat().st_size == 0:
        raise _refused(source, "0 bytes")


def read_question_file(source: str) -> QuestionFile:
    """Read every question that has an answer; those that SQuAD 2.0 marks as impossible are left out.

    Raises:
        RefusedData: not JSON in UTF-8, a question without text, or an answer that is not where it says.
    """
    check_question_file(source)
    path = Path(source).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(path, f"byte {error.start} is not UTF-8") from error
    entries = _lines(path, text) if path.suffix == ".jsonl" else _nested(path, text)
    return question_file(path.name, "not stated (a local file)", [_question(path, *entry) for entry in entries])


def question_file(name: str, licence: str, questions: Sequence[Question | None]) -> QuestionFile:
    """What a source holds, from its questions; none stands for one without an answer."""
    kept = tuple(dict.fromkeys(question for question in questions if question is not None))
    digest = hashlib.sha256(json.dumps([asdict(question) for question in kept]).encode()).hexdigest()
    return QuestionFile(name, licence, kept, digest)


def deal(questions: Sequence[Question], counts: dict[str, int], *, seed: int) -> dict[str, list[Question]]:
    """Shuffle contexts by ``seed`` and deal them out whole: evaluation first, then training, then teaching.

    So asking for more teaching does not change what is measured on. A split takes contexts until it has its count; the
    last context's questions beyond it are dropped.

    Raises:
        RefusedData: there are too few questions.
    """
    contexts: dict[str, list[Question]] = {}
    for question in questions:
        contexts.setdefault(question.context, []).append(question)
    order = sorted(contexts)
    random.Random(seed).shuffle(order)
    remaining, dealt = iter(order), dict[str, list[Question]]()
    for split in reversed(QUESTION_SPLITS):
        taken: list[Question] = []
        while len(taken) < counts[split]:
            context = next(remaining, None)
            if context is None:
                raise RefusedData(
                    f"there are too few questions for the {split} split",
                    observed=f"{len(questions)} questions about {len(contexts)} contexts",
                    limit=", ".join(f"{name} {count}" for name, count in counts.items()) + ", no context in two splits",
                    remedy="ask for fewer, or give more; with data.training=0 the student learns from the teacher's",
                )
            taken += contexts[context]
        dealt[split] = taken[: counts[split]]
    return dealt


def write_questions(folder: Path, splits: dict[str, list[Question]], source: QuestionFile, *, seed: int) -> None:
    """Write a file a split, and ``card.json`` with what they were made from, into the existing ``folder``."""
    for split, questions in splits.items():
        lines = (json.dumps(asdict(question), ensure_ascii=False) for question in questions)
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    card = {"source": source.name, "licence": source.licence, "digest": source.digest, "seed": seed}
    (folder / "card.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_questions(folder: Path, split: str) -> list[Question]:
    """One split of a folder that ``write_questions`` wrote; a split may be empty."""
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [Question(**(entry | {"answers": tuple(entry["answers"])})) for entry in found]


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any, Any, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            entry = _json(path, line, f"line {number}")
            answers = entry.get("answers") if isinstance(entry, dict) else None
            if not isinstance(answers, dict):
                raise _bad(path, f"line {number} has no object under answers")
            texts, starts = answers.get("text"), answers.get("answer_start")
            if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
                raise _bad(path, f"line {number}: answers.text and answers.answer_start are no lists of one length")
            yield f"line {number}", entry.get("question"), entry.get("context"), list(zip(texts, starts, strict=True))


def _nested(path: Path, text: str) -> Iterator[tuple[str, Any, Any, Any]]:
    document = _json(path, text, "the file")
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    answers = [(answer["text"], answer["answer_start"]) for answer in entry["answers"]]
                    yield f"question {entry.get('id', '')}", entry["question"], paragraph["context"], answers
    except (KeyError, TypeError, AttributeError) as error:
        raise _bad(path, f"not SQuAD's form: {type(error).__name__} {error}") from error


def _json(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _bad(path, f"{where} is no JSON: {error.msg}") from error


def _question(path: Path, where: str, question: Any, context: Any, answers: Any) -> Question | None:
    if not isinstance(question, str) or not isinstance(context, str) or not question.strip():
        raise _bad(path, f"{where} has no question or no context")
    if not answers:
        return None
    for answer, start in answers:
        found = context[start : start + len(answer)] if isinstance(start, int) and isinstance(answer, str) else None
        if not answer or found != answer or start < 0:
            raise _bad(path, f"{where}: answer {str(answer)[:40]!r} does not stand at character {start}")
    return Question(question, context, tuple(answer for answer, _ in answers), answers[0][1])


def _bad(path: Path, observed: str) -> RefusedData:
    return RefusedData(
        f"{path.name} cannot be read",
        observed=observed,
        limit="questions with context and answers, each answer a part of its context at answer_start",
        remedy="mend the file; SQuAD's own files and the lines that the datasets library writes are in this form",
    )


def _refused(source: str, observed: str) -> RefusedData:
    return RefusedData(
        f"questions {source!r} cannot be used",
        observed=observed,
        limit="synthetic, or a local .json or .jsonl file",
        remedy="choose one of these",
    )
