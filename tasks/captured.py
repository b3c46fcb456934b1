"""Text out of requests that an endpoint has captured: what users really ask, to calibrate the next model on.

``capture://ENDPOINT`` or ``capture://ENDPOINT/VARIANT`` reads what a release with ``plan.monitoring.capture_percent``
(or a shadow release) has left in Slimline's bucket; ``capture+s3://BUCKET/PREFIX`` any JSON lines that
SageMaker has captured. ``?answers=true`` takes each answer with its request. New requests arrive all the time:
``text_sources`` keeps what was read under its digest.

Whoever may ask the endpoint writes here: one odd request must not stop every later run, so what is no text is left out
and counted. What Slimline has sent itself is left out too: a rehearsal's prompts are the held-out text.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tasks.adapters.captured_lines import Exchange, captured, first_object
from tasks.adapters.document_digests import digest_of
from tasks.adapters.sagemaker_names import ENDPOINT_NAME, VARIANT
from tasks.adapters.texts import MOST_DOCUMENTS, Text, text_of
from tasks.cloud import sagemaker
from tasks.errors import RefusedData
from tasks.settings import settings

_FORMS = "capture://ENDPOINT, capture://ENDPOINT/VARIANT or capture+s3://BUCKET/PREFIX, with ?answers=true where wanted"


@dataclass(frozen=True)
class Place:
    """Where captures lie. ``name``: what a person calls it."""

    bucket: str
    prefix: str
    answers: bool
    name: str


def place_of(source: str) -> Place:
    """Read a source's address; no call is made.

    Raises:
        RefusedData: with the accepted forms.
    """
    parts = urlsplit(source)
    asked = parse_qs(parts.query, keep_blank_values=True)
    answers = asked.pop("answers", ["false"])
    if asked or parts.fragment or len(answers) != 1 or answers[0] not in ("true", "false"):
        raise _refused(source, f"?{parts.query}", "?answers=true or nothing")
    wanted = answers[0] == "true"
    if parts.scheme == "capture+s3":
        if not parts.netloc:
            raise _refused(source, "no bucket", _FORMS)
        return Place(parts.netloc, parts.path.lstrip("/"), wanted, f"{parts.netloc}{parts.path}".rstrip("/"))
    variant = parts.path.strip("/") or VARIANT
    if not ENDPOINT_NAME.fullmatch(parts.netloc) or not ENDPOINT_NAME.fullmatch(variant):
        raise _refused(source, f"endpoint {parts.netloc!r}, variant {variant!r}", _FORMS)
    name = f"captures-of-{parts.netloc}" + ("" if variant == VARIANT else f"-{variant}")
    return Place(settings().bucket, f"captures/{parts.netloc}/{variant}/", wanted, name)


def is_captured(source: str) -> bool:
    """Whether ``source`` names captures."""
    return urlsplit(source).scheme in ("capture", "capture+s3")


def check_captured(source: str) -> None:
    """Refuse a source that cannot work, by one call: a wrong address, or nothing captured there.

    Raises:
        RefusedData: with what was seen.
    """
    place = place_of(source)
    if first_object(sagemaker().connection, place.bucket, place.prefix) is None:
        raise _nothing(source, place, "no object")


@dataclass
class _Taken:
    """What has come of the captures so far, the newest ``most`` texts last."""

    most: int
    texts: OrderedDict[str, None] = field(default_factory=OrderedDict)  # a dict looks for its first one ever longer
    repeated: int = 0
    own: int = 0
    textless: int = 0
    cut: bool = False

    def add(self, text: str) -> None:
        self.repeated += text in self.texts
        self.texts[text] = None
        self.texts.move_to_end(text)  # asked again: as new as its last time
        if len(self.texts) > self.most:
            self.texts.popitem(last=False)
            self.cut = True

    @property
    def left_out(self) -> str:
        told = [(self.own, "that Slimline sent itself"), (self.textless, "without a text")]
        return ", ".join(f"{count:,} {what}" for count, what in told if count)


def read_captured(source: str, most: int = MOST_DOCUMENTS, only: Collection[str] = ()) -> Text:
    """Every text that users' requests have, exact duplicates dropped, the newest ``most``. ``only``: digests of the
    documents that are taken; none: all.

    Raises:
        RefusedData: nothing is there, nothing of it is a user's text, or a line is no capture.
    """
    place, taken = place_of(source), _Taken(most)
    for exchange in captured(sagemaker().connection, place.bucket, place.prefix):
        if exchange.own:
            taken.own += 1
            continue
        texts = [text.strip() for text in documents_of(exchange, answers=place.answers)]
        taken.textless += not texts
        for each in texts:
            if not only or digest_of(each) in only:
                taken.add(each)
    if not taken.texts:
        told = f" (left out: {taken.left_out})" if taken.left_out else ""
        raise _nothing(source, place, f"no request with a text in it{told}")
    text = text_of(place.name, "users' own words (captured requests)", taken.texts, most=most)
    return replace(text, duplicates=taken.repeated, cut=taken.cut, left_out=taken.left_out)


def documents_of(exchange: Exchange, *, answers: bool) -> Iterator[str]:
    """Each prompt of a request; with ``answers`` what was said to it goes on behind it. None of what is no text."""
    prompts = list(_prompts(exchange.request))
    said = list(_answers(exchange.answer)) if answers else []
    if len(said) != len(prompts):  # no answer, or one that is not text
        yield from prompts
        return
    for prompt, answer in zip(prompts, said, strict=True):
        # TGI's return_full_text gives the prompt again.
        yield answer if answer.startswith(prompt) else prompt + answer


def _prompts(body: str) -> Iterator[str]:
    """Of ``inputs`` (Hugging Face, LMI), ``prompt`` (OpenAI) and ``messages``; of a body that is no JSON, itself."""
    try:
        asked: Any = json.loads(body)
    except RecursionError:  # brackets in brackets
        return
    except ValueError:
        yield from _strings([body.strip()])
        return
    if isinstance(asked, dict):
        given = asked.get("inputs", asked.get("prompt"))
        if given is None and isinstance(asked.get("messages"), list):
            given = "\n".join(_strings(map(_content, asked["messages"])))
        asked = given
    yield from _strings(asked if isinstance(asked, list) else [asked])


def _answers(body: str) -> Iterator[str]:
    """Of ``generated_text``, and of ``choices`` with ``text`` or a message."""
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(said, dict) and isinstance(said.get("choices"), list):
        said = said["choices"]
    for each in said if isinstance(said, list) else [said]:
        if isinstance(each, dict):
            texts = (each.get("generated_text"), each.get("text"), _content(each.get("message")))
            yield from list(_strings(texts))[:1]


def _content(message: Any) -> Any:
    return message.get("content") if isinstance(message, dict) else None


def _strings(values: Iterable[Any]) -> Iterator[str]:
    yield from (value for value in values if isinstance(value, str) and value.strip() and _encodable(value))


def _encodable(text: str) -> bool:
    """Half of a surrogate pair, which JSON can name, is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nothing(source: str, place: Place, observed: str) -> RefusedData:
    return RefusedData(
        f"nothing to read in {source}", observed=f"{observed} below s3://{place.bucket}/{place.prefix}",
        limit="at least one captured request with a text",
        remedy="release with plan.monitoring.capture_percent above 0, let users ask, and try again",
    )  # fmt: skip


def _refused(source: str, observed: str, limit: str) -> RefusedData:
    return RefusedData(
        f"text {source!r} cannot be used", observed=observed, limit=limit, remedy=f"write it as one of: {_FORMS}"
    )
