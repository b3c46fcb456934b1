"""Question answering over ``/invocations``: the JSON of Hugging Face's ``question-answering`` task.

Source: https://huggingface.co/docs/inference-providers/tasks/question-answering. A request is ``{"inputs": {"question":
…, "context": …}, "parameters": {…}}``, or a list of such inputs; the answer to each is ``{"answer", "score", "start",
"end"}``, characters of the context, end excluded. Only the standard library: this runs before any model work.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.serving.payload import MAX_PROMPTS, BadRequest, check_integer, check_known, check_text, read_object

HEADED = "ForQuestionAnswering"


@dataclass(frozen=True)
class Pair:
    """A question and the text that its answer stands in."""

    question: str
    context: str


@dataclass(frozen=True)
class QuestionRequest:
    """One checked request.

    Attributes:
        pairs: at least one.
        single: ``inputs`` was one object and not a list; then so is the answer.
        max_answer_len: tokens of an answer, at most.
        doc_stride: tokens that neighbouring windows of a long context share; none leaves it to the reader.
    """

    pairs: tuple[Pair, ...]
    single: bool = True
    max_answer_len: int = 15
    doc_stride: int | None = None


def reads_questions(folder: Path) -> bool:
    """Whether the folder's model has a question-answering head, by its config.json; False when there is none."""
    try:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    except (OSError, ValueError, AttributeError):
        return False
    return str(names[0]).endswith(HEADED)


def parse_questions(body: bytes, content_type: str) -> QuestionRequest:
    """Check a request's bytes.

    Raises:
        BadRequest: with the field, what was observed, and what would have been accepted.
    """
    document = read_object(body, content_type)
    check_known("", document, {"inputs", "parameters"})
    inputs = document.get("inputs")
    listed = inputs if isinstance(inputs, list) else [inputs]
    if not 1 <= len(listed) <= MAX_PROMPTS:
        raise BadRequest("inputs", f"{len(listed)} questions", f"1 to {MAX_PROMPTS} questions")
    single = not isinstance(inputs, list)
    pairs = tuple(_pair("inputs" if single else f"inputs[{index}]", entry) for index, entry in enumerate(listed))
    given = document.get("parameters") or {}
    if not isinstance(given, dict):
        raise BadRequest("parameters", type(given).__name__, "an object")
    check_known("parameters.", given, {"max_answer_len", "doc_stride"})
    return QuestionRequest(
        pairs,
        single,
        check_integer("max_answer_len", given.get("max_answer_len", 15), 1, 512),
        check_integer("doc_stride", given["doc_stride"], 0, 4096) if "doc_stride" in given else None,
    )


def _pair(field: str, value: Any) -> Pair:
    if not isinstance(value, dict):
        observed = "missing" if value is None else type(value).__name__
        raise BadRequest(field, observed, 'an object: {"question": "...", "context": "..."}')
    check_known(f"{field}.", value, {"question", "context"})
    for name in ("question", "context"):
        text = value.get(name)
        if not isinstance(text, str) or not text.strip():
            raise BadRequest(f"{field}.{name}", "missing" if text is None else repr(text), "a string that is not empty")
        check_text(f"{field}.{name}", text)
    return Pair(value["question"], value["context"])
