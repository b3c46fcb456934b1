"""Metric math: an expression read into a tree, and the tree's value over time series.

"Using metric math" in the CloudWatch user guide. A time series is ``{start of a period: value}``; an expression works
on series, on lists of series and on numbers. Where a series has no point, what is made from it has none either, but for
functions over a list, which take the points that are there. Dividing by zero gives no point.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Series = dict[float, float]
Value = float | str | Series | list[Series]

_TOKEN = re.compile(
    r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)"  # a number
    r"|([A-Za-z]\w*)"  # a word
    r"|\"([^\"]*)\"|'([^']*)'"  # a string
    r"|(&&|\|\||[=!<>]=|[-+*/^<>(),\[\]]))"  # a sign
)
_WORDS = {"AND": "&&", "OR": "||"}
_LEVELS = (("||",), ("&&",), ("==", "!=", "<", ">", "<=", ">="), ("+", "-"), ("*", "/"))  # loosest first
_DEEPEST = 40


class BadExpression(ValueError):
    """The text is not metric math; the message says why."""


@dataclass(frozen=True)
class Node:
    """``number``, ``text``, ``name``, ``list``, ``negative``, a binary operator, or ``call`` with a function's name."""

    kind: str
    value: Any = None
    parts: tuple[Node, ...] = ()

    def names(self) -> set[str]:
        """Ids that the expression refers to."""
        own = {str(self.value)} if self.kind == "name" else set()
        return own.union(*(part.names() for part in self.parts))

    def calls(self) -> set[str]:
        """Functions that it calls."""
        own = {str(self.value)} if self.kind == "call" else set()
        return own.union(*(part.calls() for part in self.parts))


@dataclass
class _Reader:
    tokens: list[tuple[str, str]]
    at: int = 0
    depth: int = 0

    def peek(self) -> str:
        kind, text = self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")
        return text if kind == "sign" else kind

    def take(self, wanted: str) -> str:
        if self.peek() != wanted:
            raise BadExpression(f"'{wanted}' is expected where '{self._here()}' is")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def _here(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else "the end"

    def expression(self, level: int = 0) -> Node:
        if level == len(_LEVELS):
            return self.unary()
        left = self.expression(level + 1)
        while self.peek() in _LEVELS[level]:
            sign = self.take(self.peek())
            left = Node(sign, parts=(left, self.expression(level + 1)))
        return left

    def unary(self) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise BadExpression(f"it is nested more than {_DEEPEST} deep")
        if self.peek() == "-":
            self.take("-")
            found = Node("negative", parts=(self.unary(),))
        else:
            found = self.operand()
            if self.peek() == "^":
                self.take("^")
                found = Node("^", parts=(found, self.unary()))
        self.depth -= 1
        return found

    def operand(self) -> Node:
        kind = self.peek()
        if kind == "number":
            return Node("number", float(self.take("number")))
        if kind == "text":
            return Node("text", self.take("text"))
        if kind == "word":
            name = self.take("word")
            return Node("call", name, self.items("(", ")")) if self.peek() == "(" else Node("name", name)
        if kind == "[":
            return Node("list", parts=self.items("[", "]"))
        self.take("(")
        found = self.expression()
        self.take(")")
        return found

    def items(self, opening: str, closing: str) -> tuple[Node, ...]:
        self.take(opening)
        found: list[Node] = []
        while self.peek() != closing:
            if found:
                self.take(",")
            found.append(self.expression())
        self.take(closing)
        return tuple(found)


def parse(text: str) -> Node:
    """The tree of an expression. Raises ``BadExpression``."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if not match:
            raise BadExpression(f"'{text[at:].strip()[:20]}' is not understood")
        number, word, double, single, sign = match.groups()
        if number is not None:
            tokens.append(("number", number))
        elif word in _WORDS:
            tokens.append(("sign", _WORDS[word]))
        elif word is not None:
            tokens.append(("word", word))
        else:
            quoted = double if double is not None else single
            tokens.append(("sign", sign) if sign else ("text", quoted))
        at = match.end()
    reader = _Reader(tokens)
    tree = reader.expression()
    if reader.peek() != "end":
        raise BadExpression(f"'{tokens[reader.at][1]}' is not expected")
    return tree


@dataclass
class Frame:
    """What an expression is evaluated over: every ``period`` seconds from ``start`` to before ``end``."""

    start: float
    end: float
    period: int
    series: Callable[[str], Value]  # the value of an id; raises ``BadExpression``
    metrics: Mapping[str, Series] = field(default_factory=dict)  # what METRICS() returns
    periods: Mapping[str, int] = field(default_factory=dict)

    @property
    def times(self) -> list[float]:
        count = max(0, -int(-(self.end - self.start) // self.period))
        return [self.start + number * self.period for number in range(count)]
