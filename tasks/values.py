"""What every value that tasks hand to one another is made of. Kept apart so that several modules can define such
values; ``contracts`` has the most of them and gives these names on.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """Frozen, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Place:
    """Annotation: this field says where or when, not what; it never enters a cache key."""


def identity(value: Any) -> Any:
    """Reduce ``value`` to what it *is*: nested models lose their ``Place`` fields; everything else stays as JSON."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: identity(getattr(value, name))
            for name, info in fields.items()
            if not any(mark is Place for mark in info.metadata)
        }
    if isinstance(value, dict):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    return value
