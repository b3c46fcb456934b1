"""``slimline compare`` and ``slimline release``: deployments that have words of their own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Param = Annotated[
    list[str] | None, typer.Option("--param", "-p", help="Any field of the form: budgets.min_agreement=0.9")
]


def comparing(recipes: int | None, prefer: str | None, seed: int | None) -> dict[str, Any]:
    """The form's fields that the options set."""
    given = {"recipes": recipes, "prefer": prefer, "seed": seed}
    return {"search": {name: value for name, value in given.items() if value is not None}}


def releasing(model: str, version: str, endpoint: str | None) -> dict[str, Any]:
    """As ``comparing``."""
    return {"model": model, "version": version} | ({"plan": {"endpoint": endpoint}} if endpoint else {})
