"""From points to recipes, and from measured recipes to a front and a choice: no calls, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

from tasks.contracts import ModelRef, Scorecard
from tasks.errors import RefusedRecipe
from tasks.figures import dollars, milliseconds
from tasks.recipes import PruneRecipe, QuantizeRecipe, Recipe
from tasks.search_contracts import Tried
from tasks.search_plan import Budgets, Preference, SearchSpace


def recipe_at(point: Mapping[str, str | int | float], base: Recipe) -> Recipe:
    """The base recipe with what the point says. Its name says what the point is."""
    order = tuple(str(point["order"]).split(" + "))
    given = base.model_dump() | {"order": order}
    quantize = base.quantize.model_dump() | {
        "method": point["quantize"], "bits": point["bits"], "group_size": point["group_size"]
    }  # fmt: skip
    name = [f"{point['quantize']}{point['bits']}-g{point['group_size']}"]
    if "prune" in order:
        prune = base.prune.model_dump() | {"method": point["prune"], "sparsity": point["sparsity"]}
        given["prune"] = PruneRecipe.model_validate(prune)
        name.insert(0, f"{point['prune']}{100 * float(point['sparsity']):.0f}")
    if "distill" in order:
        name.insert(order.index("distill"), "distil")
    given["quantize"] = QuantizeRecipe.model_validate(quantize)
    return Recipe.model_validate(given | {"name": "-".join(name)[:41].rstrip("-")})


def check_space(base: Recipe, space: SearchSpace) -> None:
    """Refuse a base recipe whose choices the search would overwrite, or that would make its points all the same.

    Raises:
        RefusedRecipe: structured pruning, another pattern or method than the points can have, or bits by layer.
    """
    prunes, quantize = any("prune" in order for order in space.orders), base.quantize
    if prunes and base.prune.method == "structured":
        _refuse("structured pruning is not searched", "base.prune.method = structured", "recipe.prune.method")
    if prunes and base.prune.pattern != "unstructured":
        _refuse(
            "zeros in a pattern are not searched: their share is the pattern's, whatever a recipe's is",
            f"base.prune.pattern = {base.prune.pattern}", "recipe.prune.pattern",
        )  # fmt: skip
    if quantize.method not in ("gptq", "rtn"):
        _refuse("only gptq and rtn are searched", f"base.quantize.method = {quantize.method}", "recipe.quantize.method")
    if quantize.mean_bits:
        _refuse(
            "bits by layer are not searched: every recipe would be the same model, whatever its bits",
            f"base.quantize.mean_bits = {quantize.mean_bits:g}", "recipe.quantize.mean_bits",
        )  # fmt: skip


def _refuse(cause: str, observed: str, field: str) -> NoReturn:
    raise RefusedRecipe(
        cause, observed=observed, limit="unstructured pruning, gptq or rtn with the same bits in every layer",
        remedy=f"leave it at its default here, and set {field} in a run of compress",
    )  # fmt: skip


def bytes_ratio(model: ModelRef, original: ModelRef) -> float:
    """The folder's bytes, as a part of the original's weights in float32."""
    return model.bytes / (4 * original.parameters)


def overruns(scorecard: Scorecard, budgets: Budgets) -> tuple[str, ...]:
    """The budgets that a measured candidate is over, each in words; empty where it keeps within all."""
    mine, base = scorecard.candidate, scorecard.baseline
    size, ratio = mine.bytes / (4 * scorecard.baseline_model.parameters), mine.perplexity / base.perplexity
    usd = math.inf if scorecard.usd_per_million is None else scorecard.usd_per_million
    checks = [
        (size > budgets.max_bytes_ratio, f"bytes ratio {size:.3f} > {budgets.max_bytes_ratio:g}"),
        (ratio > budgets.max_perplexity_ratio, f"perplexity ratio {ratio:.3f} > {budgets.max_perplexity_ratio:g}"),
        (mine.agreement < budgets.min_agreement, f"agreement {mine.agreement:.3f} < {budgets.min_agreement:g}"),
        (
            bool(budgets.max_token_ms) and mine.per_token_ms > budgets.max_token_ms,
            f"{milliseconds(mine.per_token_ms)} a token > {budgets.max_token_ms:g}",
        ),
        (
            bool(budgets.max_usd_per_million) and usd > budgets.max_usd_per_million,
            f"${usd:.3g} per million tokens > ${budgets.max_usd_per_million:g}",
        ),
    ]
    return tuple(text for is_over, text in checks if is_over)


def hopeless(
    model: ModelRef, original: ModelRef, ratio: float | None, rest: Sequence[str], budgets: Budgets, factor: float
) -> str:
    """Why work on a half-made model should stop, or nothing.

    Args:
        ratio: Its perplexity ÷ the original's on a few training blocks; none where nobody has looked.
        rest: The stages that are still to come. Only quantize makes the folder smaller.
        factor: How far over the budget its perplexity may be, for later stages may repair some of it.
    """
    size = bytes_ratio(model, original)
    if "quantize" not in rest and size > budgets.max_bytes_ratio:
        return f"bytes ratio {size:.3f} > {budgets.max_bytes_ratio:g}, and no later stage makes it smaller"
    limit = factor * budgets.max_perplexity_ratio
    if ratio is not None and ratio > limit:
        return f"perplexity ratio {ratio:.2f} on training blocks > {limit:.2f}"
    return ""


def as_big(point: Mapping[str, str | int | float], tried: Sequence[Tried], budgets: Budgets) -> Tried | None:
    """A recipe that was given up over its bytes and has no bigger a folder than the point's would be: no more bits, and
    groups no smaller. Pruned zeros take the room of other weights.
    """
    bits, columns = int(point["bits"]), _columns(int(point["group_size"]))
    for each in tried:
        over = each.bytes_ratio is not None and each.bytes_ratio > budgets.max_bytes_ratio
        quantized = any(stage.name == "quantize" for stage in each.stages)
        asked = each.recipe.quantize
        no_bigger = asked.bits <= bits and _columns(asked.group_size) >= columns
        if each.outcome == "stopped" and over and quantized and no_bigger:
            return each
    return None


def _columns(group_size: int) -> float:
    """Input columns that share one scale; 0 stands for a whole row."""
    return group_size or math.inf


def objectives(tried: Tried, speed: bool) -> list[float] | None:
    """What the optimiser minimises: bytes, log perplexity ratio, and where speed counts log milliseconds a token.

    A stopped recipe counts with what it showed: bad, and not forgotten. None where there is nothing to go by, and of a
    failed one: what is half made has not been measured.
    """
    if tried.outcome == "failed" or tried.bytes_ratio is None or tried.perplexity_ratio is None:
        return None
    found = [tried.bytes_ratio, math.log(tried.perplexity_ratio)]
    if speed:
        if tried.token_ms is None:
            return None
        found.append(math.log(tried.token_ms))
    return found


def excess(tried: Tried, budgets: Budgets) -> float:
    """How far a recipe is over its budgets, as logarithms and shares added up; 0 where it keeps within all."""
    pairs = (
        (tried.bytes_ratio, budgets.max_bytes_ratio),
        (tried.perplexity_ratio, budgets.max_perplexity_ratio),
        (tried.token_ms, budgets.max_token_ms),
        (tried.usd_per_million, budgets.max_usd_per_million),
    )
    over = sum(max(0.0, math.log(figure / limit)) for figure, limit in pairs if figure and limit)
    return over + (0.0 if tried.agreement is None else max(0.0, budgets.min_agreement - tried.agreement))


def front_of(tried: Sequence[Tried]) -> tuple[int, ...]:
    """Numbers of the measured recipes that no other one beats in bytes and in perplexity, the smallest first."""
    measured = [each for each in tried if each.outcome == "measured"]
    ordered = sorted(measured, key=lambda each: (each.bytes_ratio, each.perplexity_ratio))
    found: list[int] = []
    best = math.inf
    for each in ordered:
        ratio = each.perplexity_ratio
        if ratio is not None and ratio < best:
            found.append(each.number)
            best = ratio
    return tuple(found)


def choose(tried: Sequence[Tried], prefer: Preference) -> tuple[int | None, str]:
    """The recipe to take, and why, in a sentence."""
    fits = [each for each in tried if each.fits]
    if not fits:
        return None, _nearest(tried)
    keys = {
        "bytes": lambda each: (each.bytes_ratio, each.perplexity_ratio),
        "quality": lambda each: (each.perplexity_ratio, each.bytes_ratio),
        "speed": lambda each: (each.token_ms, each.perplexity_ratio),
    }
    best = min(fits, key=keys[prefer])
    what = {"bytes": "the smallest folder", "quality": "the lowest perplexity", "speed": "the fewest milliseconds"}
    return best.number, (
        f"{best.recipe.name} has {what[prefer]} of the {len(fits)} recipes within every budget: "
        f"{best.bytes_ratio:.3f} of the bytes, {best.perplexity_ratio:.3f} times the perplexity, "
        f"{best.agreement:.1%} same next tokens, {milliseconds(best.token_ms or 0.0)} a token"
        + ("" if best.usd_per_million is None else f", {dollars(best.usd_per_million)} per million tokens")
    )


def _nearest(tried: Sequence[Tried]) -> str:
    measured = [each for each in tried if each.outcome == "measured"]
    if not measured:
        return "no recipe came as far as being measured: widen the space, or the budgets"
    nearest = min(measured, key=lambda each: (len(each.over), each.perplexity_ratio))
    return f"no recipe keeps within every budget; nearest is {nearest.recipe.name}: {'; '.join(nearest.over)}"
