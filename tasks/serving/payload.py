"""The JSON of the Hugging Face inference container: what a request may say, and how a bad one is answered.

Source: https://huggingface.co/docs/text-generation-inference/reference/api_reference (its ``/invocations`` route).
Only the standard library: this runs before any model work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MAX_BODY = 6_291_456  # bytes; SageMaker's own limit of InvokeEndpoint's Body
MAX_PROMPTS = 32

Tell = Callable[[int, str], None]  # of an answer that grows: a token, and the text that it settles


class BadRequest(Exception):
    """The request cannot be served as written. ``status`` is 400, 413 or 415."""

    def __init__(self, field: str, observed: object, limit: str, *, status: int = 400) -> None:
        self.field, self.observed, self.limit, self.status = field, observed, limit, status
        super().__init__(f"{field}: observed {observed}, expected {limit}")

    def body(self) -> dict[str, object]:
        return {"error": {"field": self.field, "observed": str(self.observed)[:200], "limit": self.limit}}


class Interrupted(Exception):
    """Generation was stopped before its end: the time was up or nobody waits for the answer."""


@dataclass(frozen=True)
class Request:
    """One checked request. ``temperature`` divides the logits; ``top_p`` keeps that much probability mass.

    With ``stream`` the answer to its only prompt is told token by token.
    """

    prompts: tuple[str, ...]
    max_new_tokens: int = 20
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    return_full_text: bool = True
    seed: int | None = None
    stream: bool = False


def parse(body: bytes, content_type: str, max_new_tokens: int) -> Request:
    """Check a request's bytes. ``max_new_tokens`` is this server's cap; asking for more is refused, not cut.

    Raises:
        BadRequest: with the field, what was observed, and what would have been accepted.
    """
    document = read_object(body, content_type)
    check_known("", document, {"inputs", "parameters", "stream"})
    prompts = _prompts(document.get("inputs"))
    return Request(
        prompts=prompts,
        stream=_stream(document.get("stream"), len(prompts)),
        **_parameters(document.get("parameters"), max_new_tokens),
    )


def read_object(body: bytes, content_type: str) -> dict[str, Any]:
    """The JSON object that a request's body is.

    Raises:
        BadRequest: it is too large, of another type, or none.
    """
    if len(body) > MAX_BODY:
        raise too_large(len(body))
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("", "application/json"):
        raise BadRequest("Content-Type", content_type, "application/json", status=415)
    document = _json(body)
    if not isinstance(document, dict):
        raise BadRequest("body", type(document).__name__, 'an object: {"inputs": ..., "parameters": {...}}')
    return document


class Model(Protocol):
    """What the container's worker asks of a loaded folder. Not thread-safe: one thread owns it."""

    def check(self) -> None:
        """Do the real work once; raises when the model cannot."""

    def generate(self, request: Any, stop: Callable[[], bool], tell: Tell | None = None) -> list[Any]:
        """An answer an input, in order. Raises BadRequest and Interrupted.

        ``tell`` is told each token of a request that streams, and the text that it settles.
        """


class TextModel(Protocol):
    """A loaded model folder, however it computes. Not thread-safe: one thread owns it."""

    def check(self) -> None:
        """Generate one real token; raises when the model cannot."""

    def generate(self, request: Request, stop: Callable[[], bool], tell: Tell | None = None) -> list[str]:
        """One text a prompt, in order. ``stop`` is asked after every token. Raises BadRequest and Interrupted."""


def check_lengths(lengths: Sequence[int], max_new_tokens: int, context: int) -> None:
    """Refuse prompts of ``lengths`` tokens that, with their answers, do not fit ``context`` tokens.

    Raises:
        BadRequest: a prompt has no tokens, fills the context, or leaves too little of it for the answer.
    """
    if min(lengths) == 0:
        raise BadRequest("inputs", "0 tokens", "at least 1 token")
    longest = max(lengths)
    if longest >= context:
        raise BadRequest("inputs", f"{longest} tokens", f"at most {context - 1} tokens: the context less one")
    if longest + max_new_tokens > context:
        limit = f"at most {context - longest}: the context has {context} tokens"
        raise BadRequest("parameters.max_new_tokens", max_new_tokens, limit)


