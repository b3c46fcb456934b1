"""A search over recipes in words: how much was tried, a row a recipe, the choice."""

from __future__ import annotations

from tasks.figures import milliseconds
from tasks.search_contracts import Comparison, Tried


def summary(comparison: Comparison) -> str:
    """How much was tried, and how much of it was there already."""
    count = {name: sum(each.outcome == name for each in comparison.tried) for name in ("measured", "stopped", "failed")}
    spared = f"; {comparison.spared} more spared, their folders as big as a stopped one's" if comparison.spared else ""
    return (
        f"{len(comparison.tried)} recipes: {count['measured']} measured, {count['stopped']} stopped half way, "
        f"{count['failed']} failed; {comparison.computed} stages computed, {comparison.reused} reused{spared}"
    )


def rows(comparison: Comparison) -> list[dict[str, object]]:
    """One row a recipe, the smallest first, for a page that is wide enough for reasons."""

    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    return [
        {
            "recipe": each.recipe.name,
            "outcome": word(comparison, each),
            "bytes ratio": shown(each.bytes_ratio, ".3f"),
            "perplexity ratio": shown(each.perplexity_ratio, ".3f"),
            "agreement": shown(each.agreement, ".1%"),
            "ms a token": "–" if each.token_ms is None else milliseconds(each.token_ms).removesuffix(" ms"),
            "$ per million": shown(each.usd_per_million, ".3g"),
            "front": "yes" if each.number in comparison.front else "",
            "why": _why(each),
            "stages": ", ".join(f"{stage.name}{' (reused)' if stage.reused else ''}" for stage in each.stages),
        }
        for each in smallest_first(comparison)
    ]


def smallest_first(comparison: Comparison) -> list[Tried]:
    """The recipes by size; those without one come last."""
    return sorted(comparison.tried, key=lambda each: (each.bytes_ratio is None, each.bytes_ratio or 0.0, each.number))


def word(comparison: Comparison, tried: Tried) -> str:
    """What became of it, in a word or two: a table has no room for reasons in the middle."""
    if tried.number == comparison.chosen:
        return "chosen"
    return "fits" if tried.fits else "over budget" if tried.outcome == "measured" else tried.outcome


def reasons(comparison: Comparison) -> list[tuple[str, str]]:
    """Why recipes are not among those that fit: what became of them, and their names with the reason, once for all
    that have the same.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for each in smallest_first(comparison):
        if why := _why(each):
            found.setdefault((word(comparison, each), why), []).append(each.recipe.name)
    return [(what, f"{', '.join(names)}: {why}") for (what, why), names in found.items()]


def _why(tried: Tried) -> str:
    """What speaks against it; nothing where it fits."""
    return "; ".join(tried.over) or tried.reason


def choice_markdown(comparison: Comparison) -> str:
    head = "# No recipe fits" if comparison.chosen is None else f"# {comparison.of(comparison.chosen).recipe.name}"
    lines = [head, f"Why: {comparison.reason}.", "", f"{summary(comparison)}."]
    if comparison.chosen is not None:
        recipe = comparison.of(comparison.chosen).recipe.model_dump_json(indent=2, exclude_defaults=True)
        lines += ["", "The recipe, for the form of `compress`:", "", "```json", recipe, "```"]
    return "\n".join(lines)
