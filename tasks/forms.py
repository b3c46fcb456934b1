"""How a group of choices stands in the form that Prefect draws: its order, its titles, and the bounds in its help.

Prefect's form checks bounds when it is sent, but shows them nowhere; so the help says them. It cannot fold a group, but
shows of alternatives only the chosen one: a group that few need is an alternative to nothing.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import BaseModel

_ACRONYMS = {"cpu": "CPU", "gpu": "GPU", "kl": "KL", "lmi": "LMI", "eula": "EULA", "id": "id", "ms": "ms", "mb": "MB"}
FOLDED: dict[str, Any] = {"folded": True}  # ``json_schema_extra`` of a field that is such a group; null is its default
_WORDS = _ACRONYMS | {"len": "length", "dtype": "data type", "huggingface": "Hugging Face", "jumpstart": "JumpStart"}


def as_form(schema: dict[str, Any], group: type[BaseModel]) -> None:
    """``json_schema_extra`` of every group. Its own fields come before the groups in it, which are long; Prefect's form
    sorts by ``position``, and without one fields come in an order of its own. A folded group is the second of two
    alternatives, of which the form shows the first where nothing is chosen, and each by its title.
    """
    schema["title"] = title_of(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", group.__name__).lower())
    fields: dict[str, dict[str, Any]] = schema.get("properties", {})
    for position, name in enumerate(sorted(fields, key=lambda name: is_group(fields[name]))):
        field = fields[name]
        default = group.model_fields[name].default
        if "$ref" in field and isinstance(default, BaseModel) and default == type(default)():
            del field["default"]  # the group's own say it: said here, the form would take all of them as chosen
        if field.pop("folded", False):
            field["description"] = inspect.getdoc(type(default)) or ""  # the group's own help is folded with it
            field["anyOf"] = [{"type": "null", "title": "Defaults"}, {"$ref": field.pop("$ref")}]
        field["position"] = position
        if field.get("title", _automatic(name)) == _automatic(name):
            field["title"] = title_of(name)
        bounds = bounds_of(field)
        if bounds and field.get("description"):
            field["description"] += f" ({bounds})"


def is_group(field: dict[str, Any]) -> bool:
    """Whether a field is a group of fields, or a list of such."""
    return "$ref" in field or "allOf" in field or "anyOf" in field or "$ref" in field.get("items", {})


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
