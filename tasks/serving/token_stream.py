"""An answer told token by token: which text is certain after each token, and the events that say so.

The events are those of Text Generation Inference (``/generate_stream``), which Large Model Inference containers speak
too, one server-sent event a token: ``data: {"index", "token": {"id", "text", "special"}, "generated_text",
"details"}``. Log probabilities are left out. The last event is one of its own, with ``generated_text`` and an empty or
a last piece of text: that a token was the last is known only after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from tasks.serving.payload import Request, Tell, before_stop

HEADERS = [(b"content-type", b"text/event-stream")]
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer makes of half a character


class Pieces:
    """Cuts one growing answer into pieces of text that later tokens do not change."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str], tell: Tell) -> None:
        """``decode`` tokens to text, ``stops`` where the answer ends, ``tell`` a token and the text that it settles."""
        self._decode = decode
        self._stops = tuple(stops)
        self._held = max((len(stop) for stop in stops), default=1) - 1  # a stop may have begun there
        self._tell = tell
        self._tokens: list[int] = []
        self._told = 0

    def add(self, token: int) -> None:
        self._tokens.append(token)
        text = self._decode(self._tokens)
        ended = before_stop(text, self._stops)
        certain = len(ended) if ended != text else len(text.rstrip(_UNFINISHED)) - self._held
        piece = text[self._told : max(self._told, certain)]
        self._told += len(piece)
        self._tell(token, piece)


class Events:
    """The events of one answer to ``request``."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._count = 0
        self._last = 0
        self._text = ""

    def token(self, token: int, text: str) -> bytes:
        self._count, self._last, self._text = self._count + 1, token, self._text + text
        return self._event(token, text, False)

    def end(self, answer: str) -> bytes:
        """The last event. ``answer`` as a request without streaming would have got it."""
        request = self._request
        said = answer.removeprefix(request.prompts[0]) if request.return_full_text else answer
        reason = "length" if self._count == request.max_new_tokens else "stop_sequence" if request.stop else "eos_token"
        details = {"finish_reason": reason, "generated_tokens": self._count, "seed": request.seed}
        return self._event(self._last, said[len(self._text) :], True, answer, details)

    def _event(
        self, token: int, text: str, special: bool, answer: str | None = None, details: object | None = None
    ) -> bytes:
        said = {"id": token, "text": text, "special": special}
        event = {"index": self._count, "token": said, "generated_text": answer, "details": details}
        return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


def error_event(why: str) -> bytes:
    """What ends an answer that has begun and cannot go on."""
    return b"data: " + json.dumps({"error": why, "error_type": "generation"}).encode() + b"\n\n"
