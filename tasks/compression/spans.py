"""Extractive question answering: text to windows of tokens, logits to answers, answers to exact match and F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from tasks.errors import RefusedData
from tasks.reader_contracts import Question

NO_ANSWER = -100
"""Start and end of a window without the answer; torch's cross entropy ignores it."""


@dataclass(frozen=True)
class Windows:
    """Questions with as much of their contexts as fits; a long context gives several, overlapping.

    Attributes:
        tokens, segments, attention: int64 (windows, length), as a BERT-type encoder reads them.
        context: bool (windows, length), where an answer may stand.
        starts, ends: int64 (windows,), first and last token of the answer, or ``NO_ANSWER``.
        offsets: int64 (windows, length, 2), characters of the context that a token covers.
        owners: int64 (windows,), the question's number.
    """

    tokens: Tensor
    segments: Tensor
    attention: Tensor
    context: Tensor
    starts: Tensor
    ends: Tensor
    offsets: Tensor
    owners: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return self.tokens.shape[1]


@dataclass(frozen=True)
class AnswerScore:
    """How well questions were answered.

    Attributes:
        exact_match, f1: 0 to 1, the share of answers that are exactly right, and the mean overlap in words.
        questions: how many there were.
        each_f1, each_exact: question by question.
        answers: what was answered.
        seconds: that the model computed.
    """

    exact_match: float
    f1: float
    questions: int
    each_f1: tuple[float, ...] = ()
    each_exact: tuple[float, ...] = ()
    answers: tuple[str, ...] = ()
    seconds: float = 0.0


def cut_windows(tokenizer: Path, questions: Sequence[Question], *, length: int, stride: int) -> Windows:
    """Tokenize question and context as a pair.

    Args:
        tokenizer: a tokenizer.json whose post-processor joins pairs.
        questions: at least one.
        length: tokens a window, at most; all are padded to the longest.
        stride: tokens that neighbouring windows of a context share.

    Raises:
        RefusedData: no questions, an answer that is not where ``start`` says, or a question too long for a window.
    """
    for question in questions:
        answer = question.answers[0] if question.answers else ""
        if not answer or question.context[question.start : question.start + len(answer)] != answer:
            raise _refused(f"answer {answer!r} at character {question.start}", "the first answer where start says")
    coder = Tokenizer.from_file(str(tokenizer))
    coder.no_truncation()
    longest = max((len(coder.encode(each.question).ids) for each in questions), default=length)
    if longest + stride + 2 >= length:
        raise _refused(f"a question of {longest} tokens, or none", f"below {length - stride - 2} tokens")
    coder.enable_truncation(length, stride=stride, strategy="only_second")
    coder.enable_padding()
    found: list[tuple[int, Encoding]] = []
    for owner, coded in enumerate(coder.encode_batch([(each.question, each.context) for each in questions])):
        found.extend((owner, window) for window in (coded, *coded.overflowing))
    spans = [_span(window, questions[owner]) for owner, window in found]
    return Windows(
        tokens=torch.tensor([window.ids for _, window in found]),
        segments=torch.tensor([window.type_ids for _, window in found]),
        attention=torch.tensor([window.attention_mask for _, window in found]),
        context=torch.tensor([[number == 1 for number in window.sequence_ids] for _, window in found]),
        starts=torch.tensor([start for start, _ in spans]),
        ends=torch.tensor([end for _, end in spans]),
        offsets=torch.tensor([window.offsets for _, window in found]),
        owners=torch.tensor([owner for owner, _ in found]),
    )


def _refused(observed: str, limit: str) -> RefusedData:
    return RefusedData(
        "the questions cannot be cut into windows",
        observed=observed,
        limit=limit,
        remedy="correct the data, or raise the window length",
    )


def _span(window: Encoding, question: Question) -> tuple[int, int]:
    """First and last token of the answer, when all of it is in this window."""
    first, last = question.start, question.start + len(question.answers[0])
    inside = [(place, window.offsets[place]) for place, number in enumerate(window.sequence_ids) if number == 1]
    if not inside or inside[0][1][0] > first or inside[-1][1][1] < last:
        return NO_ANSWER, NO_ANSWER
    covered = [place for place, (left, right) in inside if right > first and left < last]
    return (covered[0], covered[-1]) if covered else (NO_ANSWER, NO_ANSWER)


def best_answers(
    starts: Tensor, ends: Tensor, windows: Windows, questions: Sequence[Question], *, max_answer_tokens: int
) -> list[str]:
    """For each question the span with the largest sum of start and end logit over all of its windows.

    Args:
        starts, ends: (windows, length) logits.
        max_answer_tokens: an answer has at most so many.
    """
    length = starts.shape[1]
    allowed = torch.ones(length, length, dtype=torch.bool).triu().tril(max_answer_tokens - 1)
    best = [(-torch.inf, "")] * len(questions)
    for number, owner in enumerate(windows.owners.tolist()):
        inside = windows.context[number]
        sums = starts[number][:, None] + ends[number][None]
        sums = sums.masked_fill(~(allowed & inside[:, None] & inside[None]), -torch.inf)
        place = int(sums.argmax())
        first, last = divmod(place, length)
        score = float(sums[first, last])
        if score > best[owner][0]:
            left, right = int(windows.offsets[number, first, 0]), int(windows.offsets[number, last, 1])
            best[owner] = (score, questions[owner].context[left:right])
    return [answer for _, answer in best]


def score_answers(answers: Sequence[str], questions: Sequence[Question]) -> AnswerScore:
    """Exact match and F1, the best over a question's accepted answers, means over questions (SQuAD's evaluate-v1.1.py,
    Rajpurkar et al. 2016, arXiv:1606.05250).
    """
    exact, overlap = [], []
    for answer, question in zip(answers, questions, strict=True):
        exact.append(max(float(normalised(answer) == normalised(right)) for right in question.answers))
        overlap.append(max(word_f1(answer, right) for right in question.answers))
    count = len(questions)
    return AnswerScore(
        sum(exact) / count, sum(overlap) / count, count, tuple(overlap), tuple(exact), answers=tuple(answers)
    )


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: in this order, as SQuAD's script has it."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def word_f1(answer: str, right: str) -> float:
    """Harmonic mean of precision and recall of normalised words, each counted as often as it stands."""
    ours, theirs = normalised(answer).split(), normalised(right).split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0