def before_stop(text: str, stops: tuple[str, ...]) -> str:
    """``text`` up to the first of ``stops`` in it."""
    cuts = [text.find(stop) for stop in stops if stop in text]
    return text[: min(cuts)] if cuts else text


def too_large(observed: int) -> BadRequest:
    return BadRequest("body", f"{observed} bytes", f"at most {MAX_BODY} bytes", status=413)


def _json(body: bytes) -> Any:
    def no_constant(name: str) -> Any:
        raise BadRequest("body", name, "JSON without NaN or Infinity")

    if not body.strip():
        raise BadRequest("body", "empty", 'a JSON object: {"inputs": "..."}')
    try:
        return json.loads(body, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest("body", f"not JSON ({error})", "a JSON object in UTF-8") from error


def _prompts(value: Any) -> tuple[str, ...]:
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list) or not prompts:
        observed = "missing" if value is None else "an empty list" if value == [] else type(value).__name__
        raise BadRequest("inputs", observed, "a string or a list of strings")
    if len(prompts) > MAX_PROMPTS:
        raise BadRequest("inputs", f"{len(prompts)} prompts", f"at most {MAX_PROMPTS} prompts")
    for index, prompt in enumerate(prompts):
        field = "inputs" if isinstance(value, str) else f"inputs[{index}]"
        if not isinstance(prompt, str):
            raise BadRequest(field, type(prompt).__name__, "a string")
        if not prompt:
            raise BadRequest(field, "an empty string", "at least one character")
        check_text(field, prompt)
    return tuple(prompts)


def _stream(value: Any, prompts: int) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest("stream", repr(value), "true or false")
    if value and prompts > 1:
        raise BadRequest("inputs", f"{prompts} prompts", "one prompt where the answer is streamed")
    return value


def _parameters(value: Any, cap: int) -> dict[str, Any]:
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise BadRequest("parameters", type(value).__name__, "an object")
    allowed = {"max_new_tokens", "temperature", "top_p", "do_sample", "return_full_text", "stop", "seed"}
    check_known("parameters.", value, allowed)
    given = {name: item for name, item in value.items() if item is not None}
    sampling = "temperature" in given or "top_p" in given
    return {
        "max_new_tokens": check_integer("max_new_tokens", given.get("max_new_tokens", min(20, cap)), 1, cap),
        # As in Hugging Face's server: naming a temperature or a top_p asks for sampling, unless do_sample says no.
        "do_sample": _boolean("do_sample", given.get("do_sample", sampling)),
        "temperature": _number("temperature", given.get("temperature", 1.0), 100.0),
        "top_p": _number("top_p", given.get("top_p", 1.0), 1.0),
        "stop": _stop(given.get("stop", [])),
        "return_full_text": _boolean("return_full_text", given.get("return_full_text", True)),
        "seed": check_integer("seed", given["seed"], 0, 2**63 - 1) if "seed" in given else None,
    }


def check_known(prefix: str, document: dict[str, Any], allowed: set[str]) -> None:
    """Refuse a field that is not one of ``allowed``."""
    for name in document:
        if name not in allowed:
            raise BadRequest(f"{prefix}{name}", "unknown field", f"one of {', '.join(sorted(allowed))}")


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Parameter ``name`` when it is an integer from ``low`` to ``high``; BadRequest otherwise."""
    # bool is an int in Python; true is no number of tokens.
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadRequest(f"parameters.{name}", repr(value), f"an integer from {low} to {high}")
    return value


def _number(name: str, value: Any, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high:
        raise BadRequest(f"parameters.{name}", repr(value), f"a number above 0 and at most {high:g}")
    return float(value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"parameters.{name}", repr(value), "true or false")
    return value


def _stop(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 8 or not all(isinstance(item, str) and item for item in stops):
        raise BadRequest("parameters.stop", repr(value), "at most 8 non-empty strings")
    for item in stops:
        check_text("parameters.stop", item)
    return tuple(stops)


def check_text(field: str, text: str) -> None:
    """Refuse what JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(field, f"a lone surrogate at character {error.start}", "text that UTF-8 can write") from error
