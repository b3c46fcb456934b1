"""How a group of choices stands in the form that Prefect draws: its order, its titles, and the bounds in its help.

Prefect's form checks bounds when it is sent, but shows them nowhere; so the help says them.
"""

from __future__ import annotations

import re
from typing import Any

_ACRONYMS = {"cpu": "CPU", "gpu": "GPU", "kl": "KL", "lmi": "LMI", "eula": "EULA", "id": "id", "ms": "ms", "mb": "MB"}
_WORDS = _ACRONYMS | {"len": "length", "dtype": "data type", "huggingface": "Hugging Face", "jumpstart": "JumpStart"}


def as_form(schema: dict[str, Any]) -> None:
    """``json_schema_extra`` of every group. Its own fields come before the groups in it, which are long; Prefect's form
    sorts by ``position``, and without one fields come in an order of its own.
    """
    fields: dict[str, dict[str, Any]] = schema.get("properties", {})
    for position, name in enumerate(sorted(fields, key=lambda name: is_group(fields[name]))):
        field = fields[name]
        field["position"] = position
        if field.get("title", _automatic(name)) == _automatic(name):
            field["title"] = title_of(name)
        bounds = bounds_of(field)
        if bounds and field.get("description"):
            field["description"] += f" ({bounds})"


def is_group(field: dict[str, Any]) -> bool:
    """Whether a field is a group of fields, or a list of such."""
    return "$ref" in field or "allOf" in field or "$ref" in field.get("items", {})


def title_of(name: str) -> str:
    """max_kl → Max KL: in sentence case, with acronyms as people write them."""
    words = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def _automatic(name: str) -> str:
    """The title that Pydantic makes of a field's name."""
    return re.sub(r"_+", " ", name.title())


def bounds_of(field: dict[str, Any]) -> str:
    """16 to 4,096; above 0, at most 1; at least 1. Empty without bounds."""
    low, high = field.get("minimum"), field.get("maximum")
    above, below = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    parts = [
        f"{word} {_number(value)}"
        for word, value in (("at least", low), ("above", above), ("at most", high), ("below", below))
        if value is not None
    ]
    return ", ".join(parts)


def _number(value: float) -> str:
    return f"{value:,.10g}"
